"""An agent inside the calling process, for `mrelease --local`: the same code on a private socket, in a thread."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from mrelease_agent.agent import serve
from mrelease_agent.boosting.booster import Booster
from mrelease_agent.config import load
from mrelease_agent.linux.capabilities import Capabilities, probe


@contextmanager
def local_agent() -> Generator[str, None, None]:
    """Serve on a Unix socket in a temporary directory of mode 0700 for as long as the context lasts; yields its address.

    The calling process and its ancestors are protected, as an agent's are. Its priority stays as it is.
    """
    booster = Booster(None)
    capabilities = probe(nice=None).plus(booster.features())
    with tempfile.TemporaryDirectory(prefix="mrelease-") as folder:
        address = f"unix://{Path(folder) / 'agent.sock'}"
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        thread = threading.Thread(target=lambda: asyncio.run(_serve(address, capabilities, booster, started)), name="agent")
        thread.start()
        loop, stop = started.result()
        try:
            yield address
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()


async def _serve(
    address: str, capabilities: Capabilities, booster: Booster, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
) -> None:
    stop = asyncio.Event()
    try:
        async with serve(load(["--listen", address], {"HOME": os.sep}), capabilities, booster):
            started.set_result((asyncio.get_running_loop(), stop))
            await stop.wait()
    except BaseException as error:
        if not started.done():
            started.set_exception(error)
            return
        raise
