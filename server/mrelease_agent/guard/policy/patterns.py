"""What a rule may say of names, and which names that means. Wildcards are few, and none of them crosses a boundary that means something.

Each function takes what the rule says and returns a test; it raises ValueError with what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

Test = Callable[[str], bool]

#: A character of a segment of a SPIFFE ID's path, SPIFFE-ID 2.2, and a whole segment: "." and ".." are none.
_CHARACTER: Final = r"[A-Za-z0-9._-]"
_SEGMENT: Final = rf"(?!\.{{1,2}}(?:/|\Z)){_CHARACTER}+"
_WILD_URI: Final = re.compile(r"([a-z][a-z0-9+.-]*://[^/*?#]+)/([^?#]+)")
_LABEL: Final = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_DNS: Final = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")


def uri(pattern: str) -> Test:
    """A URI, exactly; or with ``*`` at the end of segments of its path, or ``**`` as the last one.

    ``*`` stands for any characters that a SPIFFE ID may have in a segment, and the segment for at least one; ``**`` for one or more such
    segments. Neither stands for an empty segment, for ``.`` or ``..``, or for anything of the part before the path.
    """
    if not pattern.isascii() or not pattern.isprintable() or " " in pattern or ":" not in pattern:
        raise ValueError("write a URI such as spiffe://cluster.local/ns/kueue/sa/controller")
    if "*" not in pattern:
        return pattern.__eq__
    found = _WILD_URI.fullmatch(pattern)
    if found is None:
        raise ValueError("a wildcard stands in the path: write scheme://authority/path/*")
    segments = found[2].split("/")
    parts: list[str] = []
    for index, segment in enumerate(segments):
        text = segment.rstrip("*")
        stars = len(segment) - len(text)
        if "*" in text or stars > 2 or (stars == 2 and (text or index + 1 < len(segments))):
            raise ValueError("write `*` only at the end of a segment, and `**` only as the whole last one")
        if not segment or text in (".", ".."):
            raise ValueError("write no empty segment, and none that is . or ..")
        if stars == 2:
            parts.append(rf"{_SEGMENT}(?:/{_SEGMENT})*")
        elif stars:
            parts.append(rf"{re.escape(text)}{_CHARACTER}*" if text else _SEGMENT)
        else:
            parts.append(re.escape(text))
    compiled = re.compile(re.escape(found[1]) + "/" + "/".join(parts))
    return lambda name: compiled.fullmatch(name) is not None


def dns(pattern: str) -> Test:
    """A DNS name in lower case, exactly; with ``*`` as its first label for any one label. Case of the caller's name does not count.

    A name of the certificate that is itself a wildcard (``*.example``) is no name of a caller and never fits.
    """
    if not _DNS.fullmatch(pattern):
        raise ValueError("write a DNS name in lower case such as node7.example, or *.example for one label more")
    if not pattern.startswith("*."):
        return lambda name: name.isascii() and name.lower() == pattern  # lower() makes a "k" of the sign for kelvin
    compiled = re.compile(_LABEL + re.escape(pattern[1:]))
    return lambda name: name.isascii() and compiled.fullmatch(name.lower()) is not None


def common_name(pattern: str) -> Test:
    """A common name, exactly."""
    if "*" in pattern:
        raise ValueError("a common name has no wildcard: write each name, or match by dns or uri")
    return pattern.__eq__


def namespace(pattern: str) -> Test:
    """The name of a namespace; with ``*`` at its end for any further characters, and ``*`` alone for any namespace that is known."""
    if not pattern.endswith("*"):
        return pattern.__eq__
    prefix = pattern[:-1]
    return lambda name: name.startswith(prefix)


def cgroup(path: str) -> Test:
    """A cgroup and all below it, compared by whole names: ``/kubepods/besteffort`` is not above ``/kubepods/besteffortX``."""
    names = path.split("/")[1:]
    if not path.startswith("/") or any(name in ("", ".", "..") or "*" in name for name in names):
        raise ValueError("write an absolute path other than /, without a trailing slash, //, . or .. and without a wildcard")
    below = path + "/"
    return lambda other: other == path or other.startswith(below)
