"""Where the audit log goes, and that a remote agent without one is a decision."""

from __future__ import annotations

import pytest

from mrelease_agent import audited
from mrelease_agent.config import ConfigError, load

LISTEN = {"MRELEASE_LISTEN": "unix:///run/test/agent.sock"}
TLS = ["--tls-listen", "127.0.0.1:7443", "--tls-cert", "/c", "--tls-key", "/k", "--tls-ca", "/a", "--policy", "/p"]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ""),
        ({"LOGS_DIRECTORY": "/var/log/mrelease"}, "/var/log/mrelease/audit"),
        ({"STATE_DIRECTORY": "/var/lib/mrelease:/var/lib/other"}, "/var/lib/mrelease/audit"),
        ({"STATE_DIRECTORY": "/var/lib/mrelease", "LOGS_DIRECTORY": "/var/log/mrelease"}, "/var/log/mrelease/audit"),
        ({"LOGS_DIRECTORY": "relative"}, ""),
        ({"LOGS_DIRECTORY": "/var/log/mrelease", "MRELEASE_AUDIT_DIR": "none"}, "none"),
        ({"LOGS_DIRECTORY": "/var/log/mrelease", "MRELEASE_AUDIT_DIR": "/srv/audit"}, "/srv/audit"),
    ],
)
def test_systemd_says_where_it_is(environ: dict[str, str], expected: str) -> None:
    config = load([], {**LISTEN, **environ})
    assert config.audit_dir == expected
    assert audited.feature(config).available == (expected not in ("", "none"))


def test_an_agent_for_other_machines_has_one_or_says_that_it_has_none() -> None:
    with pytest.raises(ConfigError, match=r"audit_dir is not set.*audit_dir: none"):
        load(TLS, LISTEN)
    assert load([*TLS, "--audit-dir", "none"], LISTEN).audit_dir == "none"
    assert load([*TLS, "--audit-dir", "/srv/audit"], LISTEN).audit_dir == "/srv/audit"


def test_a_relative_directory_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"audit_dir.*absolute"):
        load(["--audit-dir", "audit"], LISTEN)
