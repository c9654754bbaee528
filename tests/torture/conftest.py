"""How hard to try, and the table of docs/reliability.md."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.torture import stages

REPORT = Path(__file__).parents[2] / "docs" / "reliability"
BEGIN, END = "<!-- begin: written by make torture -->", "<!-- end -->"
_LINE = "torture"

Record = Callable[[str, str, int, str], None]


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether this is `make torture`; else a short form of it."""
    return bool(request.config.getoption("--torture"))


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """Give a line of the table: the fault, how it is injected, how often, and the outcome."""

    def line(fault: str, injected: str, times: int, outcome: str) -> None:
        values = {"fault": fault, "injected": injected, "times": times, "outcome": outcome}
        request.node.user_properties.append((_LINE, json.dumps(values)))

    return line


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stages work on here; see `stages.build_inputs`."""
    folder = tmp_path_factory.mktemp("torture") / "inputs"
    assert stages.build_inputs(folder) == 0
    return folder


class _Table:
    """Gathers the lines of all tests; with pytest-xdist in the process that the others report to."""

    def __init__(self) -> None:
        self.lines: list[dict[str, str | int]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.lines += [json.loads(str(value)) for name, value in report.user_properties if name == _LINE]

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, exitstatus: int) -> Iterator[None]:
        yield
        if exitstatus == 0 and self.lines:
            _write(sorted(self.lines, key=lambda line: (str(line["fault"]), str(line["injected"]))))


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--torture") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Table())


def _write(lines: list[dict[str, str | int]]) -> None:
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores"
    data = {"machine": machine, "faults": lines}
    REPORT.with_suffix(".json").write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    rows = [f"| {line['fault']} | {line['injected']} | {line['times']} | {line['outcome']} |" for line in lines]
    table = "\n".join(
        [BEGIN, "", "| fault | how it is injected | times | outcome |", "|---|---|---|---|", *rows, "", END]
    )
    page = REPORT.with_suffix(".md")
    text = page.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(before + table + after)
