"""README alone leads a newcomer from a clone to a proven kill over the network, on a Debian stable with nothing on it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from support import lab
from support.debian_root import Root, debian_root
from support.markdown import ROOT, Block, blocks, commands, repository

pytestmark = pytest.mark.packages

README = ROOT / "README.md"
CLONE = "/opt/mrelease"
#: How pip reaches its index is this machine's business, and not the newcomer's.
INDEX = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
CERTIFICATES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


def named_packages() -> list[str]:
    found = re.search(r"`apt install ([^`]+)`", README.read_text())
    assert found, "README names no packages"
    return found[1].split()


def lay_down(root: Root, folder: str) -> Path:
    """What is, or is about to be, in git."""
    for name in repository():
        place = root.path / folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, place)
    return root.path / folder


@pytest.fixture
def stable() -> Generator[Root, None, None]:
    """Debian stable with nothing on it but the packages that README names, and a clone."""
    with debian_root("trixie", include=named_packages()) as root:
        origin = lay_down(root, "srv/mrelease")
        committed = "git init -q && git add -A && git -c user.name=origin -c user.email=origin@example.com commit -q -m all"
        subprocess.run(committed, shell=True, cwd=origin, check=True)
        root.run("git", "-c", "safe.directory=*", "clone", "-q", "/srv/mrelease", CLONE)
        yield root


def index(root: Root) -> dict[str, str]:
    """The environment in which pip in the root reaches the index that this machine's does."""
    found = {name: os.environ[name] for name in INDEX if name in os.environ}
    if Path("/etc/pip.conf").exists():
        shutil.copy("/etc/pip.conf", root.path / "etc/pip.conf")
    authorities = next((os.environ[name] for name in CERTIFICATES if name in os.environ), "/etc/ssl/certs/ca-certificates.crt")
    if Path(authorities).exists():
        shutil.copy(authorities, root.path / "srv/authorities.crt")
        found["PIP_CERT"] = "/srv/authorities.crt"
    return found


def block_with(text: str) -> Block:
    (found,) = (block for block in blocks(README) if block.language == "console" and text in block.text)
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("there", [["make"], ["make", "python3"]], ids=["without-python", "without-venv"])
def test_what_is_missing_is_said_with_the_package_that_brings_it(there: list[str]) -> None:
    with debian_root("trixie", include=there) as root:
        shutil.copy(ROOT / "Makefile", root.path / "srv/Makefile")
        done = root.run("make", "-C", "/srv", "demo", check=False)
        assert done.returncode == 2
        assert "apt install python3-venv" in done.stdout
        assert not (root.path / "srv/.venv").exists()
    assert {"make", "python3-venv"} <= set(named_packages())


@pytest.mark.timeout(600)
def test_readme_leads_from_a_clone_to_a_proven_kill_over_the_network(stable: Root) -> None:
    lab.need_mrelease()
    demo = next(command.text for command in commands(block_with("make demo")) if "demo" in command.text)
    shown = stable.run("sh", "-c", f"cd {CLONE} && {demo}", env=index(stable)).stdout
    assert "mrelease agent" in shown
    ran = stable.run("bash", "-c", script(block_with("--tls-listen")))
    rows = [line.split() for line in ran.stdout.splitlines()]
    (verdict,) = (row for row in rows if row[1:2] == ["python3"])
    # EXITED where the process freed its memory before the agent got to it: proven as well.
    assert verdict[2] in {"RELEASED", "EXITED"}, ran.stdout
    assert verdict[3:6] == ["1.00", "of", "1.00"], ran.stdout
    logged = (stable.path / "root/agent.log").read_text()
    assert "serving TLS" in logged
    assert "method=KillAndRelease" in logged


def script(block: Block) -> str:
    """The block as somebody pastes it, in the clone, with a free port; what the agent has logged is kept where the test finds it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lines = [command.text.replace(":7443", f":{port}") for command in commands(block)]
    return "\n".join([f"cd {CLONE}", *lines, "wait $agent", "cp agent.log /root/"])
