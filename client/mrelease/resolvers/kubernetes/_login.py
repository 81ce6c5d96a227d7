"""How the API server is reached and what it is shown: a kubeconfig as kubectl reads it, or the service account of a pod."""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from mrelease.errors import MissingExtra, OrchestratorUnavailable
from mrelease.resolvers.kubernetes._exec import Credential, ExecPlugin, pem_file

_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_MAX_BYTES: Final = 8 << 20

Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a caller says of all that; the names are those of kubectl's flags."""

    kubeconfig: str = ""
    context: str = ""
    as_user: str = ""
    as_groups: tuple[str, ...] = ()


@dataclass(slots=True)
class Login:
    """An API server and who asks it. Threads may share it."""

    server: str
    namespace: str
    #: Whether the caller is a pod of this cluster, and reaches the others without a tunnel.
    in_cluster: bool
    cluster: Entry
    user: Entry
    #: Where relative paths of either begin.
    cluster_directory: Path
    user_directory: Path
    choice: Choice
    proxy: str = ""
    _plugin: ExecPlugin | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _tls: ssl.SSLContext | None = None
    _shown: Credential | None = None

    def __post_init__(self) -> None:
        """Raises OrchestratorUnavailable for an address that is none."""
        split = urlsplit(self.server)
        if split.scheme not in ("http", "https") or not split.hostname:
            raise _unusable(f"the kubeconfig's server {self.server!r} is no https:// address")
        if self.user.get("exec"):
            self._plugin = ExecPlugin.of(self.user["exec"], self.user_directory, self.cluster, self.server)
        elif self.user.get("auth-provider"):
            raise _unusable("the kubeconfig's user has an auth-provider, which Kubernetes 1.26 removed", "use an exec plugin")
        self.proxy = self.cluster.get("proxy-url") or _proxy_of_environment(split.scheme, split.hostname)

    @property
    def host(self) -> str:
        """Name or address of the server, without brackets."""
        return urlsplit(self.server).hostname or ""

    @property
    def port(self) -> int:
        """Its port."""
        split = urlsplit(self.server)
        return split.port or (443 if split.scheme == "https" else 80)

    @property
    def prefix(self) -> str:
        """What precedes every path, as of a proxy with many clusters."""
        return urlsplit(self.server).path.rstrip("/")

    @property
    def server_name(self) -> str:
        """The name that its certificate has."""
        return self.cluster.get("tls-server-name") or self.host

    def tls(self, deadline: float) -> ssl.SSLContext | None:
        """What connections are secured by; None: they are not. Raises ResolutionError."""
        if not self.server.startswith("https:"):
            return None
        with self._lock:
            credential = self._credential(deadline)
            if self._tls is None:
                self._tls = self._context(credential)
            return self._tls

    def headers(self, deadline: float) -> list[tuple[str, str]]:
        """What every request carries: who asks, and as whom. Raises ResolutionError."""
        with self._lock:
            credential = self._credential(deadline)
        found: list[tuple[str, str]] = []
        if credential is not None and credential.token:
            found.append(("Authorization", f"Bearer {credential.token}"))
        elif token := self._token():
            found.append(("Authorization", f"Bearer {token}"))
        elif self.user.get("username") and self.user.get("password"):
            pair = base64.b64encode(f"{self.user['username']}:{self.user['password']}".encode()).decode()
            found.append(("Authorization", f"Basic {pair}"))
        user = self.choice.as_user or self.user.get("as") or ""
        groups = self.choice.as_groups or tuple(self.user.get("as-groups") or ())
        if groups and not user:
            raise _unusable("--as-group says as which group, and nothing as whom", "give --as too")
        found += [("Impersonate-User", user)] if user else []
        found += [("Impersonate-Group", group) for group in groups]
        return found

    def forget(self) -> bool:
        """The server did not accept it: whether there may be something newer to show."""
        with self._lock:
            if self._plugin is None:
                return bool(self.user.get("tokenFile"))
            self._shown, self._tls = None, None
            return True

    def _credential(self, deadline: float) -> Credential | None:
        if self._plugin is None:
            return None
        if self._shown is None or self._shown.is_stale():
            before, self._shown = self._shown, self._plugin.run(deadline)
            if before is not None and (before.cert, before.key) != (self._shown.cert, self._shown.key):
                self._tls = None
        return self._shown

    def _token(self) -> str:
        path = self.user.get("tokenFile")
        if not path:
            return str(self.user.get("token") or "")
        # kubelet writes a new one before the old one ends.
        return _read(self.user_directory / str(path), "the token").decode("ascii", "replace").strip()

    def _context(self, credential: Credential | None) -> ssl.SSLContext:
        authority = _content(self.cluster, "certificate-authority", self.cluster_directory)
        try:
            context = ssl.create_default_context(cadata=authority.decode("ascii", "replace") if authority else None)
        except (ssl.SSLError, ValueError):
            raise _unusable("the kubeconfig's certificate-authority is no certificate in PEM") from None
        # As strict as client-go: authorities of clusters often lack an extension that RFC 5280 wants.
        context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
        if self.cluster.get("insecure-skip-tls-verify"):
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        cert = _content(self.user, "client-certificate", self.user_directory)
        key = _content(self.user, "client-key", self.user_directory)
        if credential is not None and credential.cert:
            cert, key = credential.cert, credential.key
        if cert and key:
            try:
                with pem_file(cert) as cert_file, pem_file(key) as key_file:
                    context.load_cert_chain(cert_file, key_file)
            except (ssl.SSLError, OSError):
                raise _unusable("the kubeconfig's client certificate and key are not PEM that belongs together") from None
        return context


