"""A pod whose process waits for a file system that does not answer, so that SIGKILL does not end it: state D, as with a dead NFS server."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from e2e.cluster import Cluster, LocalNode, Pod, hog
from e2e.k8s.victims import PYTHON, SIZE
from support.lab import Unavailable, state, until

_SCRIPTS = Path(__file__).parents[2] / "support/lab/victims"
#: The lab's FUSE server, mounted where all of the node sees it.
_SERVE = """
import ctypes, os, sys
sys.path.insert(0, sys.argv[1])
import fuse_server as fuse
device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
options = f"fd={device},rootmode=40755,user_id=0,group_id=0,allow_other,default_permissions".encode()
flags = ctypes.c_ulong(fuse.MS_NOSUID | fuse.MS_NODEV)
fuse.check(fuse.libc.mount(b"mrelease-e2e", sys.argv[2].encode(), b"fuse", flags, options), "mount fuse")
fuse.say(mounted=True)
fuse.serve(device, {"READ"})
"""
_READ = f"""
import os, pathlib
memory = b"x" * ({SIZE} << 20)
pathlib.Path("/tmp/full").touch()
os.read(os.open("/hang/file", os.O_RDONLY | os.O_DIRECT), 4096)
"""
#: The lab's lock_mmap: once the file GO is there a thread sleeps with mmap_lock held, and process_mrelease(2) has to wait for it.
GO = "/tmp/go"
LOCK = f"""
import _thread, ctypes, os, pathlib, time
memory = b"x" * ({SIZE} << 20)
cached, direct = os.open("/hang/file", os.O_RDONLY), os.open("/hang/file", os.O_RDONLY | os.O_DIRECT)
_thread.start_new_thread(os.read, (cached, 4096))
pathlib.Path("/tmp/full").touch()
while not os.path.exists("{GO}"):
    time.sleep(0.01)
ctypes.CDLL(None).mmap(None, ctypes.c_size_t(4096), 1, 2, direct, ctypes.c_long(0))
"""


@contextlib.contextmanager
def hanging_pod(
    cluster: Cluster,
    node: LocalNode,
    namespace: str,
    *,
    script: str = _READ,
    resources: Mapping[str, Any] | None = None,
    **spec: Any,
) -> Generator[Pod, None, None]:
    """A pod that holds SIZE MiB and waits in a read, or does what ``script`` does; at the end the file system goes away, and so does it.

    ``spec``: more of it.
    """
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise Unavailable("no usable /dev/fuse")
    target = f"/run/mrelease-e2e-hang-{namespace}"
    node.path(target).mkdir()
    command = ["nsenter", "-t", str(node.pid), "-m", "-p", sys.executable, "-Sc", _SERVE, str(_SCRIPTS), target]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            assert json.loads(server.stdout.readline()) == {"mounted": True}
            yield _started(cluster, node, namespace, target, server.stdout, script, resources, spec)
        finally:
            server.stdin.close()  # it ends, the connection is aborted, and who waits goes on
            server.wait()
            with contextlib.suppress(subprocess.CalledProcessError):  # it was never mounted
                node.run("umount", "-l", target)
            node.path(target).rmdir()


def _started(
    cluster: Cluster,
    node: LocalNode,
    namespace: str,
    target: str,
    said: Any,
    script: str,
    resources: Mapping[str, Any] | None,
    spec: Mapping[str, Any],
) -> Pod:
    made = hog("victim", SIZE, cluster.image, node=node.name, restart="Never", resources=resources)
    made["spec"] |= spec
    (container,) = made["spec"]["containers"]
    container |= {"command": [PYTHON, "-Sc", script], "volumeMounts": [{"name": "hang", "mountPath": "/hang"}]}
    made["spec"]["volumes"] = [{"name": "hang", "hostPath": {"path": target}}]
    victim = cluster.run_pod(made, namespace)
    assert json.loads(said.readline())["request"] == "READ"
    return victim


def await_d_state(node: LocalNode, container_id: str) -> int:
    """Wait until a container's process is killed and cannot end; its pid."""
    (pid,) = node.pids(container_id)
    until(lambda: state(pid) == "D", f"process {pid} to be in state D")
    return pid
