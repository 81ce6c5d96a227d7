"""What gRPC is told by its environment, which it reads once, when it is imported."""

from __future__ import annotations

import os
import sys
from typing import Final

#: gRPC for Python has no lowest version of TLS. These suites are for TLS 1.2 with a key that both sides know, and there is none: so no
#: handshake of TLS 1.2 succeeds. The suites of TLS 1.3 cannot be chosen and are not concerned.
_ONLY_TLS_1_3: Final = {"GRPC_SSL_CIPHER_SUITES": "ECDHE-PSK-CHACHA20-POLY1305"}
_state = {"prepared": False}


def prepare() -> None:
    """Let gRPC speak TLS 1.3 only, and not write to standard error what whoever can connect may cause. Too late once it is imported."""
    if "grpc" in sys.modules:
        return
    os.environ.update(_ONLY_TLS_1_3)
    # Below that it writes a line for every handshake that fails, past the log and waiting for its reader.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    _state["prepared"] = True


def only_tls_1_3() -> bool:
    """Whether ``prepare`` came in time."""
    return _state["prepared"]
