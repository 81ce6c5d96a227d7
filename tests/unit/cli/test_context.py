"""`mrelease context`, and which agent a command asks: flags before variables, those before contexts, those before the default."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mrelease import TLS, _contexts
from mrelease._contexts import Context, ContextError, Contexts
from mrelease.cli.where import Flags, Where, find
from mrelease.errors import InvalidTLS
from support.pki import Pki
from support.sdk_cli import Cli, cli_in


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return cli_in(capsys)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("MRELEASE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "mrelease" / "contexts.json"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki.make(tmp_path_factory.mktemp("contexts") / "pki")


def add(cli: Cli, pki: Pki, name: str, address: str, *more: str) -> str:
    pair = pki.pair("client")
    done = cli("context", "add", name, address, "--ca", str(pki.ca), "--cert", str(pair.cert), "--key", str(pair.key), *more)
    assert done.code == 0, done.err
    return done.out


def test_contexts_are_added_used_listed_shown_and_removed(cli: Cli, file: Path, pki: Pki) -> None:
    assert cli("context", "list").out == ""
    assert add(cli, pki, "lab", "node7:7443", "--server-name", "node7.lab") == "lab: node7:7443, in use\n"
    assert add(cli, pki, "prod", "node8:7443") == "prod: node8:7443; `mrelease context use prod` uses it\n"
    assert cli("context", "add", "here", "unix:///run/mrelease/agent.sock").code == 0
    assert [line.split() for line in cli("context", "list").lines] == [
        ["NAME", "AGENT"],
        ["here", "unix:///run/mrelease/agent.sock"],
        ["*", "lab", "node7:7443"],
        ["prod", "node8:7443"],
    ]
    assert cli("context", "use", "prod").code == 0
    assert [each["in_use"] for each in cli("context", "list", "-o", "json").data] == [False, False, True]
    assert cli("context", "show", "lab", "-o", "json").data == {
        "name": "lab",
        "in_use": False,
        "agent": "node7:7443",
        "ca": str(pki.ca),
        "cert": str(pki.pair("client").cert),
        "key": str(pki.pair("client").key),
        "server_name": "node7.lab",
    }
    assert "node8:7443" in cli("context", "show").out
    assert cli("context", "remove", "prod").code == 0
    assert cli("context", "show").code == 2
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert sorted(json.loads(file.read_text())["contexts"]) == ["here", "lab"]
    assert [each.name for each in file.parent.iterdir()] == ["contexts.json"]


def test_paths_are_kept_whole_and_keys_are_not_kept(cli: Cli, file: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pki.folder)
    assert cli("context", "add", "lab", "node7:7443", "--ca", "ca.crt", "--cert", "client.crt", "--key", "client.key").code == 0
    assert json.loads(file.read_text())["contexts"]["lab"]["key"] == str(pki.folder / "client.key")
    assert "PRIVATE" not in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("add", "a b", "unix:///run/a"), "cannot be the name of a context"),
        (("add", "x", "node7:7443"), "is not on this machine, and without TLS"),
        (("add", "x", "nonsense"), "is not an address of an agent"),
        (("add", "x", "node7:7443", "--ca", "CA"), "has all of --ca, --cert and --key, or none"),
        (("add", "x", "unix:///run/a", "--ca", "CA", "--cert", "CERT", "--key", "KEY"), "where there is no TLS"),
        (("add", "x", "unix:///run/a", "--server-name", "b"), "--server-name is for TLS"),
        (("add", "x", "node7:7443", "--ca", "CA", "--cert", "CERT", "--key", "OTHER"), "is not the key of"),
        (("add", "x", "node7:7443", "--ca", "CA", "--cert", "CERT", "--key", "/none"), "the key /none cannot be read"),
        (("use", "x"), "there is no context 'x' (there are: none)"),
        (("show",), "no context is in use"),
        (("remove", "x"), "there is no context 'x'"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(cli: Cli, file: Path, pki: Pki, arguments: tuple[str, ...], says: str) -> None:
    pair = pki.pair("client")
    files = {"CA": pki.ca, "CERT": pair.cert, "KEY": pair.key, "OTHER": pki.pair("server").key}
    done = cli("context", *(str(files.get(argument, argument)) for argument in arguments))
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert not file.exists()


def saved(file: Path, current: str = "lab") -> None:
    _contexts.save(Contexts(current, {"lab": Context("node7:7443", "/ca", "/cert", "/key")}), file)


def test_a_file_that_others_may_have_written_is_not_believed(file: Path) -> None:
    saved(file)
    assert find(Flags()) == Where("node7:7443", TLS("/ca", "/cert", "/key"))
    for mode in (0o660, 0o602):
        file.chmod(mode)
        with pytest.raises(ContextError, match="can be written by others"):
            find(Flags())
    file.chmod(0o600)
    file.parent.chmod(0o770)
    with pytest.raises(ContextError, match="can be written by others"):
        find(Flags())
    file.parent.chmod(0o700)
    assert find(Flags()).address == "node7:7443"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file to another user")
def test_nor_is_the_file_of_another_user(file: Path) -> None:
    saved(file)
    os.chown(file, 65534, 65534)
    with pytest.raises(ContextError, match="can be written by others"):
        find(Flags())


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "[" * 100_000, "\xff", '{"contexts": []}', '{"current": 1}', '{"version": 9}'),
        *('{"contexts": {"a": {}}}', '{"contexts": {"a": 1}}', '{"contexts": {"a": {"agent": 1}}}'),
        '{"contexts": {"a": {"agent": "b:1", "password": "x"}}}',
    ],
    ids=lambda text: text[:20],
)
def test_a_broken_file_is_an_error_that_names_it(cli: Cli, file: Path, text: str) -> None:
    saved(file)
    file.write_bytes(text.encode("latin-1"))
    done = cli("node")
    assert done.code == 2
    assert f"{file} is not a file of contexts: mend or remove it" in done.err


def test_another_file_may_be_named(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "mine" / "c.json")
    monkeypatch.setenv("MRELEASE_CONTEXTS", str(tmp_path / "mine" / "c.json"))
    assert find(Flags()).address == "node7:7443"
    assert not file.exists()


LAB, PROD = TLS("/ca", "/cert", "/key"), TLS("/ca2", "/cert2", "/key2", "prod.example")
ENVIRONMENT = {"MRELEASE_CLIENT_CA": "/ca3", "MRELEASE_CLIENT_CERT": "/cert3", "MRELEASE_CLIENT_KEY": "/key3"}
OWN = TLS("/ca3", "/cert3", "/key3")


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        (Flags(), {}, Where("node7:7443", LAB)),
        (Flags(), {"MRELEASE_CONTEXT": "prod"}, Where("node8:7443", PROD)),
        (Flags(context="prod"), {"MRELEASE_CONTEXT": "lab"}, Where("node8:7443", PROD)),
        (Flags(context="prod"), {"MRELEASE_AGENT": "unix:///a", **ENVIRONMENT}, Where("node8:7443", PROD)),
        (Flags(context="prod", agent="node9:7443"), {}, Where("node9:7443", PROD)),
        (Flags(agent="node9:7443"), {}, Where("node9:7443")),  # no certificate of a context is shown to who is not its agent
        (Flags(agent="node9:7443"), ENVIRONMENT, Where("node9:7443", OWN)),
        (Flags(agent="unix:///a"), ENVIRONMENT, Where("unix:///a")),
        (Flags(), {"MRELEASE_AGENT": "node9:7443"}, Where("node9:7443")),
        (Flags(), {"MRELEASE_AGENT": "node9:7443", **ENVIRONMENT}, Where("node9:7443", OWN)),
        (Flags(), ENVIRONMENT, Where("node7:7443", OWN)),
        (Flags(tls_server_name="x"), {}, Where("node7:7443", TLS("/ca", "/cert", "/key", "x"))),
        (Flags(tls_ca="/c", tls_cert="/d", tls_key="/e", agent="node9:1"), ENVIRONMENT, Where("node9:1", TLS("/c", "/d", "/e"))),
        (Flags(context="here"), ENVIRONMENT, Where("unix:///here")),
    ],
)
def test_which_agent_is_asked(file: Path, flags: Flags, environment: dict[str, str], expected: Where) -> None:
    contexts = {"lab": Context("node7:7443", "/ca", "/cert", "/key"), "here": Context("unix:///here")}
    contexts["prod"] = Context("node8:7443", "/ca2", "/cert2", "/key2", "prod.example")
    _contexts.save(Contexts("lab", contexts), file)
    assert find(flags, {"XDG_CONFIG_HOME": str(file.parents[1]), **environment}) == expected


def test_without_anything_it_is_the_default(file: Path) -> None:
    assert find(Flags(), {"XDG_CONFIG_HOME": str(file.parents[1])}) == Where()


def test_half_of_what_tls_needs_is_an_error_that_names_the_rest(cli: Cli, file: Path) -> None:
    with pytest.raises(InvalidTLS, match="MRELEASE_CLIENT_CERT and MRELEASE_CLIENT_KEY is not set"):
        find(Flags(agent="node9:1"), {"MRELEASE_CLIENT_CA": "/ca"})
    done = cli("node", "--agent", "node9:1", "--tls-ca", "/ca")
    assert done.code == 2
    assert "--tls-cert and --tls-key is not given" in done.err
    assert not file.exists()


def test_an_agent_of_its_own_is_no_other(cli: Cli, file: Path) -> None:
    saved(file)
    done = cli("node", "--local", "--context", "lab")
    assert done.code == 2
    assert "--local starts an agent of its own" in done.err
