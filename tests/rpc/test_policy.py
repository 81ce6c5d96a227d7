"""The access policy of a running agent: callers with real certificates, real processes in cgroups as kubelet makes them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any

import grpc
import pytest

from mrelease.v1 import error_reason_pb2, node_service_pb2, outcome_pb2, release_service_pb2, target_pb2
from support import lab, raw
from support.agent import clean_environment, running_agent
from support.certified import Certified, certified_agent
from support.kubepods import Kubepods
from support.lab.cgroups import cgroup_below, in_hierarchy
from support.policed import (
    DENIED,
    NOBODY,
    PREEMPTOR,
    REASON,
    RECLAIM,
    WATCH,
    Scene,
    alive,
    cgroup,
    container,
    gone,
    kill,
    listed,
    pod,
    policy,
    process,
    release,
    told,
    verdict,
    write,
)


@pytest.fixture(scope="module")
def scenery(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Certified, lab.Cgroup, Path]]:
    folder = tmp_path_factory.mktemp("policy")
    with contextlib.ExitStack() as stack:
        try:
            root = stack.enter_context(lab.memory_cgroup())
        except lab.Unavailable as why:
            pytest.skip(str(why))
        write(folder / "policy.yaml", policy(in_hierarchy(root)))
        logs = folder / "pods"
        flags = ["--policy", str(folder / "policy.yaml"), "--pod-logs", str(logs), "--audit-dir", "none"]
        yield stack.enter_context(certified_agent(folder / "agent", *flags)), root, logs


@pytest.fixture
def scene(scenery: tuple[Certified, lab.Cgroup, Path]) -> Generator[Scene]:
    node, root, logs = scenery
    with contextlib.ExitStack() as made:
        yield Scene(node, Kubepods(root, logs, made), made)


# Who may


def test_a_preemptor_has_pods_of_its_namespaces_killed_however_it_names_them(scene: Scene) -> None:
    caller = scene.preemptor()
    whole, one, inside = scene.pods.pod("ml"), scene.pods.pod("batch-7"), scene.pods.pod("ml", "")
    victims = [scene.pods.victim(each) for each in (whole, one, inside)]
    assert gone(kill(caller, pod(whole.uid)))
    assert gone(kill(caller, container(one.container)))
    assert gone(kill(caller, process(victims[2].pid)))
    assert all(victim.exited() for victim in victims)


def test_what_terminates_in_a_callers_pod_is_released_for_it_and_for_nobody_else(scene: Scene) -> None:
    """Its first thread has exited, another one is stuck: on cgroup v1 it says that it is in no cgroup, but its pod lists it."""
    for namespace, may in (("ml", True), ("web", False)):
        found = scene.pods.pod(namespace)
        with lab.unkillable(4 * lab.MIB, worker=True, within=[found.group]) as victim:
            victim.kill()
            lab.until(lambda: lab.state(victim.pid) == "Z", "its first thread has exited")
            answer = release(scene.preemptor(), pod(found.uid))
            assert gone(answer) if may else answer.code is DENIED


@pytest.mark.parametrize("validate_only", [False, True])
def test_what_is_not_allowed_looks_like_what_is_not_there(scene: Scene, validate_only: bool) -> None:
    """Byte by byte: status, message and details. Or one could search the node by asking."""
    caller = scene.preemptor()
    system, unnamed = scene.pods.pod("kube-system"), scene.pods.pod("")
    victims = [scene.pods.victim(each) for each in (system, unnamed, None)]
    ours = scene.pods.victim(scene.pods.pod("ml"))
    lonely = os.getpid()
    there: list[target_pb2.Target] = [
        pod(system.uid),
        pod(unnamed.uid),
        container(system.container),
        container(system.container[:12]),
        cgroup(system.cgroup),
        cgroup(in_hierarchy(scene.pods.root)),
        *(process(victim.pid) for victim in victims),
        process(victims[0].pid, start_time_ticks=1),
        process(1, container_id=system.container),
        process(1),
        process(scene.node.agent.pid),
        process(lonely),
    ]
    with contextlib.suppress(lab.Unavailable):
        there.append(process(lab.kernel_thread()))
    not_there = [
        pod(str(uuid.uuid4())),
        container("f" * 64),
        container("f" * 12),
        cgroup("/no/such/cgroup"),
        process(4194304),
        process(1, container_id="f" * 64),
    ]
    answers = {told(kill(caller, target, validate_only=validate_only)) for target in (*there, *not_there)}
    assert len(answers) == 1, answers
    refusal = kill(caller, there[0], validate_only=validate_only)
    raw.assert_refused(refusal, DENIED, REASON)
    assert {told(release(caller, target)) for target in (*there, *not_there)} == {told(release(caller, not_there[0]))}
    assert all(map(alive, [*victims, ours]))
    assert verdict(kill(caller, process(ours.pid), validate_only=True)) == outcome_pb2.VERDICT_VALIDATED
    assert alive(ours)


def test_one_who_may_do_everything_is_told_what_is_wrong(scene: Scene) -> None:
    with raw.caller(scene.node.agent.address) as admin:
        assert kill(admin, pod(str(uuid.uuid4()))).code is grpc.StatusCode.NOT_FOUND
        victim = scene.pods.victim(None)
        assert gone(kill(admin, process(victim.pid)))


def test_a_certificate_that_no_rule_names_is_good_for_nothing_but_health(scene: Scene) -> None:
    victim = scene.pods.victim(scene.pods.pod("ml"))
    for stranger in (
        scene.caller("stranger"),
        scene.caller("near", uris=["spiffe://cluster.local/ns/kueue2/sa/controller"]),
        scene.caller("nested", uris=["spiffe://cluster.local/ns/kueue/sa/controller/x"]),
        scene.caller("far", uris=["spiffe://cluster.local.evil/ns/kueue/sa/controller"]),
        scene.caller("double", uris=[PREEMPTOR, "spiffe://cluster.local/ns/x/sa/y"]),
        scene.caller("named", dns=["admins", "monitoring.example", "a.b.monitoring.example"]),
        scene.caller("wild", dns=["*.monitoring.example"]),
    ):
        for method in (raw.KILL, raw.RELEASE, raw.GET_NODE, raw.LIST):
            raw.assert_refused(stranger(method, b""), DENIED, REASON)
        for method in (raw.WATCH_MEMORY, RECLAIM, WATCH):
            raw.assert_refused(stranger.ended(stranger.stream(method, b"")), DENIED, REASON)
        raw.assert_refused(kill(stranger, process(victim.pid)), DENIED, REASON)
        assert stranger(raw.HEALTH, b"").body == raw.SERVING
    assert alive(victim)


def test_who_may_only_look_cannot_kill_and_is_refused_before_the_request_is_read(scene: Scene) -> None:
    dashboard = scene.caller("grafana", dns=["grafana.monitoring.example"])
    victim = scene.pods.victim(None)
    assert dashboard(raw.GET_NODE, b"").code is grpc.StatusCode.OK
    assert victim.pid in listed(dashboard)
    stream = dashboard.stream(raw.WATCH_MEMORY, b"")
    assert next(stream)
    stream.cancel()
    for request in (raw.process(victim.pid), b"", b"\xff\xff"):
        raw.assert_refused(dashboard(raw.KILL, request), DENIED, REASON)
    assert alive(victim)


def test_kinds_say_how_a_target_may_be_named(scene: Scene) -> None:
    podder, ours = scene.caller("podder"), scene.pods.pod("ml")
    victim = scene.pods.victim(ours)
    for target in (process(victim.pid), container(ours.container), cgroup(ours.cgroup)):
        raw.assert_refused(kill(podder, target), DENIED, REASON)
    assert alive(victim)
    assert gone(kill(podder, pod(ours.uid)))


def test_processes_of_one_user(scene: Scene) -> None:
    slurm = scene.caller("slurm")
    theirs, root = scene.pods.victim(None, uid=NOBODY), scene.pods.victim(None)
    assert kill(slurm, process(root.pid)).code is DENIED
    assert alive(root)
    assert listed(slurm) >= {theirs.pid}
    assert gone(kill(slurm, process(theirs.pid)))


def test_roots_process_that_acts_for_a_user_is_not_the_users(scene: Scene) -> None:
    """As sshd(8) and NFS servers do for a moment: by its effective user id alone it would be."""
    lab.need_root("a process with two user ids")
    slurm = scene.caller("slurm")
    code = f"import os, sys; os.setresuid(0, {NOBODY}, 0); sys.stdout.write('x'); sys.stdout.flush(); sys.stdin.read()"
    with subprocess.Popen(["python3", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as actor:
        assert actor.stdout
        assert actor.stdin
        assert actor.stdout.read(1) == b"x"
        assert kill(slurm, process(actor.pid)).code is DENIED
        assert actor.pid not in listed(slurm)
        actor.stdin.close()
    assert actor.returncode == 0


def test_a_cgroup_is_compared_by_whole_names(scene: Scene) -> None:
    evictor = scene.caller("evictor")
    below, beside = scene.pods.pod("", "besteffort"), scene.pods.pod("", "besteffortX")
    burstable, elsewhere = scene.pods.pod("", "burstable"), scene.pods.pod("", "besteffort", parent="x/kubepods")
    root = in_hierarchy(scene.pods.root)
    others = [scene.pods.victim(each) for each in (beside, burstable, elsewhere, None)]
    victim = scene.pods.victim(below)
    for target in (
        *(process(other.pid) for other in others),
        cgroup(beside.cgroup),
        cgroup(f"{root}/kubepods/besteffort/../burstable/pod{burstable.uid}/{burstable.container}"),
        cgroup(f"{root}/kubepods/besteffort/../besteffortX"),
        cgroup(f"{root}/kubepods/besteffort//pod{below.uid}"),
        cgroup(f"{root}/kubepods"),
    ):
        assert kill(evictor, target).code is DENIED
    assert all(map(alive, [*others, victim]))
    assert gone(kill(evictor, cgroup(below.cgroup)))


def test_a_container_cannot_lend_itself_another_pods_namespace(scene: Scene) -> None:
    """Whoever may make cgroups below its own may call them as it likes: its pod's name stays what kubelet wrote."""
    caller = scene.preemptor()
    system, ours = scene.pods.pod("kube-system"), scene.pods.pod("ml")
    nested = scene.made.enter_context(cgroup_below(system.group, f"kubepods/besteffort/pod{ours.uid}/{ours.container}", ["memory"]))
    liar, victim = scene.pods.victim(nested), scene.pods.victim(ours)
    assert kill(caller, process(liar.pid)).code is DENIED
    assert liar.pid not in listed(caller)
    assert gone(kill(caller, pod(ours.uid)))
    assert victim.exited()
    assert alive(liar)


