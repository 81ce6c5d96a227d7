"""Exec plugins of a kubeconfig: a program that prints what is to be shown to the API server (client.authentication.k8s.io)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from mrelease.errors import OrchestratorDenied, OrchestratorUnavailable

_VERSIONS: Final = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
# So long before its end a credential is not used any more, in seconds.
_MARGIN: Final = 10.0
# A plugin may ask its user, or wait for a browser.
_PATIENCE: Final = 300.0


@dataclass(frozen=True, slots=True)
class Credential:
    """What a plugin gave: a token, or a certificate with its key. ``end``: time.time() after which it is not accepted any more."""

    token: str = ""
    cert: bytes = b""
    key: bytes = b""
    end: float | None = None

    def __repr__(self) -> str:
        return f"Credential(end={self.end})"  # never what it shows

    def is_stale(self) -> bool:
        """Whether a new one is due."""
        return self.end is not None and time.time() > self.end - _MARGIN


@dataclass(frozen=True, slots=True)
class ExecPlugin:
    """A program with its arguments and environment."""

    command: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    version: str
    interactive: str
    hint: str
    cluster: Mapping[str, Any] | None

    @classmethod
    def of(cls, entry: Any, directory: Path, cluster: Mapping[str, Any], server: str) -> ExecPlugin:
        """``user.exec`` of a kubeconfig in ``directory``. Raises OrchestratorUnavailable."""
        try:
            command, version = str(entry["command"]), str(entry["apiVersion"])
            variables = {str(pair["name"]): str(pair["value"]) for pair in entry.get("env") or ()}
            arguments = tuple(map(str, entry.get("args") or ()))
        except (KeyError, TypeError):
            raise OrchestratorUnavailable(
                "the kubeconfig's exec plugin has no command or no apiVersion", "correct the kubeconfig"
            ) from None
        if version not in _VERSIONS:
            raise OrchestratorUnavailable(f"the kubeconfig's exec plugin speaks {version}", f"let it speak {_VERSIONS[0]}")
        if os.sep in command:
            command = str(directory / command)
        told: dict[str, Any] | None = None
        if entry.get("provideClusterInfo"):
            authority = cluster.get("certificate-authority-data")
            skip = bool(cluster.get("insecure-skip-tls-verify"))
            told = {"server": server, "insecure-skip-tls-verify": skip}
            told |= {"certificate-authority-data": authority} if authority else {}
        mode = str(entry.get("interactiveMode") or "IfAvailable")
        return cls(command, arguments, variables, version, mode, str(entry.get("installHint") or ""), told)

    def run(self, deadline: float) -> Credential:
        """Ask it, for at most ``deadline`` seconds, or as long as a person may need. What it says on stderr is for that person.

        Raises OrchestratorDenied where it fails, OrchestratorUnavailable where it is not there.
        """
        terminal = self.interactive != "Never" and sys.stdin is not None and sys.stdin.isatty()
        if self.interactive == "Always" and not terminal:
            raise OrchestratorDenied(f"{self.command} has to ask somebody, and there is no terminal", "run it once on a terminal")
        program = shutil.which(self.command)
        if program is None:
            raise OrchestratorUnavailable(f"the kubeconfig's exec plugin {self.command} is not there", self.hint or "install it")
        spec: dict[str, Any] = {"interactive": terminal} | ({"cluster": self.cluster} if self.cluster else {})
        about = {"apiVersion": self.version, "kind": "ExecCredential", "spec": spec}
        try:
            done = subprocess.run(  # noqa: S603 - the user's own kubeconfig names it, as for kubectl
                [program, *self.arguments],
                env={**os.environ, **self.environment, "KUBERNETES_EXEC_INFO": json.dumps(about)},
                stdin=None if terminal else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                timeout=_PATIENCE if terminal else max(1.0, deadline),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise OrchestratorUnavailable(f"the exec plugin {self.command} did not answer in time", "run it yourself to see why") from None
        except OSError as error:
            raise OrchestratorUnavailable(f"the exec plugin {self.command} cannot be run: {error.strerror}", self.hint) from None
        if done.returncode != 0:
            raise OrchestratorDenied(f"the exec plugin {self.command} ended with {done.returncode}", "see above what it says; log in again")
        return self._read(done.stdout)

    def _read(self, said: bytes) -> Credential:
        try:
            answer = json.loads(said)
            status = answer["status"]
            cert = str(status.get("clientCertificateData") or "").encode()
            key = str(status.get("clientKeyData") or "").encode()
            token, end = str(status.get("token") or ""), status.get("expirationTimestamp")
            moment = datetime.fromisoformat(end.replace("Z", "+00:00")) if end else None
            if answer["apiVersion"] != self.version or not (token or (cert and key)):
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError):
            message = f"the exec plugin {self.command} printed no ExecCredential of {self.version}"
            raise OrchestratorDenied(message, "update it, or correct the kubeconfig's apiVersion") from None
        return Credential(token, cert, key, None if moment is None else moment.astimezone(timezone.utc).timestamp())


@contextlib.contextmanager
def pem_file(content: bytes) -> Generator[str]:
    """A name under which OpenSSL, which reads only files, finds the content: in memory, or the user's alone (0600) for that moment."""
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        fd = os.memfd_create("pem", os.MFD_CLOEXEC)
        try:
            os.write(fd, content)
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        yield file.name
