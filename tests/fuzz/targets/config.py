"""Configuration files: understood, and then written as they are understood, or refused in one line that says where and why."""

from __future__ import annotations

import contextlib
import io

from fuzz.kit import assert_readable, scratch
from mrelease_agent.config.load import load
from mrelease_agent.config.schema import Config
from mrelease_agent.config.values import ConfigError

#: Whoever runs this: there is somewhere to listen.
_ENVIRON = {"XDG_RUNTIME_DIR": "/run/user/1000"}


def one_input(data: bytes) -> None:
    """A file."""
    file = scratch() / "agent.yaml"
    file.write_bytes(data)
    try:
        config = load(["--config", str(file)], _ENVIRON)
    except ConfigError as error:
        assert_readable(str(error), about=str(file))
        return
    assert printed(config) == config


def printed(config: Config) -> Config:
    """The configuration that --print-config shows of one."""
    file, shown = scratch() / "agent.yaml", io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        load(["--config", str(file), "--print-config"], _ENVIRON)
    again = scratch() / "again.yaml"
    again.write_text(shown.getvalue(), encoding="utf-8")
    return load(["--config", str(again)], _ENVIRON)
