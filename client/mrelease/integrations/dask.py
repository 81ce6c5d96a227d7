"""Dask: nannies that give back the memory of the workers which they killed in vain.

>>> from mrelease.integrations.dask import ReleaseWorkers
>>> client.register_plugin(ReleaseWorkers())

or, without any code, ``dask worker --preload-nanny mrelease.integrations.dask SCHEDULER``, or in Dask's configuration
``distributed.nanny.preload: [mrelease.integrations.dask]``.

A worker, one thread of which waits in the kernel (state D), cannot be ended: its nanny sees an RSS of 0, because the first thread is a
zombie, and waits for ever. The plugin watches the nanny's worker; when that has been killed and is still there, it asks the node's agent to
release it, tells the scheduler that the worker is gone, so that its tasks run elsewhere, and logs the event ``mrelease``.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from itertools import chain, repeat
from typing import Any, Final

from mrelease import _text
from mrelease._client import Client
from mrelease._tls import TLS
from mrelease.errors import MreleaseError
from mrelease.integrations._dying import GRACE, INTERVAL, Watched, release
from mrelease.integrations._libraries import need

__all__ = ["TOPIC", "ReleaseWorkers", "dask_setup", "dask_teardown"]

#: The topic of the events: ``Client.subscribe_topic("mrelease", handler)``, ``Client.get_events("mrelease")``.
TOPIC: Final = "mrelease"

_LOG = logging.getLogger("distributed.nanny.mrelease")
# Seconds after which a worker whose memory is not back is released again; the last of them for ever.
_AGAIN: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)

_NannyPlugin: Any = need("distributed.diagnostics.plugin", "mrelease.integrations.dask").NannyPlugin


class ReleaseWorkers(_NannyPlugin):  # type: ignore[misc]  # the library has no types where it is not installed
    """A plugin for ``Client.register_plugin``: it is sent to every nanny there is and will be, which all need this package.

    ``agent``: the address of the agent as nannies reach it, as in ``mrelease.Client``; None: ``$MRELEASE_AGENT`` of the nanny, else the
    socket of this user's agent. ``tls``: certificates for it. ``timeout``: seconds that one release may take. ``forget``: tell the
    scheduler at once that a worker which was killed is gone; without it that takes ``distributed.scheduler.worker-ttl``, 5 minutes.
    """

    name = "mrelease"

    def __init__(self, agent: str | None = None, *, tls: TLS | None = None, timeout: float = 5.0, forget: bool = True) -> None:
        self.agent, self.tls, self.timeout, self.forget = agent, tls, timeout, forget
        self._watches: dict[int, Watch] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # Threads stay where they are.
        return _make, (self.agent, self.tls, self.timeout, self.forget)

    def setup(self, nanny: Any) -> None:
        """Dask calls it when the nanny starts, or is there already. Raises ``errors.InvalidAddress``, ``errors.InvalidTLS``."""
        self.teardown(nanny)
        self._watches[id(nanny)] = Watch(nanny, Client(self.agent, tls=self.tls, timeout=self.timeout), self.timeout, self.forget)

    def teardown(self, nanny: Any) -> None:
        """Dask calls it when the nanny ends."""
        watch = self._watches.pop(id(nanny), None)
        if watch is not None:
            watch.stop()


class Watch:
    """A thread that follows the worker of one nanny, and the next one, until ``stop``."""

    def __init__(self, nanny: Any, client: Client, timeout: float, forget: bool) -> None:
        self._nanny, self._client, self._timeout, self._forget = nanny, client, timeout, forget
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mrelease-nanny", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it, without waiting: nannies end within Dask's event loop."""
        self._stopped.set()

    def _run(self) -> None:
        with contextlib.closing(self._client):
            while not self._stopped.wait(INTERVAL):
                pid = self._pid()
                if pid:
                    self._follow(pid)

    def _pid(self) -> int:
        """The worker's pid, 0 where there is none just now."""
        try:
            return int(self._nanny.pid or 0)
        except (AttributeError, ValueError):
            return 0  # between two workers

    def _follow(self, pid: int) -> None:
        try:
            watched = Watched(pid)
        except (OSError, ValueError):
            return  # it has just ended
        with watched:
            while not watched.has_exited(INTERVAL) and self._pid() in (0, pid):
                if self._stopped.is_set():
                    return
                if watched.is_killed() and not watched.has_exited(GRACE):
                    self._release_until_back(watched, str(self._nanny.worker_address))
                    while not self._stopped.is_set() and not watched.has_exited(1.0) and self._pid() == pid:
                        pass
                    return

    def _release_until_back(self, watched: Watched, address: str) -> None:
        """Ask, and ask again: a worker that is stuck stays so, and an agent may come back."""
        for pause in chain(_AGAIN, repeat(_AGAIN[-1])):
            is_back, told = self._release(watched)
            if is_back:
                _LOG.info("%s", told)
            else:
                _LOG.warning("%s", told)
            self._call(self._nanny.log_event, TOPIC, {"worker": address, "pid": watched.pid, "is_back": is_back, "message": told})
            if self._forget:
                self._call(self._forget_worker, address)
            if is_back or self._stopped.wait(pause) or watched.has_exited():
                return

    def _release(self, watched: Watched) -> tuple[bool, str]:
        """Whether there is nothing more to do, and what to say."""
        who = f"worker process {watched.pid}, which was killed and does not end"
        try:
            result = release(watched, self._client, reason="killed by its Dask nanny", timeout=self._timeout, patience=0.0)
        except (MreleaseError, LookupError) as error:
            return False, f"the memory of {who}, was not released: {_text.printable(str(error))}"
        except Exception as error:  # whatever it is, the nanny goes on as without this
            return False, f"the memory of {who}, was not released: {_text.printable(repr(error))}"
        if result is None:
            return True, f"worker process {watched.pid} has ended by itself"
        said = f"{who}: {result.verdict}, {_text.size(result.released_bytes)} released"
        return result.is_released, said if result.is_released else f"{said}; {_text.printable(str(result))}"

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call what belongs to the nanny in its event loop, where it expects that."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._nanny.loop.add_callback(function, *arguments)

    async def _forget_worker(self, address: str) -> None:
        """What the nanny says to the scheduler when a worker has exited. A worker that SIGKILL has reached cannot come back."""
        try:
            await self._nanny.scheduler.unregister(address=address, stimulus_id=f"mrelease-killed-{time.time()}")
        except Exception as error:  # then it is as without this
            _LOG.warning("the scheduler was not told that worker %s is gone: %s", address, _text.printable(repr(error)))


def dask_setup(nanny: Any) -> None:
    """For ``--preload-nanny``: Dask calls it with the nanny."""
    if not hasattr(nanny, "worker_address"):
        _LOG.warning("mrelease.integrations.dask is for nannies: --preload-nanny, or distributed.nanny.preload")
        return
    _PRELOADED.setup(nanny)


def dask_teardown(nanny: Any) -> None:
    """For ``--preload-nanny``."""
    _PRELOADED.teardown(nanny)


def _make(agent: str | None, tls: TLS | None, timeout: float, forget: bool) -> ReleaseWorkers:
    return ReleaseWorkers(agent, tls=tls, timeout=timeout, forget=forget)


_PRELOADED: Final = ReleaseWorkers()
