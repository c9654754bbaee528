"""Before any test is collected, how tests are dealt to processes, and what they tell of faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import properties, triton_interpreter
from tests.torture.table import Line, Record, Table, as_property

UNIT = Path(__file__).parent / "unit"

triton_interpreter.choose()
properties.choose()

# Its cases take long and share nothing.
ALONE = "tests/integration/test_shipped.py::test_a_shipped_pipeline_runs["


@pytest.hookimpl(optionalhook=True)  # xdist's
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Under `--dist loadfile` one process takes the tests of a file, but each shipped pipeline goes by itself.

    Files are dealt in the order of collection, see `pytest_collection_modifyitems`. xdist would deal the files with the
    fewest tests last, and these have the longest ones.
    """
    if config.getvalue("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.startswith(ALONE) else nodeid.split("::", 1)[0]

    return Scheduling(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--torture",
        action="store_true",
        help="the tests of faults alone, in full, for the table of docs/reliability.md",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--torture") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Table())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let a process of several begin with the files that have slow tests, so that short ones are left for the end.

    `make torture` consists of the tests that give the table a line.
    """
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: (item.path not in slow, UNIT in item.path.parents))
    if not config.getoption("--torture"):
        return
    others = [item for item in items if "record" not in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if "record" in getattr(item, "fixturenames", ())]


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether this is `make torture`; else a short form of it."""
    return bool(request.config.getoption("--torture"))


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """Give a line of the table: the fault, how it is injected, how often, and the outcome."""

    def line(
        fault: str, injected: str, times: int, outcome: str, *, of: str = "", counts: dict[str, int] | None = None
    ) -> None:
        request.node.user_properties.append(as_property(Line(fault, injected, times, outcome, of, counts or {})))

    return line
