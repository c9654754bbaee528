from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqkd.config import ReportConfig
from seqkd.corpus.manifest import Manifest, fingerprint, write_manifest
from seqkd.corpus.writer import write_shard
from seqkd.errors import CorpusError
from seqkd.metrics.results import Baseline, DecodeResult, EvaluationResult
from seqkd.metrics.speed import Speed
from seqkd.stages import report
from seqkd.stages.report_page import gather, plots
from seqkd.stages.report_page.findings import find
from seqkd.stages.report_page.gather import compare
from seqkd.stages.report_page.graph import draw_graph
from seqkd.stages.report_page.page import render
from seqkd.stages.report_page.twins import find_twins

ROWS = 60
EVIL = "<script>alert('x')</script> & <img src=http://example.org/x>"
SIGNATURES = {"bleu": "nrefs:1|v", "chrf": "nrefs:1|c", "ter": "nrefs:1|t"}

# --- a pipeline's folders ------------------------------------------------------------------------------------------


def write_corpus(folder: Path, *, targets: list[str], rule: str = "", size: int = 25) -> None:
    folder.mkdir(parents=True)
    shards = []
    for index, start in enumerate(range(0, len(targets), size)):
        rows = range(start, min(start + size, len(targets)))
        columns = {
            "id": list(rows),
            "source": [f"Satz {row}" if row != 7 else EVIL for row in rows],
            "target": [targets[row] for row in rows],
            "source_ids": [[10 + row % 5, 20] for row in rows],
            "target_ids": [[30 + row % 5, 40, *range(50, 50 + len(targets[row].split()))] for row in rows],
        }
        shards.append(write_shard(folder, index, pa.table(columns)))
    extra = {"rule": rule, "share_equal_to_reference": 0.25} if rule else {}
    manifest = Manifest(kind="corpus", fingerprint=made_by(folder), rows=len(targets), shards=shards, extra=extra)
    write_manifest(folder, manifest)


def made_by(folder: Path) -> dict[str, Any]:
    return fingerprint("test", {"name": folder.name}, {})


def speed(rate: float, batch1: float) -> Speed:
    return Speed(
        sentences_per_second=rate,
        batch_tokens=4000,
        sentences=100,
        latency_ms=1000 / batch1,
        sentences_per_second_batch1=batch1,
        latency_sentences=50,
    )


BASELINE = Baseline(decode="5", speed=speed(30.0, 10.0))


def decode(bleu: float, rate: float, batch1: float = 50.0, **changes: Any) -> DecodeResult:
    result = DecodeResult(
        bleu=bleu,
        chrf=50.0,
        ter=40.0,
        bleu_accepted=None,
        valid=None,
        length_ratio=1.0,
        cut=0,
        speed=speed(rate, batch1),
        speedup=rate / 30.0,
        speedup_batch1=batch1 / 10.0,
    )
    return dataclasses.replace(result, **changes)


def evaluation(name: str, **changes: Any) -> EvaluationResult:
    result = EvaluationResult(
        name=name,
        role="student",
        arch="transformer",
        trained_on="gold",
        objective="nll",
        recipe="",
        parameters=1_000_000,
        rows=100,
        decodes={"1": decode(20.0, 100.0), "5": decode(21.5, 30.0)},
        quality="5",
        quick="1",
        parallel=False,
        perplexity=4.0,
        mode_probability=0.1,
        baseline=BASELINE,
        signatures=SIGNATURES,
        device="Abacus 3000, 1 thread",
        precision="float32",
    )
    return dataclasses.replace(result, **changes)


def parallel(name: str, value: float, **changes: Any) -> EvaluationResult:
    """A model that writes all positions at once."""
    result = evaluation(
        name,
        arch="nat",
        objective="nat",
        decodes={"nat": decode(value, 600.0, 120.0)},
        quality="nat",
        quick="nat",
        parallel=True,
        perplexity=None,
        mode_probability=None,
    )
    return dataclasses.replace(result, **changes)


