"""`mrelease certs`: what it makes is accepted by OpenSSL's strictest check, and nothing is overwritten."""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from support.sdk_cli import Cli, cli_in


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return cli_in(capsys)


@pytest.fixture
def folder(cli: Cli, tmp_path: Path) -> Path:
    assert cli("certs", "init", str(tmp_path / "pki")).code == 0
    return tmp_path / "pki"


def read(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def test_an_authority_and_its_certificates(cli: Cli, folder: Path) -> None:
    done = cli("certs", "issue", str(folder), "node7", "--server", "--dns", "node7.example", "--ip", "192.0.2.7", "--ip", "2001:db8::7")
    assert done.lines[0].startswith(f"{folder}/node7.crt  valid until ")
    assert cli("certs", "issue", str(folder), "batch", "--uri", "spiffe://c/ns/batch/sa/scheduler").code == 0
    assert cli("certs", "issue", str(folder), "plain", "--server").code == 0
    modes = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {mode for name, mode in modes.items() if name.endswith(".key")} == {0o600}
    assert not [name for name in modes if name.startswith(".")]
    server, client = read(folder / "node7.crt"), read(folder / "batch.crt")
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["node7.example"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7", "2001:db8::7"]
    uses = [list(each.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) for each in (server, client)]
    assert uses == [[ExtendedKeyUsageOID.SERVER_AUTH], [ExtendedKeyUsageOID.CLIENT_AUTH]]
    plain = read(folder / "plain.crt").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert plain.get_values_for_type(x509.DNSName) == ["plain"]
    now = datetime.now(timezone.utc)
    assert server.not_valid_before_utc < now - timedelta(minutes=30)
    assert timedelta(days=89) < server.not_valid_after_utc - now <= timedelta(days=90)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_finds_no_fault_with_them(cli: Cli, folder: Path) -> None:
    cli("certs", "issue", str(folder), "node7", "--server")
    cli("certs", "issue", str(folder), "batch")
    cli("certs", "issue", str(folder), "gone")
    assert cli("certs", "revoke", str(folder), "gone").code == 0

    def verify(name: str, purpose: str) -> subprocess.CompletedProcess[str]:
        command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-crl_check", "-CRLfile", str(folder / "ca.crl")]
        command += ["-CAfile", str(folder / "ca.crt"), str(folder / f"{name}.crt")]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert verify("node7", "sslserver").returncode == 0
    assert verify("batch", "sslclient").returncode == 0
    assert verify("node7", "sslclient").returncode != 0
    assert "certificate revoked" in verify("gone", "sslclient").stderr


def test_nothing_is_overwritten_unless_it_is_renewed(cli: Cli, folder: Path) -> None:
    cli("certs", "issue", str(folder), "node7", "--server", "--dns", "a.example", "--days", "7")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    for again in (("init", str(folder)), ("issue", str(folder), "node7", "--server")):
        done = cli("certs", *again)
        assert done.code == 2
        assert "is there already, and nothing is overwritten" in done.err
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before

    assert cli("certs", "issue", str(folder), "node7", "--renew").code == 0
    old, new = x509.load_pem_x509_certificate(before["node7.crt"]), read(folder / "node7.crt")
    assert old.serial_number != new.serial_number
    assert old.public_key() != new.public_key()
    kinds = (x509.SubjectAlternativeName, x509.ExtendedKeyUsage)
    assert [old.extensions.get_extension_for_class(kind).value for kind in kinds] == [
        new.extensions.get_extension_for_class(kind).value for kind in kinds
    ]
    assert abs((new.not_valid_after_utc - old.not_valid_after_utc).total_seconds()) < 3600

    assert cli("certs", "init", str(folder), "--renew", "--days", "5000").code == 0
    assert read(folder / "ca.crt").public_key() == x509.load_pem_x509_certificate(before["ca.crt"]).public_key()
    new.verify_directly_issued_by(read(folder / "ca.crt"))


def test_no_certificate_outlives_its_authority(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "short"
    cli("certs", "init", str(folder), "--days", "5")
    cli("certs", "issue", str(folder), "a", "--days", "90")
    assert read(folder / "a.crt").not_valid_after_utc == read(folder / "ca.crt").not_valid_after_utc


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("issue", "DIR", "../x"), "cannot be the name of a certificate's files"),
        (("issue", "DIR", "ca"), "cannot be the name of a certificate's files"),
        (("issue", "DIR", "x", "--ip", "node7"), "'node7' is not an IP address"),
        (("issue", "DIR", "x", "--dns", "a b"), "'a b' is not a DNS name"),
        (("issue", "DIR", "x", "--uri", "nothing"), "'nothing' is not a URI"),
        (("issue", "DIR", "x_y", "--server"), "say the server's by --dns or --ip"),
        (("issue", "DIR", "x", "--renew"), "`mrelease certs issue` makes it"),
        (("issue", "DIR", "ca", "--renew"), "`mrelease certs init --renew`"),
        (("issue", "DIR", "x", "--renew", "--server"), "--renew keeps names and uses"),
        (("issue", "DIR/none", "x"), "there is no authority in"),
        (("init", "DIR/none", "--renew"), "there is no authority in"),
        (("revoke", "DIR", "x"), "`mrelease certs issue` makes it"),
        (("issue", "DIR", "x", "--days", "0"), "0 is not in the range"),
    ],
)
def test_what_cannot_be_done_says_why_and_leaves_nothing(cli: Cli, folder: Path, arguments: tuple[str, ...], says: str) -> None:
    before = sorted(folder.iterdir())
    done = cli("certs", *(argument.replace("DIR", str(folder)) for argument in arguments))
    assert (done.code, done.out) == (2, "")
    assert says in " ".join(done.err.split())
    assert sorted(file for file in folder.iterdir() if file.name != "none") == before


def test_without_the_library_it_says_what_to_install(tmp_path: Path) -> None:
    program = "import sys; sys.modules['cryptography'] = None; from mrelease.cli.main import run; sys.exit(run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, "certs", "init", str(tmp_path / "pki")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install 'mrelease[certs]'" in done.stderr
    assert not (tmp_path / "pki").exists()
