"""Why there is no connection: what gRPC says, in words that say what to do."""

from __future__ import annotations

import re
from typing import Final

from mrelease._tls import TLS, why_rejected

_REASONS: Final = {
    "Connection refused": "the connection was refused",
    "Domain name not found": "there is no host of this name",
    "errors resolving": "the name of the host cannot be resolved",
    "DNS resolution failed": "the name of the host cannot be resolved",
    "No route to host": "there is no route to it",
    "Network is unreachable": "the network cannot be reached",
    "Endpoint closing": "the handshake was not answered in time",
    "imeout": "the connection was not answered in time",
    "imed out": "the connection was not answered in time",
}


def why_no_connection(said: str, tls: TLS | None) -> str:
    """The reason in ``said``, with a colon before it; empty where it is not a known one.

    Of a host with several addresses gRPC speaks of the last one only: another may have answered, and not accepted the certificate.
    """
    reason = next((f": {reason}" for sign, reason in _REASONS.items() if sign in said), "")
    rejected = why_rejected(tls) if tls is not None else ""
    return f"{reason}, and this caller's certificate would not be accepted ({rejected})" if rejected else reason


def why_no_handshake(agent: str, tls: TLS, said: str) -> tuple[str, str] | None:
    """Why no handshake came about with ``agent``, an address, and what to do; None where that is not what ``said`` is about."""
    if "CERTIFICATE_VERIFY_FAILED" in said:
        found = re.search(r"CERTIFICATE_VERIFY_FAILED: ([a-z][a-z0-9 '-]+)", said)
        why = found[1].strip() if found else "it cannot be verified"
        remedy = "name the authority that issued it (ca), and check that this is the agent that you mean"
        return f"the certificate of {agent} is not accepted: {why}", "renew it at the agent" if "expired" in why else remedy
    if "Hostname Verification Check failed" in said:
        name = tls.server_name or agent.rpartition(":")[0]
        return f"the certificate of {agent} is not for {name}", "use a name that it has, or say which one you mean (server_name)"
    if "WRONG_VERSION_NUMBER" in said:
        return f"what answers at {agent} does not speak TLS", "name the port of the agent's tls_listen"
    if "Socket closed" in said or "Connection reset" in said:
        # In TLS 1.3 a caller is through before the agent has seen its certificate, and the agent hangs up without a word.
        why = why_rejected(tls)
        return (
            f"the agent at {agent} hung up on the handshake: it does not accept this caller's certificate{f' ({why})' if why else ''}",
            "use a client certificate of the agent's authority (tls_ca) that is valid now",
        )
    return None
