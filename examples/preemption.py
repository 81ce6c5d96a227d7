"""Make room for a pod that pends for memory: as few other pods as needed, the least important first, of one namespace alone.

    python examples/preemption.py --namespace batch --min-priority 1000 --dry-run

Needs the Helm chart, `pip install 'mrelease[kubernetes]'`, and of the cluster, beside the chart's Role for callers, `list` of pods and
nodes and `delete` of pods in that namespace. Give the pods that it serves a PriorityClass with `preemptionPolicy: Never`: else the
scheduler preempts too, in every namespace.

The scheduler knows nothing of memory. It adds up *requests*, and those of a pod count until its object is gone or says Failed. So:

1. Ask the agent whether it would kill the victim (`validate_only`): a pod that is deleted for nothing is lost all the same.
2. Delete the pod, if it is still the one with this uid. This comes before the kill: to kubelet a container that died in a pod that
   nobody deleted is one to start again, and then the memory is taken once more. Not with a grace of 0: that removes the object, and with
   it the requests, while the memory is still held.
3. `reclaim` with this pod as the only candidate: kubelet's own kill frees the memory when the victim next runs; this frees it now, and
   says whether it is back. A pod that has ended meanwhile is passed over. One victim at a time, and a new count after each: its requests
   are counted on, and no second pod dies where the first was enough.
4. kubelet sees that the containers are gone, and removes the object: the scheduler has room. A process in D state never goes. Where its
   memory is proven back, and only there, `--force` removes the object, as people do with `kubectl delete --force` without a proof.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from mrelease import Client, MreleaseError, NodeRef, Pod, ReclaimedCandidate
from mrelease.resolvers.kubernetes import Kubernetes, NodeObject, PodObject

QOS = {"BestEffort": 0, "Burstable": 1, "Guaranteed": 2}
MIB = 1 << 20
log = logging.getLogger("preemption")
SAID: list[str] = []


def pending(kube: Kubernetes, at_least: int) -> Mapping[str, Any] | None:
    """The most important pod that waits for nothing but memory, and for which the scheduler does not preempt by itself."""
    found: list[Mapping[str, Any]] = []
    for pod in kube.api.items("/api/v1/pods", soon(), fieldSelector="spec.nodeName=,status.phase=Pending"):
        said = [c.get("message", "") for c in pod["status"].get("conditions", ()) if c["type"] == "PodScheduled"]
        for_memory = any("Insufficient memory" in each and "Insufficient cpu" not in each for each in said)
        rules = {"affinity", "topologySpreadConstraints"} & pod["spec"].keys()  # the scheduler's own business: not read here
        if for_memory and not rules and not pod["status"].get("nominatedNodeName") and pod["spec"].get("priority", 0) >= at_least:
            found.append(pod)
    return max(found, key=lambda pod: pod["spec"].get("priority", 0), default=None)


def takes(node: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    """Whether the scheduler would look at this node for the pod at all: labels and taints."""
    labels, spec = node["metadata"].get("labels", {}), pod["spec"]
    tolerated = {each.get("key") for each in spec.get("tolerations", ())}
    taints = [taint for taint in node["spec"].get("taints", ()) if taint["effect"] != "PreferNoSchedule"]
    return spec.get("nodeSelector", {}).items() <= labels.items() and all(taint["key"] in tolerated for taint in taints)


def fewest(candidates: Sequence[PodObject], missing: int) -> list[PodObject]:
    """The least important candidates that ask for ``missing`` bytes together, without those that the others make superfluous."""
    order = sorted(candidates, key=lambda pod: (pod.priority, QOS.get(pod.qos, 1), -pod.memory_request_bytes))
    sums = list(accumulate(pod.memory_request_bytes for pod in order))
    if not sums or sums[-1] < missing:
        return []
    chosen = order[: next(i for i, total in enumerate(sums, 1) if total >= missing)]
    spare = sum(pod.memory_request_bytes for pod in chosen) - missing
    for pod in reversed(chosen[:-1]):  # the most important one first: who is not needed lives
        if pod.memory_request_bytes <= spare:
            spare -= pod.memory_request_bytes
            chosen.remove(pod)
    return chosen


def plan(kube: Kubernetes, pod: Mapping[str, Any], namespace: str, stuck: set[str]) -> tuple[NodeObject, list[PodObject]] | None:
    """The node where fewest and least important pods have to go, and these; no pods: what has to go is going already."""
    this, everywhere = PodObject.of(pod), [each for each in kube.pods("", soon()) if each.node and not each.is_finished]
    plans: list[tuple[tuple[int, int], NodeObject, list[PodObject]]] = []
    for item in kube.api.items("/api/v1/nodes", soon()):
        node = NodeObject.of(item)
        if not takes(item, pod) or not node.is_ready:
            continue
        # One that is being deleted makes room by itself, unless we know better.
        here = [each for each in everywhere if each.node == node.name and (not each.is_terminating or each.uid in stuck)]
        missing = this.memory_request_bytes + sum(each.memory_request_bytes for each in here) - node.allocatable_bytes
        if missing <= 0:
            return node, []
        victims = fewest([each for each in here if may_die(each, this, namespace) and each.uid not in stuck], missing)
        if victims:
            plans.append(((max(each.priority for each in victims), len(victims)), node, victims))
    return min(plans, key=lambda each: each[0])[1:] if plans else None


def may_die(pod: PodObject, instead_of: PodObject, namespace: str) -> bool:
    """Less important, of the chosen namespace, and neither static nor of a DaemonSet: both would be there again at once."""
    comes_back = pod.is_static or any(kind == "daemonset" for kind, _ in pod.owners)
    return pod.namespace == namespace and pod.priority < instead_of.priority and pod.memory_request_bytes > 0 and not comes_back


def make_go(kube: Kubernetes, node: NodeObject, victim: PodObject, why: str, options: argparse.Namespace) -> bool:
    """Steps 1 to 4 for one victim; whether its requests are free."""
    refused = reclaim(kube, node, victim, why, options, validate_only=True).passed_over
    if refused is not None:
        log.warning("%s is left alone: %s", victim.title, refused)
        return False
    size = f"priority {victim.priority}, {victim.qos}, {victim.memory_request_bytes // MIB} MiB requested"
    log.info("%s %s on %s (%s)", "would delete" if options.dry_run else "deletes", victim.title, node.name, size)
    kube.delete(victim, soon(), grace_seconds=max(1, options.grace), dry_run=options.dry_run)
    if options.dry_run:
        return True
    done = reclaim(kube, node, victim, why, options)
    result, gone = done.result, done.passed_over is not None and done.passed_over.reason == "TARGET_NOT_FOUND"
    log.info("%s: %s", victim.title, f"{result.verdict}, {result.released_bytes // MIB} MiB back" if result else done.passed_over)
    if is_gone(kube, victim):
        return True
    if not (gone or (result is not None and result.is_released)) or not options.force:
        log.warning("%s is still there: what it requests is not free", victim.title)
        return False
    log.warning("%s cannot end, and its memory is back: removes its object", victim.title)
    kube.delete(victim, soon(), grace_seconds=0)
    return True


def reclaim(
    kube: Kubernetes, node: NodeObject, victim: PodObject, why: str, options: argparse.Namespace, *, validate_only: bool = False
) -> ReclaimedCandidate:
    """Have the node's agent kill and release one pod. What was begun is finished by an agent that is restarted: same uid, same pod."""
    end = time.monotonic() + (0 if validate_only else 60)
    while True:
        try:
            agent = kube.reach(node.name, soon())
            with Client(agent.address, tls=agent.tls) as client:
                events = client.reclaim(
                    [Pod(victim.uid)],
                    released_bytes=max(1, victim.memory_request_bytes),
                    node=NodeRef(node.name, node.boot_id),  # another node, or another boot of it, does nothing
                    grace_period=options.grace,
                    reason=why,
                    validate_only=validate_only,
                )
                return next(event for event in events if isinstance(event, ReclaimedCandidate))
        except MreleaseError as error:
            if time.monotonic() > end:
                raise
            log.warning("%s: %s; asks again", victim.title, error)
        time.sleep(1)


