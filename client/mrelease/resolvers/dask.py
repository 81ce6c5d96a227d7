"""``dask://SCHEDULER:PORT/WORKER``: the process of a Dask worker, by the worker's name or address; ``*`` is every worker.

The nanny of the worker is asked, by ``Client.run(nanny=True)``: it answers also while its worker hangs, and it is on the node, so that it
can say who the process is and not only its number. ``?protocol=tls`` is for a scheduler with TLS; certificates are those of Dask's own
configuration (``distributed.comm.tls.client``). This package need not be installed on the nodes.
"""

from __future__ import annotations

import contextlib
import re
import time
from typing import Any, Final

from mrelease import _text
from mrelease._models import NodeRef, Process
from mrelease.errors import InvalidReference, NotPlaced, OrchestratorUnavailable, ReferenceAmbiguous, ReferenceNotFound
from mrelease.integrations import _identity
from mrelease.integrations._libraries import need
from mrelease.resolvers._placement import Placement
from mrelease.resolvers._processes import place
from mrelease.resolvers._reference import Reference

_SCHEDULER: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+):[0-9]{1,5}", re.ASCII)
_PROTOCOLS: Final = ("tcp", "tls", "ws", "wss", "ucx")
_EXAMPLE: Final = "write dask://SCHEDULER:PORT/WORKER, for example dask://scheduler:8786/worker-3, or * for every worker"


class Dask:
    """The resolver. ``security``: a ``distributed.Security``; None: as Dask's configuration says."""

    def __init__(self, *, security: Any = None) -> None:
        """Raises MissingExtra where Dask is not installed."""
        self._distributed = need("distributed", "dask://")
        # Nannies need not have this package: its code travels with the call.
        need("cloudpickle", "dask://").register_pickle_by_value(_identity)
        self._security = security

    def resolve(self, ref: str, deadline: float) -> list[Placement]:
        """See ``Resolver``. Placements have the order of the workers' addresses."""
        end = time.monotonic() + deadline
        scheduler, wanted = self._parse(ref)
        try:
            with contextlib.ExitStack() as stack:
                client = stack.enter_context(
                    self._distributed.Client(scheduler, timeout=deadline, security=self._security, set_as_default=False)
                )
                workers = _chosen(client.scheduler_info(n_workers=-1)["workers"], wanted, ref)
                answers = self._ask(client, sorted(workers))
        except (OSError, TimeoutError, ValueError) as error:
            # Dask wraps what TLS says, and what a scheduler of another version answers, in these.
            said = _text.printable(str(error) or type(error).__name__)
            message = f"the Dask scheduler {scheduler} does not answer: {said}"
            raise OrchestratorUnavailable(message, "is it there, with this protocol?") from None
        return [_placed(address, workers[address], answers.get(address), end, len(workers) == 1) for address in sorted(workers)]

    def close(self) -> None:
        """See ``Resolver``: holds nothing between two calls."""

    def _parse(self, ref: str) -> tuple[str, str]:
        reference = Reference.parse(ref)
        reference.only("protocol")
        if reference.scheme != "dask" or len(reference.parts) != 2 or not _SCHEDULER.fullmatch(reference.parts[0]):
            raise InvalidReference(f"{ref!r} names no worker of a scheduler", _EXAMPLE)
        protocol = reference.query.get("protocol", "")
        if not protocol:
            is_encrypted = need("dask", "dask://").config.get("distributed.comm.require-encryption", None)
            protocol = "tls" if is_encrypted else "tcp"
        if protocol not in _PROTOCOLS:
            raise InvalidReference(f"{ref!r}: {protocol!r} is no protocol of Dask", f"known are {', '.join(_PROTOCOLS)}")
        return f"{protocol}://{reference.parts[0]}", reference.parts[1]

    def _ask(self, client: Any, addresses: list[str]) -> dict[str, Any]:
        """What each nanny says of its worker's process, or the exception that came instead."""

        def who(dask_worker: Any) -> dict[str, Any] | None:
            return _identity.identify(dask_worker.pid) if dask_worker.pid else None

        answers: dict[str, Any] = client.run(who, workers=addresses, nanny=True, on_error="return")
        return answers


def _placed(address: str, worker: dict[str, Any], facts: object, end: float, is_alone: bool) -> Placement:
    """One worker. What is wrong with it is raised only where it ``is_alone``."""
    name = _text.printable(str(worker.get("name", address)))
    host = _text.printable(str(worker.get("host", "")))
    title = f"Dask worker {name}"
    try:
        return place(_facts(worker, facts, title), [host], title, end)
    except NotPlaced as problem:
        if is_alone:
            raise
        # Nobody is asked for it: it has a problem, and 0 is nobody's number.
        return Placement(host or address, Process(0), NodeRef(), title, problem=problem)


def _facts(worker: dict[str, Any], facts: object, title: str) -> object:
    """What the nanny says of its worker's process. Raises NotPlaced."""
    if not worker.get("nanny"):
        raise NotPlaced(f"{title} has no nanny, so nobody on its node can say who it is", "start it with one: dask worker --nanny")
    if facts is None:
        raise NotPlaced(f"{title} has no process just now", "its nanny is starting one: try again")
    if isinstance(facts, BaseException):
        said = _text.printable(str(facts) or type(facts).__name__)
        raise NotPlaced(f"{title}: its nanny does not say who it is: {said}", "is the nanny there?")
    return facts


def _chosen(workers: dict[str, dict[str, Any]], wanted: str, ref: str) -> dict[str, dict[str, Any]]:
    """The workers that are meant: by address, with or without its protocol, else by name. Raises ResolutionError."""
    if wanted == "*":
        found = workers
    else:
        found = {address: worker for address, worker in workers.items() if wanted in (address, address.partition("://")[2])}
        found = found or {address: worker for address, worker in workers.items() if str(worker.get("name")) == wanted}
    if not found:
        known = ", ".join(sorted(_text.printable(str(worker.get("name"))) for worker in list(workers.values())[:10]))
        raise ReferenceNotFound(f"{ref!r}: the scheduler has no such worker", f"it has {known}" if known else "it has none")
    if len(found) > 1 and wanted != "*":
        message = f"{ref!r}: {len(found)} workers have this name"
        raise ReferenceAmbiguous(message, f"name one by its address: {', '.join(sorted(found)[:10])}")
    return found
