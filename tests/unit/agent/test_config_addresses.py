"""Where a configured agent may be reached, and what that needs: TLS, the loopback, metrics."""

from __future__ import annotations

import pytest

from mrelease_agent.config import load
from support.configured import LISTEN, refused


def test_tcp_is_refused_without_the_explicit_key() -> None:
    assert "allow_plaintext_loopback: true" in refused("--listen", "tcp://127.0.0.1:7443")
    assert load(["--listen", "tcp://[::1]:7443", "--allow-plaintext-loopback"], {}).listen == "tcp://[::1]:7443"
    assert "not a loopback address" in refused("--listen", "tcp://10.0.0.1:7443", "--allow-plaintext-loopback")


def test_other_machines_reach_the_metrics_only_where_that_is_asked_for() -> None:
    assert "allow_remote_http: true" in refused("--http-listen", "0.0.0.0:9464")
    assert load(["--listen", "unix:///run/x/s", "--http-listen", "0.0.0.0:9464", "--allow-remote-http"], {}).http_listen == "0.0.0.0:9464"
    assert "has no IP address" in refused("--http-listen", "node7:9464", "--allow-remote-http")


TLS = ("--tls-listen", "0.0.0.0:7443", "--tls-cert", "/c", "--tls-key", "/k", "--tls-ca", "/a", "--policy", "/p", "--audit-dir", "none")


@pytest.mark.parametrize("listen", ["0.0.0.0:7443", "[::]:7443", "192.0.2.7:0", "[2001:db8::7]:7443"])
def test_with_tls_every_interface_may_be_served(listen: str) -> None:
    assert load([*TLS, "--tls-listen", listen], LISTEN).tls_listen == listen


@pytest.mark.parametrize(
    "listen", ["node7:7443", "localhost:7443", ":7443", "7443", "0.0.0.0", "[0.0.0.0]:1", "::1:7443", "0.0.0.0:65536", "*:1"]
)
def test_a_name_is_no_place_to_serve_tls(listen: str) -> None:
    message = refused(*TLS, "--tls-listen", listen)
    assert message.startswith(f'--tls-listen: tls_listen is "{listen}": it ')
    assert "for every interface 0.0.0.0:port or [::]:port" in message


@pytest.mark.parametrize("missing", ["--tls-cert", "--tls-key", "--tls-ca"])
def test_what_tls_needs_is_named(missing: str) -> None:
    at = TLS.index(missing)
    message = refused(*TLS[:at], *TLS[at + 2 :])
    assert f"and {missing[2:].replace('-', '_')} is not set" in message


def test_a_certificate_that_nobody_uses_is_an_error() -> None:
    assert "tls_ca is set and tls_listen is not" in refused("--tls-ca", "/a")