def test_a_pod_that_two_directories_name_has_no_namespace(scene: Scene) -> None:
    """Whoever can write the directory of logs (a hostPath volume) could else say whose a pod is."""
    caller, system = scene.preemptor(), scene.pods.pod("kube-system")
    victim = scene.pods.victim(system)
    (scene.pods.logs / f"ml_worker_{system.uid}").mkdir(mode=0o755)
    assert kill(caller, pod(system.uid)).code is DENIED
    ours = scene.pods.pod("ml")
    mine = scene.pods.victim(ours)
    forged = scene.pods.logs / f"ml_forged_{system.uid[:-1]}0"
    forged.mkdir(mode=0o777)
    forged.chmod(0o777)
    os.chown(forged, NOBODY, NOBODY)
    assert alive(victim)
    assert gone(kill(caller, pod(ours.uid)))
    assert mine.exited()


# What one sees


def test_a_list_shows_only_what_is_the_callers(scene: Scene) -> None:
    caller = scene.preemptor()
    ours, system = scene.pods.pod("ml"), scene.pods.pod("kube-system")
    mine, other, none = (scene.pods.victim(each) for each in (ours, system, None))
    assert listed(caller) == {mine.pid}
    assert listed(caller, within=pod(ours.uid)) == {mine.pid}
    assert listed(caller, uid=os.geteuid()) == {mine.pid}

    def within(target: target_pb2.Target) -> tuple[Any, str, bytes]:
        return told(caller(raw.LIST, node_service_pb2.ListProcessesRequest(within=target).SerializeToString()))

    assert within(pod(system.uid)) == within(pod(str(uuid.uuid4()))) == within(container(system.container)) == within(cgroup("/nowhere"))
    assert within(pod(system.uid))[0] is DENIED

    def watched(target: target_pb2.Target) -> raw.Answer:
        return caller.ended(caller.stream(raw.WATCH_MEMORY, node_service_pb2.WatchMemoryRequest(within=target).SerializeToString()))

    assert told(watched(container(system.container))) == told(watched(container("f" * 64)))
    assert watched(container(system.container)).code is DENIED
    assert alive(other)
    assert alive(none)


