"""Fixtures of the tests that need the real kernel: the victims themselves are context managers of `support.lab`."""

from __future__ import annotations

import pytest

from support.lab import need_mrelease


@pytest.fixture(scope="session")
def process_mrelease() -> None:
    """Skips where the kernel has no process_mrelease(2)."""
    need_mrelease()
