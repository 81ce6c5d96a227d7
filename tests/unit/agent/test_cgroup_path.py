"""What a cgroup path says, by every form that kubelet and the runtimes write; each row names the source that writes it."""

from __future__ import annotations

import string

import pytest

from mrelease_agent.targets.cgroup_path import Membership, Qos, Runtime, describe

A = "0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9"
B = "f" * 64
UID = "8f1c2a34-5b6d-4e7f-8091-a2b3c4d5e6f7"
UID_ = UID.replace("-", "_")
OTHER = "11111111-2222-4333-8444-555555555555"
STATIC = "0123456789abcdef0123456789abcdef"

# kubelet with the cgroupfs driver: pkg/kubelet/cm/cgroup_manager_linux.go, ToCgroupfs; pod_container_manager_linux.go, GetPodContainerName.
FS = f"/kubepods/besteffort/pod{UID}"
# kubelet with the systemd driver: cgroup_manager_linux.go, ToSystemd (dashes of the uid become underscores).
SYSTEMD = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice"

FULL_WIDTH = A.replace("0", "\N{FULLWIDTH DIGIT ZERO}")

# name: (path, runtime, container, pod, QoS, nested, monitors)
FORMS: dict[str, tuple[str, Runtime, str, str, Qos, bool, str]] = {
    # containerd internal/cri/server/podsandbox/helpers_linux.go, getCgroupsPath
    "containerd, cgroupfs": (f"{FS}/{A}", Runtime.CONTAINERD, A, UID, Qos.BEST_EFFORT, False, ""),
    "containerd, cgroupfs, guaranteed": (f"/kubepods/pod{UID}/{A}", Runtime.CONTAINERD, A, UID, Qos.GUARANTEED, False, ""),
    "containerd, cgroupfs, burstable": (f"/kubepods/burstable/pod{UID}/{A}", Runtime.CONTAINERD, A, UID, Qos.BURSTABLE, False, ""),
    # the same with runc libcontainer/cgroups/systemd/common.go, getUnitName
    "containerd, systemd": (f"{SYSTEMD}/cri-containerd-{A}.scope", Runtime.CONTAINERD, A, UID, Qos.BURSTABLE, False, ""),
    "containerd, systemd, guaranteed": (
        f"/kubepods.slice/kubepods-pod{UID_}.slice/cri-containerd-{A}.scope", Runtime.CONTAINERD, A, UID, Qos.GUARANTEED, False, "",
    ),
    "containerd, systemd, best effort": (
        f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice/cri-containerd-{A}.scope",
        Runtime.CONTAINERD, A, UID, Qos.BEST_EFFORT, False, "",
    ),
    # kubelet with systemd, runc without: the name that was meant for systemd is made as it is
    "containerd, unsplit": (
        f"/system.slice/containerd.service/kubepods-burstable-pod{UID_}.slice:cri-containerd:{A}",
        Runtime.CONTAINERD, A, UID, Qos.BURSTABLE, False, "",
    ),
    # kubelet pkg/kubelet/config/common.go, applyDefaults: a static pod's uid is an MD5
    "static pod": (f"/kubepods/burstable/pod{STATIC}/{A}", Runtime.CONTAINERD, A, STATIC, Qos.BURSTABLE, False, ""),
    "static pod, systemd": (
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{STATIC}.slice/cri-containerd-{A}.scope",
        Runtime.CONTAINERD, A, STATIC, Qos.BURSTABLE, False, "",
    ),
    "pod's own cgroup": (FS, Runtime.NONE, "", UID, Qos.BEST_EFFORT, False, ""),
    "pod's own slice": (SYSTEMD, Runtime.NONE, "", UID, Qos.BURSTABLE, False, ""),
    # CRI-O internal/config/cgmgr/systemd_linux.go and cgroupfs_linux.go: CrioPrefix, MoveConmonToCgroup
    "CRI-O, systemd": (f"{SYSTEMD}/crio-{A}.scope", Runtime.CRIO, A, UID, Qos.BURSTABLE, False, ""),
    "CRI-O, cgroupfs": (f"{FS}/crio-{A}", Runtime.CRIO, A, UID, Qos.BEST_EFFORT, False, ""),
    "CRI-O's empty sandbox": (f"{SYSTEMD}/crio-{A}", Runtime.CRIO, A, UID, Qos.BURSTABLE, False, ""),
    "CRI-O, no pod": (f"/system.slice/crio-{A}.scope", Runtime.CRIO, A, "", Qos.UNKNOWN, False, ""),
    "CRI-O's monitor": (f"{SYSTEMD}/crio-conmon-{A}.scope", Runtime.CRIO, "", UID, Qos.BURSTABLE, False, A),
    "CRI-O's monitor, cgroupfs": (f"{FS}/crio-conmon-{A}", Runtime.CRIO, "", UID, Qos.BEST_EFFORT, False, A),
    "CRI-O's monitor in system.slice": (f"/system.slice/crio-conmon-{A}.scope", Runtime.CRIO, "", "", Qos.UNKNOWN, False, A),
    # crun src/libcrun/cgroup-systemd.c: the subgroup "container"
    "CRI-O with crun": (f"{SYSTEMD}/crio-{A}.scope/container", Runtime.CRIO, A, UID, Qos.BURSTABLE, True, ""),
    # moby daemon/oci_linux.go, WithCgroups
    "docker, cgroupfs": (f"/docker/{A}", Runtime.DOCKER, A, "", Qos.UNKNOWN, False, ""),
    "docker, systemd": (f"/system.slice/docker-{A}.scope", Runtime.DOCKER, A, "", Qos.UNKNOWN, False, ""),
    "docker, rootless": (
        f"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{A}.scope", Runtime.DOCKER, A, "", Qos.UNKNOWN, False, "",
    ),
    "docker, --cgroup-parent": (f"/batch/{A}", Runtime.UNKNOWN, A, "", Qos.UNKNOWN, False, ""),
    "cri-dockerd, systemd": (f"{SYSTEMD}/docker-{A}.scope", Runtime.DOCKER, A, UID, Qos.BURSTABLE, False, ""),
    # podman libpod/container_internal_linux.go, getOCICgroupPath; oci_conmon_linux.go, moveConmonToCgroupAndSignal
    "podman, systemd": (f"/machine.slice/libpod-{A}.scope", Runtime.PODMAN, A, "", Qos.UNKNOWN, False, ""),
    "podman, crun": (f"/machine.slice/libpod-{A}.scope/container", Runtime.PODMAN, A, "", Qos.UNKNOWN, True, ""),
    "podman, cgroupfs": (f"/libpod_parent/libpod-{A}", Runtime.PODMAN, A, "", Qos.UNKNOWN, False, ""),
    "podman pod": (f"/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope", Runtime.PODMAN, A, "", Qos.UNKNOWN, False, ""),
    "podman, rootless": (
        f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope", Runtime.PODMAN, A, "", Qos.UNKNOWN, False, "",
    ),
    "podman, --cgroups=split": (f"/system.slice/web.service/libpod-payload-{A}", Runtime.PODMAN, A, "", Qos.UNKNOWN, False, ""),
    "podman's monitor": (f"/machine.slice/libpod-conmon-{A}.scope", Runtime.PODMAN, "", "", Qos.UNKNOWN, False, A),
    "podman's monitor, cgroupfs": (f"/libpod_parent/libpod-conmon-{A}", Runtime.PODMAN, "", "", Qos.UNKNOWN, False, A),
    # containerd pkg/oci/spec.go, populateDefaultUnixSpec: /NAMESPACE/ID; nerdctl pkg/cmd/container/run_cgroup_linux.go
    "containerd, namespace": (f"/k8s.io/{A}", Runtime.CONTAINERD, A, "", Qos.UNKNOWN, False, ""),
    "nerdctl, cgroupfs": (f"/default/{A}", Runtime.CONTAINERD, A, "", Qos.UNKNOWN, False, ""),
    "nerdctl, systemd": (f"/system.slice/nerdctl-{A}.scope", Runtime.CONTAINERD, A, "", Qos.UNKNOWN, False, ""),
    # kubelet --cgroup-root, and nodes that have a cgroup of their own
    "node in a cgroup": (f"/kube-node1{FS}/{A}", Runtime.CONTAINERD, A, UID, Qos.BEST_EFFORT, False, ""),
    "kind, cgroupfs": (f"/kubelet/kubepods/besteffort/pod{UID}/{A}", Runtime.CONTAINERD, A, UID, Qos.BEST_EFFORT, False, ""),
    "kind, systemd": (
        f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{UID_}.slice/"
        f"cri-containerd-{A}.scope", Runtime.CONTAINERD, A, UID, Qos.BURSTABLE, False, "",
    ),
    # nested cgroups
    "systemd in a container": (f"{FS}/{A}/init.scope", Runtime.CONTAINERD, A, UID, Qos.BEST_EFFORT, True, ""),
    "docker in a pod": (f"{FS}/{A}/docker/{B}", Runtime.CONTAINERD, A, UID, Qos.BEST_EFFORT, True, ""),
    "docker in docker": (f"/docker/{A}/docker/{B}", Runtime.DOCKER, A, "", Qos.UNKNOWN, True, ""),
    # cgroup_namespaces(7): what the reader's cgroup namespace hides
    "seen from another pod, same QoS": (f"/../../pod{UID}/{A}", Runtime.CONTAINERD, A, UID, Qos.UNKNOWN, False, ""),
    "seen from another QoS": (f"/../../../burstable/pod{UID}/{A}", Runtime.CONTAINERD, A, UID, Qos.BURSTABLE, False, ""),
    "slice seen from another pod": (
        f"/../../kubepods-besteffort-pod{UID_}.slice/cri-containerd-{A}.scope", Runtime.CONTAINERD, A, UID, Qos.BEST_EFFORT, False, "",
    ),
    "seen from its sibling": (f"/../cri-containerd-{A}.scope", Runtime.CONTAINERD, A, "", Qos.UNKNOWN, False, ""),
    # kernel/cgroup/cgroup.c, proc_cgroup_show
    "removed": (f"{FS}/{A} (deleted)", Runtime.CONTAINERD, A, UID, Qos.BEST_EFFORT, False, ""),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_form_of_a_runtime_says_container_pod_and_quality_of_service(form: str) -> None:
    path, runtime, container, pod, qos, nested, monitors = FORMS[form]
    found = describe(path)
    assert (found.runtime, found.container_id, found.pod_uid, found.qos, found.nested, found.monitors) == (
        runtime, container, pod, qos, nested, monitors,
    )  # fmt: skip
    assert (found.container_path != "") == (container != "")


def test_container_path_and_pod_path_are_the_cgroups_of_the_container_and_of_the_pod() -> None:
    found = describe(f"{SYSTEMD}/cri-containerd-{A}.scope/user.slice/x.service")
    assert (found.container_path, found.pod_path) == (f"{SYSTEMD}/cri-containerd-{A}.scope", SYSTEMD)


@pytest.mark.parametrize(
    "path",
    [
        "/", "", "/init.scope", "/user.slice/user-0.slice/session-1.scope", "/system.slice/containerd.service", "/kubepods",
        "/kubepods.slice", "/kubepods/besteffort", "/..", "/../..", "/docker",
        "/docker/buildkit", f"/lxc/{STATIC}", f"/process_api/{STATIC}",
    ],
)  # fmt: skip
def test_what_belongs_to_no_container_says_nothing(path: str) -> None:
    assert describe(path) == Membership()


@pytest.mark.parametrize(
    "path",
    [
        f"/kubepods-fake/besteffort/pod{UID}",
        f"/kubepods/bestefforts/pod{UID}",
        f"/besteffort/pod{UID}",
        f"/pod{UID}",
        f"/kubepods/besteffort/x/pod{UID}",
        f"/kubepods/besteffort/pod{UID}x",
        f"/kubepods/besteffort/pod{UID[:-1]}",
        f"/kubepods/besteffort/pod{UID.upper()}",
        f"/kubepods/besteffort/pod{UID_}",
        f"/kubepods/besteffort/pod{UID}\n",
        f"/kubepods.slice/kubepods-besteffort-pod{UID_}.slice",
        f"/x.slice/kubepods-besteffort.slice/kubepods-burstable-pod{UID_}.slice",
        f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice.d",
        f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID}.slice",
        f"/docker/{A[:-1]}", f"/docker/{A}0", f"/docker/{A.upper()}", f"/docker/{A}\n", f"/docker/ {A}", f"/docker/{A[:12]}",
        f"/system.slice/docker-{A}.scope.d", f"/system.slice/docker-{A}.service", f"/system.slice/xdocker-{A}.scope",
        f"/system.slice/docker-{A}-x.scope", f"/system.slice/docker-{A[:-1]}.scope", f"/system.slice/docker_{A}.scope",
        f"/docker/{FULL_WIDTH}",
    ],
)  # fmt: skip
def test_lookalike_is_no_container_and_no_pod(path: str) -> None:
    assert describe(path) == Membership()


