"""Who the agent takes a caller for, by the certificate that gRPC has verified."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from mrelease_agent.guard.caller import Caller
from mrelease_agent.rpc.callers import Callers
from mrelease_agent.rpc.errors import RpcError
from support.pki import Pair, Pki


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki.make(tmp_path_factory.mktemp("callers") / "pki")


@asynccontextmanager
async def serving(pki: Pki, callers: Callers) -> AsyncGenerator[tuple[int, int, list[Caller | RpcError]], None]:
    """A server with TLS on one port, and without on another, that takes note of who calls."""
    seen: list[Caller | RpcError] = []

    async def answer(_request: bytes, context: Any) -> bytes:
        try:
            seen.append(callers.of(context))
        except RpcError as error:
            seen.append(error)
        return b""

    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
            del handler_call_details
            handler: Any = grpc.unary_unary_rpc_method_handler
            return handler(answer)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(),))
    own = pki.pair("server")
    credentials = grpc.ssl_server_credentials([(own.key.read_bytes(), own.cert.read_bytes())], pki.ca.read_bytes(), True)
    ports = server.add_secure_port("127.0.0.1:0", credentials), server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield *ports, seen
    finally:
        await server.stop(None)


async def call(channel: grpc.aio.Channel) -> None:
    method: Any = channel.unary_unary("/a/b")  # pyright: ignore[reportUnknownVariableType]
    await method(b"", timeout=30)


async def call_with(pki: Pki, port: int, pair: Pair) -> None:
    credentials = grpc.ssl_channel_credentials(pki.ca.read_bytes(), pair.key.read_bytes(), pair.cert.read_bytes())
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        await call(channel)


async def test_a_caller_is_what_its_certificate_says(pki: Pki) -> None:
    async with serving(pki, Callers()) as (secure, plain, seen):
        await call_with(pki, secure, pki.pair("client"))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{plain}") as channel:
            await call(channel)
    der = ssl.PEM_cert_to_DER_cert(pki.pair("client").cert.read_text())
    expected = Caller(
        "mtls",
        uris=("spiffe://lab/ns/tests/sa/client",),
        dns=("client.example",),
        common_name="client",
        fingerprint=hashlib.sha256(der).hexdigest(),
    )
    assert seen == [expected, Caller("loopback")]
    assert expected.name == "spiffe://lab/ns/tests/sa/client"


async def test_a_name_of_one_kind_is_never_taken_for_another(pki: Pki) -> None:
    """gRPC lists all alternative names in one row, too, where this DNS name would pass for a number or an address."""
    if not (pki.folder / "dns.crt").exists():
        pki.issue("dns", dns=["10.0.0.1", "spiffe"])
    async with serving(pki, Callers()) as (secure, _, seen):
        await call_with(pki, secure, pki.pair("dns"))
    (caller,) = seen
    assert isinstance(caller, Caller)
    assert (caller.uris, caller.dns, caller.name) == ((), ("10.0.0.1", "spiffe"), "dns:10.0.0.1")


async def test_callers_on_connections_at_the_same_time_are_told_apart(pki: Pki) -> None:
    names = [f"caller{n}" for n in range(8)]
    for name in names:
        if not pki.pair(name).cert.exists():
            pki.issue(name)
    async with serving(pki, Callers()) as (secure, _, seen):
        await asyncio.gather(*(call_with(pki, secure, pki.pair(name)) for name in names * 3))
    assert sorted(caller.common_name for caller in seen if isinstance(caller, Caller)) == sorted(names * 3)


async def test_one_that_has_expired_since_it_connected_is_refused(pki: Pki, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The clock is moved, because a certificate cannot be had that expires on demand."""
    callers = Callers()
    async with serving(pki, callers) as (secure, _, seen):
        pair = pki.pair("client")
        credentials = grpc.ssl_channel_credentials(pki.ca.read_bytes(), pair.key.read_bytes(), pair.cert.read_bytes())
        async with grpc.aio.secure_channel(f"127.0.0.1:{secure}", credentials) as channel:
            await call(channel)
            monkeypatch.setattr("mrelease_agent.rpc.callers.time.time", lambda: 4e9)
            await call(channel)
    assert isinstance(seen[0], Caller)
    assert isinstance(seen[1], RpcError)
    assert (seen[1].code, seen[1].details.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CERTIFICATE_REJECTED")
    assert "has expired" in seen[1].message


@pytest.mark.parametrize(
    ("peer", "properties"),
    [
        ("ipv4:10.0.0.7:5555", {}),
        ("ipv6:%5B2001:db8::1%5D:5555", {"transport_security_type": [b"insecure"]}),
        ("", {}),
        ("ipv4:10.0.0.7:5555", {"transport_security_type": [b"ssl"]}),
        ("ipv4:10.0.0.7:5555", {"transport_security_type": [b"ssl"], "x509_pem_cert": [b"none"]}),
        ("ipv4:10.0.0.7:5555", {"transport_security_type": [b"ssl"], "ssl_tls_version": [b"TLSv1.2"]}),
    ],
)
def test_a_caller_of_whom_nothing_is_known_is_none(peer: str, properties: dict[str, list[bytes]]) -> None:
    """A fake: the agent's ports let nobody in like this."""

    class Context:
        def peer(self) -> str:
            return peer

        def auth_context(self) -> dict[str, list[bytes]]:
            return properties

    with pytest.raises(RpcError) as caught:
        Callers().of(Context())
    assert caught.value.details.reason == "CERTIFICATE_REJECTED"
