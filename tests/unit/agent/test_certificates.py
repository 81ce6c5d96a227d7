"""What the agent reads of certificates, and which files it does not take."""

from __future__ import annotations

import contextlib
import random
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, load_pem_private_key

from mrelease import _certificates
from mrelease_agent.config import Config, ConfigError, load
from mrelease_agent.rpc.certificates import from_pem, read_certificate, read_revocation_list
from mrelease_agent.rpc.tls import TlsPort
from support.pki import CLIENT, SERVER, Pki


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki.make(tmp_path / "pki")


def test_a_certificate_is_read_as_the_library_reads_it(pki: Pki) -> None:
    for name, usage, days in (("a", SERVER, (-1.0, 1.0)), ("b", CLIENT, (-27000.0, -20000.0)), ("c", CLIENT, (0.0, 9000.0))):
        file = pki.odd(name, usage, days=days).cert
        theirs = x509.load_pem_x509_certificate(file.read_bytes())
        ours = read_certificate(from_pem(file.read_bytes(), "CERTIFICATE")[0])
        assert ours.name == (theirs.issuer.public_bytes()[2:], theirs.serial_number)
        assert ours.not_before == theirs.not_valid_before_utc.timestamp()
        assert ours.not_after == theirs.not_valid_after_utc.timestamp()
        assert ours.for_servers is (usage is SERVER)


def test_a_certificate_without_usages_is_for_everything(pki: Pki) -> None:
    assert read_certificate(from_pem(pki.ca.read_bytes(), "CERTIFICATE")[0]).for_servers


def test_a_revocation_list_is_read_as_the_library_reads_it(pki: Pki) -> None:
    empty = _certificates.revoke(pki.folder, [], 3).read_bytes()
    assert read_revocation_list(from_pem(empty, "X509 CRL")[0]).revoked == frozenset()
    text = _certificates.revoke(pki.folder, ["client", "server"], 3).read_bytes()
    found = read_revocation_list(from_pem(text, "X509 CRL")[0])
    names = {read_certificate(from_pem(pki.pair(name).cert.read_bytes(), "CERTIFICATE")[0]).name for name in ("client", "server")}
    assert found.revoked == names
    due = x509.load_pem_x509_crl(text).next_update_utc
    assert due
    assert found.next_update == due.timestamp()


