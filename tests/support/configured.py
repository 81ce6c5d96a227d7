"""How a configuration that cannot be used is refused."""

from __future__ import annotations

import pytest

from mrelease_agent.config import ConfigError, load

LISTEN = {"MRELEASE_LISTEN": "unix:///run/test/agent.sock"}


def refused(*argv: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(argv, {**LISTEN, **environ})
    message = str(caught.value)
    assert "\n" not in message
    return message
