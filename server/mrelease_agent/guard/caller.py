"""Who asks: established by the transport, never by the request."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Literal

#: How a caller reached the agent.
Transport = Literal["unix", "mtls", "loopback", "local"]


@dataclass(frozen=True, slots=True)
class Caller:
    """One caller.

    ``transport``: ``unix`` through the socket, whose directory says who may connect; ``mtls`` with a certificate of the trusted authority;
    ``loopback`` by plaintext TCP, which nobody vouches for; ``local`` in the agent's own process (``mrelease --local``). ``uid``, ``gid``
    and ``pid``: of a Unix peer as the kernel says, SO_PEERCRED of unix(7); None where they are not known. ``uris`` and ``dns``: subject
    alternative names of the certificate, ``common_name`` that of its subject, ``fingerprint`` its SHA-256 in hexadecimal digits.
    """

    transport: Transport
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    uris: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    common_name: str = ""
    fingerprint: str = ""

    @property
    def name(self) -> str:
        """The most telling name, as in the audit log, in errors and for limits: ``spiffe://...``, ``dns:...``, ``cn:...``, ``uid:...``."""
        if self.uris:
            return self.uris[0] if "://" in self.uris[0] else f"uri:{self.uris[0]}"
        if self.dns:
            return f"dns:{self.dns[0]}"
        if self.common_name:
            return f"cn:{self.common_name}"
        return self.transport if self.uid is None else f"uid:{self.uid}"


LOCAL: Final = Caller("local")
#: The caller of the request that is being served; tasks that serve it inherit it.
current: ContextVar[Caller] = ContextVar("caller", default=LOCAL)
