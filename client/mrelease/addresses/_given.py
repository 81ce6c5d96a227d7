"""What people write: addresses with the name of the node in them, and the certificates that go with them."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mrelease._address import parse
from mrelease._contexts import VARIABLE as CONTEXT_VARIABLE
from mrelease._contexts import ContextError, load, path
from mrelease._tls import TLS, from_environment
from mrelease.errors import InvalidAddress, InvalidInventory, InvalidTLS, NoAgent

#: Stands for the name of the node.
NODE = "{node}"


def address(text: str, node: str, where: str) -> str:
    """The address of a node's agent. ``where``: what errors call the place of ``text``.

    Raises InvalidInventory, and NoAgent where it is the name that can be in no address.
    """
    host = f"[{node}]" if ":" in node and not node.startswith("[") else node
    found = text.replace(NODE, host)
    if wrong := _why_not(found):
        if NODE in text and not _why_not(text.replace(NODE, "node")):
            raise NoAgent(f"{node} makes no address of {text}")
        raise InvalidInventory(f"{where}: {wrong}", f"write it as host:port or {NODE}:port")
    return found


def _why_not(found: str) -> str:
    try:
        # Whether certificates are there is the matter of whoever connects.
        parse(found, tls=None if found.startswith("unix:") else TLS(b"", b"", b""))
    except InvalidAddress as error:
        return str(error)
    return ""


def credentials(context: str = "", environment: Mapping[str, str] | None = None) -> TLS | None:
    """What a caller shows: the certificates of ``context``.

    Empty: those of ``$MRELEASE_CLIENT_CA``, ``_CERT`` and ``_KEY``, else of ``$MRELEASE_CONTEXT``, else of the context in use. Raises
    InvalidInventory.
    """
    environment = os.environ if environment is None else environment
    try:
        given = None if context else from_environment(environment)
        if given is not None:
            return given
        contexts = load(path(environment))
        name = context or environment.get(CONTEXT_VARIABLE, "") or contexts.current
        return contexts.find(name).tls if name else None
    except (ContextError, InvalidTLS) as error:
        raise InvalidInventory(f"there are no certificates: {error}", "see `mrelease context`") from None


def tls_for(where: str, context: str = "") -> TLS | None:
    """``credentials`` for an address; a socket of this machine has none."""
    return None if where.startswith("unix:") else credentials(context)
