"""Addresses, of the agent and of its callers: without TLS never one that other machines reach."""

from __future__ import annotations

import contextlib
from ipaddress import ip_address

from fuzz.kit import assert_readable
from mrelease import TLS, _address
from mrelease.errors import InvalidAddress
from mrelease_agent.address import AddressError, TcpAddress, UnixAddress, parse, parse_tcp, parse_tls

CERTIFIED = TLS("/ca", "/cert", "/key")


def one_input(data: bytes) -> None:
    """An address."""
    text = data.decode("utf-8", "surrogateescape")
    for read in (parse, parse_tcp, parse_tls):
        try:
            found = read(text)
        except AddressError as error:
            assert_readable(str(error))
            continue
        if isinstance(found, UnixAddress):
            assert found.path.startswith("/")
            continue
        if read is parse_tls:
            assert parse_tls(str(found)) == found
        else:
            assert isinstance(found, TcpAddress)
            assert ip_address(found.host).is_loopback
    with contextlib.suppress(InvalidAddress):
        assert _address.parse(text, {}, CERTIFIED).tls is CERTIFIED
    with contextlib.suppress(InvalidAddress):
        plain = _address.parse(text, {})
        assert plain.path is not None or local(plain.text)


def local(text: str) -> bool:
    host = text.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    return host == "localhost" or ip_address(host).is_loopback