def bleu(result: EvaluationResult, greedy: float) -> EvaluationResult:
    first = dataclasses.replace(result.decodes["1"], bleu=greedy)
    return dataclasses.replace(result, decodes=result.decodes | {"1": first})


MODELS = (
    evaluation("teacher", role="teacher", parameters=4_000_000),
    evaluation("gold"),
    bleu(evaluation("small", trained_on="seqkd"), 23.25),
)
# Two kinds of student, each on gold and on distilled text.
FAMILIES = (
    *MODELS,
    parallel("nat-gold", 5.5),
    parallel("nat-seqkd", 17.75, trained_on="seqkd"),
)


def write_evaluation(folder: Path, result: EvaluationResult) -> None:
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(result.to_json())
    write_manifest(folder, Manifest(kind="evaluation", fingerprint=made_by(folder), rows=result.rows))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    gold = [f"sentence number {row}" for row in range(ROWS)]
    seqkd = [text if row % 2 else f"row {row}" for row, text in enumerate(gold)]
    seqkd[7] = EVIL
    write_corpus(tmp_path / "gold" / "train", targets=gold)
    write_corpus(tmp_path / "gold" / "test", targets=gold[:5])
    write_manifest(tmp_path / "gold", Manifest(kind="prepared", fingerprint=made_by(tmp_path)))
    write_corpus(tmp_path / "seqkd", targets=seqkd, rule="seqkd")
    (tmp_path / "kbest").mkdir()
    speed = {"sentences_per_second": 189.5, "seconds": 3.0, "device": "cpu"}
    (tmp_path / "kbest" / "speed.json").write_text(json.dumps(speed))
    extra = {"beam": 5, "nbest": 4, "device": "cpu", "precision": "float32"}
    kbest = Manifest(kind="kbest", fingerprint=made_by(tmp_path / "kbest"), extra=extra)
    write_manifest(tmp_path / "kbest", kbest)
    for model in MODELS:
        write_evaluation(tmp_path / "evaluations" / model.name, model)
        (tmp_path / "models" / model.name).mkdir(parents=True)
    history = [{"update": 100 * n, "valid_nll": 5.0 / n, "valid_bleu": None, "train_loss": 4.0} for n in (1, 2, 3)]
    (tmp_path / "models" / "small" / "history.json").write_text(json.dumps(history))
    return tmp_path


def named(root: Path, *names: str) -> list[dict[str, Any]]:
    return [{"name": Path(name).name, "path": root / name} for name in names]


def full(root: Path) -> ReportConfig:
    names = [model.name for model in MODELS]
    return ReportConfig.model_validate(
        {
            "pipeline": "toy",
            "title": "A <b>bold</b> title",
            "prepared": root / "gold",
            "corpora": named(root, "seqkd"),
            "distill": named(root, "kbest"),
            "models": named(root, *(f"models/{name}" for name in names)),
            "evaluations": named(root, *(f"evaluations/{name}" for name in names)),
            "edges": [("gold", "teacher"), ("teacher", "k-best kbest"), ("k-best kbest", "corpus seqkd")],
            "samples": 4,
        }
    )


def everything(root: Path) -> ReportConfig:
    return full(root).model_copy(update={"samples": ROWS})


def bare(root: Path) -> ReportConfig:
    return ReportConfig.model_validate({"pipeline": "toy", "prepared": root / "gold"})


def make(config: ReportConfig, out: Path) -> tuple[str, dict[str, Any]]:
    report.run(config, out)
    return (out / "report.html").read_text(), json.loads((out / "report.json").read_text())


# --- report.json ---------------------------------------------------------------------------------------------------


