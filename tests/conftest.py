"""Before any test is collected, and how tests are dealt to processes."""

from __future__ import annotations

from typing import Any

import pytest

from tests import triton_interpreter

triton_interpreter.choose()

# Its cases are the longest tests and share nothing; their file's other tests share what Make made.
ALONE = "tests/integration/test_pipeline.py::test_every_shipped_pipeline_runs_through_the_command_line["


@pytest.hookimpl(optionalhook=True)  # xdist's
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Under `--dist loadfile` one process takes the tests of a file, but each shipped pipeline goes by itself."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.startswith(ALONE) else nodeid.split("::", 1)[0]

    return Scheduling(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--torture", action="store_true", help="tests/torture in full, with the table of docs/reliability.md"
    )
