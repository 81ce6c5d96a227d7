"""A certificate authority in a directory, for development and for clusters that have none. Needs the extra ``certs``: RFC 5280.

``ca.crt`` and ``ca.key``, for each certificate ``NAME.crt`` and ``NAME.key``, and ``ca.crl`` once one was revoked. Keys are ECDSA P-256
and 0600; the directory is 0700.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mrelease.errors import MreleaseError

#: Clocks of nodes differ.
_BACKDATED: Final = timedelta(hours=1)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}", re.ASCII)
_DNS: Final = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*", re.ASCII)
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[!-~]+", re.ASCII)


class CertificateError(MreleaseError):
    """Nothing was issued; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Issued:
    """Files that were written, and until when their certificate is valid."""

    certificate: Path
    key: Path
    not_after: datetime


def create_authority(directory: Path, name: str, days: int, *, renew: bool = False) -> Issued:
    """Make an authority; with ``renew`` the one that is there becomes valid for longer: what it has issued stays valid.

    Raises CertificateError, OSError.
    """
    _make_directory(directory)
    files = _files(directory, "ca")
    if renew:
        old, key = _authority(directory)
        subject = old.subject
    else:
        _refuse_to_overwrite(files)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = _now()
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), now - _BACKDATED, now + timedelta(days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return _write(files, certificate, None if renew else key)


def issue(
    directory: Path,
    name: str,
    *,
    server: bool,
    client: bool,
    dns: Sequence[str] = (),
    ips: Sequence[str] = (),
    uris: Sequence[str] = (),
    days: int,
) -> Issued:
    """Issue a certificate with a new key: for an agent (``server``), a caller (``client``), or both; never for longer than its authority's.

    Raises CertificateError, OSError.
    """
    if not _NAME.fullmatch(name) or name == "ca":
        raise CertificateError(f"{name!r} cannot be the name of a certificate's files: use letters, digits and . _ @ -, but not ca")
    files = _files(directory, name)
    _refuse_to_overwrite(files)
    alternatives: list[x509.GeneralName] = [
        *map(x509.UniformResourceIdentifier, _checked(uris, _URI, "a URI such as spiffe://cluster/ns/batch/sa/scheduler")),
        *map(x509.DNSName, _checked(dns, _DNS, "a DNS name such as node7.example")),
        *map(_ip, ips),
    ]
    if server and not alternatives:
        alternatives = [x509.DNSName(*_checked([name], _DNS, "a DNS name: say the server's by --dns or --ip"))]
    usages = [ExtendedKeyUsageOID.SERVER_AUTH] * server + [ExtendedKeyUsageOID.CLIENT_AUTH] * client
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return _issue(directory, files, subject, alternatives, usages, timedelta(days))


def renew(directory: Path, name: str, days: int | None) -> Issued:
    """Issue one again, with a new key, for the same names and uses, and unless ``days`` are given for as long.

    The files are replaced one after the other: an agent that watches them waits for both. Raises CertificateError, OSError.
    """
    files = _files(directory, name)
    old = _read(files[0])
    if name == "ca":
        raise CertificateError("ca is the authority: renew it by `mrelease certs init --renew`")
    try:
        alternatives = list(old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        alternatives = []
    usages = list(old.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    period = timedelta(days) if days is not None else old.not_valid_after_utc - old.not_valid_before_utc - _BACKDATED
    return _issue(directory, files, old.subject, alternatives, usages, period)


def revoke(directory: Path, names: Sequence[str], days: int) -> Path:
    """Add certificates to the list ``ca.crl``, which is then due again in ``days``; without ``names`` only that.

    Raises CertificateError, OSError.
    """
    authority, key = _authority(directory)
    path, now = directory / "ca.crl", _now()
    builder = x509.CertificateRevocationListBuilder(authority.subject, now - _BACKDATED, now + timedelta(days))
    number, serials = 1, set[int]()
    if path.exists():
        old = x509.load_pem_x509_crl(path.read_bytes())
        number = old.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number + 1
        for entry in old:
            serials.add(entry.serial_number)
            builder = builder.add_revoked_certificate(entry)
    for name in names:
        serial = _read(_files(directory, name)[0]).serial_number
        if serial not in serials:
            builder = builder.add_revoked_certificate(x509.RevokedCertificateBuilder(serial, now).build())
    public = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    crl = builder.add_extension(public, critical=False).add_extension(x509.CRLNumber(number), critical=False).sign(key, hashes.SHA256())
    _replace(path, crl.public_bytes(Encoding.PEM), 0o644)
    return path


def _issue(
    directory: Path,
    files: tuple[Path, Path],
    subject: x509.Name,
    alternatives: Sequence[x509.GeneralName],
    usages: Sequence[x509.ObjectIdentifier],
    period: timedelta,
) -> Issued:
    authority, authority_key = _authority(directory)
    now = _now()
    if authority.not_valid_after_utc <= now:
        raise CertificateError(f"the authority in {directory} has expired: renew it by `mrelease certs init --renew {directory}`")
    key = ec.generate_private_key(ec.SECP256R1())
    until = min(now + period, authority.not_valid_after_utc)
    issuer = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        x509.CertificateBuilder(authority.subject, subject, key.public_key(), x509.random_serial_number(), now - _BACKDATED, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
    )
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return _write(files, builder.sign(authority_key, hashes.SHA256()), key)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate_file, key_file = _files(directory, "ca")
    if not certificate_file.exists():
        raise CertificateError(f"there is no authority in {directory}: make one by `mrelease certs init {directory}`")
    try:
        key = load_pem_private_key(key_file.read_bytes(), None)
    except (ValueError, TypeError):
        raise CertificateError(f"{key_file} is not a private key in PEM without a password") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{key_file} is not an ECDSA key: this issues only for authorities that `mrelease certs init` has made")
    return _read(certificate_file), key


def _read(file: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except ValueError:
        raise CertificateError(f"{file} is not a certificate in PEM") from None
    except FileNotFoundError:
        raise CertificateError(f"there is no {file}: `mrelease certs issue` makes it") from None


def _files(directory: Path, name: str) -> tuple[Path, Path]:
    return directory / f"{name}.crt", directory / f"{name}.key"


def _make_directory(directory: Path) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    if not directory.is_dir():
        directory.mkdir(mode=0o700)


def _refuse_to_overwrite(files: Sequence[Path]) -> None:
    for file in files:
        if file.exists() or file.is_symlink():
            raise CertificateError(f"{file} is there already, and nothing is overwritten: --renew replaces it by a new one, or remove it")


def _write(files: tuple[Path, Path], certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey | None) -> Issued:
    if key is not None:
        _replace(files[1], key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    _replace(files[0], certificate.public_bytes(Encoding.PEM), 0o644)
    return Issued(files[0], files[1], certificate.not_valid_after_utc)


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Write a file whole or not at all; nobody else can read it before it has its mode."""
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with open(fd, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _checked(texts: Sequence[str], pattern: re.Pattern[str], form: str) -> list[str]:
    for text in texts:
        if not pattern.fullmatch(text) or len(text) > 253:
            raise CertificateError(f"{text!r} is not {form}")
    return list(texts)


def _ip(text: str) -> x509.IPAddress:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        raise CertificateError(f"{text!r} is not an IP address") from None


def _now() -> datetime:
    return datetime.now(timezone.utc).replace(microsecond=0)