def test_json_has_the_stable_keys(root: Path) -> None:
    _, values = make(full(root), root / "out")
    assert list(values) == ["pipeline", "corpora", "distill", "models"]
    assert values["pipeline"] == "toy"
    assert [set(corpus) for corpus in values["corpora"]] == [
        {"name", "rows", "target_tokens", "complexity", "faithfulness"}
    ] * 2
    assert values["distill"] == [
        {"name": "kbest", "sentences_per_second": 189.5, "beam": 5, "nbest": 4, "device": "cpu"}
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


# --- its parts -----------------------------------------------------------------------------------------------------


def test_the_headline_compares_twins() -> None:
    found = find(MODELS)
    expected = "Student small, trained on seqkd, reaches 23.2 BLEU greedy: 3.2 more than the same model trained on gold"
    assert found.headline.startswith(expected)
    assert "1.7 above" in found.context
    assert [figure.value for figure in found.figures] == ["+3.2", "3.3", "4.0"]


def test_the_headline_does_not_compare_models_of_another_size() -> None:
    larger = dataclasses.replace(MODELS[1], parameters=2_000_000)
    assert "same model" not in find([MODELS[0], larger, MODELS[2]]).headline


def test_the_headline_says_when_distillation_did_not_help() -> None:
    assert "1.5 less than" in find([MODELS[1], bleu(MODELS[2], 18.5)]).headline
    assert "level with" in find([MODELS[1], bleu(MODELS[2], 20.01)]).headline


def test_the_headline_counts_valid_outputs_where_they_are_known() -> None:
    def valid(model: EvaluationResult, share: float) -> EvaluationResult:
        return dataclasses.replace(model, decodes={"1": dataclasses.replace(model.decodes["1"], valid=share)})

    figures = find([valid(MODELS[1], 0.625), valid(MODELS[2], 0.75)]).figures
    assert [(figure.value, figure.unit) for figure in figures][:2] == [("+3.2", "BLEU"), ("+12.5", "points")]


@given(st.floats(0, 99), st.floats(0, 99))
def test_the_headlines_numbers_agree_with_one_another(student: float, twin: float) -> None:
    headline = find([bleu(MODELS[1], twin), bleu(MODELS[2], student)]).headline
    shown = [float(number) for number in re.findall(r"\d+\.\d", headline)]
    if "level" in headline:
        assert f"{student:.1f}" == f"{twin:.1f}"
    else:
        assert shown[1] == pytest.approx(abs(shown[0] - shown[2]))


def test_speeds_of_two_runs_are_not_compared() -> None:
    decodes = {name: dataclasses.replace(found, speedup=None) for name, found in MODELS[2].decodes.items()}
    untimed = dataclasses.replace(MODELS[2], decodes=decodes, baseline=None)
    assert "sentences/s" not in " ".join(figure.label for figure in find([MODELS[0], MODELS[1], untimed]).figures)


def test_the_headline_counts_the_kinds_of_student_that_distilled_text_helps() -> None:
    found = find(FAMILIES)
    assert found.headline == (
        "All 2 kinds of student translate better when they are trained on distilled text, nat most: "
        "17.8 BLEU, 12.3 BLEU more than on gold text."
    )
    assert "small, reaches 23.2 BLEU greedy" in found.context
    assert [figure.value for figure in found.figures] == ["+12.3", "20.0", "12.0"]
    worse = [*FAMILIES[:2], bleu(FAMILIES[2], 10.0), *FAMILIES[3:]]
    assert find(worse).headline.startswith("1 of 2 kinds of student")
    none = [*FAMILIES[:2], bleu(FAMILIES[2], 10.0), FAMILIES[3], parallel("nat-seqkd", 5.5, trained_on="seqkd")]
    assert find(none).headline.startswith("None of 2 kinds")


def test_twins_differ_in_their_text_alone() -> None:
    assert [(group.label, [model.name for model in group.members]) for group in find_twins(FAMILIES)] == [
        ("transformer", ["gold", "small"]),
        ("nat", ["nat-gold", "nat-seqkd"]),
    ]
    other = dataclasses.replace(FAMILIES[4], recipe="another")
    assert [group.label for group in find_twins([*FAMILIES[:4], other])] == ["transformer"]
    glanced = [
        dataclasses.replace(model, name=f"glat-{model.trained_on}", objective="nat+glat") for model in FAMILIES[3:]
    ]
    assert [group.label for group in find_twins([*FAMILIES, *glanced])] == ["transformer", "nat", "glat"]


def test_the_page_opens_with_gold_against_distilled_text(root: Path) -> None:
    contents = dataclasses.replace(gather.gather(full(root)), models=FAMILIES)
    html = render(contents)
    bars = html[html.index("Students of gold and of distilled text") :]
    assert html.index("What distillation gives") < html.index("<h2>Models</h2>")
    for text in ("5.5  gold", "17.8  seqkd", "20.0  gold", "23.2  seqkd"):
        assert text in bars
    assert "What distillation gives" not in render(dataclasses.replace(contents, models=FAMILIES[:2]))


def test_the_plot_of_speed_ups_tells_models_apart_without_colour(root: Path) -> None:
    contents = gather.gather(full(root))
    alone = plots.quality_by_speedup(FAMILIES, batch1=True)
    assert "times the teacher" in alone
    assert all(f">{label}<" in alone for label in ("teacher", "transformer", "nat"))
    everyone = [dataclasses.replace(model, decodes=untimed(model)) for model in FAMILIES]
    assert plots.quality_by_speedup(everyone, batch1=False) == ""
    assert "Quality and speed" not in render(dataclasses.replace(contents, models=tuple(everyone)))


def untimed(model: EvaluationResult) -> dict[str, DecodeResult]:
    return {
        name: dataclasses.replace(found, speedup=None, speedup_batch1=None) for name, found in model.decodes.items()
    }


@given(st.lists(st.tuples(st.floats(0.5, 50), st.floats(0, 60)), min_size=1, max_size=12))
@settings(max_examples=15, deadline=None)
def test_every_label_is_drawn_wherever_the_points_lie(points: list[tuple[float, float]]) -> None:
    models = [
        parallel(f"m{index}", 0.0, arch=f"a{index}", decodes={"nat": decode(y, 30 * x)})
        for index, (x, y) in enumerate(points)
    ]
    svg = plots.quality_by_speedup(models, batch1=False)
    assert all(f">m{index}<" in svg for index in range(len(points)))


WORDS = st.lists(st.sampled_from("abcd"), max_size=8).map(" ".join)


@given(reference=WORDS, text=WORDS)
def test_compared_words_are_the_text(reference: str, text: str) -> None:
    runs = compare(reference, text)
    assert " ".join(words for words, _ in runs) == text
    if text and text == reference:
        assert runs == ((text, False),)
    for words, differs in runs:
        assert differs or words in reference


NAMES = st.sampled_from(["a", "b", "c", "d", "e<f"])


@given(st.lists(st.tuples(NAMES, NAMES), max_size=12))
def test_every_node_is_drawn_once_whatever_the_edges(edges: list[tuple[str, str]]) -> None:
    drawn = re.findall(r"<text[^>]*>([^<]*)</text>", draw_graph(edges, {}))
    expected = {name.replace("<", "&lt;") for edge in edges if edge[0] != edge[1] for name in edge}
    assert sorted(drawn) == sorted(expected)


def test_many_models_still_render(root: Path) -> None:
    contents = gather.gather(full(root))
    many = tuple(evaluation(f"m{index}", parameters=10 ** (4 + index % 5)) for index in range(20))
    html = render(dataclasses.replace(contents, models=many))
    assert all(f"m{index}" in html for index in range(20))


def test_alignment_is_bounded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "ALIGNED_CELLS", 300)
    contents = gather.gather(full(root))
    assert 0 < contents.aligned_rows < ROWS
