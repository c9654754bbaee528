"""A model of several data sets, on tiny data: tags, batches, validation and evaluation by group, and the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqkd.cli.main import main
from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.models.checkpoint import model_digest
from seqkd.text.vocabularies import Vocabularies
from tests.integration.pipelines import ROOT, run_stages, shrunk, toy_text, write_pipeline

pytestmark = pytest.mark.slow


def test_one_model_learns_two_directions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    data = toy_text(tmp_path / "text", rows=100, held_out=4)
    values = shrunk(ROOT / "pipelines" / "toy.toml", data)
    teacher, gold = values.pop("teacher"), values["students"][0]
    exchanged = {part: {"source": text["target"], "target": text["source"]} for part, text in data.items()}
    values["data"] = [data | {"name": "there", "tag": "<2en>"}, exchanged | {"name": "back", "tag": "<2xx>"}]
    values["vocabularies"] = [{"name": "both", "size": 250, "byte_fallback": False, "corpus": ["there", "back"]}]
    values["teachers"] = [
        teacher | {"name": f"{name}er", "corpus": name, "vocabulary": "both"} for name in ("there", "back")
    ]
    values["distill"] = [values["distill"][0] | {"name": "first", "teacher": "many", "corpus": "there"}]
    values["select"] = [{"name": "first", "kbest": "first", "rule": "seqkd"}]
    best = {"best_by": {"metric": "bleu", "group": "back"}}
    both = [{"name": "there"}, {"name": "back"}]
    values["students"] = [
        gold
        | {"name": "many", "corpus": both, "vocabulary": "both", "corpus_temperature": 5.0}
        | {"training": gold["training"] | best},
        gold | {"name": "small", "corpus": "first"},
        gold
        | {"name": "taught", "corpus": both, "vocabulary": "both"}
        | {"objective": {"type": "word_kd", "alpha": 0.9, "top_k": 4, "renormalise": True}}
        | {"teacher": {"there": "thereer", "back": "backer"}, "hooks": [{"type": "selective", "metric": "bleu"}]},
    ]
    values["evaluate"] |= {"beams": [1]}
    root = tmp_path / "runs" / "toy"
    run_stages(write_pipeline(values, tmp_path), tmp_path / "runs")

    tagged = Corpus.open(root / "data" / "there" / "test")
    vocabulary = Vocabularies.load(root / "vocabularies" / "both").source
    row = tagged.read_shard(0).to_pylist()[0]
    assert row["source"].startswith("<2en> ")
    assert tagged.manifest.extra["source_tag"] == "<2en>"
    again = Corpus.open(root / "tests" / "there@test@both").read_shard(0).to_pylist()[0]
    assert again["source_ids"] == vocabulary.encode([row["source"]])[0]  # as `seqkd translate` encodes it
    assert vocabulary.id_of("<2en>") in again["source_ids"][:2]
    written = Corpus.open(root / "corpora" / "first")
    assert written.manifest.extra["source_tag"] == "<2en>"
    assert all(text.startswith("<2en> ") for text in written.read_shard(0).column("source").to_pylist())

    history = json.loads((root / "students" / "many" / "history.json").read_text())
    for line in history:
        values = line["metrics"]
        assert values.keys() == {f"{metric}@{group}" for metric in ("nll", "bleu") for group in ("there", "back")}
        assert line["valid_nll"] == pytest.approx((values["nll@there"] + values["nll@back"]) / 2)
    manifest = read_manifest(root / "students" / "many")
    scores = [line["metrics"]["bleu@back"] for line in history]
    assert manifest.extra["best_update"] == history[scores.index(max(scores))]["update"]
    assert manifest.fingerprint["config"]["groups"] == ["there", "back"]

    reports = {name: json.loads((root / "report" / name / "report.json").read_text()) for name in ("there", "back")}
    models = {name: {model["name"]: model for model in report["models"]} for name, report in reports.items()}
    assert {name: list(found) for name, found in models.items()} == {
        "there": ["thereer", "many", "small", "taught"],
        "back": ["backer", "many", "taught"],
    }
    many = models["there"]["many"]
    assert many["corpus"] == "there + back"
    assert many["tests"].keys() == {"test", "back"}
    assert many["tests"]["back"]["bleu"] == models["back"]["many"]["bleu"]
    page = (root / "report" / "there" / "report.html").read_text()
    assert "backer" in page
    taught = read_manifest(root / "students" / "taught").fingerprint["inputs"]
    digests = {f"teacher1@{name}": model_digest(root / "teachers" / f"{name}er") for name in ("there", "back")}
    assert digests.items() <= taught.items()
    (first, *_) = json.loads((root / "students" / "taught" / "history.json").read_text())
    assert first["metrics"].keys() >= {"distilled@there", "distilled@back", "teacher_bleu@there", "teacher_bleu@back"}
    for folder in ("students/taught", "vocabularies/both", "tests/back@test@both"):
        assert main(["verify", str(root / folder)]) == 0
        assert main(["inspect", str(root / folder)]) == 0
