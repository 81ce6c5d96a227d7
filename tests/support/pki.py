"""Certificates for tests: good ones as the product makes them, and every kind that must not be accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mrelease import TLS, _certificates

NOW = datetime.now(timezone.utc).replace(microsecond=0)
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, by their files."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Pki:
    """An authority in a folder of its own, with a server's certificate for 127.0.0.1 and localhost and a client's."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Pki:
        _certificates.create_authority(folder, f"authority {folder.name}", 30)
        pki = cls(folder)
        pki.issue("server", server=True)
        pki.issue("client", uris=["spiffe://lab/ns/tests/sa/client"], dns=["client.example"])
        return pki

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    def pair(self, name: str) -> Pair:
        return Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key")

    def issue(self, name: str, *, server: bool = False, dns: Sequence[str] = (), uris: Sequence[str] = ()) -> Pair:
        names = {"dns": ["localhost", *dns], "ips": ["127.0.0.1"]} if server else {"dns": dns}
        _certificates.issue(self.folder, name, server=server, client=not server, **names, uris=uris, days=2)
        return self.pair(name)

    def odd(self, name: str, usage: x509.ObjectIdentifier = CLIENT, *, days: tuple[float, float] = (-1, 1), signed: bool = True) -> Pair:
        """One that is valid from and until so many days from now, by default now; not ``signed``: by itself and not by the authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        authority = x509.load_pem_x509_certificate(self.ca.read_bytes())
        authority_key = load_pem_private_key((self.folder / "ca.key").read_bytes(), None)
        assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer, signer = (authority.subject, authority_key) if signed else (subject, key)
        begin, end = (NOW + timedelta(d) for d in days)
        names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        certificate = (
            x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), begin, end)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .sign(signer, hashes.SHA256())
        )
        pair = self.pair(name)
        pair.cert.write_bytes(certificate.public_bytes(Encoding.PEM))
        pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return pair

    def tls(self, name: str = "client", server_name: str = "") -> TLS:
        """What a caller with this certificate gives to a client."""
        pair = self.pair(name)
        return TLS(self.ca, pair.cert, pair.key, server_name)
