"""A pipeline with a further test set and a student of two seeds, through the command line."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from seqkd.cli.main import main
from seqkd.corpus.manifest import read_manifest
from seqkd.models.checkpoint import model_digest
from tests.integration.pipelines import ROOT, run_stages, shrunk, toy_text, write_pipeline

pytestmark = pytest.mark.slow


def test_seeds_and_test_sets_from_text_to_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    text = tmp_path / "text"
    values = shrunk(ROOT / "pipelines" / "toy.toml", toy_text(text, rows=100, held_out=4))
    lines = (text / "test.tgt").read_text().splitlines()
    (text / "second.tgt").write_text("".join(f"{line} {line}\n" for line in lines))
    references = [str(text / "test.tgt"), str(text / "second.tgt")]
    values["data"]["tests"] = {"more": {"source": str(text / "test.src"), "target": references}}
    values["distill"], values["select"] = [], []
    values["students"] = [values["students"][0] | {"seeds": 2}]
    file = write_pipeline(values, tmp_path)
    run_stages(file, tmp_path / "runs")
    root = tmp_path / "runs" / "toy"

    assert len({model_digest(root / "students" / name) for name in ("gold", "gold.seed2")}) == 2
    report = json.loads((root / "report" / "report.json").read_text())
    models = {model["name"]: model for model in report["models"]}
    assert list(models) == ["teacher", "gold", "gold.seed2"]
    for model in models.values():
        assert list(model["tests"]) == ["test", "more"]
        assert model["tests"]["more"]["signature"].startswith("nrefs:2|")
        assert model["tests"]["more"]["latency_ms"] is None
        assert model["latency_ms"] > 0.0
    (pooled,) = report["pooled"]
    assert (pooled["name"], pooled["models"], pooled["n"]) == ("gold", ["gold", "gold.seed2"], 2)
    chrf = [models[name]["tests"]["more"]["chrf"] for name in pooled["models"]]
    assert pooled["mean"]["tests"]["more"]["chrf"] == pytest.approx(statistics.fmean(chrf))
    assert pooled["spread"]["tests"]["more"]["chrf"] == pytest.approx(statistics.stdev(chrf))
    page = (root / "report" / "report.html").read_text()
    assert "student, mean of 2 seeds" in page
    assert "<h3>Test sets</h3>" in page

    made = {path: path.read_bytes() for path in root.rglob("manifest.json")}
    run_stages(file, tmp_path / "runs")
    assert {path: path.read_bytes() for path in root.rglob("manifest.json")} == made
    assert read_manifest(root / "tests" / "more").extra["references"] == 2
    capsys.readouterr()
    assert main(["inspect", str(root)]) == 0
    shown = capsys.readouterr().out
    assert all(folder in shown for folder in ("tests/more", "evaluations/gold.seed2@more", "students/gold.seed2"))
    assert main(["verify", str(root)]) == 0
    assert "everything is as it was written" in capsys.readouterr().out
