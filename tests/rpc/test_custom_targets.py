"""Custom targets of a running agent: a job of Slurm is killed, and whatever a plugin or a caller does, nobody else is."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import grpc
import pytest

from mrelease import Client, Custom, Outcome, ReclaimedCandidate, Verdict, errors
from mrelease.v1 import release_service_pb2, target_pb2
from support import lab, raw, slurm_tree
from support.agent import Agent, running_agent
from support.slurm_tree import node_name

USER = 61241
JOB = 67100000

#: A package with plugins that are as bad as they can be, and `names`, which names what the file in its attribute says.
PLUGINS = """
import os, pathlib
from mrelease_agent.targets.plugins import Found, FoundGroup, FoundProcess, Spare, InvalidAttributeError, NotHereError, AmbiguousError

class Names:
    def __init__(self, options):
        pass
    def find(self, attributes):
        lines = [line.split() for line in pathlib.Path(attributes["file"]).read_text().splitlines()]
        return Found(
            groups=[FoundGroup(line[1], line[2]) for line in lines if line[0] == "group"],
            processes=[FoundProcess(int(line[1]), int(line[2])) for line in lines if line[0] == "process"],
        )

class Raises:
    def __init__(self, options):
        pass
    def find(self, attributes):
        raise ValueError("secret of the node /root/.ssh")

class Rubbish:
    def __init__(self, options):
        pass
    def find(self, attributes):
        return [1, -1, os.getppid()]

class Two:
    def __init__(self, options):
        pass
    def find(self, attributes):
        if "none" in attributes:
            raise NotHereError("has ended", "look elsewhere")
        if "two" in attributes:
            raise AmbiguousError("is two things", ["a", "b"], "say which")
        raise InvalidAttributeError("none", "is missing", "set it")

def Exits(options):
    raise SystemExit(7)
