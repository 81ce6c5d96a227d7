"""Configuration of the agent: one set of keys, each as flag, variable and line of a YAML file."""

from __future__ import annotations

from mrelease_agent.config.load import load
from mrelease_agent.config.schema import Config
from mrelease_agent.config.values import ConfigError

__all__ = ["Config", "ConfigError", "load"]
