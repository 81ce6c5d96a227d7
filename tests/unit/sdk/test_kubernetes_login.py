"""How the API server is reached: kubeconfigs as kubectl reads them, exec plugins, certificates, and what is shown."""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from mrelease.errors import OrchestratorDenied, OrchestratorUnavailable
from mrelease.resolvers.kubernetes._login import Choice, Login, log_in
from support.kube_api import write_kubeconfig

SERVER = "https://kubernetes.default.svc:6443/prefix"
PLUGIN = """#!{python}
import json, os, pathlib
calls = pathlib.Path({calls!r})
calls.write_text(calls.read_text() + "x" if calls.exists() else "x")
about = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
status = json.loads(os.environ["STATUS"])
pathlib.Path({calls!r} + ".about").write_text(json.dumps(about))
print(json.dumps({{"apiVersion": about["apiVersion"], "kind": "ExecCredential", "status": status}}))
"""


def log(tmp_path: Path, user: dict[str, Any] | None = None, cluster: dict[str, Any] | None = None, **choice: Any) -> Login:
    return log_in(Choice(kubeconfig=write_kubeconfig(tmp_path / "config", SERVER, user, **(cluster or {})), **choice))


def plugin(tmp_path: Path, status: dict[str, Any], **more: Any) -> dict[str, Any]:
    file = tmp_path / "login"
    file.write_text(PLUGIN.format(python=sys.executable, calls=str(tmp_path / "calls")))
    file.chmod(0o700)
    environment = [{"name": "STATUS", "value": json.dumps(status)}]
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./login", "env": environment, **more}}


def test_server_port_and_prefix(tmp_path: Path) -> None:
    found = log(tmp_path)
    assert (found.host, found.port, found.prefix, found.namespace, found.server_name) == (
        "kubernetes.default.svc",
        6443,
        "/prefix",
        "ns",
        "kubernetes.default.svc",
    )
    assert log(tmp_path, None, {"tls-server-name": "other"}).server_name == "other"


@pytest.mark.parametrize(
    ("user", "shown"),
    [
        ({}, []),
        ({"token": "t"}, [("Authorization", "Bearer t")]),
        ({"username": "u", "password": "p"}, [("Authorization", "Basic dTpw")]),
        (
            {"token": "t", "as": "x", "as-groups": ["g"]},
            [("Authorization", "Bearer t"), ("Impersonate-User", "x"), ("Impersonate-Group", "g")],
        ),
    ],
)
def test_what_is_shown(user: dict[str, Any], shown: list[tuple[str, str]], tmp_path: Path) -> None:
    assert log(tmp_path, user).headers(1) == shown


def test_as_goes_before_the_kubeconfigs(tmp_path: Path) -> None:
    shown = log(tmp_path, {"as": "x"}, as_user="y", as_groups=("a", "b")).headers(1)
    assert shown == [("Impersonate-User", "y"), ("Impersonate-Group", "a"), ("Impersonate-Group", "b")]
    with pytest.raises(OrchestratorUnavailable, match="nothing as whom"):
        log(tmp_path, as_groups=("a",)).headers(1)


