"""What references of a command name, while it runs: their resolvers, the placements, and the requests at all nodes at once."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mrelease import AsyncClient, MreleaseError, ReleaseResult, _plugins, errors
from mrelease.cli import fanout
from mrelease.cli.asking import Asking, Job
from mrelease.cli.where import Flags, shown_to
from mrelease.errors import NoAgent
from mrelease.resolvers import Acted, Opened, Placement, Reference, opened
from mrelease.resolvers._acting import ask

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class Found:
    """One placement of a reference, or why there is none."""

    ref: Reference
    placement: Placement | None = None
    error: MreleaseError | None = None

    @property
    def name(self) -> str:
        """What people call it."""
        return self.ref.text if self.placement is None else self.placement.title or self.ref.text

    @property
    def node(self) -> str:
        """Where it is."""
        return "-" if self.placement is None else self.placement.node

    @property
    def problem(self) -> MreleaseError | None:
        """Why no request can be made for it."""
        return self.error or (None if self.placement is None else self.placement.problem)


class References:
    """The references of one command, and the resolvers of their schemes, until ``close``. ``patience``: seconds for each call of one."""

    def __init__(self, refs: Sequence[Reference], flags: Flags, patience: float) -> None:
        self._refs, self._flags, self._patience = refs, flags, patience
        self._resolvers: dict[str, Opened] = {}
        self.found: list[Found] = []

    def find(self) -> list[Found]:
        """What they name, each target once. What is wrong with one does not keep the others; of the only one it is raised."""
        found = asyncio.run(self._find())
        seen: set[object] = set()
        for each in found:
            place = each.placement
            key: object = (place.agent.address, place.target) if place is not None and place.agent is not None else id(each)
            if key not in seen:
                seen.add(key)
                self.found.append(each)
        if len(self._refs) == 1 and self.found[0].error is not None:
            raise self.found[0].error
        return self.found

    def several(self) -> list[str]:
        """Names of what nobody has named one by one: the parts of references that have several."""
        counts = {ref.text: sum(each.ref is ref for each in self.found) for ref in self._refs}
        return [each.name for each in self.found if counts[each.ref.text] > 1]

    def without_cancel(self) -> list[str]:
        """The resolvers that tell their orchestrators nothing."""
        return [resolver.title for resolver in self._resolvers.values() if not resolver.can_cancel]

    def before(self) -> None:
        """Tell the orchestrators. What one cannot be told has its error for a problem."""
        failed = dict(zip(self._resolvers, asyncio.run(self._tell_before()), strict=True))
        self.found = [
            dataclasses.replace(each, error=each.problem or failed.get(each.ref.scheme)) if failed.get(each.ref.scheme) else each
            for each in self.found
        ]

    def after(self, results: Sequence[ReleaseResult | MreleaseError]) -> list[MreleaseError]:
        """Tell the orchestrators what became of ``found``; what could not be told."""
        return [error for error in asyncio.run(self._tell_after(results)) if error is not None]

    def job(self, each: Found, kill: bool, arguments: dict[str, Any]) -> Job:
        """The request for one of ``found``."""

        async def make(client: AsyncClient, request_id: str) -> ReleaseResult:
            assert each.placement is not None
            return await ask(client, each.placement, kill=kill, request_id=request_id, **arguments)

        return Job(each.placement.target if each.placement else None, make, each.name)

    async def ask(self, asking: Asking, first: int) -> None:
        """Make the requests of ``asking`` from ``first`` on, which are those of ``found``, each at its node."""
        places: dict[str, list[int]] = {}
        for at, each in enumerate(self.found, first):
            if each.problem is not None or each.placement is None:
                asking.results[at] = each.problem or NoAgent(f"{each.name} is on no node")
            else:
                places.setdefault(f"{each.placement.node}\n{each.placement.reach().address}", []).append(at)

        async def node(name: str) -> None:
            each = self.found[places[name][0] - first]
            assert each.placement is not None
            agent = each.placement.reach()
            async with AsyncClient(agent.address, tls=shown_to(self._flags, agent.address, agent.tls)) as client:
                await asking.ask(client, places[name])
            for at in places[name]:
                if isinstance(error := asking.results.get(at), errors.Unreachable):
                    why = await asyncio.to_thread(self._resolvers[each.ref.scheme].why, agent)
                    asking.results[at] = why or error

        for name, failed in (await fanout.over(places, node, bar=asking.bars is None)).items():
            if isinstance(failed, MreleaseError):
                asking.results |= dict.fromkeys((at for at in places[name] if at not in asking.results), failed)

    def close(self) -> None:
        """Close the resolvers."""
        for resolver in self._resolvers.values():
            resolver.close()

    def __enter__(self) -> References:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _find(self) -> list[Found]:
        schemes = sorted({ref.scheme for ref in self._refs})
        made = dict(zip(schemes, await asyncio.gather(*map(self._open, schemes)), strict=True))
        self._resolvers = {scheme: each for scheme, each in made.items() if isinstance(each, Opened)}
        parts = await asyncio.gather(*(self._resolve(ref, made[ref.scheme]) for ref in self._refs))
        return [each for part in parts for each in part]

    async def _open(self, scheme: str) -> Opened | MreleaseError:
        try:
            return await self._guarded(f"plugin {scheme}", lambda: opened(scheme, deadline=self._patience))
        except MreleaseError as error:
            return error

    async def _resolve(self, ref: Reference, resolver: Opened | MreleaseError) -> list[Found]:
        try:
            if isinstance(resolver, MreleaseError):
                raise resolver
            placements = await self._guarded(resolver.title, lambda: resolver.resolve(ref.text, self._patience))
        except MreleaseError as error:
            return [Found(ref, error=error)]
        return [Found(ref, placement) for placement in placements]

    async def _tell_before(self) -> list[MreleaseError | None]:
        async def tell(scheme: str, resolver: Opened) -> None:
            placements = [each.placement for each in self.found if each.placement is not None and each.ref.scheme == scheme]
            if placements:
                await self._guarded(resolver.title, lambda: resolver.before(placements, self._patience))

        return await asyncio.gather(*(_error(tell(scheme, resolver)) for scheme, resolver in self._resolvers.items()))

    async def _tell_after(self, results: Sequence[ReleaseResult | MreleaseError]) -> list[MreleaseError | None]:
        async def tell(scheme: str, resolver: Opened) -> None:
            told = [
                Acted(each.placement, result)
                for each, result in zip(self.found, results, strict=True)
                if each.placement is not None and each.ref.scheme == scheme
            ]
            if told:
                await self._guarded(resolver.title, lambda: resolver.after(told, self._patience))

        return await asyncio.gather(*(_error(tell(scheme, resolver)) for scheme, resolver in self._resolvers.items()))

    async def _guarded(self, title: str, call: Callable[[], ValueT]) -> ValueT:
        # The guard inside ends first, and knows more. Unlike asyncio's own threads these keep nobody who interrupts.
        return await _plugins.guarded_async(title, self._patience + 1, call)


async def _error(work: Coroutine[Any, Any, None]) -> MreleaseError | None:
    try:
        await work
    except MreleaseError as error:
        return error
    return None
