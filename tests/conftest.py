"""What every test can ask for: an agent, a client of it, and a skip where this machine cannot make what a test needs."""

from __future__ import annotations

import signal
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

from mrelease import Client
from support.agent import Agent, running_agent
from support.lab import Unavailable, need_mrelease

# The same examples in every run, and nothing kept between runs: `make fuzz` is what looks for new ones.
hypothesis.settings.register_profile("same", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("same")

# A shell without job control starts what runs in the background with SIGINT ignored, and what the tests interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Generator[Agent, None, None]:
    """An agent with its defaults, shared by all tests that do not change it."""
    with running_agent(tmp_path_factory.mktemp("agent", numbered=True) / "run", "--max-timeout", "10m") as started:
        yield started


@pytest.fixture
def node(agent: Agent) -> Generator[Client, None, None]:
    """A client of the shared agent."""
    with agent.client() as client:
        yield client


@pytest.fixture(scope="session")
def process_mrelease() -> None:
    """Skips where the kernel has no process_mrelease(2)."""
    need_mrelease()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A directory for an agent of the test's own."""
    return tmp_path / "run"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """What the lab cannot make here is a skip that says why."""
    del item
    try:
        return (yield)
    except Unavailable as why:
        pytest.skip(str(why))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="fail where a test was skipped: for machines that have all that tests need")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With --no-skips a skip is a failure that says what was missing."""
    report = yield
    if report.skipped and item.config.getoption("--no-skips") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and --no-skips says that nothing may be missing here: {report.longrepr}"
    return report
