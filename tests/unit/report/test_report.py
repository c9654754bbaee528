"""The report's two files."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from seqkd.errors import CorpusError
from seqkd.report import stage as report
from tests.unit.report.report_folders import (
    MODELS,
    ROWS,
    bare,
    bleu,
    compared,
    everything,
    full,
    make,
    parallel,
    write_root,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_root(tmp_path)


# --- report.json ---------------------------------------------------------------------------------------------------


def test_json_has_the_stable_keys(root: Path) -> None:
    _, values = make(full(root), root / "out")
    assert list(values) == ["pipeline", "corpora", "distill", "models"]
    assert values["pipeline"] == "toy"
    assert [set(corpus) for corpus in values["corpora"]] == [
        {"name", "rows", "target_tokens", "complexity", "faithfulness"}
    ] * 2
    assert values["distill"] == [
        {
            "name": "kbest",
            "sentences_per_second": 189.5,
            "beam": 5,
            "nbest": 4,
            "device": "cpu",
            "counts": {"source longer than max_positions": 12},
        }
    ]
    stable = {
        "name",
        "role",
        "arch",
        "corpus",
        "objective",
        "parameters",
        "bleu",
        "chrf",
        "signature",
        "perplexity",
        "mode_probability",
        "sentences_per_second",
        "speedup",
        "latency_ms",
        "sentences_per_second_batch1",
        "speedup_batch1",
        "decodes",
    }
    for model in values["models"]:
        assert stable <= set(model)
        assert "valid" not in model
    assert values["models"][0]["bleu"] == {"1": 20.0, "5": 21.5}
    assert values["models"][0]["sentences_per_second"] == 30.0
    assert values["models"][0]["decodes"]["1"] == {
        "bleu": 20.0,
        "chrf": 50.0,
        "sentences_per_second": 100.0,
        "batch_tokens": 4000,
        "speedup": 100 / 30,
        "latency_ms": 20.0,
        "sentences_per_second_batch1": 50.0,
        "speedup_batch1": 5.0,
        "timings_agreed": True,
    }


def test_toy_models_also_say_how_many_outputs_are_valid(root: Path) -> None:
    decodes = {name: dataclasses.replace(found, valid=0.5) for name, found in MODELS[0].decodes.items()}
    path = root / "evaluations" / "teacher" / "result.json"
    path.write_text(dataclasses.replace(MODELS[0], decodes=decodes).to_json())
    _, values = make(full(root), root / "out")
    assert values["models"][0]["valid"] == values["models"][0]["decodes"]["1"]["valid"] == 0.5


def test_parallel_models_have_their_decodes_names_and_no_perplexity(root: Path) -> None:
    student = parallel("small", 12.5, trained_on="seqkd")
    (root / "evaluations" / "small" / "result.json").write_text(student.to_json())
    html, values = make(full(root), root / "out")
    entry = values["models"][2]
    assert entry["bleu"] == {"nat": 12.5}
    assert (entry["perplexity"], entry["mode_probability"]) == (None, None)
    assert (entry["speedup"], entry["speedup_batch1"]) == (20.0, 12.0)
    assert "Models that write all positions at once have neither." in html


def test_gold_is_faithful_to_itself_and_the_distilled_corpus_is_not(root: Path) -> None:
    _, values = make(full(root), root / "out")
    gold, seqkd = values["corpora"]
    assert (gold["name"], gold["rows"], gold["faithfulness"]) == ("gold", ROWS, 0.0)
    assert seqkd["faithfulness"] > 0.0


def test_gains_are_over_the_baseline_at_the_same_decode(root: Path) -> None:
    html, values = make(full(root), root / "out")
    teacher, gold, small = values["models"]
    assert (small["baseline"], small["gain"]) == ("gold", {"1": 3.25, "5": 0.0})
    assert (gold["baseline"], gold["gain"]) == (teacher["baseline"], teacher["gain"]) == (None, {})
    for shown in ("+3.25", "+0.00"):
        assert f'{shown} <span class="note">gold</span>' in html
    without = full(root).model_copy(update={"baselines": ()})
    assert "over a student of gold text" not in make(without, root / "without")[0]
    worse = bleu(MODELS[2], 19.5)
    (root / "evaluations" / "small" / "result.json").write_text(worse.to_json())
    assert '\N{MINUS SIGN}0.50 <span class="note">gold' in make(full(root), root / "worse")[0]


def test_gains_stand_with_their_p_value(root: Path) -> None:
    html, values = make(full(root), root / "plain")
    assert (values["models"][2]["significance"], "of the gain" in html) == ({}, False)
    file = root / "evaluations" / "small" / "result.json"
    for p_value, shown in ((0.0312, "0.031"), (0.0001, "&lt;0.001")):
        file.write_text(compared(MODELS[2], p_value).to_json())
        html, values = make(full(root), root / f"out{p_value}")
        assert values["models"][2]["significance"]["1"]["bleu"]["p_values"]["randomization"] == p_value
        assert "of the gain" in html
        assert f">{shown}<" in html.replace("\n", "").replace(" ", "")
        assert "by paired approximate randomisation" in html
    file.write_text(compared(MODELS[2], 0.01, baseline="another").to_json())
    html, values = make(full(root), root / "another")
    assert (values["models"][2]["significance"], "of the gain" in html) == ({}, False)


# --- report.html ---------------------------------------------------------------------------------------------------

LOADING = ("src", "href", "srcset", "data", "action", "poster", "xlink:href")


class Page(HTMLParser):
    """Collects what a browser would fetch, and the tags that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in LOADING and value and not value.startswith(("#", "data:")):
                self.loads.append(value)


