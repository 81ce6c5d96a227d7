"""The API server: lightkube's client, with what it leaves out: bookmarks, networks that go away without a word, and the server's clock."""

from __future__ import annotations

import socket
from typing import Any, Final, TypeAlias

import httpx2
from lightkube import AsyncClient, KubeConfig
from lightkube.config.client_adapter import verify_cluster
from lightkube.core.exceptions import ConfigError as KubeConfigError

from mrelease import _text
from mrelease_agent.config.values import ConfigError
from mrelease_controller.clock import Clock

#: lightkube's AsyncClient, whose overloads do not know resources that are made at run time.
Client: TypeAlias = Any
#: What goes wrong with a request that may be made again.
Unavailable = (httpx2.HTTPError, OSError)
# A connection of which nothing is heard for half a minute is gone: a watch reads for ever, and sends nothing. tcp(7).
_ALIVE: Final = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
]
_TIMEOUT: Final = 10.0


class _Transport(httpx2.AsyncHTTPTransport):
    """Asks for bookmarks in every watch, and hears what time it is at the server."""

    def __init__(self, clock: Clock, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._clock = clock

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See httpx2."""
        if request.url.params.get("watch"):
            request.url = request.url.copy_merge_params({"allowWatchBookmarks": "true"})
        response = await super().handle_async_request(request)
        self._clock.told(response.headers.get("date", ""))
        return response


def connect(clock: Clock, kubeconfig: str = "", context: str = "") -> Client:
    """A client of the cluster of a kubeconfig, as kubectl finds it, or of that of which this is a pod. Raises ConfigError."""
    try:
        found = KubeConfig.from_file(kubeconfig) if kubeconfig else KubeConfig.from_env()
        config = found.get(context or None)
        assert config is not None
        assert config.user is not None
        tls = verify_cluster(config.cluster, config.user, config.abs_file)
    except (KubeConfigError, AssertionError, OSError, ValueError) as error:
        where = kubeconfig or "$KUBECONFIG, ~/.kube/config and the pod's service account"
        raise ConfigError(f"no API server by {where}: {_text.printable(str(error)) or 'no user'}; name a file by --kubeconfig") from None
    transport = _Transport(clock, verify=tls, socket_options=_ALIVE)
    return AsyncClient(config, timeout=httpx2.Timeout(_TIMEOUT), transport=transport, field_manager="mrelease-controller")


def status_of(error: Exception) -> int:
    """The HTTP status of a refusal: in a watch it may come as an event. 0: none came."""
    response = getattr(error, "response", None)
    if response is not None:
        return int(response.status_code)
    return int(getattr(getattr(error, "status", None), "code", None) or 0)


def words(error: Exception) -> str:
    """What went wrong, on one line."""
    return _text.printable(str(error))[:500] or type(error).__name__
