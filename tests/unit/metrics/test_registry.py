from __future__ import annotations

from dataclasses import replace

import pytest

from seqkd.config.stages import EvaluateConfig, TrainingConfig
from seqkd.config.toml import validate
from seqkd.errors import ConfigError
from seqkd.metrics.corpus import corpus_bleu, corpus_ter
from seqkd.metrics.measures import MOST_REFERENCES
from seqkd.metrics.registry import METRICS, Outputs, main_metric
from seqkd.metrics.results import DecodeResult
from seqkd.metrics.speed import Speed
from seqkd.report.tables import metric_column

TEXTS, REFERENCES = ["the cat sat", "a dog ran home"], ["the cat sat down", "a dog ran home now"]
BARE = Outputs(hypotheses=TEXTS, references=REFERENCES, sources=["x", "y"])


def test_metrics_of_outputs_are_computed_where_their_needs_are_there() -> None:
    accepted = [["the cat sat", *["x y"] * MOST_REFERENCES, "the cat sat"], ["never this one"]]
    full = Outputs(hypotheses=TEXTS, references=REFERENCES, sources=["x", "y"], accepted=accepted)
    fitting = {name for name, metric in METRICS.own.items() if metric.fits(full)}
    assert fitting == {"bleu", "bleu_accepted", "chrf", "ter", "valid"}
    assert {name for name, metric in METRICS.own.items() if metric.fits(BARE)} == {"bleu", "chrf", "ter"}
    single = [[text] for text in REFERENCES]
    assert METRICS.own["bleu"].score(full) == corpus_bleu(TEXTS, single)
    assert METRICS.own["ter"].score(full) == corpus_ter(TEXTS, single)
    assert METRICS.own["valid"].score(full).value == 0.5
    several = [texts[:MOST_REFERENCES] for texts in accepted]
    assert METRICS.own["bleu_accepted"].score(full) == corpus_bleu(TEXTS, several)


def test_the_best_value_stands_out_where_higher_is_better() -> None:
    head, cells = metric_column("valid", [0.25, None, 0.5])
    assert (head.name, head.unit) == ("Valid outputs", "%")
    assert [(cell.text, cell.best) for cell in cells] == [("25.0", False), ("\N{EN DASH}", False), ("50.0", True)]
    assert not any(cell.best for cell in metric_column("ter", [10.0, 20.0])[1])
    assert metric_column("bleu", [1.0], unit="first decode")[0].unit == "first decode"


def test_a_metric_whose_package_has_gone_is_shown_by_its_name() -> None:
    head, cells = metric_column("comet", [0.5])
    assert (head.name, cells[0].text) == ("comet", "0.50")


def test_the_best_checkpoint_is_judged_by_what_training_can_measure() -> None:
    for name in ("nll", "bleu", "chrf", "ter"):
        assert validate(TrainingConfig, {"max_updates": 1, "best_by": name}, "file").best_by == name
    for name in ("valid", "bleu_accepted", "perplexity", "comet"):
        with pytest.raises(ConfigError, match=rf"best_by: training cannot measure '{name}' .* nll, bleu, chrf, ter"):
            validate(TrainingConfig, {"max_updates": 1, "best_by": name}, "file")


def test_a_list_of_metrics_has_one_by_which_models_can_be_compared() -> None:
    plain = {"name": "m", "model": "m", "role": "student", "corpus": "c"}
    assert validate(EvaluateConfig, {**plain, "metrics": ["ter", "chrf"]}, "file").metrics == ("ter", "chrf")
    assert main_metric(["ter", "chrf", "bleu"]) == "chrf"
    with pytest.raises(ConfigError, match="metrics: higher is better for none of ter; add a metric"):
        validate(EvaluateConfig, {**plain, "metrics": ["ter"]}, "file")


def test_further_metrics_are_metrics_of_outputs() -> None:
    plain = {"name": "m", "model": "m", "role": "student", "corpus": "c"}
    assert validate(EvaluateConfig, plain, "file").metrics is None
    for name in ("comet", "perplexity"):
        with pytest.raises(ConfigError, match=f"metrics.0: no metric of outputs is called '{name}', .* bleu, "):
            validate(EvaluateConfig, {**plain, "metrics": [name]}, "file")


def test_a_new_metric_has_a_place_in_results(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = replace(METRICS.own["chrf"], name="nearness", label="Nearness", digits=1)
    monkeypatch.setitem(METRICS.own, "nearness", metric)
    speed = Speed(
        sentences_per_second=1.0,
        batch_tokens=1,
        sentences=1,
        latency_ms=1.0,
        sentences_per_second_batch1=1.0,
        latency_sentences=1,
    )
    result = DecodeResult(
        bleu=1.0, chrf=2.0, ter=3.0, bleu_accepted=None, valid=None, length_ratio=1.0, cut=0, speed=speed, speedup=None,
        speedup_batch1=None, further={"nearness": 4.0},
    )  # fmt: skip
    assert [result.get_value(name) for name in ("chrf", "nearness", "valid", "comet")] == [2.0, 4.0, None, None]
    head, (cell,) = metric_column("nearness", [result.get_value("nearness")])
    assert (head.name, cell.text) == ("Nearness", "4.0")
