"""Further test sets in the report."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from seqkd.config.report import NamedEvaluations, StartedModel
from seqkd.config.stages import ReportConfig
from seqkd.metrics.results import EvaluationResult
from tests.unit.report.report_folders import MODELS, decode, full, make, named, write_evaluation, write_root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_root(tmp_path)


def untimed(model: EvaluationResult, bleu: float) -> EvaluationResult:
    """An evaluation on a further test set, where nothing is timed."""
    bare: dict[str, Any] = {"speed": None, "speedup": None, "speedup_batch1": None}
    decodes = {name: decode(bleu + int(name), 1.0, chrf=60.0 + bleu, **bare) for name in ("1", "5")}
    signatures = {"bleu": "nrefs:2|v", "chrf": "nrefs:2|c", "ter": "nrefs:2|t"}
    return dataclasses.replace(
        model, decodes=decodes, baseline=None, load=None, rows=7, perplexity=9.0, signatures=signatures
    )


def with_test_set(root: Path) -> ReportConfig:
    for index, model in enumerate(MODELS):
        write_evaluation(root / "evaluations" / f"{model.name}@news", untimed(model, 30.0 + index))
    paths = [part | {"name": part["name"].removesuffix("@news")} for part in _paths(root)]
    news = NamedEvaluations.model_validate({"name": "news", "path": root / "news", "evaluations": paths})
    return full(root).model_copy(update={"tests": (news,)})


def _paths(root: Path) -> list[dict[str, Any]]:
    return named(root, *(f"evaluations/{model.name}@news" for model in MODELS))


def test_each_model_has_its_numbers_by_test_set(root: Path) -> None:
    _, values = make(with_test_set(root), root / "out")
    _, plain = make(full(root), root / "plain")
    for index, (model, before) in enumerate(zip(values["models"], plain["models"], strict=True)):
        assert {key: value for key, value in model.items() if key != "tests"} == {
            key: value for key, value in before.items() if key != "tests"
        }
        assert list(model["tests"]) == ["test", "news"]
        assert before["tests"] == {"test": model["tests"]["test"]}
        own, news = model["tests"]["test"], model["tests"]["news"]
        assert own.keys() == news.keys()
        assert own == {key: model[key] for key in own}
        assert (news["bleu"], news["chrf"]) == ({"1": 31.0 + index, "5": 35.0 + index}, 90.0 + index)
        assert news["perplexity"] == 9.0
        timed = ("sentences_per_second", "speedup", "latency_ms", "load")
        assert [news[key] for key in timed] == [None] * 4
        assert news["decodes"]["1"]["timings_agreed"] is None


def test_the_page_has_a_table_of_models_and_test_sets(root: Path) -> None:
    html, _ = make(with_test_set(root), root / "out")
    table = html[html.index("<h3>Test sets</h3>") :].partition("</table>")[0]
    heads = ['<span class="name">BLEU</span><span class="unit">test</span>', '<span class="unit">news</span>']
    assert all(head in table for head in heads)
    for shown in ("21.50", "35.00", "36.00", "37.00", "90.00", "92.00"):
        assert f">{shown}</td>" in table
    assert "on test (100 rows), news (7 rows). Speed is measured on the first test set." in html
    assert "<code>nrefs:1|v</code>; <code>nrefs:2|v</code>" in html


def test_without_further_test_sets_there_is_no_such_table(root: Path) -> None:
    html, _ = make(full(root), root / "out")
    assert "Test sets" not in html


# --- adaptation ---------------------------------------------------------------------------------------------------


def test_models_that_start_from_another_one_have_gained_and_forgotten(root: Path) -> None:
    first, *others = (model.name for model in MODELS)
    starts = tuple(StartedModel(name=name, start=first, known=("test",)) for name in others)
    config = with_test_set(root).model_copy(update={"starts": starts, "grids": (tuple(others),)})
    html, values = make(config, root / "out")
    models = {model["name"]: model for model in values["models"]}
    assert "adapted" not in models[first]
    for index, name in enumerate(others, start=1):
        best = {test: max(models[name]["tests"][test]["bleu"], key=int) for test in ("test", "news")}
        own, start = models[name]["tests"], models[first]["tests"]
        assert models[name]["adapted"]["start"] == first
        assert models[name]["adapted"]["adaptation"] == pytest.approx(index)  # news: 35 + index
        assert models[name]["adapted"]["forgetting"] == pytest.approx(
            start["test"]["bleu"][best["test"]] - own["test"]["bleu"][best["test"]]
        )
    section = html[html.index("<h2>Adaptation and forgetting</h2>") :]
    section = section[: section.index("</section>")]
    assert section.count("<tr>") == 1 + len(others)
    assert "New: news. Known: test." in section
    assert section.count("<svg") == 1
    assert all(name in section for name in others)


def test_without_a_start_there_is_no_adaptation(root: Path) -> None:
    config = with_test_set(root)
    html, _ = make(config, root / "out")
    assert "Adaptation and forgetting" not in html
    start = StartedModel(name=MODELS[1].name, start="nobody", known=())
    html, values = make(config.model_copy(update={"starts": (start,)}), root / "other")
    assert "Adaptation and forgetting" not in html
    assert not any("adapted" in model for model in values["models"])
