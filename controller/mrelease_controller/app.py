"""Composition root: makes the parts, runs them until SIGTERM, and says how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import signal

from mrelease_agent.telemetry.http import HttpServer, event_loop_answers
from mrelease_controller.agenda import Agenda
from mrelease_controller.agents import Agents
from mrelease_controller.api import Unavailable, connect
from mrelease_controller.cases import Case
from mrelease_controller.clock import Clock
from mrelease_controller.config import Settings
from mrelease_controller.controller import Controller
from mrelease_controller.events import Events
from mrelease_controller.keepers import Namespaces, Pods
from mrelease_controller.leader import Alone, Leader
from mrelease_controller.metrics import Metrics
from mrelease_controller.objects import EndpointSlice, Namespace, Pod
from mrelease_controller.options import Options
from mrelease_controller.watching import Watching


async def run(options: Options, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigError, OSError where the port cannot be bound, and what a part of it fails with."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    clock, metrics, agenda = Clock(), Metrics(), Agenda(settings)
    client = connect(clock, options.kubeconfig, options.context)
    namespace, service = options.agents
    agents = Agents(options.tls, settings.timeout)
    leader = Alone() if options.lease is None else Leader(client, *options.lease, options.identity, metrics)

    async def still_ends(case: Case) -> bool:
        try:
            pod = await client.get(Pod, case.name, namespace=case.namespace)
        except Unavailable:
            return False
        end = pod.metadata.deletionTimestamp
        return pod.metadata.uid == case.uid and end is not None and clock.now() >= end.timestamp() + settings.kill_margin

    def annotated(name: str) -> None:
        agenda.wake(name)
        controller.changed()

    namespaces = Namespaces(settings, annotated)
    events = Events(client, options.identity, metrics)
    controller = Controller(settings, agenda, agents, events, metrics, clock, leader, mode=namespaces.mode, still_ends=still_ends)
    watching = [
        Watching(client, Namespace, namespaces, metrics, namespace=None),
        Watching(client, EndpointSlice, agents, metrics, namespace=namespace, labels={"kubernetes.io/service-name": service}),
        Watching(client, Pod, Pods(agenda, clock, controller.changed), metrics, namespace="*"),
    ]

    async def act() -> None:
        # What a namespace says must be known before anything is done there.
        for each in watching:
            await each.ready.wait()
        await controller.run()

    def ready() -> str | None:
        return None if all(each.ready.is_set() for each in watching) else "pods, namespaces and agents were not listed yet"

    with contextlib.closing(
        HttpServer(options.http_listen, alive=lambda: event_loop_answers(loop), ready=ready, exposition=metrics.exposition)
    ):
        acting = asyncio.create_task(act())
        tasks = {acting, *(asyncio.create_task(work) for work in (stop.wait(), leader.run(), *(each.run() for each in watching)))}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
        finally:
            # The lease is given back after the last request was made.
            acting.cancel()
            await asyncio.wait({acting})
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await agents.close()
            await client.close()
