"""Attacks on a running agent that belong to no part of it alone; docs/security.md lists these and all others."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import grpc
import pytest

from mrelease import Process, errors
from mrelease._audit_chain import GENESIS, file_name, seal
from mrelease.v1 import node_service_pb2, release_service_pb2, target_pb2
from support import http2, lab, raw, scrape
from support.agent import running_agent
from support.audit_log import events, records
from support.certified import Certified, certified_agent
from support.sdk_cli import cli_in

SIZE = 4 * lab.MIB
DENIED = grpc.StatusCode.PERMISSION_DENIED
BOSS = "spiffe://cluster.local/ns/kueue/sa/controller"
POLICY = f"""
version: 1
rules:
- {{name: local, callers: [{{transport: unix}}], methods: ["*"]}}
- {{name: boss, callers: [{{uri: "{BOSS}"}}], methods: ["*"]}}
"""
#: What proxies and callers say of themselves, and what gRPC would call a peer.
CLAIMS = (
    ("x-forwarded-client-cert", f"By=spiffe://a;Hash=0;URI={BOSS}"),
    ("x-forwarded-for", "127.0.0.1"),
    ("x-spiffe-id", BOSS),
    ("x509_subject_alternative_name", BOSS),
    ("peer_uri", BOSS),
    ("mrelease-caller", BOSS),
    ("authorization", "Bearer root"),
    ("grpc-internal-encoding-request", "identity"),
)
METHODS = (raw.KILL, raw.RELEASE, "/mrelease.v1.ReleaseService/Reclaim", "/mrelease.v1.ReleaseService/WatchRelease", raw.LIST, raw.GET_NODE)
#: A process may call itself so: it sets a terminal's title, begins a line that looks like one of the agent's, and ends in a colour.
HOSTILE = "\x1b]0;me\x07\n{\x1b[31m"


def write(file: Path, text: str) -> Path:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o644)
    return new.rename(file)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Generator[Certified]:
    folder = tmp_path_factory.mktemp("attacks")
    policy = write(folder / "policy.yaml", POLICY)
    with certified_agent(folder / "agent", *scrape.FLAGS, f"--policy={policy}", f"--audit-dir={folder / 'audit'}") as started:
        yield started


def audit_of(node: Certified) -> Path:
    return node.folder.parent.parent / "audit"


def kill(pid: int) -> bytes:
    return release_service_pb2.KillAndReleaseRequest(
        target=target_pb2.Target(process=target_pb2.ProcessTarget(pid=pid))
    ).SerializeToString()


# Who is nobody


def test_nobody_without_a_certificate_has_anything_killed_by_any_port_and_method(node: Certified) -> None:
    before = len(records(audit_of(node)))
    anybody = grpc.ssl_channel_credentials((node.folder / "ca.crt").read_bytes())
    with lab.live(SIZE) as victim, contextlib.ExitStack() as open_:
        channels = [grpc.insecure_channel(node.address, raw.OPTIONS), grpc.secure_channel(node.address, anybody, raw.OPTIONS)]
        for channel in channels:
            caller = raw.Caller(open_.enter_context(channel))
            for method in METHODS:
                answer = caller(method, kill(victim.pid))
                assert answer.code is grpc.StatusCode.UNAVAILABLE, (method, answer)
                assert not answer.body
        # As chaos-mesh had it: a page of HTTP that kills, with nobody asked who he is.
        for verb, path in (("POST", "/query"), ("POST", "/killProcesses"), ("DELETE", f"/processes/{victim.pid}"), ("GET", "/?kill=1")):
            body = f'{{"query": "mutation {{ killProcesses(pids: [{victim.pid}]) }}"}}'
            assert scrape.ask(node.agent, verb, path, body) in (404, 405, 501)
        assert not victim.exited(0)
    assert len(records(audit_of(node))) == before


def test_what_a_caller_says_of_itself_makes_it_nobody_else(node: Certified) -> None:
    name = "spiffe://cluster.local/ns/kueue/sa/controlle"
    with node.caller("stranger", uris=[name]), lab.live(SIZE) as victim:
        files = [node.folder / file for file in ("ca.crt", "stranger.key", "stranger.crt")]
        credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))
        with grpc.secure_channel(node.address, credentials, raw.OPTIONS) as channel:
            untyped: Any = channel  # its stubs are generic over messages, and here are none
            with pytest.raises(grpc.RpcError) as refused:
                untyped.unary_unary(raw.KILL)(kill(victim.pid), timeout=raw.PATIENCE, metadata=CLAIMS)
            assert getattr(refused.value, "code")() is DENIED  # noqa: B009 -- RpcError has it where it is a call
        # gRPC's own client does not let one lie about the authority.
        context = ssl.create_default_context(cafile=files[0])
        context.check_hostname = False
        context.set_alpn_protocols(["h2"])
        context.load_cert_chain(files[2], files[1])
        host, _, port = node.address.rpartition(":")
        for authority in (BOSS, "localhost", "unix:/run/mrelease/agent.sock"):
            refusals = len(events(audit_of(node), "refused"))
            with socket.create_connection((host, int(port))) as plain, context.wrap_socket(plain) as end:
                end.sendall(http2.PREFACE + http2.call(1, raw.KILL, kill(victim.pid), **{":authority": authority}, **dict(CLAIMS)))
                lab.until(lambda: len(events(audit_of(node), "refused")) > refusals, "the refusal is recorded")  # noqa: B023 -- called here
        assert not victim.exited(0)
    callers = [record["caller"]["name"] for record in events(audit_of(node), "refused")]
    assert callers == [name] * 4


def test_the_agents_own_certificate_is_good_for_no_call(node: Certified) -> None:
    files = (node.folder / name for name in ("ca.crt", "agent.key", "agent.crt"))
    credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))
    with lab.live(SIZE) as victim, grpc.secure_channel(node.address, credentials, raw.OPTIONS) as channel:
        assert raw.Caller(channel)(raw.KILL, kill(victim.pid)).code is grpc.StatusCode.UNAVAILABLE
        assert not victim.exited(0)


# Names of targets


@pytest.mark.parametrize(
    ("target", "field"),
    [
        (target_pb2.Target(pod=target_pb2.PodTarget(uid="../../system.slice")), "target.pod.uid"),
        (target_pb2.Target(pod=target_pb2.PodTarget(uid="kube-system_etcd_0")), "target.pod.uid"),
        (target_pb2.Target(pod=target_pb2.PodTarget(uid="a" * 32, containers=["../" + "a" * 12])), "target.pod.containers"),
        (target_pb2.Target(container=target_pb2.ContainerTarget(id="../" + "a" * 61)), "target.container.id"),
        (target_pb2.Target(container=target_pb2.ContainerTarget(id="docker://" + "a" * 64)), "target.container.id"),
        (target_pb2.Target(container=target_pb2.ContainerTarget(id=".*")), "target.container.id"),
        (target_pb2.Target(cgroup=target_pb2.CgroupTarget(path="/a/../../etc")), "target.cgroup.path"),
        (target_pb2.Target(cgroup=target_pb2.CgroupTarget(path="/proc/self/root/..")), "target.cgroup.path"),
        (target_pb2.Target(process=target_pb2.ProcessTarget(pid=1, container_id="../../1")), "target.process.container_id"),
    ],
)
def test_no_name_leads_out_of_what_it_names(node: Certified, target: target_pb2.Target, field: str) -> None:
    with node.caller("boss", uris=[BOSS]) as boss:
        request = release_service_pb2.KillAndReleaseRequest(target=target)
        raw.assert_refused(boss(raw.KILL, request.SerializeToString()), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field)
        within = node_service_pb2.ListProcessesRequest(within=target)
        assert boss(raw.LIST, within.SerializeToString()).code is grpc.StatusCode.INVALID_ARGUMENT


# What others read


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_process_cannot_speak_through_log_audit_metrics_and_terminal(
    style: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sleep = shutil.which("sleep")
    assert sleep
    flags = (*scrape.FLAGS, "--log-format", style, "--audit-dir", str(tmp_path / "audit"))
    victim = subprocess.Popen([shutil.copy(sleep, tmp_path / HOSTILE), "1000"])
    try:
        with running_agent(run_dir, *flags) as agent, agent.client() as client:
            cli = cli_in(capsys)
            shown = [cli("ps", "--agent", agent.address), cli("kill", str(victim.pid), "--agent", agent.address)]
            assert "\\x1b]0;me" in shown[1].out
            with pytest.raises(errors.IdentityMismatch):
                client.kill_and_release(Process(victim.pid, start_time_ticks=1))
            page = scrape.get(agent, "/metrics")[1]
            assert agent.terminate() == 0
        for text in (*(done.out + done.err for done in shown), agent.log, page):
            assert "\x1b" not in text
            assert "\x07" not in text
        assert not any(line.startswith("{\\x1b[31m") or line == "{" for line in agent.log.splitlines())
        (intent,) = events(tmp_path / "audit", "intent")
        assert intent["processes"][0]["command"] == HOSTILE
        for file in (tmp_path / "audit").glob("*.jsonl"):
            assert file.read_bytes().replace(b"\n", b"").decode("ascii").isprintable()
    finally:
        victim.kill()
        victim.wait()


def test_metrics_say_nothing_of_who_had_whom_killed_and_why(node: Certified, tmp_path: Path) -> None:
    sleep = shutil.which("sleep")
    assert sleep
    victim = subprocess.Popen([shutil.copy(sleep, tmp_path / "secret-name"), "1000"])
    try:
        with node.caller("boss", uris=[BOSS]) as boss:
            request = release_service_pb2.KillAndReleaseRequest.FromString(kill(victim.pid))
            request.reason, request.request_id = "secret-reason", "secret-id"
            assert boss(raw.KILL, request.SerializeToString()).code is grpc.StatusCode.OK
    finally:
        victim.kill()
        victim.wait()
    for path in ("/metrics", "/healthz", "/readyz"):
        page = scrape.get(node.agent, path)[1]
        assert not re.search(rf"secret|kueue|spiffe|\bpid=|\b{victim.pid}\b|{re.escape(str(node.folder.parent))}", page), page


# Files of the agent


def test_a_policy_that_becomes_a_link_to_somebody_elses_is_not_taken(tmp_path: Path) -> None:
    policy = write(tmp_path / "policy.yaml", POLICY.replace("[{transport: unix}]", "[{cn: nobody}]"))
    with certified_agent(tmp_path / "agent", f"--policy={policy}", "--audit-dir=none") as node:
        wider = write(tmp_path / "theirs.yaml", POLICY.replace(BOSS, "spiffe://evil/**"))
        wider.chmod(0o666)
        link = tmp_path / "link"
        link.symlink_to(wider)
        link.rename(policy)
        lab.until(lambda: "can be changed by its group or by others" in node.agent.log, "the agent says so")
        with node.caller("evil", uris=["spiffe://evil/a"]) as evil, node.caller("boss", uris=[BOSS]) as boss:
            assert evil(raw.GET_NODE, b"").code is DENIED
            assert boss(raw.GET_NODE, b"").code is grpc.StatusCode.OK  # the last good one holds


@pytest.mark.parametrize("by", ["directory", "link"])
def test_an_audit_directory_that_is_exchanged_stops_the_next_kill(by: str, run_dir: Path, tmp_path: Path) -> None:
    log, mine = tmp_path / "audit", tmp_path / "mine"
    flags = (*scrape.FLAGS, "--log-format", "json", "--audit-dir", str(log))
    with lab.live(SIZE) as first, lab.live(SIZE) as second, running_agent(run_dir, *flags) as agent, agent.client() as client:
        client.kill_and_release(Process(first.pid))
        log.rename(tmp_path / "taken")
        mine.mkdir(mode=0o700)
        if by == "link":
            log.symlink_to(mine)
        else:
            mine.rename(log)
        with pytest.raises(errors.AuditUnavailable):
            client.kill_and_release(Process(second.pid))
        assert not second.exited(0)
    assert [record["processes"][0]["pid"] for record in events(tmp_path / "taken", "intent")] == [first.pid]


def test_a_log_that_somebody_sealed_who_knows_how_stops_nothing_and_is_not_gone_on_from(run_dir: Path, tmp_path: Path) -> None:
    log = tmp_path / "audit"
    log.mkdir(mode=0o700)
    # Chained as the agent does, with the right hash, and no JSON: only a part of it is looked at before the hash is.
    body = f'{{"event":"begin","v":1,"seq":1,"time":"t","prev":"{GENESIS}","open":[[[}}'
    (log / file_name(1)).write_bytes(seal(body.encode())[0])
    (log / file_name(1)).chmod(0o600)
    with lab.live(SIZE) as victim, running_agent(run_dir, "--audit-dir", str(log)) as agent, agent.client() as client:
        assert client.kill_and_release(Process(victim.pid)).is_released
        assert "is damaged" in agent.log
    assert [record["processes"][0]["pid"] for record in events(log, "intent")] == [victim.pid]


def test_what_took_the_sockets_place_is_left_alone_and_not_spoken_to(run_dir: Path, tmp_path: Path) -> None:
    treasure = tmp_path / "treasure"
    with running_agent(run_dir) as agent:
        agent.path.unlink()
        treasure.write_text("mine")
        treasure.rename(agent.path)
        with pytest.raises(errors.Unreachable, match=r"is not the socket of an agent|took no connection|is gone"), agent.client() as client:
            client.get_node()
        assert agent.terminate() == 0
        assert agent.path.read_text() == "mine"