def test_container_cannot_pass_for_another_one_by_cgroups_below_its_own() -> None:
    forged = f"/kubepods/burstable/pod{OTHER}/{B}"
    for below in (forged, f"/docker/{B}", f"/crio-{B}.scope", f"/crio-conmon-{B}.scope", f"/x-kubepods-pod{UID_}.slice:crio:{B}"):
        found = describe(f"{FS}/{A}{below}")
        assert (found.container_id, found.pod_uid, found.nested, found.monitors) == (A, UID, True, "")


def test_pod_in_a_container_counts_what_encloses_it_so_that_it_yields_to_a_pod_of_the_node() -> None:
    assert describe(f"{FS}/{A}").enclosing == 0
    node = f"/docker/{B}/kubelet{FS}"
    found = describe(f"{node}/{A}")
    assert (found.container_id, found.pod_uid, found.pod_path, found.enclosing) == (A, UID, node, 1)


def test_container_of_a_pod_is_a_direct_child_of_its_cgroup() -> None:
    found = describe(f"{FS}/x/{A}")
    assert (found.container_id, found.pod_uid) == ("", UID)


@pytest.mark.parametrize("hostile", ["\udcff\udcfe", "a" * 255, "pod", "%s%n", "\\x2f", "é", "kubepods", "..."])
def test_strange_names_around_a_container_change_nothing(hostile: str) -> None:
    assert describe(f"/{hostile}/{A}").container_id == A
    assert describe(f"/{hostile}{FS}/{A}/{hostile}").pod_uid == UID


def test_very_long_paths_are_read() -> None:
    for name in ("kubepods-", "kubepods", "pod", "a-", "..", string.hexdigits.lower()):
        assert describe("/" + name * 20_000).container_id == ""
        assert describe(f"/{name}" * 20_000).container_id == ""
