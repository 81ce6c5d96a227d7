from __future__ import annotations

from datetime import timedelta

import pytest

from mrelease import _text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (10 * 1024, "10.0 KiB"),
        (512 << 20, "512 MiB"),
        ((1 << 30) - 1, "1.00 GiB"),
        (1 << 30, "1.00 GiB"),
        (-(3 << 30), "-3.00 GiB"),
        (2**63 - 1, "8.00 EiB"),
    ],
)
def test_sizes(size_bytes: int, text: str) -> None:
    assert _text.size(size_bytes) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(1 << 30, 1 << 30, "1.00 of 1.00 GiB"), (0, 1 << 30, "0.00 of 1.00 GiB"), (0, 0, "0 of 0 B"), (3 << 20, 12 << 20, "3.00 of 12.0 MiB")],
)
def test_a_share_has_the_unit_of_the_whole(part: int, whole: int, text: str) -> None:
    assert _text.share(part, whole) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0.42, "0.4 ms"),
        (4.1, "4.1 ms"),
        (13.2, "13 ms"),
        (999, "999 ms"),
        (999.7, "1.00 s"),
        (1250, "1.25 s"),
        (12_500, "12.5 s"),
        (61_000, "61.0 s"),
    ],
)
def test_durations(milliseconds: float, text: str) -> None:
    assert _text.duration(timedelta(milliseconds=milliseconds)) == text


def test_no_duration_is_a_dash() -> None:
    assert _text.duration(None) == "-"


@pytest.mark.parametrize(
    ("hostile", "text"),
    [
        ("trainer", "trainer"),
        ("a b", "a b"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u200b", "\\u200b"),
        ("\udcff", "\\udcff"),
        ("größe 内存", "größe 内存"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(hostile: str, text: str) -> None:
    assert _text.printable(hostile) == text


def test_columns_are_as_wide_as_their_widest_cell_on_the_screen() -> None:
    rows = _text.table([("PID", "COMMAND", "X"), ("1", "内存", "y"), ("22", "é", "")], right=(0,))
    assert ["|".join(row) for row in rows] == ["PID|COMMAND|X", "  1|内存   |y", " 22|é      |"]
