"""Namespace and name of a pod, from the directories of logs that kubelet makes."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from mrelease_agent.targets.pod_names import PodNamesOnNode
from support import lab

UID = "0b5e1c3e-9d0a-4c1f-8a55-0d1f1a2b3c4d"
STATIC = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    logs = tmp_path / "pods"
    logs.mkdir(mode=0o755)
    return logs


def made(logs: Path, *names: str) -> PodNamesOnNode:
    for name in names:
        (logs / name).mkdir(mode=0o755)
    return PodNamesOnNode(str(logs))


def test_a_pod_is_found_by_its_uid(logs: Path) -> None:
    names = made(logs, f"ml_train-0.x_{UID}", f"kube-system_etcd-node7_{STATIC}", "README", f"ml_x_y_{uuid.uuid4()}")
    assert names(UID) == ("ml", "train-0.x")
    assert names(STATIC) == ("kube-system", "etcd-node7")
    assert names(str(uuid.uuid4())) is None
    assert names("") is None


@pytest.mark.parametrize(
    "name",
    [
        f"ML_p_{UID}",
        f"-ml_p_{UID}",
        f"ml__{UID}",
        f"_p_{UID}",
        f"ml_p_{UID}x",
        f"ml_p_{UID.upper()}",
        f"a_ml_p_{UID}",
        f"ml.x_p_{UID}",
        f"{'m' * 64}_p_{UID}",
        f"ml_p_{UID}\n",
    ],
)
def test_what_no_kubelet_makes_is_no_pod(logs: Path, name: str) -> None:
    assert made(logs, name)(UID) is None


def test_a_uid_that_two_directories_claim_is_nobodys(logs: Path) -> None:
    names = made(logs, f"kube-system_etcd_{UID}")
    assert names(UID) == ("kube-system", "etcd")
    (logs / f"ml_train_{UID}").mkdir()
    assert names(UID) is None
    (logs / f"ml_train_{UID}").rmdir()
    assert names(UID) == ("kube-system", "etcd")


def test_files_and_links_are_no_pods(logs: Path, tmp_path: Path) -> None:
    (logs / f"ml_p_{UID}").write_text("")
    assert PodNamesOnNode(str(logs))(UID) is None
    (logs / f"ml_p_{UID}").unlink()
    (logs / f"ml_p_{UID}").symlink_to(tmp_path)
    assert PodNamesOnNode(str(logs))(UID) is None


def test_what_others_could_have_made_is_not_believed(logs: Path) -> None:
    names = made(logs, f"ml_p_{UID}")
    (logs / f"ml_p_{UID}").chmod(0o777)
    assert names(UID) is None
    (logs / f"ml_p_{UID}").chmod(0o755)
    assert names(UID) == ("ml", "p")
    for mode in (0o775, 0o757, 0o1777):
        logs.chmod(mode)
        assert names(UID) is None
    logs.chmod(0o755)
    assert names(UID) == ("ml", "p")


def test_another_users_directories_are_not_believed(logs: Path) -> None:
    lab.need_root("a directory of another user")
    names = made(logs, f"ml_p_{UID}")
    os.chown(logs / f"ml_p_{UID}", 65534, 65534)
    assert names(UID) is None
    os.chown(logs / f"ml_p_{UID}", 0, 0)
    assert names(UID) == ("ml", "p")
    os.chown(logs, 65534, 65534)
    assert names(UID) is None


def test_without_the_directory_no_pod_has_a_name(tmp_path: Path) -> None:
    for directory in ("/no/such/directory", str(tmp_path / "x\0y"), __file__):
        assert PodNamesOnNode(directory)(UID) is None


def test_pods_that_come_and_go_are_noticed_however_soon(logs: Path) -> None:
    """Within one tick of the file system's clock too, in which its time of change stays what it was."""
    names = PodNamesOnNode(str(logs))
    for _ in range(200):
        uid = str(uuid.uuid4())
        assert names(uid) is None
        pod = logs / f"ml_p_{uid}"
        pod.mkdir(mode=0o755)
        assert names(uid) == ("ml", "p")
        pod.rmdir()
        assert names(uid) is None


def read_again(_: object) -> list[str]:
    pytest.fail("read again")


def test_an_unchanged_directory_is_not_read_again(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = made(logs, f"ml_p_{UID}")
    os.utime(logs, ns=(1, 1))
    assert names(UID) == ("ml", "p")
    monkeypatch.setattr(os, "listdir", read_again)
    assert names(UID) == ("ml", "p")
    assert names(STATIC) is None


def test_a_directory_that_is_replaced_is_read_again(logs: Path) -> None:
    names = made(logs, f"ml_p_{UID}")
    os.utime(logs, ns=(1, 1))
    assert names(UID) == ("ml", "p")
    logs.rename(logs.with_name("old"))
    logs.mkdir(mode=0o755)
    os.utime(logs, ns=(1, 1))
    assert names(UID) is None
