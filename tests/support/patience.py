"""How much longer than usual tests wait before they give up: for machines that are slow all over, such as those of `make test-vm`."""

from __future__ import annotations

import os

FACTOR = float(os.environ.get("TEST_PATIENCE", "1"))
