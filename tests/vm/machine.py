"""A machine with another kernel, by QEMU: runs one command as root, with this machine's files, cgroup v2 and a disk of its own at /var/tmp.

The files are the host's through 9p, read-only under a layer in memory, so no image is built: the interpreter, the virtual environment and
the tests are simply there. Without KVM the processor is emulated: some ten times slower than the machine itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from vm.kernels import Kernel, run

#: What the initrd needs to reach the host's files; what these need is found by modprobe.
_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
_DISK_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Limits:
    """What a machine gets."""

    memory_mib: int
    cpus: int
    seconds: float


class MachineError(Exception):
    """The machine did not come to the end of its command: it died, or ran out of time. The message has its last words."""


class Machine:
    """A machine while it runs one shell command. Use it as a context: at its end the machine ends.

    ``job`` is writable inside, at /run/job; what the command says is in its file ``output``. ``project`` is visible at its own path.
    """

    def __init__(self, kernel: Kernel, command: str, job: Path, project: Path, limits: Limits) -> None:
        self.kernel = kernel
        self.job = job
        self.seconds = 0.0
        self._limits = limits
        (job / "project").write_text(str(project))
        (job / "modules").write_text(str(kernel.folder))
        (job / "command").write_text(command)
        (job / "output").touch()
        with (job / "disk").open("wb") as disk:
            disk.truncate(_DISK_BYTES)
        _write_initrd(kernel, job / "initrd")
        self._started = time.monotonic()
        self._qemu = subprocess.Popen(_qemu(kernel, job, project, limits), stdin=subprocess.DEVNULL)

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self._qemu.kill()
        self._qemu.wait()

    def is_running(self) -> bool:
        """Whether it has not ended by itself. Raises MachineError when its time is over."""
        self.seconds = time.monotonic() - self._started
        if self._qemu.poll() is not None:
            return False
        if self.seconds > self._limits.seconds:
            raise MachineError(f"not done after {self._limits.seconds:g} s: {_tail(self.job / 'output')}")
        return True

    def output(self) -> str:
        """Return what the command has said."""
        return (self.job / "output").read_text(errors="replace")

    def status(self) -> int:
        """Return the exit status of the command, after the end. Raises MachineError where the machine died instead."""
        if not (self.job / "status").exists():
            said = _tail(self.job / "console") or _tail(self.job / "output")
            raise MachineError(f"it died (QEMU's status: {self._qemu.returncode}): {said}")
        return int((self.job / "status").read_text())


def _qemu(kernel: Kernel, job: Path, project: Path, limits: Limits) -> list[str]:
    # Not kvm by itself: /dev/kvm may be there and run none of these kernels (nested, paravirtual).
    accelerator = os.environ.get("VM_ACCELERATOR", "tcg,thread=multi")
    shares = [("root", Path("/"), ",readonly=on"), ("project", project, ",readonly=on"), ("job", job, "")]
    return [
        "qemu-system-x86_64", "-accel", accelerator, "-cpu", "max", "-smp", str(limits.cpus), "-m", str(limits.memory_mib),
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-net", "none", "-serial", f"file:{job / 'console'}",
        "-kernel", str(kernel.folder / "vmlinuz"), "-initrd", str(job / "initrd"),
        "-append", "console=ttyS0 quiet panic=-1 psi=1 cgroup_no_v1=all",
        "-drive", f"file={job / 'disk'},format=raw,if=virtio,cache=unsafe",
        *(word for tag, path, more in shares
          for word in ("-virtfs", f"local,path={path},mount_tag={tag},security_model=none,multidevs=remap{more}")),
    ]  # fmt: skip


def _write_initrd(kernel: Kernel, initrd: Path) -> None:
    """A file system with busybox, ``init`` and the modules that reach the host's files, in the order in which they are loaded."""
    busybox = shutil.which("busybox")
    assert busybox
    with tempfile.TemporaryDirectory() as temporary:
        ram = Path(temporary)
        for name in ("bin", "modules", "proc", "dev", "lower", "layer", "new"):
            (ram / name).mkdir()
        shutil.copy(busybox, ram / "bin")
        shutil.copy(Path(__file__).with_name("init"), ram / "init")
        (ram / "init").chmod(0o755)
        asked = ["modprobe", "-d", str(kernel.folder), "-S", kernel.release, "--show-depends"]
        shown = [line.split() for module in _MODULES for line in run([*asked, module]).splitlines()]
        order = dict.fromkeys(Path(words[1]) for words in shown if words[0] == "insmod")
        for path in order:
            shutil.copy(path, ram / "modules")
        packed = [str(path) for path in (ram / "modules").glob("*.xz")]
        run(["xz", "-d", *packed] if packed else ["true"])
        (ram / "order").write_text("".join(f"{path.name.removesuffix('.xz')}\n" for path in order))
        listed = "\n".join(str(path.relative_to(ram)) for path in sorted(ram.rglob("*")))
        with initrd.open("wb") as archive:
            subprocess.run(["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"], cwd=ram, input=listed.encode(), stdout=archive, check=True)


def _tail(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return "\n".join(lines[-20:])
