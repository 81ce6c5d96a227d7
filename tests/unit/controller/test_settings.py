"""The configuration of the controller, and what namespaces may say: less than it allows, never more."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("lightkube", reason="the controller needs Python 3.11: pip install 'mrelease[controller]'")

from mrelease_agent.config.values import ConfigError
from mrelease_controller import backing_off
from mrelease_controller.config import Settings, load, read
from mrelease_controller.limits import Limits
from mrelease_controller.modes import Mode, mode_of

SECOND = 10**9


def test_what_a_file_says_is_what_is_done(tmp_path: Path) -> None:
    file = tmp_path / "controller.yaml"
    file.write_text("version: 1\nmargin: 3s\nkill_margin: 1m\nmin_memory: 2MiB\nnamespaces: {allow: [ml, 'batch-*']}\nlimits: {total: 7}\n")
    settings = load(str(file))
    assert (settings.margin, settings.kill_margin, settings.min_bytes, settings.total) == (3.0, 60.0, 2 << 20, 7)
    assert settings.allow == ("ml", "batch-*")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version: 2\n", "version"),
        ("version: 1\nmargn: 3s\n", 'did you mean "margin"'),
        ("version: 1\nmargin: 3\n", "margin"),
        ("version: 1\nmargin: 3 s\n", "500ms, 10s, 5m or 1h"),
        ("version: 1\nmargin: 0s\n", "write a duration from 1s"),
        ("version: 1\nmargin: 10m\n", "kill_margin is shorter than margin"),
        ("version: 1\nfirst_pause: 10m\n", "first_pause is longer"),
        ("version: 1\nlimits: {total: 0}\n", "total"),
        ("version: 1\nnamespaces: {kill: [All]}\n", "kill"),
        ("version: 1\nmin_memory: lots\n", "512MiB"),
        ("version: 1\nversion: 1\n", "twice"),
        ("", "empty"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(text.encode(), "controller.yaml")
    assert said in str(raised.value)
    assert "controller.yaml" in str(raised.value)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="cannot read /nonexistent"):
        load("/nonexistent")


@pytest.mark.parametrize(
    ("namespace", "annotation", "mode"),
    [
        ("ml", None, Mode.RELEASE),
        ("ml", "off", Mode.OFF),
        ("ml", "dry-run", Mode.DRY_RUN),
        ("ml", "kill", Mode.RELEASE),
        ("ml", "Off", Mode.OFF),
        ("ml", "", Mode.OFF),
        ("batch-1", None, Mode.KILL),
        ("batch-1", "release", Mode.RELEASE),
        ("batch-1", "kill", Mode.KILL),
        ("secret", "kill", Mode.OFF),
        ("kube-system", "release", Mode.OFF),
    ],
)
def test_what_may_be_done_in_a_namespace(namespace: str, annotation: str | None, mode: Mode) -> None:
    settings = Settings(allow=("ml", "batch-*", "kube-system"), kill=("batch-*", "secret"))
    assert mode_of(namespace, annotation, settings) is mode


@given(
    namespace=st.sampled_from(["ml", "batch-1", "kube-system"]),
    annotation=st.none() | st.sampled_from(["off", "dry-run", "release", "kill", "", "KILL", "yes"]),
    dry_run=st.booleans(),
)
def test_an_annotation_never_gives_more_than_the_configuration(namespace: str, annotation: str | None, dry_run: bool) -> None:
    settings = Settings(dry_run=dry_run, kill=("batch-*",))
    assert mode_of(namespace, annotation, settings) <= mode_of(namespace, None, settings)
    assert not dry_run or mode_of(namespace, annotation, settings) <= Mode.DRY_RUN


def test_no_node_and_not_all_of_them_get_more_requests_a_minute_than_allowed() -> None:
    limits = Limits(per_node=2, total=3)
    assert limits.take("a", 0) == 0
    assert limits.take("a", SECOND) == 0
    assert 58 <= limits.take("a", 2 * SECOND) <= 60
    assert limits.take("b", 2 * SECOND) == 0
    assert limits.take("b", 3 * SECOND) > 0, "three in all"
    assert limits.take("a", 62 * SECOND) == 0, "what was refused was not counted"


@given(failures=st.integers(0, 10_000), key=st.sampled_from(["", "a", "b" * 64]))
def test_pauses_grow_to_the_longest(failures: int, key: str) -> None:
    settings = Settings(pauses=(5, 300))
    assert 5 <= backing_off.pause(failures, key, settings) <= 300 * 1.25
    assert backing_off.pause(failures, key, settings) <= backing_off.pause(failures + 1, key, settings)
