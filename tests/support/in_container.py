"""Runs a command in a container of runc's, as a DaemonSet's is: the node's processes and network, four capabilities, a read-only root.

    python in_container.py --folder DIR --seccomp FILE --caps kill,sys_nice --write DIR [--write DIR] -- command...

The root is this machine's, read-only; `--write` directories and the cgroups may be written. Becomes `runc run`, which passes signals on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any

#: What of the root is needed: where programs and libraries are.
_SYSTEM = ("/bin", "/etc", "/lib", "/lib64", "/opt", "/usr", "/var/lib")


def spec(options: argparse.Namespace, base: dict[str, Any]) -> dict[str, Any]:
    """The container's configuration, runtime-spec config.md."""
    caps = [f"CAP_{name.upper()}" for name in options.caps.split(",") if name]
    base["process"].update(
        terminal=False,
        args=options.command,
        env=[f"{name}={value}" for name, value in os.environ.items()],
        cwd=str(Path.cwd()),
        capabilities=dict.fromkeys(("bounding", "effective", "permitted"), caps),
        noNewPrivileges=True,
        rlimits=[],  # those of this process: raising one needs CAP_SYS_RESOURCE
    )
    base["root"]["readonly"] = True
    base["mounts"] = [mount for mount in base["mounts"] if mount["destination"].startswith(("/proc", "/dev")) and mount["type"] != "mqueue"]
    seen = [*_SYSTEM, *options.read]
    base["mounts"] += [bind(path, "ro") for path in seen if Path(path).is_dir()]
    base["mounts"] += [bind(path, "ro" if path == "/sys" else "rw") for path in ("/sys", "/sys/fs/cgroup", *options.write)]
    # Neither pid nor network: a DaemonSet with hostPID, and with a port of the node's.
    base["linux"]["namespaces"] = [{"type": kind} for kind in ("mount", "ipc", "uts")]
    base["linux"].update(seccomp=json.loads(Path(options.seccomp).read_text()), maskedPaths=[], readonlyPaths=["/proc/sys"])
    base["linux"]["cgroupsPath"] = f"/{options.id}"
    return base


def bind(path: str, mode: str) -> dict[str, Any]:
    """A directory of this machine's, at the same place."""
    return {"destination": path, "source": path, "type": "bind", "options": ["rbind", mode]}


def main() -> None:
    """Writes the bundle and becomes runc."""
    parser = argparse.ArgumentParser(description="run a command in a container of runc's")
    for name in ("folder", "seccomp", "caps", "id"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--read", action="append", default=[])
    parser.add_argument("--write", action="append", default=[])
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    folder = Path(options.folder)
    (folder / "rootfs").mkdir(parents=True)
    subprocess.run(["runc", "spec"], cwd=folder, check=True)
    config = folder / "config.json"
    config.write_text(json.dumps(spec(options, json.loads(config.read_text()))))
    # With it runc would put itself between the agent and who waits for it, on a socket with a name that is too long.
    os.environ.pop("NOTIFY_SOCKET", None)
    os.execvp("runc", ["runc", "--root", str(folder / "state"), "run", "--bundle", str(folder), options.id])


if __name__ == "__main__":
    main()
