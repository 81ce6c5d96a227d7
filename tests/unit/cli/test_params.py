from __future__ import annotations

from datetime import timedelta

import click
import pytest

from mrelease import Process
from mrelease.cli import params


@pytest.mark.parametrize(
    ("text", "target"), [("4711", Process(4711)), ("4711:99", Process(4711, 99)), (str(Process(5, 2**40)), Process(5, 2**40))]
)
def test_a_process_is_a_pid_or_what_ps_prints(text: str, target: Process) -> None:
    assert params.process(text) == target


@pytest.mark.parametrize("text", ["", "0", "-1", "+1", "x", "4711:", ":99", "4711:x", "4711 ", "0x10", "1e3", "\u0661", "9" * 19, "1:2:3"])
def test_what_is_no_process(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a process id"):
        params.process(text)


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("10s", 10), ("1m", 60), ("1.5", 1.5), ("2 s", 2), ("24h", 86400)])
def test_durations(text: str, seconds: float) -> None:
    assert params.duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1d", "10S", "nan", "inf", "1e3s", "25h", "1s2", "9" * 16])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a duration"):
        params.duration(text)


@pytest.mark.parametrize(("text", "size"), [("1GiB", 1 << 30), ("512m", 512 << 20), ("1.5K", 1536), ("7", 7), ("2 TiB", 2 << 40)])
def test_sizes(text: str, size: int) -> None:
    assert params.size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1GB", "1PiB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a size"):
        params.size(text)


def test_a_size_is_one_that_a_node_can_have() -> None:
    with pytest.raises(click.BadParameter, match="more than any node has"):
        params.size("99999999TiB")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("TERM", "SIGTERM"),
        ("SIGTERM", "SIGTERM"),
        ("sigint", "SIGINT"),
        ("usr1", "SIGUSR1"),
        ("rtmin+3", "SIGRTMIN+3"),
        ("SIGRTMIN", "SIGRTMIN"),
    ],
)
def test_signals_in_any_spelling(text: str, name: str) -> None:
    assert params.signal(text) == name


@pytest.mark.parametrize("text", ["", "15", "SIG", "-TERM", "TERM ", "RTMIN+", "RTMIN+100", "TERM;rm", "T\u0130"])
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not the name of a signal"):
        params.signal(text)
