"""Certificates of a caller: where they are, whether they can be used, and new ones for new connections when they have changed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Union
from weakref import WeakValueDictionary

import grpc

from mrelease.errors import InvalidTLS

if TYPE_CHECKING:
    import ssl

#: A path, or the PEM text itself as bytes.
Source = Union[str, "os.PathLike[str]", bytes]

#: Environment variables, by the field of ``TLS``. The agent's own certificates have MRELEASE_TLS_CERT and so on.
VARIABLES: Final = {
    "ca": "MRELEASE_CLIENT_CA",
    "cert": "MRELEASE_CLIENT_CERT",
    "key": "MRELEASE_CLIENT_KEY",
    "server_name": "MRELEASE_CLIENT_SERVER_NAME",
}
#: A bundle of every authority of a distribution has some 250 KiB.
_MAX_BYTES: Final = 4 << 20
_NAMES: Final = {"ca": "the authority", "cert": "the certificate", "key": "the key"}


@dataclass(frozen=True, slots=True)
class TLS:
    """What a caller shows, and whom it trusts: each a path, or PEM text as ``bytes``.

    ``ca``: certificates of the authorities that may vouch for the agent. ``cert``: this caller's certificate, followed by those between it
    and its authority; ``key``: its private key, not encrypted. ``server_name``: the name that the agent's certificate must have, where it
    is not the host of the address.

    Files are read when a client is made, and again when they have changed: calls that are made then use a new connection, those under way
    go on. What is broken, or half written, is not taken.
    """

    ca: Source
    cert: Source
    key: Source = field(repr=False)
    server_name: str = ""


def from_environment(environment: Mapping[str, str] = os.environ) -> TLS | None:
    """``TLS`` of the variables, None where none of its files is set. Raises InvalidTLS where only some are."""
    found = {name: environment.get(variable, "") for name, variable in VARIABLES.items()}
    missing = [VARIABLES[name] for name in _NAMES if not found[name]]
    if len(missing) == len(_NAMES):
        return None
    if missing:
        raise InvalidTLS(f"{' and '.join(missing)} is not set: a caller needs its authority, its certificate and its key")
    return TLS(**found)


class Credentials:
    """Credentials of a ``TLS``, made again when its files have changed. Raises InvalidTLS where the first ones cannot be used."""

    _shared: ClassVar[WeakValueDictionary[TLS, Credentials]] = WeakValueDictionary()

    @classmethod
    def of(cls, tls: TLS) -> Credentials:
        """Those that other clients with the same, unchanged files have, else new ones: reading them takes some 2 ms."""
        name = replace(tls, server_name="")
        found = cls._shared.get(name)
        if found is None or found._stamps != found._look():
            found = cls._shared[name] = cls(name)
        return found

    def __init__(self, tls: TLS) -> None:
        self._tls = tls
        self._stamps = self._look()
        self.current = self._make()

    def renewed(self) -> grpc.ChannelCredentials:
        """``current``, after a look at the files. A few microseconds where nothing has changed; raises nothing."""
        stamps = self._look()
        if stamps != self._stamps:
            with contextlib.suppress(InvalidTLS):  # the next call looks again
                self.current = self._make()
                self._stamps = stamps
        return self.current

    def _make(self) -> grpc.ChannelCredentials:
        ca, cert, key = load(self._tls)
        return grpc.ssl_channel_credentials(ca, key, cert)

    def _look(self) -> list[tuple[int, int, int, int] | None]:
        return [_stamp(source) for source in (self._tls.ca, self._tls.cert, self._tls.key) if not isinstance(source, bytes)]


def load(tls: TLS) -> tuple[bytes, bytes, bytes]:
    """Authorities, certificate and key, checked. Raises InvalidTLS, which says what is wrong with which, and what to do."""
    import ssl

    ca, cert, key = (_read(name, getattr(tls, name)) for name in _NAMES)
    if b"ENCRYPTED" in key:
        raise InvalidTLS(f"{_named('key', tls.key)} is encrypted: give one without a password that only you may read")
    try:
        # Text that is cut off in the middle of a certificate does not load.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=ca.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError):
        raise InvalidTLS(f"{_named('ca', tls.ca)} has no certificate in PEM that can be read") from None
    try:
        with _own(cert, key, ssl.PROTOCOL_TLS_CLIENT):
            pass
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise InvalidTLS(f"{_named('key', tls.key)} is not the key of {_named('cert', tls.cert)}") from None
        raise InvalidTLS(f"{_named('cert', tls.cert)} or {_named('key', tls.key)} is not PEM that can be read") from None
    return ca, cert, key


def why_rejected(tls: TLS) -> str:
    """Why an agent of the same authority does not accept this caller's certificate: the agent's side of a handshake, made here in memory.

    Empty where it would be accepted.
    """
    import ssl

    try:
        ca, cert, key = load(tls)
        with _own(cert, key, ssl.PROTOCOL_TLS_SERVER) as agent, _own(cert, key, ssl.PROTOCOL_TLS_CLIENT) as caller:
            agent.verify_mode = ssl.CERT_REQUIRED
            agent.load_verify_locations(cadata=ca.decode("ascii", "replace"))
            caller.check_hostname, caller.verify_mode = False, ssl.CERT_NONE
            to_agent, to_caller = ssl.MemoryBIO(), ssl.MemoryBIO()
            ends = (agent.wrap_bio(to_agent, to_caller, server_side=True), caller.wrap_bio(to_caller, to_agent))
            for end in (ends[1], ends[0], ends[1], ends[0]):
                with contextlib.suppress(ssl.SSLWantReadError):
                    end.do_handshake()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except (InvalidTLS, ssl.SSLError) as error:
        return str(error)
    return ""


@contextlib.contextmanager
def _own(cert: bytes, key: bytes, protocol: int) -> Generator[ssl.SSLContext, None, None]:
    """A context with this certificate and key. OpenSSL reads them from files only: these are in memory, or the user's alone."""
    import ssl

    context = ssl.SSLContext(protocol)
    with contextlib.ExitStack() as stack:
        context.load_cert_chain(*(_as_file(content, stack) for content in (cert, key)))
    yield context


def _as_file(content: bytes, stack: contextlib.ExitStack) -> str:
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        fd = os.memfd_create("tls", os.MFD_CLOEXEC)
        stack.callback(os.close, fd)
        os.write(fd, content)
        return f"/proc/self/fd/{fd}"
    import tempfile

    file = stack.enter_context(tempfile.NamedTemporaryFile())  # noqa: SIM115 -- the stack is the context
    file.write(content)
    file.flush()
    return file.name


def _read(name: str, source: Source) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        with open(source, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidTLS(f"{_named(name, source)} cannot be read: {why}") from None
    if len(content) > _MAX_BYTES:
        raise InvalidTLS(f"{_named(name, source)} is larger than {_MAX_BYTES} bytes: it is not what is needed here")
    return content


def _named(name: str, source: Source) -> str:
    return _NAMES[name] if isinstance(source, bytes) else f"{_NAMES[name]} {os.fspath(source)}"


def _stamp(path: str | os.PathLike[str]) -> tuple[int, int, int, int] | None:
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