def parsed(html: str) -> Page:
    page = Page()
    page.feed(html)
    return page


def test_the_page_loads_nothing(root: Path) -> None:
    html, _ = make(everything(root), root / "out")
    page = parsed(html)
    assert page.loads == []
    assert not re.search(r"url\(\s*['\"]?(?!#)", html)
    assert "@import" not in html
    assert set(re.findall(r"https?://[^\s&]+", html)) == {"http://example.org/x"}  # the text of a row, escaped


def test_text_is_escaped(root: Path) -> None:
    html, _ = make(everything(root), root / "out")
    page = parsed(html)
    assert page.tags.count("script") == 1  # the page's own
    assert "img" not in page.tags
    assert "A &lt;b&gt;bold&lt;/b&gt; title" in html
    assert html.count("&lt;script&gt;") == 2  # source and target


def test_ids_are_unique_and_pointed_to(root: Path) -> None:
    html, _ = make(full(root), root / "out")
    page = parsed(html)
    assert len(page.ids) == len(set(page.ids))
    targets = re.findall(r"url\(#([^)]+)\)", html) + re.findall(r'href="#([^"]+)"', html)
    assert targets
    assert set(targets) <= set(page.ids)


def test_every_model_corpus_and_sample_is_on_the_page(root: Path) -> None:
    html, _ = make(full(root), root / "out")
    for text in ("teacher", "small", "seqkd", "kbest", "Abacus 3000, 1 thread", "nrefs:1|v", "once", "Row "):
        assert text in html
    assert html.count("<article") == 4


def test_colours_follow_the_page(root: Path) -> None:
    html, _ = make(full(root), root / "out")
    assert "prefers-color-scheme: dark" in html
    assert set(re.findall(r"(?:fill|stroke): (#\w+)", html)) == set()
    used = set(re.findall(r"var\((--[\w-]+)\)", html))
    assert used <= set(re.findall(r"(--[\w-]+):", html))


def test_equal_inputs_make_equal_bytes(root: Path) -> None:
    one, other = make(full(root), root / "one"), make(full(root), root / "other")
    assert one == other


def test_samples_prefer_rows_that_differ(root: Path) -> None:
    html, _ = make(full(root), root / "out")
    shown = [int(row) for row in re.findall(r"<h3>Row (\d+)</h3>", html)]
    assert shown == sorted(shown)
    assert all(row % 2 == 0 or row == 7 for row in shown)


def test_a_pipeline_with_little_in_it(root: Path) -> None:
    html, values = make(bare(root), root / "out")
    assert "No model has been evaluated yet." in html
    assert [corpus["name"] for corpus in values["corpora"]] == ["gold"]
    assert values["distill"] == values["models"] == []


def test_a_new_measurement_makes_a_new_report(root: Path) -> None:
    make(full(root), root / "out")
    path = root / "evaluations" / "small" / "result.json"
    path.write_text(bleu(MODELS[2], 29.0).to_json())
    with pytest.raises(Exception, match=r"evaluations\.small\.result\.json"):
        report.run(full(root), root / "out")
    report.run(full(root), root / "out", overwrite=True)
    assert "29.0 BLEU" in (root / "out" / "report.html").read_text()


def test_a_damaged_result_is_named(root: Path) -> None:
    (root / "evaluations" / "small" / "result.json").write_text('{"name": "small", "decodes": {}, "baseline": null}')
    with pytest.raises(CorpusError, match=r"small/result\.json"):
        report.run(full(root), root / "out")


def test_a_missing_folder_is_named(root: Path) -> None:
    config = full(root).model_copy(update={"prepared": root / "nowhere"})
    with pytest.raises(CorpusError, match="nowhere"):
        report.run(config, root / "out")
