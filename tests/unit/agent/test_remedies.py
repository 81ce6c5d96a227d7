"""Every cause for which memory can be held has a remedy, in the answer and in the reference."""

from __future__ import annotations

import re

import pytest

from mrelease_agent.linux.freezing import Freeze
from mrelease_agent.linux.threads import Scheduling
from mrelease_agent.reaping.held import Diagnosis, words
from mrelease_agent.reaping.outcome import HeldCause
from mrelease_agent.reaping.remedies import DOCUMENTED, REMEDIES, WAITS, anchor, awaited
from support.markdown import ROOT

PAGE = (ROOT / "docs" / "reference" / "outcomes.md").read_text()
CAUSES = [cause for cause in HeldCause if cause]


def diagnosis(cause: HeldCause, **found: object) -> Diagnosis:
    return Diagnosis(cause=cause, pid=4711, held_bytes=1 << 30, errno=0, **found)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.name)
def test_every_cause_has_a_remedy_and_a_place_in_the_reference(cause: HeldCause) -> None:
    assert REMEDIES[cause]
    assert f'<a id="{anchor(cause)}"></a>' in PAGE
    assert REMEDIES[cause].format_map(DOCUMENTED) in PAGE


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.name)
def test_every_cause_is_said_in_one_sentence_even_when_nothing_else_is_known(cause: HeldCause) -> None:
    for said in words(diagnosis(cause)):
        assert said
        assert "\n" not in said
        assert "{" not in said
        assert "None" not in said


def test_links_within_the_page_lead_somewhere() -> None:
    headings = {re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in PAGE.splitlines() if line.startswith("#")}
    anchors = set(re.findall(r'<a id="([^"]+)">', PAGE)) | headings
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors


@pytest.mark.parametrize(
    ("channel", "said"),
    [
        ("request_wait_answer", "FUSE"),
        ("nfs_wait_bit_killable", "network"),
        ("rpc_wait_bit_killable", "network"),
        ("percpu_rwsem_wait", "frozen file system"),
        ("exit_aio", "asynchronous"),
        ("folio_wait_bit_common", "storage"),
        ("jbd2_log_wait_commit", "storage"),
        ("nvme_execute_rq", "storage"),
        ("nvidia_wait", "device"),
    ],
)
def test_wait_channels_say_what_is_waited_for(channel: str, said: str) -> None:
    wait = awaited(channel)
    assert wait is not None
    assert said in wait.what
    cause, remedy = words(diagnosis(HeldCause.UNINTERRUPTIBLE, state="D", wchan=channel, tid=4711))
    assert channel in cause
    assert wait.remedy in remedy


def test_an_unknown_wait_channel_says_how_to_find_out() -> None:
    assert awaited("never_heard_of") is None
    cause, remedy = words(diagnosis(HeldCause.UNINTERRUPTIBLE, state="D", wchan="never_heard_of", tid=4711))
    assert "never_heard_of" in cause
    assert "/proc/PID/stack" in remedy


def test_a_hidden_wait_channel_is_told_from_none() -> None:
    assert "may not see" in words(diagnosis(HeldCause.UNINTERRUPTIBLE, state="D", tid=4711))[0]


def test_every_wait_is_in_the_reference() -> None:
    assert [wait.what for wait in WAITS if wait.what not in PAGE or wait.remedy not in PAGE] == []


def test_names_that_others_chose_do_no_harm() -> None:
    evil = "\x1b[2J\udcff\n"
    found = diagnosis(
        HeldCause.PINNED, readers=(9,), names={9: evil}, reads={9: f"/proc/{evil}/mem"}, freeze=Freeze(1, True, (evil,)), exited=True
    )
    for cause in (HeldCause.PINNED, HeldCause.FROZEN):
        for said in words(diagnosis(cause, readers=found.readers, names=found.names, reads=found.reads, freeze=found.freeze)):
            assert said.isprintable()
            said.encode()


def test_many_are_named_as_some_and_more() -> None:
    cause, remedy = words(diagnosis(HeldCause.SHARED_MM, sharers=tuple(range(100, 200)), names={100: "a"}))
    assert "100 (a), 101, 102" in cause
    assert cause.endswith(", ...")
    assert "`mrelease kill 100 101 102 103 104 105 106 107 ...`" in remedy


def test_what_many_have_in_common_is_said_in_the_same_words() -> None:
    # The command line says a sentence once for all processes that it is true of.
    for cause in (HeldCause.UNINTERRUPTIBLE, HeldCause.FROZEN, HeldCause.STARVED, HeldCause.EXITING):
        one, other = (
            Diagnosis(cause=cause, pid=pid, held_bytes=pid, errno=0, state="D", wchan="exit_aio", tid=pid, cpu_share=share)
            for pid, share in ((1, 0.001), (2, 0.002))
        )
        assert words(one) == words(other)


def test_who_may_use_one_cpu_alone_is_told_how_to_widen_that() -> None:
    how = Scheduling("SCHED_OTHER", 0, "3")
    assert "taskset" in words(diagnosis(HeldCause.STARVED, state="R", cpu_share=0.0, scheduling=how))[1]
    assert "taskset" not in words(diagnosis(HeldCause.STARVED, state="R", cpu_share=0.0, scheduling=Scheduling("SCHED_OTHER", 0, "0-3")))[1]