"""
SPY = "import os\nopen(os.environ['SPY_FILE'], 'w').close()\ndef Spy(options): raise ValueError\n"
ENTRIES = {
    **{kind: f"mrelease_bad_plugins:{name}" for kind, name in (("names", "Names"), ("raises", "Raises"), ("rubbish", "Rubbish"))},
    **{"two": "mrelease_bad_plugins:Two", "exits": "mrelease_bad_plugins:Exits", "spy": "mrelease_spy_plugin:Spy"},
    "missing": "no_such_module_of_anybody:Plugin",
}
KINDS = "slurm,names,raises,rubbish,two,exits,missing,nobodys"


def install(folder: Path) -> None:
    """Put the packages where Python looks, with their metadata, as pip does."""
    (folder / "mrelease_bad_plugins.py").write_text(PLUGINS)
    (folder / "mrelease_spy_plugin.py").write_text(SPY)
    metadata = folder / "bad_plugins-1.5.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-plugins\nVersion: 1.5\n")
    (metadata / "entry_points.txt").write_text("[mrelease.targets]\n" + "".join(f"{kind} = {value}\n" for kind, value in ENTRIES.items()))


@pytest.fixture(scope="module")
def plugged(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Agent, Path]]:
    folder = tmp_path_factory.mktemp("plugins")
    install(folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(folder))
        patched.setenv("SPY_FILE", str(folder / "imported"))
        with running_agent(tmp_path_factory.mktemp("agent") / "run", "--target-plugins", KINDS, "--audit-dir", "none") as agent:
            yield agent, folder


@pytest.fixture
def node(plugged: tuple[Agent, Path]) -> Generator[Client]:
    with plugged[0].client() as client:
        yield client


@pytest.fixture
def caller(plugged: tuple[Agent, Path]) -> Generator[raw.Caller]:
    with raw.caller(plugged[0].address) as made:
        yield made


@pytest.fixture
def made() -> Generator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def victims(made: contextlib.ExitStack) -> Generator[contextlib.ExitStack]:
    """Processes: they end before the cgroups that were ``made`` for them are removed."""
    del made
    with contextlib.ExitStack() as stack:
        yield stack


def sleeper(victims: contextlib.ExitStack) -> subprocess.Popen[bytes]:
    process = victims.enter_context(subprocess.Popen(["/bin/sleep", "1000"]))
    victims.callback(process.kill)
    return process


def listing(folder: Path, *lines: str) -> Custom:
    """A target of the plugin `names`."""
    file = folder / f"list-{os.urandom(6).hex()}"
    file.write_text("".join(f"{line}\n" for line in lines))
    return Custom("names", {"file": str(file)})


def line(pid: int, late: int = 0) -> str:
    return f"process {pid} {lab.start_time(pid) + late}"


def test_the_node_says_which_kinds_it_has_and_why_not_others(node: Client, plugged: tuple[Agent, Path]) -> None:
    kinds = {kind.kind: kind for kind in node.get_node().target_kinds}
    assert list(kinds) == KINDS.split(",")
    assert {name for name, kind in kinds.items() if kind.available} == {"slurm", "names", "raises", "rubbish", "two"}
    assert kinds["names"].reason == "bad-plugins 1.5"
    assert "no_such_module_of_anybody" in kinds["missing"].reason
    assert "no package" in kinds["nobodys"].reason
    assert all(kind.remedy for kind in kinds.values() if not kind.available)
    assert "secret" not in str(kinds)
    assert not (plugged[1] / "imported").exists(), "a plugin that the configuration does not name was imported"


def test_an_agent_without_plugins_has_no_kinds(node: Client, agent: Agent) -> None:
    del node
    with agent.client() as bare:
        assert bare.get_node().target_kinds == ()
        with pytest.raises(errors.TargetKindUnavailable, match="target_plugins") as refused:
            bare.kill_and_release(Custom("slurm", {"job": "1"}))
        assert refused.value.nothing_signalled
        with pytest.raises(errors.TargetKindUnavailable):
            bare.list_processes(within=Custom("slurm", {"job": "1"}))


def test_a_job_of_slurm_gives_its_memory_back_and_slurmstepd_lives(
    node: Client, made: contextlib.ExitStack, victims: contextlib.ExitStack
) -> None:
    step = made.enter_context(slurm_tree.step(1, JOB, node=node_name()))
    stepd = victims.enter_context(slurm_tree.daemon("slurmstepd"))
    memory = [step.groups[0]]  # as slurmstepd does, who is there before it becomes the task
    stuck = victims.enter_context(lab.unkillable(32 * lab.MIB, worker=True, within=memory))
    live = victims.enter_context(lab.live(16 * lab.MIB, within=memory))
    for pid in (stepd.pid, stuck.pid, live.pid):
        step.add(pid)
    stuck.kill()  # as scancel does: it changes nothing
    lab.until(lambda: lab.state(stuck.pid) == "Z", "its first thread has exited")
    target = Custom("slurm", {"job": str(JOB), "uid": "0"})
    assert {row.pid for row in node.list_processes(within=target)} == {stuck.pid, live.pid}
    dry = node.kill_and_release(target, validate_only=True)
    assert {each.pid for each in dry.processes} == {stuck.pid, live.pid}
    assert not live.exited(0)
    result = node.kill_and_release(target, reason="preempted")
    assert result.verdict is Verdict.RELEASED
    assert {each.pid for each in result.processes} == {stuck.pid, live.pid}
    assert result.released_bytes >= 48 * lab.MIB * 0.98
    assert step.path in {charge.path for charge in result.cgroups}
    assert lab.state(stepd.pid) in "SR"


def test_release_reclaim_and_repeated_requests_take_custom_targets(
    node: Client, made: contextlib.ExitStack, victims: contextlib.ExitStack
) -> None:
    names = [node_name() for _ in range(2)]
    steps = [made.enter_context(slurm_tree.step(1, JOB + number, node=names[number])) for number in range(2)]
    processes = [victims.enter_context(lab.live()) for _ in steps]
    for step, process in zip(steps, processes, strict=True):
        step.add(process.pid)
    first, second = (Custom("slurm", {"job": str(JOB + number)}) for number in range(2))
    with pytest.raises(errors.NotDying):
        node.release(first)
    events = list(node.reclaim([Custom("slurm", {"job": str(JOB + 50)}), Custom("never", {}), first], released_bytes=lab.MIB))
    told = [event for event in events if isinstance(event, ReclaimedCandidate)]
    assert [each.passed_over.reason if each.passed_over else "" for each in told] == ["TARGET_NOT_FOUND", "TARGET_KIND_UNAVAILABLE", ""]
    once = node.kill_and_release(second, request_id="slurm-job-1")
    again = node.kill_and_release(second, request_id="slurm-job-1")
    assert (once.replayed, again.replayed) == (False, True)
    assert all(process.exited() for process in processes)


def test_where_the_agent_does_not_have_the_kind_it_says_why(node: Client) -> None:
    for kind, why in (("spy", "not among those"), ("exits", "could not be loaded"), ("missing", "needs the module"), ("a", "slurm")):
        with pytest.raises(errors.TargetKindUnavailable, match=why) as refused:
            node.kill_and_release(Custom(kind, {"job": "1"}))
        assert refused.value.metadata["kind"] == kind
        assert refused.value.remedy


@pytest.mark.parametrize("kind", ["raises", "rubbish"])
def test_a_plugin_that_fails_kills_nobody_tells_nothing_and_the_agent_goes_on(
    caller: raw.Caller, node: Client, plugged: tuple[Agent, Path], kind: str, victims: contextlib.ExitStack
) -> None:
    target = target_pb2.Target(custom=target_pb2.CustomTarget(kind=kind, attributes={"job": "1"}))
    answer = caller(raw.KILL, release_service_pb2.KillAndReleaseRequest(target=target).SerializeToString())
    raw.assert_refused(answer, grpc.StatusCode.FAILED_PRECONDITION, "TARGET_KIND_UNAVAILABLE")
    raw.assert_no_internals(answer)
    assert "secret" not in str(answer)
    lab.until(lambda: "target plugin failed" in plugged[0].log, "the log says why")
    victim = sleeper(victims)
    assert node.kill_and_release(listing(plugged[1], line(victim.pid))).processes[0].pid == victim.pid


def test_what_a_plugin_says_on_purpose_reaches_the_caller(node: Client) -> None:
    with pytest.raises(errors.TargetNotFound, match="has ended") as gone:
        node.kill_and_release(Custom("two", {"none": "1"}))
    assert gone.value.metadata["field"] == "target.custom"
    assert gone.value.metadata["value"] == "two none=1"
    with pytest.raises(errors.TargetAmbiguous, match="is two things") as two:
        node.kill_and_release(Custom("two", {"two": "1"}))
    assert two.value.metadata["candidates"] == "a b"
    with pytest.raises(errors.InvalidField) as missing:
        node.kill_and_release(Custom("two"))
    assert missing.value.metadata["field"] == 'target.custom.attributes["none"]'


def test_who_has_not_the_start_that_was_named_is_somebody_else(
    node: Client, plugged: tuple[Agent, Path], victims: contextlib.ExitStack
) -> None:
    victim, other = sleeper(victims), sleeper(victims)
    with pytest.raises(errors.TargetNotFound):
        node.kill_and_release(listing(plugged[1], line(other.pid, 1)))
    result = node.kill_and_release(listing(plugged[1], line(victim.pid), line(other.pid, 1), "process 4194304 1"))
    assert [each.pid for each in result.processes] == [victim.pid]
    assert other.poll() is None


def test_one_protected_process_saves_the_whole_target(node: Client, plugged: tuple[Agent, Path], victims: contextlib.ExitStack) -> None:
    agent, folder = plugged
    victim = sleeper(victims)
    for protected, rule in ((1, "init"), (agent.pid, "agent"), (os.getpid(), "ancestor-of-agent")):
        with pytest.raises(errors.Protected) as refused:
            node.kill_and_release(listing(folder, line(victim.pid), line(protected)))
        assert (refused.value.metadata["rule"], refused.value.metadata["pid"]) == (rule, str(protected))
    with pytest.raises((errors.Protected, errors.TargetKindUnavailable)):
        node.kill_and_release(listing(folder, line(victim.pid), "group / memory"))
    assert victim.poll() is None


def test_a_kernel_thread_is_nobodys_process(node: Client, plugged: tuple[Agent, Path]) -> None:
    with pytest.raises((errors.TargetNotFound, errors.Protected)):
        node.kill_and_release(listing(plugged[1], line(lab.kernel_thread())))


def test_a_process_in_two_groups_of_two_hierarchies_is_killed_and_told_once(
    node: Client, plugged: tuple[Agent, Path], made: contextlib.ExitStack, victims: contextlib.ExitStack
) -> None:
    step = made.enter_context(slurm_tree.step(1, JOB + 5, node=node_name()))
    victim = sleeper(victims)
    step.add(victim.pid)
    target = listing(plugged[1], f"group {step.path} memory", f"group {step.path} freezer", "group /no/such cpu", line(victim.pid))
    result = node.kill_and_release(target)
    assert [each.pid for each in result.processes] == [victim.pid]
    assert result.processes[0].outcome in (Outcome.RELEASED, Outcome.EXITED)


HOSTILE: list[tuple[bytes, str]] = [
    (raw.field(1, "slurm\n"), "target.custom.kind"),
    (raw.field(1, "Slurm"), "target.custom.kind"),
    (raw.field(1, "../slurm"), "target.custom.kind"),
    (raw.field(1, "s" * 33), "target.custom.kind"),
    (b"", "target.custom.kind"),
    (raw.field(1, "slurm") + raw.field(2, raw.field(1, "job") + raw.field(2, "")), 'target.custom.attributes["job"]'),
    (raw.field(1, "slurm") + raw.field(2, raw.field(1, "job") + raw.field(2, "x" * 257)), 'target.custom.attributes["job"]'),
    (raw.field(1, "slurm") + raw.field(2, raw.field(1, "job") + raw.field(2, "1\x00")), 'target.custom.attributes["job"]'),
    (raw.field(1, "slurm") + raw.field(2, raw.field(1, "job") + raw.field(2, "1\u202e2")), 'target.custom.attributes["job"]'),
    (raw.field(1, "slurm") + raw.field(2, raw.field(1, 'job"]\x1b') + raw.field(2, "1")), "target.custom.attributes"),
    (raw.field(1, "slurm") + raw.field(2, raw.field(2, "1")), "target.custom.attributes"),
    (
        raw.field(1, "slurm") + b"".join(raw.field(2, raw.field(1, f"a{i}") + raw.field(2, "1")) for i in range(17)),
        "target.custom.attributes",
    ),
    (raw.field(1, "slurm") + raw.field(2, raw.field(1, "job") + raw.field(2, "1")) + raw.field(3, 1), "target.custom.3"),
    (raw.field(1, "slurm") + raw.field(2, raw.field(1, "job") + raw.field(2, "*")), 'target.custom.attributes["job"]'),
    (raw.field(1, "slurm") + raw.field(2, raw.field(1, "jobs") + raw.field(2, "1")), 'target.custom.attributes["jobs"]'),
]


@pytest.mark.parametrize(("custom", "named"), HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_target_is_refused_by_the_name_of_its_field(caller: raw.Caller, custom: bytes, named: str) -> None:
    answer = caller(raw.KILL, raw.field(1, raw.field(5, custom)))
    raw.assert_refused(answer, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", named)
    raw.assert_no_internals(answer)


def test_memory_of_a_custom_target_is_not_watched(node: Client) -> None:
    stream: Any = node.watch_memory(within=Custom("slurm", {"job": "1"}))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(errors.InvalidField):
        next(stream)


POLICY = """
version: 1
rules:
- name: admins
  callers: [{{transport: unix, unix_uid: 0}}]
  methods: [KillAndRelease, ListProcesses]
  targets: {{kinds: {kinds}, users: [{user}]}}
