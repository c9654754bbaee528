"""Every shipped pipeline, with few of its parts and on little text, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqkd.pipeline.expansion import build_graph
from seqkd.pipeline.reading import read_pipeline
from tests.integration.pipelines import ROOT, SHIPPED, run_stages, shrunk, toy_text, write_pipeline
from tests.integration.shortened import choose_students, shorten

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_pipeline_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    values = shrunk(file, toy_text(tmp_path / "text", rows=100, held_out=4))
    written = write_pipeline(shorten(values, choose_students()[file]), tmp_path)
    run_stages(written, tmp_path / "runs")
    reports = sorted((tmp_path / "runs" / file.stem / "report").rglob("report.json"))
    listed = [[model["name"] for model in json.loads(report.read_text())["models"]] for report in reports]
    assert all(len(set(names)) == len(names) for names in listed)
    found = {name for names in listed for name in names}  # a model of several data sets is in several reports
    assert found == {model.name for model in build_graph(read_pipeline(written)).of_kind("teachers", "students")}
    assert found >= choose_students()[file]
