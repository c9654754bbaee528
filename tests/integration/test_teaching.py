"""Pipelines whose teachers teach in other ways than that of the toy pipeline, on tiny data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from seqkd.cli.main import main
from seqkd.corpus.manifest import read_manifest
from seqkd.models.checkpoint import load_model, model_digest
from tests.integration.pipelines import ROOT, run_stages, shrunk, toy_text, write_pipeline

pytestmark = pytest.mark.slow


def test_students_are_taught_word_by_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    values = shrunk(ROOT / "pipelines" / "toy.toml", toy_text(tmp_path / "text", rows=100, held_out=4))
    gold, seqkd = values["students"][:2]
    values["soft_targets"] = [
        {"name": "references", "top_k": 4},
        {"name": "outputs", "corpus": "seqkd", "samples": 20, "temperature": 2.0},
    ]
    values["students"] = [
        gold | {"name": "live", "objective": {"type": "word_kd", "alpha": 0.7}},
        gold | {"name": "on-references", "objective": {"type": "word_kd", "soft_targets": "references"}},
        seqkd | {"name": "on-outputs", "objective": {"type": "word_kd", "soft_targets": "outputs", "temperature": 2.0}},
    ]
    runs = tmp_path / "runs"
    run_stages(write_pipeline(values, tmp_path), runs)
    report = json.loads((runs / "toy" / "report" / "report.json").read_text())
    assert [model["objective"] for model in report["models"]] == ["nll", "word_kd", "word_kd", "word_kd"]
    page = (runs / "toy" / "report" / "report.html").read_text()
    assert "soft targets outputs" in page
    assert main(["inspect", str(runs / "toy" / "soft_targets" / "outputs")]) == 0


def test_several_data_sets_and_a_student_that_teaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    data = toy_text(tmp_path / "text", rows=100, held_out=4)
    values = shrunk(ROOT / "pipelines" / "toy.toml", data)
    teacher, gold = values.pop("teacher"), values["students"][0]
    exchanged = {part: {"source": text["target"], "target": text["source"]} for part, text in data.items()}
    values["data"] = [data | {"name": "there"}, exchanged | {"name": "back"}]
    values["teachers"] = [teacher | {"name": name, "corpus": name} for name in ("there", "back")]
    decode = values["distill"][0]
    values["distill"] = [
        decode | {"name": "first", "teacher": "there", "corpus": "there"},
        decode | {"name": "second", "teacher": "assistant", "corpus": "there"},
    ]
    values["select"] = [{"name": name, "kbest": name, "rule": "seqkd"} for name in ("first", "second")]
    values["students"] = [
        gold | {"name": "assistant", "corpus": "first"},
        gold | {"name": "small", "corpus": "second"},
        gold | {"name": "word", "corpus": "back", "objective": {"type": "word_kd"}, "teacher": "back"},
    ]
    root = tmp_path / "runs" / "toy"
    run_stages(write_pipeline(values, tmp_path), tmp_path / "runs")
    models = {}
    for name in ("there", "back"):
        report = json.loads((root / "report" / name / "report.json").read_text())
        models[name] = [(model["name"], model["corpus"]) for model in report["models"]]
    assert models == {
        "there": [("there", "gold"), ("assistant", "first"), ("small", "second")],
        "back": [("back", "gold"), ("word", "gold")],
    }
    inputs = read_manifest(root / "kbest" / "second").fingerprint["inputs"]
    assert inputs["model1"] == model_digest(root / "students" / "assistant")
    page = (root / "report" / "there" / "report.html").read_text()
    drawn = {name: kind for kind, name in re.findall(r'<g class="node (\w+)"><rect [^>]*/><text [^>]*>([^<]*)<', page)}
    assert (drawn["gold"], drawn["teacher there"], drawn["student assistant"]) == ("corpus", "model", "model")
    assert main(["verify", str(root / "corpora" / "second")]) == 0


def test_an_ensemble_teaches_and_students_mix_corpora_and_are_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    values = shrunk(ROOT / "pipelines" / "toy.toml", toy_text(tmp_path / "text", rows=100, held_out=4))
    values["teacher"]["ensemble"] = 2
    gold = values["students"][0]
    little = {"max_updates": 2, "learning_rate": 1e-6, "warmup_updates": 1, "schedule": "cosine", "average": 1}
    mix = [{"name": "gold"}, {"name": "seqkd", "weight": 1.5}]
    values["students"] = [
        gold,
        gold | {"name": "mix", "corpus": mix, "objective": {"type": "word_kd"}},
        gold | {"name": "tuned", "corpus": "seqinter", "init_from": "gold", "training": gold["training"] | little},
    ]
    root = tmp_path / "runs" / "toy"
    run_stages(write_pipeline(values, tmp_path), tmp_path / "runs")
    report = json.loads((root / "report" / "report.json").read_text())
    names = ["teacher", "teacher-2", "teacher-ensemble", "gold", "mix", "tuned"]
    assert [(model["name"], model["corpus"]) for model in report["models"]] == list(
        zip(names, ["gold", "gold", "gold", "gold", "gold + 1.5 seqkd", "seqinter"], strict=True)
    )
    digests = [model_digest(root / name) for name in ("teacher", "teacher-2")]
    assert digests[0] != digests[1]
    taught = read_manifest(root / "students" / "mix").fingerprint["inputs"]
    assert [taught["teacher1"], taught["teacher2"]] == digests
    decoded = read_manifest(root / "kbest" / "beam5").fingerprint["inputs"]
    assert set(digests) <= set(decoded.values())
    tuned = read_manifest(root / "students" / "tuned")
    assert tuned.fingerprint["inputs"]["init_from"] == model_digest(root / "students" / "gold")
    assert tuned.fingerprint["inputs"]["corpus"] == read_manifest(root / "corpora" / "seqinter").digest()
    assert tuned.extra["updates"] == 2
    ours, base = (load_model(root / "students" / name).model for name in ("tuned", "gold"))
    steps = [float((a - b).detach().abs().max()) for a, b in zip(ours.parameters(), base.parameters(), strict=True)]
    assert 0.0 < max(steps) < 1e-5  # it begins at the other's weights and hardly moves
