"""Ray's State API as its dashboard serves it over HTTP: what `ray list` asks, without Ray.

Ray calls the Python functions of that API a DeveloperAPI. They send the requests that are sent here: ``GET /api/v0/actors`` (``nodes``,
``tasks``, ``workers``) with filters, and the dashboard asks the GCS.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlencode, urlsplit

from mrelease._text import printable
from mrelease.errors import InvalidReference, OrchestratorDenied, OrchestratorUnavailable
from mrelease.resolvers.ray._reference import AUTO

#: Where the dashboard listens where nobody says otherwise.
PORT: Final = 8265
_LOCAL: Final = f"127.0.0.1:{PORT}"
#: Rows of one answer: a filter leaves one, or the attempts of a task.
_LIMIT: Final = 100
_MOST_BYTES: Final = 16 << 20
_MOST_TEXT: Final = 200
_WHERE: Final = f"is this the dashboard? It listens on port {PORT} by default; 10001 and 6379 are others' ports"


class Api:
    """One dashboard. ``address``: ``HOST:PORT``, or ``auto``: ``$RAY_API_SERVER_ADDRESS``, else ``$RAY_ADDRESS`` where that is a URL, else
    this machine. Holds no connection.
    """

    def __init__(self, address: str, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        self.title, self._host, self._port, self._is_tls = _endpoint(address, environment)
        self._token = token(environment)

    def rows(self, resource: str, end: float, /, **filters: str) -> list[dict[str, Any]]:
        """The rows of a table that match all filters. ``end``: time.monotonic() by which they are there. Raises ResolutionError.

        An empty list means that there are none: where Ray could not look everywhere it is an error.
        """
        left = end - time.monotonic()
        if left <= 0:
            raise OrchestratorUnavailable(f"the time was over before {self.title} was asked", "give more time")
        query = [("detail", "True"), ("limit", str(_LIMIT)), ("timeout", str(max(1, int(left))))]
        for key, value in filters.items():
            query += [("filter_keys", key), ("filter_predicates", "="), ("filter_values", value)]
        if resource == "tasks":
            query.append(("exclude_driver", "True"))
        answer = _mapping(_mapping(_mapping(self._get(f"/api/v0/{resource}?{urlencode(query)}", left)).get("data")).get("result"))
        rows = answer.get("result")
        if not isinstance(rows, list):
            raise OrchestratorUnavailable(f"{self.title} gave no list of {resource}", _WHERE)
        found = [_mapping(row) for row in cast("list[object]", rows)]
        warning = answer.get("partial_failure_warning")
        if not found and warning:
            raise OrchestratorUnavailable(f"{self.title} could not look everywhere: {_clipped(warning)}", "try again")
        return found

    def _get(self, path: str, left: float) -> object:
        headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {self._token}"} if self._token else {})
        try:
            with contextlib.closing(self._connection(left)) as connection:
                connection.request("GET", path, headers=headers)
                response = connection.getresponse()
                body = response.read(_MOST_BYTES + 1)
        except TimeoutError:
            raise OrchestratorUnavailable(f"{self.title} gave no answer in time", _WHERE) from None
        except (OSError, http.client.HTTPException) as error:
            why = (isinstance(error, OSError) and error.strerror) or type(error).__name__
            raise OrchestratorUnavailable(f"{self.title} does not answer: {printable(str(why))}", _WHERE) from None
        self._check(response.status, body)
        try:
            answer: object = json.loads(body)
        except (ValueError, RecursionError):
            raise OrchestratorUnavailable(f"{self.title} answers, but not with JSON", _WHERE) from None
        if _mapping(answer).get("result") is not True:
            raise OrchestratorUnavailable(
                f"{self.title} cannot say: {_clipped(_mapping(answer).get('msg'))}", "its dashboard.log says more"
            )
        return answer

    def _connection(self, left: float) -> http.client.HTTPConnection:
        # Without proxies and redirects: the token is for this address alone.
        if self._is_tls:
            return http.client.HTTPSConnection(self._host, self._port, timeout=left, context=ssl.create_default_context())
        return http.client.HTTPConnection(self._host, self._port, timeout=left)

    def _check(self, status: int, body: bytes) -> None:
        if status == http.client.UNAUTHORIZED:
            raise OrchestratorDenied(f"{self.title} asks for a token", "set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH: `ray get-auth-token`")
        if status == http.client.FORBIDDEN:
            raise OrchestratorDenied(f"{self.title} does not take this token", "it is not this cluster's: `ray get-auth-token` prints that")
        if len(body) > _MOST_BYTES:
            raise OrchestratorUnavailable(f"{self.title} gave more than {_MOST_BYTES >> 20} MiB", _WHERE)
        # Errors of the API come as JSON with status 500, and say more than the status.
        is_json = body.lstrip()[:1] == b"{"
        if status != http.client.OK and not (status == http.client.INTERNAL_SERVER_ERROR and is_json):
            raise OrchestratorUnavailable(f"{self.title} answers with HTTP status {status}", _WHERE)


def token(environment: Mapping[str, str]) -> str:
    """The token that Ray itself would show: docs.ray.io, "Ray token authentication". Empty: none. Raises OrchestratorDenied."""
    if environment.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return ""
    found, where = environment.get("RAY_AUTH_TOKEN", "").strip(), "$RAY_AUTH_TOKEN"
    if not found:
        given = environment.get("RAY_AUTH_TOKEN_PATH", "")
        file, where = (Path(given), "$RAY_AUTH_TOKEN_PATH") if given else (Path("~/.ray/auth_token"), "~/.ray/auth_token")
        try:
            found = file.expanduser().read_text().strip()
        except (OSError, ValueError, RuntimeError) as error:
            if given or not isinstance(error, FileNotFoundError | RuntimeError):
                raise OrchestratorDenied(f"{where}: the token cannot be read", "name a file that this user can read") from None
            return ""
        if given and not found:
            raise OrchestratorDenied(f"{where}: the file is empty", "name the file with the token")
    if not found.isascii() or not found.isprintable() or " " in found:
        raise OrchestratorDenied(f"{where} is no token", "`ray get-auth-token` prints it")
    return found


def _endpoint(address: str, environment: Mapping[str, str]) -> tuple[str, str, int, bool]:
    """Title, host, port, whether TLS."""
    where = ""
    if address == AUTO:
        where = "$RAY_API_SERVER_ADDRESS" if environment.get("RAY_API_SERVER_ADDRESS") else "$RAY_ADDRESS"
        address = environment.get(where[1:], "")
        if where == "$RAY_ADDRESS" and not address.startswith(("http://", "https://")):
            # That of the GCS, or of a Ray Client: what is no URL does not say where the dashboard is.
            where, address = "", _LOCAL
    try:
        split = urlsplit(address if "://" in address else f"http://{address}")
        host, port = split.hostname, split.port
    except ValueError:
        host, port, split = None, None, urlsplit("")
    if not host or split.scheme not in ("http", "https") or split.path.strip("/") or split.query or split.username:
        raise InvalidReference(
            f"{where or 'the address'} is {printable(address[:80])!r}", "write HOST:PORT of the dashboard, with https:// before it for TLS"
        )
    is_tls = split.scheme == "https"
    port = port or (443 if is_tls else PORT)
    return f"Ray's dashboard at {host}:{port}", host, port, is_tls


def _mapping(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _clipped(text: object) -> str:
    return printable(str(text or "no reason is given")[:_MOST_TEXT])