def test_a_list_of_changes_is_not_taken_for_a_whole_one(pki: Pki) -> None:
    key = load_pem_private_key((pki.folder / "ca.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now = datetime.now(timezone.utc)
    issuer = x509.load_pem_x509_certificate(pki.ca.read_bytes()).subject
    delta = x509.CertificateRevocationListBuilder(issuer, now, now + timedelta(1)).add_extension(x509.DeltaCRLIndicator(1), critical=True)
    with pytest.raises(ValueError, match="of a kind that the agent does not know"):
        read_revocation_list(delta.sign(key, hashes.SHA256()).public_bytes(Encoding.DER))


def test_whatever_the_bytes_are_the_readers_return_or_raise_value_error(pki: Pki) -> None:
    certificate = from_pem(pki.pair("client").cert.read_bytes(), "CERTIFICATE")[0]
    crl = from_pem(_certificates.revoke(pki.folder, ["client"], 3).read_bytes(), "X509 CRL")[0]
    chance = random.Random(5)
    for whole, read in ((certificate, read_certificate), (crl, read_revocation_list)):
        for _ in range(3000):
            broken = bytearray(whole[: chance.randrange(len(whole) + 1)] if chance.random() < 0.3 else whole)
            for _ in range(chance.randrange(4)):
                if broken:
                    broken[chance.randrange(len(broken))] = chance.randrange(256)
            with contextlib.suppress(ValueError):
                read(bytes(broken))


def settings(pki: Pki, **changed: str) -> Config:
    server = pki.pair("server")
    files = {"tls_cert": str(server.cert), "tls_key": str(server.key), "tls_ca": str(pki.ca)}
    config = load(["--listen", "unix:///run/a/b", "--node-name", "n"], {})
    return msgspec.structs.replace(config, tls_listen="127.0.0.1:0", **{**files, **changed})


def port(config: Config) -> dict[str, float]:
    expiries: dict[str, float] = {}
    TlsPort(config, lambda _what, _stale, _why: None, expiries.__setitem__)
    return expiries


def refusal(config: Config) -> str:
    with pytest.raises(ConfigError) as caught:
        port(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_it_says_when_what_it_uses_expires(pki: Pki) -> None:
    crl = _certificates.revoke(pki.folder, [], 3)
    found = port(settings(pki, tls_crl=str(crl)))
    assert found.keys() == {"tls_cert", "tls_ca", "tls_crl"}
    in_days = {key: round((when - time.time()) / 86400) for key, when in found.items()}
    assert in_days == {"tls_cert": 2, "tls_ca": 30, "tls_crl": 3}


def test_an_authority_that_has_expired_may_stay_beside_one_that_has_not(pki: Pki, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    expired = pki.odd("expired", days=(-2, -1)).cert.read_bytes()
    bundle.write_bytes(expired + pki.ca.read_bytes())
    assert port(settings(pki, tls_ca=str(bundle)))["tls_ca"] > time.time()
    bundle.write_bytes(expired)
    assert refusal(settings(pki, tls_ca=str(bundle))) == f"tls_ca, {bundle}, has no certificate that has not expired"


def test_files_that_cannot_be_used_are_named_with_what_is_wrong(pki: Pki, tmp_path: Path) -> None:
    other = Pki.make(tmp_path / "other")
    file = tmp_path / "file"

    def says(key: str, content: bytes) -> str:
        file.write_bytes(content)
        message = refusal(settings(pki, **{key: str(file)}))
        assert message.startswith(f"{key}, {file}, ")
        return message.removeprefix(f"{key}, {file}, ")

    ca, cert, key = pki.ca.read_bytes(), pki.pair("server").cert.read_bytes(), pki.pair("server").key.read_bytes()
    assert says("tls_ca", b"") == "has no PEM block CERTIFICATE"
    assert says("tls_ca", key) == "has no PEM block CERTIFICATE"
    assert says("tls_ca", ca + ca[:300]) == "has a PEM block CERTIFICATE that is not whole"
    assert says("tls_ca", ca.replace(b"M", b"\xff", 1)) == "has no PEM block CERTIFICATE"
    assert says("tls_ca", ca.replace(b"A\n", b"\n", 1).replace(b"\nMII", b"\nMI", 1))
    assert says("tls_ca", cert) == "has no certificate of an authority (basic constraints CA)"
    assert says("tls_cert", key) == "has no PEM block CERTIFICATE"
    assert says("tls_key", cert) == "is not a private key in PEM, or not one for the certificate in tls_cert"
    assert says("tls_key", other.pair("server").key.read_bytes()).startswith("is not the key of the certificate in tls_cert")
    locked = load_pem_private_key(key, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    assert says("tls_key", locked).startswith("is encrypted, and nobody is there to type its password")
    assert says("tls_crl", ca) == "has no PEM block X509 CRL"
    builder_key = load_pem_private_key((pki.folder / "ca.key").read_bytes(), None)
    assert isinstance(builder_key, ec.EllipticCurvePrivateKey)
    now = datetime.now(timezone.utc)
    stale = x509.CertificateRevocationListBuilder(x509.load_pem_x509_certificate(ca).subject, now - timedelta(2), now - timedelta(1))
    assert says("tls_crl", stale.sign(builder_key, hashes.SHA256()).public_bytes(Encoding.PEM)) == "is out of date: its next update was due"


def test_a_chain_with_what_is_between_it_and_its_authority_is_taken(pki: Pki, tmp_path: Path) -> None:
    chain = tmp_path / "chain"
    chain.write_bytes(pki.pair("server").cert.read_bytes() + pki.ca.read_bytes())
    assert port(settings(pki, tls_cert=str(chain)))
