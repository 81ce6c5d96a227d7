"""No file of the repository names a place that only its author has: a home directory, a package index, a machine."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path

from support.markdown import ROOT, repository

THIS = Path("tests/docs/test_no_addresses.py")
MADE_UP = Path("tests/fuzz/corpus")
#: Hosts that an address may name: loopback, licences and formats (some name them as vocabularies of pictures), documentation.
HOSTS = {
    "localhost",
    "127.0.0.1",
    "www.apache.org",
    "www.w3.org",
    "purl.org",
    "creativecommons.org",
    "matplotlib.org",
    "keepachangelog.com",
    "semver.org",
    "grpc.github.io",
    "kubernetes.default.svc",  # the API server, inside of every cluster
    "json-schema.org",
    "www.debian.org",  # the format of a copyright file is named by its address
    "opentelemetry.io",
    "host",  # stands for one
    "docs.example",  # RFC 2606: nobody has it
    "collector.example",
}
HOME = re.compile(r"(?<![\w.$~}-])/(?:root|home|work|Users)/\w")
URL_HOST = re.compile(r"\b(?:https?|git|ssh)://(?:[^/\s@]+@)?([A-Za-z0-9.-]+)")
INDEX = re.compile(r"--(?:extra-)?index-url|--find-links|--trusted-host|GOPROXY=|index\.url")
#: Four numbers behind == are a version of constraints.txt.
IPV4 = re.compile(r"(?<![\w.])(?<!==)\d{1,3}(?:\.\d{1,3}){3}(?![\w.])")


def lines() -> Iterator[tuple[str, str]]:
    """Every line of every text file that is, or is about to be, in git; without this file, which has to name what it looks for.

    And without what a fuzzer made up.
    """
    for name in repository():
        content = b"" if name == THIS or name.is_relative_to(MADE_UP) else (ROOT / name).read_bytes()
        if b"\0" not in content:
            for number, line in enumerate(content.decode("utf-8").splitlines(), 1):
                yield f"{name}:{number}", line


def test_no_home_directory() -> None:
    assert [where for where, line in lines() if HOME.search(line)] == []


def test_no_package_index() -> None:
    assert [where for where, line in lines() if INDEX.search(line)] == []


def test_addresses_name_only_known_hosts() -> None:
    assert [(where, host) for where, line in lines() for host in URL_HOST.findall(line) if host not in HOSTS] == []


def test_no_address_of_a_machine() -> None:
    assert [(where, ip) for where, line in lines() for ip in IPV4.findall(line) if is_global(ip)] == []


def is_global(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False
