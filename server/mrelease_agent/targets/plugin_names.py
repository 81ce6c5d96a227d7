"""What a kind of custom target and its attributes may be called, and how much a caller may say: for requests, configuration and plugins."""

from __future__ import annotations

import re
from typing import Final

KIND: Final = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
#: An attribute, and an option.
NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}", re.ASCII)
#: Most attributes of a target, and most bytes of one's value.
MAX_ATTRIBUTES: Final = 16
MAX_VALUE: Final = 256
