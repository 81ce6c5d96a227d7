"""Watches go on where they were, and list anew where that is too old. The API server is made up: no real one forgets versions on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("lightkube", reason="the controller needs Python 3.11: pip install 'mrelease[controller]'")

import httpx2
from lightkube.core.exceptions import ApiError
from lightkube.models.meta_v1 import Status

from mrelease_controller.metrics import Metrics
from mrelease_controller.objects import Metadata, Pod
from mrelease_controller.watching import Watching

GONE = ApiError(status=Status(code=410, message="too old resource version"))
LOST = httpx2.ReadError("connection reset")


def pod(uid: str, version: int) -> Pod:
    return Pod(metadata=Metadata(uid, "ml", uid, str(version)))


@dataclass
class Listed:
    items: list[Pod]
    resourceVersion: str  # noqa: N815 - lightkube's

    async def __aiter__(self) -> AsyncIterator[Pod]:
        for item in self.items:
            yield item


@dataclass
class Server:
    """Lists, and watches by script: what each gives, and how it ends. After the last one nothing more happens."""

    lists: Iterator[Listed]
    watches: Iterator[Sequence[tuple[str, Pod] | Exception]]
    asked: list[str] = field(default_factory=list[str])

    def list(self, *_: object, **__: object) -> Listed:
        self.asked.append("list")
        return next(self.lists)

    async def watch(self, *_: object, resource_version: str, **__: object) -> AsyncGenerator[tuple[str, Pod]]:
        self.asked.append(f"watch from {resource_version}")
        for step in next(self.watches, ()):
            if isinstance(step, Exception):
                raise step
            yield step
        await asyncio.Event().wait()


@dataclass
class Keeper:
    told: list[str] = field(default_factory=list[str])
    last: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self) -> None:
        self.told.append("begin")

    def end(self) -> None:
        self.told.append("end")

    def see(self, item: Any) -> None:
        self.told.append(item.metadata.uid)
        if item.metadata.uid == "last":
            self.last.set()

    def gone(self, item: Any) -> None:
        self.told.append(f"-{item.metadata.uid}")


async def test_a_watch_goes_on_from_the_last_version_that_was_seen_and_lists_anew_where_that_is_too_old() -> None:
    server = Server(
        iter([Listed([pod("a", 3)], "5"), Listed([pod("b", 20)], "21")]),
        iter(
            [
                [("MODIFIED", pod("a", 6)), ("BOOKMARK", pod("", 9)), LOST],
                [GONE],
                [("DELETED", pod("b", 22)), ("ADDED", pod("last", 23))],
            ]
        ),
    )
    keeper, metrics = Keeper(), Metrics()
    watching = Watching(server, Pod, keeper, metrics, namespace="*")
    running = asyncio.create_task(watching.run())
    await asyncio.wait_for(keeper.last.wait(), 30)
    running.cancel()
    await asyncio.wait({running})
    assert server.asked == ["list", "watch from 5", "watch from 9", "list", "watch from 21"]
    assert keeper.told == ["begin", "a", "end", "a", "begin", "b", "end", "-b", "last"]
    assert watching.ready.is_set()
    ends = {labels: metrics.registry.get_sample_value("mrelease_controller_watch_ends_total", {"resource": "pods", "status": labels})
            for labels in ("410", "connection")}  # fmt: skip
    assert ends == {"410": 1, "connection": 1}