def is_gone(kube: Kubernetes, pod: PodObject) -> bool:
    """Whether the object of exactly this pod goes, or is finished, within some seconds: kubelet looks once a second."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        if all(each.uid != pod.uid or each.phase in ("Succeeded", "Failed") for each in kube.pods(pod.namespace, soon(), node=pod.node)):
            return True
        time.sleep(0.1)
    return False


def turn(kube: Kubernetes, options: argparse.Namespace, stuck: set[str]) -> None:
    """Serve one pod, if one waits."""
    pod = pending(kube, options.min_priority)
    found = None if pod is None else plan(kube, pod, options.namespace, stuck)
    if pod is None or (found is not None and not found[1]):
        return
    name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    if found is None:
        log.info("%s waits for memory, and no pods of %s would make enough room", name, options.namespace)
        return
    node, victims = found
    log.info("%s waits for memory: %d pod(s) have to go on %s", name, len(victims), node.name)
    for victim in victims if options.dry_run else victims[:1]:  # a new count after each
        if not make_go(kube, node, victim, f"preempted by {name}", options):
            stuck.add(victim.uid)


def is_new(record: logging.LogRecord) -> bool:
    """A turn a second would say the same a thousand times."""
    text, said = record.getMessage(), SAID[-8:]
    SAID[:] = [*said, text]
    return text not in said


def stop(*_: object) -> None:
    """SIGTERM: whom the agent was told to kill it releases all the same, and nobody else is touched."""
    log.info("ends")
    sys.exit(0)


def soon() -> float:
    """By when the API server has to answer."""
    return time.monotonic() + 10


def main() -> None:
    """Look every second until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--namespace", required=True, help="whose pods may die")
    parser.add_argument("--min-priority", type=int, default=1, help="pods of less priority are not served (1)")
    parser.add_argument("--grace", type=int, default=0, help="seconds that a victim has to end by itself (0)")
    parser.add_argument("--force", action="store_true", help="remove the object of a pod that cannot end, once its memory is proven back")
    parser.add_argument("--dry-run", action="store_true", help="say who would die")
    parser.add_argument("--agents", default="", help="namespace of the chart's release (wherever there is one)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, stop)
    log.addFilter(is_new)
    stuck: set[str] = set()
    with Kubernetes(agents=options.agents, watched=True) as kube:
        log.info("makes room with pods of %s for pods of priority %d and more", options.namespace, options.min_priority)
        while True:
            try:
                turn(kube, options, stuck)
            except MreleaseError as error:
                # An agent or an API server that restarts, a pod that has just become another one: the next turn counts anew.
                log.warning("%s; tries again", error)
            time.sleep(1)


if __name__ == "__main__":
    main()
