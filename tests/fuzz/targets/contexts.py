"""Files of contexts: taken whole, or refused by ContextError; what is saved is what is read again."""

from __future__ import annotations

import contextlib

from fuzz.kit import assert_readable, scratch
from mrelease import _contexts
from mrelease._contexts import ContextError
from mrelease.errors import InvalidAddress


def one_input(data: bytes) -> None:
    """A file."""
    file = scratch() / "contexts" / "contexts.json"
    try:
        found = _contexts.decode(data, file)
    except ContextError as error:
        assert_readable(str(error))
        return
    for name, context in found.contexts.items():
        assert_readable(name, 63)
        with contextlib.suppress(ContextError, InvalidAddress):
            context.check()
    assert_readable(f".{found.current}", 64)
    _contexts.save(found, file)
    assert _contexts.load(file) == found