def test_a_token_file_is_read_again_each_time(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("one\n")
    found = log(tmp_path, {"tokenFile": "token"})
    assert found.headers(1) == [("Authorization", "Bearer one")]
    (tmp_path / "token").write_text("two\n")
    assert found.headers(1) == [("Authorization", "Bearer two")]


def test_an_exec_plugin_is_asked_once_until_its_credential_ends_or_is_refused(tmp_path: Path) -> None:
    found = log(tmp_path, plugin(tmp_path, {"token": "t"}))
    assert [found.headers(10) for _ in range(3)] == [[("Authorization", "Bearer t")]] * 3
    assert (tmp_path / "calls").read_text() == "x"
    assert found.forget(), "there may be a newer one"
    assert found.headers(10)
    assert (tmp_path / "calls").read_text() == "xx"
    about = json.loads((tmp_path / "calls.about").read_text())
    assert about == {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "spec": {"interactive": False}}


def test_what_has_ended_is_asked_for_again(tmp_path: Path) -> None:
    ended = datetime.now(timezone.utc) - timedelta(minutes=1)
    found = log(tmp_path, plugin(tmp_path, {"token": "t", "expirationTimestamp": ended.isoformat().replace("+00:00", "Z")}))
    assert found.headers(10)
    assert found.headers(10)
    assert (tmp_path / "calls").read_text() == "xx"


def test_an_exec_plugin_learns_of_the_cluster_where_it_wants_to(tmp_path: Path) -> None:
    found = log(tmp_path, plugin(tmp_path, {"token": "t"}, provideClusterInfo=True), {"insecure-skip-tls-verify": True})
    assert found.headers(10)
    cluster = json.loads((tmp_path / "calls.about").read_text())["spec"]["cluster"]
    assert cluster == {"server": SERVER, "insecure-skip-tls-verify": True}


@pytest.mark.parametrize(
    ("changed", "kind", "said"),
    [
        ({"command": "no-such-program", "installHint": "get it"}, OrchestratorUnavailable, r"no-such-program is not there \(get it\)"),
        ({"command": "false"}, OrchestratorDenied, "ended with 1"),
        ({"command": "true"}, OrchestratorDenied, "printed no ExecCredential"),
        ({"interactiveMode": "Always"}, OrchestratorDenied, "no terminal"),
        ({"apiVersion": "client.authentication.k8s.io/v1alpha1"}, OrchestratorUnavailable, "speaks client.authentication.k8s.io/v1alpha1"),
        ({"env": "x"}, OrchestratorUnavailable, "no command or no apiVersion"),
    ],
)
def test_an_exec_plugin_that_cannot_be_used(changed: dict[str, Any], kind: type[Exception], said: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=said):
        log(tmp_path, plugin(tmp_path, {"token": "t"}, **changed)).headers(10)


def test_an_exec_plugin_that_hangs_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(OrchestratorUnavailable, match="did not answer in time"):
        log(tmp_path, plugin(tmp_path, {}, command="sleep", args=["60"])).headers(0.1)


def test_of_several_kubeconfigs_the_first_that_says_something_is_right(tmp_path: Path) -> None:
    for name, server in (("one", "https://localhost:1"), ("two", "https://localhost:2")):
        (tmp_path / name).mkdir()
        write_kubeconfig(tmp_path / name / "config", server, {"token": name})
    files = [tmp_path / "nowhere", tmp_path / "one/config", tmp_path / "two/config"]
    found = log_in(Choice(), {"KUBECONFIG": os.pathsep.join(map(str, files))})
    assert (found.server, found.headers(1)) == ("https://localhost:1", [("Authorization", "Bearer one")])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "says nothing"),
        ("a: [", "is not YAML"),
        ("contexts: [x]", "contexts is no list of names"),
        ("{}", "no context"),
        ("current-context: x", "there is no context 'x'"),
        ("{current-context: x, contexts: [{name: x, context: {cluster: c}}]}", "of which no server is known"),
        (
            "{current-context: x, contexts: [{name: x, context: {cluster: c}}], clusters: [{name: c, cluster: {server: ftp://x}}]}",
            "no https",
        ),
        (
            "{current-context: x, contexts: [{name: x, context: {cluster: c, user: u}}], clusters: [{name: c, cluster: {server: 'https://localhost'}}],"
            " users: [{name: u, user: {auth-provider: {name: gcp}}}]}",
            "auth-provider",
        ),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_says_why(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(text)
    with pytest.raises(OrchestratorUnavailable, match=said):
        log_in(Choice(kubeconfig=str(tmp_path / "config")))


def test_certificates_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    junk = base64.b64encode(b"junk").decode()
    with pytest.raises(OrchestratorUnavailable, match="certificate-authority is no certificate"):
        log(tmp_path, None, {"certificate-authority-data": junk}).tls(1)
    with pytest.raises(OrchestratorUnavailable, match="is not base64"):
        log(tmp_path, None, {"certificate-authority-data": "?"}).tls(1)
    with pytest.raises(OrchestratorUnavailable, match="cannot be read"):
        log(tmp_path, None, {"certificate-authority": "nowhere"}).tls(1)
    with pytest.raises(OrchestratorUnavailable, match="client certificate and key"):
        log(tmp_path, {"client-certificate-data": junk, "client-key-data": junk}).tls(1)


def test_without_a_kubeconfig_outside_of_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(OrchestratorUnavailable, match="no kubeconfig"):
        log_in(Choice(), {})


def test_nothing_secret_is_printed(tmp_path: Path) -> None:
    from mrelease.resolvers.kubernetes._exec import Credential

    assert "hidden" not in repr(Credential(token="hidden", key=b"hidden", end=time.time()))
