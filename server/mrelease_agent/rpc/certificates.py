"""What the agent has to know of a certificate or revocation list: read from its DER, X.690 and RFC 5280, without a library for it.

Verifying is the TLS library's. Here is only read when something expires, whom it names as issuer and which number it has.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Final

_INTEGER, _OID, _SEQUENCE, _UTC_TIME, _GENERALIZED_TIME = 0x02, 0x06, 0x30, 0x17, 0x18
_BOOLEAN, _OCTETS, _VERSION, _CRL_EXTENSIONS, _EXTENSIONS = 0x01, 0x04, 0xA0, 0xA0, 0xA3
#: id-ce-extKeyUsage, id-kp-serverAuth and anyExtendedKeyUsage, RFC 5280, Extended Key Usage.
_EXTENDED_KEY_USAGE: Final = bytes.fromhex("551d25")
_FOR_SERVERS: Final = frozenset({bytes.fromhex("2b06010505070301"), bytes.fromhex("551d2500")})
#: Of extensions of lists those that change nothing about whose certificates are in it: authority key identifier, CRL number.
_HARMLESS: Final = frozenset({bytes.fromhex("551d23"), bytes.fromhex("551d14")})

#: What names one certificate: the DER of its issuer's name, and its serial number.
Name = tuple[bytes, int]


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate; times are seconds since the epoch. ``for_servers``: its extended key usage, if any, allows TLS servers."""

    name: Name
    not_before: float
    not_after: float
    for_servers: bool


@dataclass(frozen=True, slots=True)
class RevocationList:
    """One list of revoked certificates; ``next_update``: when the next one is due, None where it does not say."""

    revoked: frozenset[Name]
    next_update: float | None


def from_pem(text: bytes, label: str) -> list[bytes]:
    """The DER of every block with this label, for example ``CERTIFICATE``, RFC 7468.

    Raises ValueError where there is none, and where one is not whole: a file that is still being written.
    """
    begin, end = f"-----BEGIN {label}-----".encode(), f"-----END {label}-----".encode()
    blocks = re.findall(re.escape(begin) + rb"([A-Za-z0-9+/=\s]+)" + re.escape(end), text)
    if not blocks:
        raise ValueError(f"has no PEM block {label}")
    if not len(blocks) == text.count(begin) == text.count(end):
        raise ValueError(f"has a PEM block {label} that is not whole")
    try:
        return [base64.b64decode(b"".join(block.split()), validate=True) for block in blocks]
    except binascii.Error:
        raise ValueError(f"has a PEM block {label} that is not base64") from None


def read_certificate(der: bytes) -> Certificate:
    """Read a certificate. Raises ValueError for what is none."""
    parts = _fields(_first(_whole(der))[1])
    if parts and parts[0][0] == _VERSION:
        parts = parts[1:]
    if [tag for tag, _ in parts[:5]] != [_INTEGER, _SEQUENCE, _SEQUENCE, _SEQUENCE, _SEQUENCE]:
        raise ValueError("is not a certificate")
    validity = _fields(parts[3][1])
    if len(validity) != 2:
        raise ValueError("has no validity")
    extensions = next((content for tag, content in parts[5:] if tag == _EXTENSIONS), b"")
    usages = [usage for oid, _, value in _extensions(extensions) if oid == _EXTENDED_KEY_USAGE for usage in _fields(_whole(value))]
    return Certificate(
        name=(parts[2][1], int.from_bytes(parts[0][1], "big", signed=True)),
        not_before=_time(*validity[0]),
        not_after=_time(*validity[1]),
        for_servers=not usages or any(content in _FOR_SERVERS for _, content in usages),
    )


def read_revocation_list(der: bytes) -> RevocationList:
    """Read a complete list of one issuer. Raises ValueError for what is none: a delta list, or one in another's name."""
    parts = _fields(_first(_whole(der))[1])
    if parts and parts[0][0] == _INTEGER:
        parts = parts[1:]
    if [tag for tag, _ in parts[:2]] != [_SEQUENCE, _SEQUENCE] or len(parts) < 3:
        raise ValueError("is not a revocation list")
    issuer, rest = parts[1][1], parts[2:]
    _time(*rest.pop(0))
    next_update = _time(*rest.pop(0)) if rest and rest[0][0] in (_UTC_TIME, _GENERALIZED_TIME) else None
    entries = _fields(rest.pop(0)[1]) if rest and rest[0][0] == _SEQUENCE else []
    for oid, critical, _ in _extensions(rest[0][1] if rest and rest[0][0] == _CRL_EXTENSIONS else b""):
        if critical and oid not in _HARMLESS:
            raise ValueError("is a revocation list of a kind that the agent does not know: give it a complete one of one issuer")
    revoked: set[Name] = set()
    for _, entry in entries:
        serial = _first(entry)
        if serial[0] != _INTEGER:
            raise ValueError("is not a revocation list")
        revoked.add((issuer, int.from_bytes(serial[1], "big", signed=True)))
    return RevocationList(frozenset(revoked), next_update)


def _extensions(wrapped: bytes) -> Iterator[tuple[bytes, bool, bytes]]:
    """Object identifier, whether it is critical, and value of each extension, RFC 5280."""
    for _, extension in _fields(_whole(wrapped)) if wrapped else ():
        parts = _fields(extension)
        if len(parts) < 2 or parts[0][0] != _OID or parts[-1][0] != _OCTETS:
            raise ValueError("has an extension that cannot be read")
        yield parts[0][1], len(parts) == 3 and parts[1][1] != b"\0", parts[-1][1]


def _whole(der: bytes) -> bytes:
    """The content of the one SEQUENCE that ``der`` is."""
    found = _fields(der)
    if len(found) != 1 or found[0][0] != _SEQUENCE:
        raise ValueError("is not DER")
    return found[0][1]


def _first(content: bytes) -> tuple[int, bytes]:
    """Tag and content of the first value."""
    found = _fields(content)
    if not found:
        raise ValueError("is cut off")
    return found[0]


def _fields(content: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of each value in a row, X.690 section 8.1."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(content):
        if at + 2 > len(content) or content[at] & 0x1F == 0x1F:
            raise ValueError("is not DER")
        tag, length, at_content = content[at], content[at + 1], at + 2
        if length & 0x80:
            octets = length & 0x7F
            if not 0 < octets <= 4 or at_content + octets > len(content):
                raise ValueError("is not DER")
            length, at_content = int.from_bytes(content[at_content : at_content + octets], "big"), at_content + octets
        at = at_content + length
        if at > len(content):
            raise ValueError("is cut off")
        found.append((tag, content[at_content:at]))
    if not found and content:
        raise ValueError("is not DER")
    return found


def _time(tag: int, content: bytes) -> float:
    """UTCTime or GeneralizedTime as RFC 5280 allows them for Validity."""
    text = content.decode("ascii", "replace")
    if tag == _UTC_TIME and re.fullmatch(r"\d{12}Z", text, re.ASCII):
        text = ("19" if text >= "5" else "20") + text
    elif tag != _GENERALIZED_TIME or not re.fullmatch(r"\d{14}Z", text, re.ASCII):
        raise ValueError("has a time that cannot be read")
    numbers = [int(text[:4]), *(int(text[at : at + 2]) for at in range(4, 14, 2))]
    return datetime(*numbers, tzinfo=timezone.utc).timestamp()  # type: ignore[misc, arg-type] # six of them