def log_in(choice: Choice, environment: Mapping[str, str] = os.environ) -> Login:
    """As kubectl: the file that is named, else those of $KUBECONFIG, else ~/.kube/config, else the pod's own account.

    Raises OrchestratorUnavailable where there is none of these or it cannot be used, MissingExtra without PyYAML.
    """
    files = _files(choice, environment)
    if files:
        return _from_files(files, choice)
    if environment.get("KUBERNETES_SERVICE_HOST") and (_ACCOUNT / "token").exists():
        return _from_account(choice, environment)
    raise _unusable("there is no kubeconfig, and this is no pod with a service account", "name one: --kubeconfig, $KUBECONFIG")


def _files(choice: Choice, environment: Mapping[str, str]) -> list[Path]:
    if choice.kubeconfig:
        return [Path(choice.kubeconfig).expanduser()]
    if named := environment.get("KUBECONFIG"):
        # Of several, those that are not there are no error; the first one that says something is right.
        return [path for text in named.split(os.pathsep) if text and (path := Path(text)).exists()] or [Path(named)]
    usual = Path.home() / ".kube" / "config"
    return [usual] if usual.exists() else []


def _from_files(files: Sequence[Path], choice: Choice) -> Login:
    found: dict[str, dict[str, tuple[Entry, Path]]] = {"contexts": {}, "clusters": {}, "users": {}}
    current = ""
    for file in files:
        data = _load(file)
        current = current or str(data.get("current-context") or "")
        for kind, names in found.items():
            for item in cast("list[Any]", data.get(kind) or []):
                if not isinstance(item, Mapping):
                    raise _unusable(f"{file}: {kind} is no list of names")
                entry = cast("Entry", item)
                names.setdefault(str(entry.get("name")), (entry.get(kind[:-1]) or {}, file.absolute().parent))
    name = choice.context or current
    if not name:
        raise _unusable(f"{files[0]} says of no context that it is the current one", "choose one: --context, kubectl config use-context")
    if name not in found["contexts"]:
        known = ", ".join(sorted(found["contexts"])) or "none"
        raise _unusable(f"there is no context {name!r} in {', '.join(map(str, files))}", f"there are: {known}")
    context = found["contexts"][name][0]
    nothing: tuple[Entry, Path] = ({}, Path())
    cluster, cluster_directory = found["clusters"].get(str(context.get("cluster")), nothing)
    user, user_directory = found["users"].get(str(context.get("user")), nothing)
    if not cluster.get("server"):
        raise _unusable(f"context {name!r} names cluster {context.get('cluster')!r}, of which no server is known")
    namespace = str(context.get("namespace") or "default")
    return Login(str(cluster["server"]), namespace, False, cluster, user, cluster_directory, user_directory, choice)


def _from_account(choice: Choice, environment: Mapping[str, str]) -> Login:
    host, port = environment["KUBERNETES_SERVICE_HOST"], environment.get("KUBERNETES_SERVICE_PORT", "443")
    namespace = _read(_ACCOUNT / "namespace", "the namespace").decode("ascii", "replace").strip()
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    return Login(server, namespace, True, {"certificate-authority": "ca.crt"}, {"tokenFile": "token"}, _ACCOUNT, _ACCOUNT, choice)


def _load(file: Path) -> Entry:
    try:
        import yaml
    except ModuleNotFoundError:
        raise MissingExtra("a kubeconfig is YAML, and PyYAML is not installed", "pip install 'mrelease[kubernetes]'") from None
    try:
        data: Any = yaml.safe_load(_read(file, "the kubeconfig"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise _unusable(f"the kubeconfig {file} is not YAML") from None
    if not isinstance(data, Mapping):
        raise _unusable(f"the kubeconfig {file} says nothing")
    return cast("Entry", data)


def _content(entry: Entry, key: str, directory: Path) -> bytes:
    """What ``KEY-data`` says, else what is in the file that ``KEY`` names."""
    if data := entry.get(f"{key}-data"):
        try:
            return base64.b64decode(str(data), validate=True)
        except (binascii.Error, ValueError):
            raise _unusable(f"the kubeconfig's {key}-data is not base64") from None
    return _read(directory / str(entry[key]), f"the {key}") if entry.get(key) else b""


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES)
    except OSError as error:
        raise _unusable(f"{what} {path} cannot be read: {error.strerror}") from None


def _proxy_of_environment(scheme: str, host: str) -> str:
    return "" if proxy_bypass(host) else getproxies().get(scheme, "")


def _unusable(message: str, remedy: str = "see what `kubectl config view` says") -> OrchestratorUnavailable:
    return OrchestratorUnavailable(message, remedy)