def events(stream: Any) -> list[release_service_pb2.ReclaimResponse]:
    return [release_service_pb2.ReclaimResponse.FromString(message) for message in stream]


def test_reclaim_passes_over_what_is_denied_as_over_what_is_not_there(scene: Scene) -> None:
    caller = scene.preemptor()
    ours, system = scene.pods.pod("ml"), scene.pods.pod("kube-system")
    mine, other = scene.pods.victim(ours), scene.pods.victim(system)
    request = release_service_pb2.ReclaimRequest(
        candidates=[pod(system.uid), pod(str(uuid.uuid4())), process(other.pid), pod(ours.uid)],
        goal=release_service_pb2.ReclaimGoal(released_bytes=1),
    )
    told_ = [event.candidate for event in events(caller.stream(RECLAIM, request.SerializeToString())) if event.HasField("candidate")]
    assert [candidate.HasField("passed_over") for candidate in told_] == [True] * 3 + [False]
    assert {candidate.passed_over.reason for candidate in told_[:3]} == {error_reason_pb2.ERROR_REASON_CALLER_NOT_PERMITTED}
    assert len({candidate.passed_over.SerializeToString() for candidate in told_[:3]}) == 1
    assert mine.exited()
    assert alive(other)


def watch(caller: raw.Caller, request_id: str) -> raw.Answer:
    return caller.ended(caller.stream(WATCH, release_service_pb2.WatchReleaseRequest(request_id=request_id).SerializeToString()))


