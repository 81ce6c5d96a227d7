"""``make test-vm``: run the tests of the agent on other kernels, with cgroup v2, in machines made by QEMU."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from mrelease.demo.interrupts import Interrupted, interruptible
from vm.kernels import SUITES, MissingError, check_tools, kernel
from vm.machine import Limits, Machine, MachineError
from vm.results import Results

_PROJECT = Path(__file__).parents[2]
#: What is run where no test is named: all that depends on the kernel, and one way through the whole agent.
_TESTS = ("tests/kernel", "tests/vm", "tests/rpc/test_client_real.py")
#: The same with --quick: every state, every kind of target, and what can only be done here.
_QUICK_TESTS = (*(f"tests/kernel/test_{name}.py" for name in ("rows", "sets", "storage", "without_mrelease")), "tests/vm")
#: How much longer than elsewhere everything may take.
_PATIENCE = 5


def main() -> int:
    """Run what the arguments ask for. Returns 0 where nothing failed, 2 where this machine lacks something."""
    options, wanted = _arguments()
    try:
        check_tools()
        with interruptible():
            return _run(options, wanted)
    except (MissingError, subprocess.CalledProcessError) as why:
        print(why, file=sys.stderr)
        return 2
    except Interrupted as interrupted:
        return 128 + interrupted.number


def _run(options: argparse.Namespace, wanted: list[str]) -> int:
    """Machines beside each other, as many as are allowed; each is reported when it ends."""
    waiting: list[str] = options.kernel or list(SUITES)
    running: dict[str, Machine] = {}
    status = 0
    with ExitStack() as stack:
        while waiting or running:
            while waiting and len(running) < options.jobs:
                name = waiting.pop(0)
                job = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mrelease-vm-")))
                script = _script(name, options.command or _pytest(wanted, _QUICK_TESTS if options.quick else _TESTS))
                limits = Limits(options.memory, options.cpus, options.timeout)
                running[name] = stack.enter_context(Machine(kernel(name), script, job, _PROJECT, limits))
            time.sleep(1)
            for name, machine in list(running.items()):
                ended = _end(machine)
                if ended is not None:
                    del running[name]
                    _clear()
                    status |= _report(name, machine, *ended, options)
            _progress(running)
    return status


def _end(machine: Machine) -> tuple[int, str] | None:
    """Exit status of a machine's command, and what went wrong with the machine; None while it runs."""
    try:
        return None if machine.is_running() else (machine.status(), "")
    except MachineError as error:
        return 1, str(error)


def _report(name: str, machine: Machine, status: int, died: str, options: argparse.Namespace) -> int:
    """Print what came out of it. Returns 1 where anything failed, else 0."""
    results = Results.read(machine.job / "results")
    if options.command or options.verbose or not results.total:
        print(machine.output(), end="")
    if died:
        results.failed[results.begun or "the machine"] = died
    if not options.command or died:
        print(f"{name:5} {machine.kernel.release}: {results.counts()}, {machine.seconds:.0f} s")
        print("".join(f"      {line}\n" for line in results.details()), end="", flush=True)
    return 1 if results.failed or status else 0


def _pytest(wanted: list[str], usual: tuple[str, ...]) -> str:
    named = any(word.startswith("tests") for word in wanted)
    options = ["-p", "vm.plugin", "-p", "no:cacheprovider", "-q", "--color=no", f"--timeout={120 * _PATIENCE}", "--basetemp=/tmp/pytest"]
    return shlex.join([sys.executable, "-m", "pytest", *options, *(() if named else usual), *wanted])


def _script(name: str, command: str) -> str:
    variables = {
        "HOME": "/root",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": ":".join([str(_PROJECT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "VM_KERNEL": name,
        "TEST_PATIENCE": str(_PATIENCE),
    }
    exported = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in variables.items())
    return f"{exported}cd {shlex.quote(str(_PROJECT))}\n{command}\n"


def _progress(running: dict[str, Machine]) -> None:
    if sys.stdout.isatty():
        found = ((name, Results.read(machine.job / "results")) for name, machine in running.items())
        _clear()
        print("   ".join(f"{name}: {results.done} of {results.total}" for name, results in found), end="", flush=True)


def _clear() -> None:
    print("\r\x1b[K" if sys.stdout.isatty() else "", end="")


def _arguments() -> tuple[argparse.Namespace, list[str]]:
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    own, wanted = words[:end], words[end + 1 :]
    parser = argparse.ArgumentParser(prog="vm", description=__doc__, epilog="What follows -- goes to pytest.")
    parser.add_argument("kernel", nargs="*", help=f"{', '.join(SUITES)} (default: all of them), or a Debian suite")
    parser.add_argument("--quick", action="store_true", help="the most telling quarter of the tests")
    parser.add_argument("--command", metavar="TEXT", help="run this in a shell there, instead of the tests, and print what it says")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="machines at once (default: %(default)s)")
    parser.add_argument("--cpus", type=int, default=2, metavar="N", help="processors of a machine (default: %(default)s)")
    parser.add_argument("--memory", type=int, default=2048, metavar="MIB", help="memory of the machine (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=3600, metavar="SECONDS", help="of one kernel (default: %(default)s)")
    parser.add_argument("--verbose", action="store_true", help="print what pytest says")
    return parser.parse_args(own), wanted


if __name__ == "__main__":
    sys.exit(main())
