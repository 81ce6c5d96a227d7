"""One target under atheris: ``python -m fuzz.one NAME [libFuzzer's options] FOLDERS...``. It ends with the first input that breaks it."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from fuzz.names import target


def main() -> None:
    """Instrument what the target imports of ours, and run until libFuzzer's options say stop."""
    atheris: Any = import_module("atheris")  # an extra, for some machines alone: type checkers need not have it
    name, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["mrelease", "mrelease_agent", "yaml"]):
        one_input = target(name)
    atheris.Setup([sys.argv[0], *options], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
