"""Scores below 0, which only CAP_SYS_RESOURCE may give: here root has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrelease import Client, Process, errors
from support import lab


@pytest.mark.parametrize("score", [-1000, -999, -998])
def test_who_the_oom_killer_takes_last_or_never_is_never_killed(node: Client, score: int) -> None:
    with lab.live(lab.MIB) as daemon:
        Path(f"/proc/{daemon.pid}/oom_score_adj").write_text(str(score))
        with pytest.raises(errors.Protected) as refused:
            node.kill_and_release(Process(daemon.pid))
        assert refused.value.metadata["rule"] == "oom-score-adj"
        assert not daemon.exited(0)


def test_a_guaranteed_pods_container_can_be_killed(node: Client) -> None:
    with lab.live(lab.MIB) as container:
        Path(f"/proc/{container.pid}/oom_score_adj").write_text("-997")
        node.kill_and_release(Process(container.pid))
        assert container.exited()
