"""Which agent a command asks, and with which certificates: flags go before variables, those before contexts, those before the default."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass

from mrelease import TLS, AsyncClient, Client
from mrelease._address import VARIABLE
from mrelease._tls import from_environment
from mrelease.errors import InvalidTLS


@dataclass(frozen=True, slots=True)
class Where:
    """An agent; ``address`` None: this user's own."""

    address: str | None = None
    tls: TLS | None = None

    def client(self) -> Client:
        """A client of it. Raises InvalidAddress, InvalidTLS."""
        return Client(self.address, tls=self.tls)

    def async_client(self) -> AsyncClient:
        """A client of it for asyncio."""
        return AsyncClient(self.address, tls=self.tls)


@dataclass(slots=True)
class Flags:
    """What the command line says; None: nothing."""

    agent: str | None = None
    context: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_server_name: str | None = None


def find(flags: Flags, environment: Mapping[str, str] = os.environ) -> Where:
    """Certificates of a context are for its agent, or for the one that a flag names together with it.

    Raises ContextError, InvalidTLS.
    """
    if flags.context is not None:
        found = _of_context(flags.context, environment)
        return _with_flags(flags, flags.agent or found.address, found.tls)
    if flags.agent is not None:
        return _with_flags(flags, flags.agent, from_environment(environment))
    if VARIABLE in environment:
        return _with_flags(flags, environment[VARIABLE] or None, from_environment(environment))
    found = _of_context(None, environment)
    return _with_flags(flags, found.address, from_environment(environment) or found.tls)


def shown_to(flags: Flags, address: str, tls: TLS | None, environment: Mapping[str, str] = os.environ) -> TLS | None:
    """What to show an agent that something else has found, with ``tls``: what the flags say goes before it.

    Raises ContextError, InvalidTLS.
    """
    given = any(text is not None for text in (flags.context, flags.tls_ca, flags.tls_cert, flags.tls_key, flags.tls_server_name))
    if not given or (address.startswith("unix:") and tls is None):
        return tls
    if flags.context is not None:
        tls = _of_context(flags.context, environment).tls or tls
    return _with_flags(flags, address, tls).tls or tls


def _of_context(name: str | None, environment: Mapping[str, str]) -> Where:
    """The context of this name, else of the environment's, else the one in use."""
    from mrelease import _contexts

    contexts = _contexts.load(_contexts.path(environment))
    name = name or environment.get(_contexts.VARIABLE) or contexts.current
    if not name:
        return Where()
    found = contexts.find(name)
    return Where(found.agent, found.tls)


def _with_flags(flags: Flags, address: str | None, tls: TLS | None) -> Where:
    given = {"ca": flags.tls_ca, "cert": flags.tls_cert, "key": flags.tls_key, "server_name": flags.tls_server_name}
    changed = {name: text for name, text in given.items() if text is not None}
    if not changed:
        # Only what a flag says must hold for a socket of this machine, too.
        return Where(address, None if address is None or address.startswith("unix:") else tls)
    if tls is None:
        missing = [f"--tls-{name}" for name in ("ca", "cert", "key") if name not in changed]
        if missing:
            raise InvalidTLS(f"{' and '.join(missing)} is not given: a caller needs its authority, its certificate and its key")
        return Where(address, TLS(**changed))
    return Where(address, dataclasses.replace(tls, **changed))
