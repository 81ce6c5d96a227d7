"""Keys that name plugins of targets, and give them options."""

from __future__ import annotations

from collections.abc import Callable

from mrelease_agent.config.schema import Config
from mrelease_agent.config.values import ConfigError, parse_list, quote
from mrelease_agent.targets.plugin_names import KIND, NAME


def check_target_plugins(config: Config, source: Callable[[str], str]) -> None:
    """Raise ConfigError for a kind or an option that can be none; ``source`` names where a key is from."""
    kinds = parse_list(config.target_plugins)
    for kind in kinds:
        if not KIND.fullmatch(kind):
            said = "write a lower-case letter, then up to 31 letters, digits and -, such as slurm"
            raise ConfigError(f"{source('target_plugins')}: target_plugins has {quote(kind)}: {said}")
    for word in parse_list(config.target_plugin_options):
        wrong = f"{source('target_plugin_options')}: target_plugin_options has {quote(word)}: "
        kind, name, value = _split(word)
        if not (KIND.fullmatch(kind) and NAME.fullmatch(name) and value):
            raise ConfigError(wrong + "write kind.option=value, such as slurm.stray_processes=uid")
        if kind not in kinds:
            raise ConfigError(wrong + f"{kind} is not in target_plugins: name it there, or remove the option")
    options(config, source)


def options(config: Config, source: Callable[[str], str] = lambda name: name) -> dict[str, dict[str, str]]:
    """Options by kind. Raises ConfigError for one that is there twice."""
    found: dict[str, dict[str, str]] = {}
    for word in parse_list(config.target_plugin_options):
        kind, name, value = _split(word)
        if name in found.setdefault(kind, {}):
            raise ConfigError(f"{source('target_plugin_options')}: target_plugin_options has {kind}.{name} twice: remove one of them")
        found[kind][name] = value
    return found


def _split(word: str) -> tuple[str, str, str]:
    key, _, value = word.partition("=")
    kind, _, name = key.partition(".")
    return kind, name, value