"""


@pytest.mark.parametrize(("kinds", "may"), [("['custom:slurm']", True), ("[pod, cgroup, process, 'custom:other']", False)])
def test_a_rule_names_kinds_and_holds_for_every_process(
    run_dir: Path, tmp_path: Path, made: contextlib.ExitStack, victims: contextlib.ExitStack, kinds: str, may: bool
) -> None:
    lab.need_root("an agent whose caller is root")
    step = made.enter_context(slurm_tree.step(1, JOB + 9, node=node_name(), uid=USER))
    theirs = victims.enter_context(lab.live(uid=USER))
    foreign = victims.enter_context(lab.live())
    for process in (theirs, foreign):
        step.add(process.pid)
    rules = tmp_path / "policy.yaml"
    rules.write_text(POLICY.format(kinds=kinds, user=USER))
    rules.chmod(0o644)
    flags = ["--target-plugins", "slurm", "--policy", str(rules), "--audit-dir", "none"]
    target, absent = (Custom("slurm", {"job": str(JOB + number)}) for number in (9, 10))
    with running_agent(run_dir, *flags) as agent, agent.client() as client:
        denied: list[str] = []
        for wanted in (target, absent, Custom("slurm", {"job": "*"})):
            with pytest.raises(errors.CallerNotPermitted) as refused:
                client.kill_and_release(wanted)
            denied.append(str(refused.value))
        assert len(set(denied)) == 1, "nothing tells what is there from what is not"
        assert not theirs.exited(0)
        foreign.kill()
        assert foreign.exited()
        if may:
            assert {row.pid for row in client.list_processes(within=target)} == {theirs.pid}
            assert client.kill_and_release(target).is_released
        else:
            with pytest.raises(errors.CallerNotPermitted):
                client.kill_and_release(target)
            assert not theirs.exited(0)
