"""Names of users, as this machine knows them."""

from __future__ import annotations

from functools import cache

from mrelease import _text


@cache
def name(uid: int) -> str:
    """Name of a user here. The agent may see other names, so numbers stay right where names do not."""
    import pwd

    try:
        return _text.printable(pwd.getpwuid(uid).pw_name)
    except (KeyError, OverflowError):
        return str(uid)