def test_request_ids_are_each_callers_own(scene: Scene) -> None:
    """Nobody watches, joins, or collides with, what somebody else has asked for."""
    one, other, id_ = scene.preemptor(), scene.caller("other"), str(uuid.uuid4())
    first, second = scene.pods.pod("ml"), scene.pods.pod("ml")
    victims = [scene.pods.victim(first), scene.pods.victim(second)]
    assert gone(kill(one, pod(first.uid), request_id=id_))
    assert watch(one, id_).code is grpc.StatusCode.OK
    theirs, nobodys = watch(other, id_), watch(other, str(uuid.uuid4()))
    assert theirs.code is nobodys.code is grpc.StatusCode.NOT_FOUND
    assert len(theirs.status) == len(nobodys.status)  # they differ by the id alone
    assert gone(kill(other, pod(second.uid), request_id=id_))  # the same id, another payload: no collision
    assert all(victim.exited() for victim in victims)
    assert verdict_of(watch(one, id_)) != verdict_of(watch(other, id_))


def verdict_of(answer: raw.Answer) -> bytes:
    result = release_service_pb2.WatchReleaseResponse.FromString(answer.body).result
    return b"".join(each.process.SerializeToString() for each in result.processes)


def test_a_repeated_request_id_is_judged_again(scene: Scene, tmp_path: Path) -> None:
    """A kept result is no way around the policy's methods: KillAndRelease is asked for again."""
    caller = scene.caller("podder")
    ours, id_ = scene.pods.pod("ml"), str(uuid.uuid4())
    victim = scene.pods.victim(ours)
    assert gone(kill(caller, pod(ours.uid), request_id=id_))
    assert gone(kill(caller, pod(ours.uid), request_id=id_))
    assert victim.exited()
    raw.assert_refused(watch(caller, id_), DENIED, REASON)  # its rule has no WatchRelease


def test_limits_of_a_rule_are_per_caller(scene: Scene) -> None:
    few, ours = scene.caller("few"), scene.pods.pod("ml")
    victims = [scene.pods.victim(ours) for _ in range(3)]
    assert gone(kill(few, process(victims[0].pid)))
    assert gone(kill(few, process(victims[1].pid)))
    assert kill(few, process(victims[2].pid)).code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert alive(victims[2])
    assert gone(kill(scene.preemptor(), process(victims[2].pid)))


#: Asks for each pid of its arguments as another user; the interpreter and its libraries are loaded as root, who may read them.
_AS_ANOTHER = f"""
import os, sys
from support import raw
with raw.caller(sys.argv[1]) as caller:
    os.setgroups([])
    os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
    os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
    for pid in sys.argv[2:]:
        answer = caller(raw.KILL, raw.process(int(pid)))
        print(answer.code.name, answer.status.hex())
"""


OWN = f"""
version: 1
rules:
- name: own
  callers: [{{unix_uid: {NOBODY}}}]
  methods: [KillAndRelease]
  targets: {{users: [{NOBODY}]}}
"""


def test_each_user_of_the_socket_has_what_is_theirs(tmp_path: Path) -> None:
    lab.need_root("a caller of another user")
    write(tmp_path / "policy.yaml", OWN)
    # pytest's own directory is root's alone.
    with tempfile.TemporaryDirectory(prefix="mrelease-policy-") as place, lab.live(lab.MIB) as roots, lab.live(lab.MIB, uid=NOBODY) as own:
        folder = Path(place)
        folder.chmod(0o755)
        (folder / "run").mkdir(mode=0o750)
        os.chown(folder / "run", 0, NOBODY)
        flags = ["--policy", str(tmp_path / "policy.yaml"), "--socket-group", str(NOBODY)]
        with running_agent(folder / "run", *flags) as agent:
            command = [sys.executable, "-c", _AS_ANOTHER, agent.address, *map(str, (roots.pid, 4194304, own.pid))]
            environment = {**clean_environment(), "PYTHONPATH": str(Path(__file__).parents[1])}
            said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=raw.PATIENCE).stdout.split()
            with raw.caller(agent.address) as root:
                raw.assert_refused(kill(root, process(roots.pid)), DENIED, REASON)  # the policy is for root too
    assert said[0] == said[2] == "PERMISSION_DENIED"
    assert said[1] == said[3]
    assert said[4] == "OK"
