"""What targets and agents can be found by, and whether it works: resolvers, finders of agents, and the agent's own plugins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, TypeAlias

from mrelease import Node, _plugins, _text
from mrelease._version import VERSION
from mrelease.addresses import GROUP as ADDRESSES
from mrelease.addresses import SHIPPED, Addresses, order
from mrelease.errors import MissingExtra, MreleaseError, NoAgent, PluginFailed
from mrelease.resolvers import GROUP as RESOLVERS

#: ``off``: it works, and nothing here is set up for it; ``missing``: a library is; ``broken``: a defect, or what it reads cannot be used.
State: TypeAlias = Literal["ok", "off", "missing", "broken"]

# Seconds to import one and make it.
_PATIENCE: Final = 10.0
_OWN: Final = f"mrelease {VERSION}"


@dataclass(frozen=True, slots=True)
class Row:
    """One plugin. ``package``: what it came with; ``code``: where it is in that."""

    kind: str
    name: str
    state: State
    package: str
    code: str = ""
    why: str = ""

    @property
    def is_broken(self) -> bool:
        """Whether somebody has to mend it."""
        return self.state == "broken"

    def cells(self) -> tuple[str, ...]:
        """For a table."""
        return tuple(map(_text.printable, (self.kind, self.name, self.state, self.package, self.why)))


def resolvers() -> Iterator[Row]:
    """Every resolver, made and closed again. None of them is asked anything."""
    for name, plugin in _plugins.installed(RESOLVERS).items():
        state, why = _try(plugin.title, partial(_made, plugin, "resolve"))
        yield Row("resolver", f"{name}://", state, *_source(plugin), why)


def finders() -> Iterator[Row]:
    """Every finder of agents, in the order in which they are asked; those that are not asked last."""
    try:
        asked = order()
    except MreleaseError as error:
        yield Row("address", "*", "broken", _OWN, "", str(error))
        asked = ()
    plugins = _plugins.installed(ADDRESSES)
    with Addresses() as addresses:
        for name in dict.fromkeys((*asked, *SHIPPED, *plugins)):
            if name in SHIPPED:
                state, why = _try(f"finder {name}", partial(_configured, addresses, name))
                source = _OWN, SHIPPED[name]
            else:
                plugin = plugins[name]
                state, why = _try(plugin.title, partial(_made, plugin, "find"))
                source = _source(plugin)
            if state == "ok" and name not in asked:
                state, why = "off", "$MRELEASE_ADDRESSES leaves it out"
            yield Row("address", name, state, *source, why)


def kinds(node: Node) -> Iterator[Row]:
    """What the plugins of an agent find on its node."""
    for kind in node.target_kinds:
        why = " ".join(part for part in (kind.reason, kind.remedy) if part)
        yield Row("target", kind.kind, "ok" if kind.available else "broken", f"agent {node.agent_version} on {node.identity.name}", "", why)


def _try(title: str, call: Callable[[], object]) -> tuple[State, str]:
    try:
        _plugins.guarded(title, _PATIENCE, call)
    except MissingExtra as error:
        return "missing", str(error)
    except NoAgent as error:
        return "off", str(error)
    except (PluginFailed, ValueError) as error:
        return "broken", str(error)
    except MreleaseError as error:
        # As without a kubeconfig: it says what it needs.
        return "off", str(error)
    return "ok", ""


def _made(plugin: _plugins.Plugin, method: str) -> None:
    made: Any = plugin.make()
    lacking = [name for name in (method, "close") if not callable(getattr(made, name, None))]
    if lacking:
        raise PluginFailed(f"{plugin.title} has no {' and no '.join(lacking)}", "tell its author")
    made.close()


def _configured(addresses: Addresses, name: str) -> None:
    finder: Any = addresses.find(name)
    # Raises NoAgent, or what is wrong with what it reads.
    finder.check()


def _source(plugin: _plugins.Plugin) -> tuple[str, str]:
    return ", ".join(map(_plugins.package, plugin.entries)), ", ".join(entry.value for entry in plugin.entries)
