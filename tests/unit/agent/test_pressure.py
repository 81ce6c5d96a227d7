"""Pressure files as kernels write them, and what the capability says where they cannot be read."""

from __future__ import annotations

import pytest

from mrelease_agent.linux import pressure
from mrelease_agent.linux.capabilities import Feature, probe

TEXT = b"""\
some avg10=1.25 avg60=0.50 avg300=0.10 total=59807
full avg10=0.36 avg60=0.06 avg300=0.01 total=55451
"""


def test_both_lines_are_read() -> None:
    found = pressure.parse(TEXT)
    assert found.some == pressure.Stall(1.25, 0.5, 0.1, 0.059807)
    assert found.full == pressure.Stall(0.36, 0.06, 0.01, 0.055451)


def test_lines_and_fields_of_a_newer_kernel_are_passed_over() -> None:
    newer = TEXT.replace(b"total=", b"avg600=0.00 total=") + b"idle avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    assert pressure.parse(newer) == pressure.parse(TEXT)


def test_large_totals_keep_their_microseconds() -> None:
    year = 365 * 86400 * 1_000_000
    assert round(pressure.parse(TEXT.replace(b"total=59807", b"total=%d" % (year + 7))).some.total * 1e6) == year + 7


@pytest.mark.parametrize(
    "text", [b"", TEXT.splitlines()[0], b"some avg10=x avg60=0 avg300=0 total=0\n", b"some\nfull\n", b"some avg10\n", b"\n\n"], ids=repr
)
def test_what_is_no_pressure_file_is_an_error(text: bytes) -> None:
    with pytest.raises((ValueError, KeyError)):
        pressure.parse(text)


def test_a_file_that_may_not_be_read_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake: root, who runs the tests, may read everything."""

    def refuse() -> pressure.Pressure:
        raise PermissionError

    monkeypatch.setattr(pressure, "node", refuse)
    found = probe(nice=None)[Feature.MEMORY_PRESSURE]
    assert not found.available
    assert pressure.NODE_FILE in found.reason
    assert found.remedy


def test_a_file_that_may_only_be_read_is_said_to_take_no_trigger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake: Linux before 6.4, or a /proc that is mounted read-only."""

    def refuse() -> int:
        raise PermissionError

    monkeypatch.setattr(pressure, "node", lambda: pressure.parse(TEXT))
    monkeypatch.setattr(pressure, "open_node", refuse)
    found = probe(nice=None)[Feature.MEMORY_PRESSURE]
    assert found.available
    assert "CAP_SYS_RESOURCE" in found.reason
