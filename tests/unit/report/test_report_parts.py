"""Headline, twins, plots, graph and samples of the report."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.metrics.lengths import LengthHistogram
from seqkd.metrics.results import DecodeResult, EvaluationResult
from seqkd.metrics.speed import Load
from seqkd.report import gather, plots
from seqkd.report.findings import conclude
from seqkd.report.gather import mark_differences
from seqkd.report.graph import draw_graph
from seqkd.report.page import render
from seqkd.report.tables import mark_highest
from seqkd.report.twins import choose_measure, find_twins
from tests.properties import examples
from tests.unit.report.report_folders import (
    FAMILIES,
    MODELS,
    ROWS,
    bleu,
    compared,
    decode,
    evaluation,
    full,
    make,
    parallel,
    write_root,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_root(tmp_path)


# --- its parts -----------------------------------------------------------------------------------------------------


def test_the_headline_compares_twins() -> None:
    found = conclude(MODELS)
    expected = "Student small, trained on seqkd, reaches 23.2 BLEU greedy: 3.2 more than the same model trained on gold"
    assert found.headline.startswith(expected)
    assert "1.7 above" in found.context
    assert [figure.value for figure in found.figures] == ["+3.2", "3.3", "4.0"]


def test_the_headline_says_that_a_difference_may_be_chance() -> None:
    found = conclude([*MODELS[:2], compared(MODELS[2], 0.21)])
    assert "on gold text (20.0), which may be chance (p = 0.210)." in found.headline
    for other in (compared(MODELS[2], 0.01), compared(MODELS[2], 0.21, baseline="another")):
        assert conclude([*MODELS[:2], other]).headline.endswith("on gold text (20.0).")


def test_models_are_compared_by_the_metric_that_their_results_name(root: Path) -> None:
    def by_chrf(model: EvaluationResult, chrf: float) -> EvaluationResult:
        found = {
            name: dataclasses.replace(result, bleu=None, chrf=chrf, main="chrf")
            for name, result in model.decodes.items()
        }
        return dataclasses.replace(model, decodes=found, signatures={})

    models = [by_chrf(MODELS[0], 60.0), by_chrf(MODELS[1], 40.0), by_chrf(MODELS[2], 45.5)]
    found = conclude(models)
    assert found.headline == (
        "Student small, trained on seqkd, reaches 45.5 chrF greedy: 5.5 more than the same model trained on gold text "
        "(40.0)."
    )
    assert "The teacher's best is 60.0 chrF" in found.context
    assert found.figures[0].unit == "chrF"
    for model in models:
        (root / "evaluations" / model.name / "result.json").write_text(model.to_json())
    html, values = make(full(root), root / "out")
    assert "BLEU" not in html.replace("a few tenths of BLEU", "")
    assert "chrF, over a student of gold text" in html
    assert (values["models"][2]["bleu"], values["models"][2]["gain"]) == ({}, {"1": 5.5, "5": 5.5})


def test_gains_that_may_be_chance_are_not_counted() -> None:
    found = conclude([*FAMILIES[:2], compared(FAMILIES[2], 0.01), FAMILIES[3], compared(FAMILIES[4], 0.2, "nat-gold")])
    assert found.headline.startswith("1 of 2 kinds of student translate better")
    assert "transformer most: 23.2 BLEU" in found.headline
    assert "Gains that may be chance are not counted: nat (p = 0.200)." in found.context
    found = conclude([*FAMILIES[:2], compared(FAMILIES[2], 0.06), FAMILIES[3], compared(FAMILIES[4], 0.2, "nat-gold")])
    assert found.headline.startswith("None of 2 kinds")
    assert "transformer (p = 0.060), nat (p = 0.200)." in found.context


def test_the_headline_does_not_compare_models_of_another_size() -> None:
    larger = dataclasses.replace(MODELS[1], parameters=2_000_000)
    assert "same model" not in conclude([MODELS[0], larger, MODELS[2]]).headline


def test_the_headline_says_when_distillation_did_not_help() -> None:
    assert "1.5 less than" in conclude([MODELS[1], bleu(MODELS[2], 18.5)]).headline
    assert "level with" in conclude([MODELS[1], bleu(MODELS[2], 20.01)]).headline


def test_the_headline_counts_valid_outputs_where_they_are_known() -> None:
    def valid(model: EvaluationResult, share: float) -> EvaluationResult:
        return dataclasses.replace(model, decodes={"1": dataclasses.replace(model.decodes["1"], valid=share)})

    figures = conclude([valid(MODELS[1], 0.625), valid(MODELS[2], 0.75)]).figures
    assert [(figure.value, figure.unit) for figure in figures][:2] == [("+3.2", "BLEU"), ("+12.5", "points")]


@given(st.floats(0, 99), st.floats(0, 99))
def test_the_headlines_numbers_agree_with_one_another(student: float, twin: float) -> None:
    headline = conclude([bleu(MODELS[1], twin), bleu(MODELS[2], student)]).headline
    shown = [float(number) for number in re.findall(r"\d+\.\d", headline)]
    if "level" in headline:
        assert f"{student:.1f}" == f"{twin:.1f}"
    else:
        assert shown[1] == pytest.approx(abs(shown[0] - shown[2]))


def test_speeds_of_two_runs_are_not_compared() -> None:
    decodes = {name: dataclasses.replace(found, speedup=None) for name, found in MODELS[2].decodes.items()}
    untimed = dataclasses.replace(MODELS[2], decodes=decodes, baseline=None)
    assert "sentences/s" not in " ".join(figure.label for figure in conclude([MODELS[0], MODELS[1], untimed]).figures)


def test_the_headline_counts_the_kinds_of_student_that_distilled_text_helps() -> None:
    found = conclude(FAMILIES)
    assert found.headline == (
        "All 2 kinds of student translate better when they are trained on distilled text, nat most: "
        "17.8 BLEU, 12.3 BLEU more than on gold text."
    )
    assert "small, reaches 23.2 BLEU greedy" in found.context
    assert [figure.value for figure in found.figures] == ["+12.3", "20.0", "12.0"]
    worse = [*FAMILIES[:2], bleu(FAMILIES[2], 10.0), *FAMILIES[3:]]
    assert conclude(worse).headline.startswith("1 of 2 kinds of student")
    none = [*FAMILIES[:2], bleu(FAMILIES[2], 10.0), FAMILIES[3], parallel("nat-seqkd", 5.5, trained_on="seqkd")]
    assert conclude(none).headline.startswith("None of 2 kinds")


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
    assert html.index("Gains of distillation") < html.index("<h2>Models</h2>")
    for text in ("5.5  gold", "17.8  seqkd", "20.0  gold", "23.2  seqkd"):
        assert text in bars
    assert "Gains of distillation" not in render(dataclasses.replace(contents, models=FAMILIES[:2]))


def test_the_plot_of_speed_ups_tells_models_apart_without_colour(root: Path) -> None:
    contents = gather.gather(full(root))
    alone = plots.plot_quality_by_speedup(FAMILIES, batch1=True)
    assert "times the teacher" in alone
    assert all(f">{label}<" in alone for label in ("teacher", "transformer", "nat"))
    everyone = [dataclasses.replace(model, decodes=untimed(model)) for model in FAMILIES]
    assert plots.plot_quality_by_speedup(everyone, batch1=False) == ""
    assert "Quality and speed" not in render(dataclasses.replace(contents, models=tuple(everyone)))


def test_the_first_colour_does_not_come_again() -> None:
    shades = [plots.pick_colour(index) for index in range(30)]
    assert shades.count(shades[0]) == 1
    assert len(set(shades)) == len(set(shades[: plots.COLOURS])) == plots.COLOURS


def untimed(model: EvaluationResult) -> dict[str, DecodeResult]:
    return {
        name: dataclasses.replace(found, speedup=None, speedup_batch1=None) for name, found in model.decodes.items()
    }


@given(st.lists(st.tuples(st.floats(0.5, 50), st.floats(0, 60)), min_size=1, max_size=12))
@examples(15)
def test_every_label_is_drawn_wherever_the_points_lie(points: list[tuple[float, float]]) -> None:
    models = [
        parallel(f"m{index}", 0.0, arch=f"a{index}", decodes={"nat": decode(y, 30 * x)})
        for index, (x, y) in enumerate(points)
    ]
    svg = plots.plot_quality_by_speedup(models, batch1=False)
    assert all(f">m{index}<" in svg for index in range(len(points)))


WORDS = st.lists(st.sampled_from("abcd"), max_size=8).map(" ".join)


@given(reference=WORDS, text=WORDS)
def test_compared_words_are_the_text(reference: str, text: str) -> None:
    runs = mark_differences(reference, text)
    assert "".join(words for words, _ in runs) == text
    if text and text == reference:
        assert runs == ((text, False),)
    for words, differs in runs:
        assert differs or words.rstrip() in reference


def test_texts_without_blanks_are_compared_character_by_character() -> None:
    assert mark_differences("\u6211\u7231\u5317\u4eac\u3002", "\u6211\u7231\u4e0a\u6d77\u3002") == (
        ("\u6211\u7231", False),
        ("\u4e0a\u6d77", True),
        ("\u3002", False),
    )


NAMES = st.sampled_from(["a", "b", "c", "d", "e<f"])


@given(st.lists(st.tuples(NAMES, NAMES), max_size=12))
def test_every_node_is_drawn_once_whatever_the_edges(edges: list[tuple[str, str]]) -> None:
    drawn = re.findall(r"<text[^>]*>([^<]*)</text>", draw_graph(edges, {}))
    expected = {name.replace("<", "&lt;") for edge in edges if edge[0] != edge[1] for name in edge}
    assert sorted(drawn) == sorted(expected)


def test_rows_and_candidates_that_do_not_fit_are_told(root: Path) -> None:
    contents = gather.gather(full(root))
    rescored = {"npd": decode(10.0, 60.0, unjudged=4)}
    models = (
        *contents.models,
        evaluation("short", too_long=7),
        evaluation("rescored", decodes=rescored, quality="npd", quick="npd", parallel=True),
    )
    html = render(dataclasses.replace(contents, models=models))
    assert "Decode kbest: 12 rows: source longer than max_positions." in html
    assert "short: 7 of 100 test sources are longer than the model's positions." in html
    assert "rescored, npd: 4 candidates were lost" in html
    assert contents.to_json()["models"][0]["too_long"] == 0


def test_speeds_that_did_not_settle_are_told_with_the_load(root: Path) -> None:
    contents = gather.gather(full(root))
    assert "not reliable" not in render(contents)
    one = decode(10.0, 60.0)
    assert one.speed is not None
    shaken = dataclasses.replace(one, speed=dataclasses.replace(one.speed, deviation=0.4, agreed=False))
    load = Load(average=3.25, cores=2, threads=1)
    busy = evaluation("busy", decodes={"1": shaken, "5": one}, load=load)
    html = render(dataclasses.replace(contents, models=(*contents.models, busy)))
    told = "repeated timings differ by 40 %, with a load average of 3.2 on 2 cores. Its speed"
    assert html.count(told) == 1
    assert f"busy, beam 1: {told}" in html


def test_results_of_before_rows_were_counted_are_read(root: Path) -> None:
    path = root / "evaluations" / "small" / "result.json"
    values = json.loads(path.read_text())
    del values["too_long"], values["load"]
    for found in values["decodes"].values():
        del found["unjudged"], found["speed"]["agreed"], found["speed"]["deviation"]
    path.write_text(json.dumps(values))
    contents = gather.gather(full(root))
    assert (contents.models[-1].too_long, contents.models[-1].load) == (0, None)
    assert "not reliable" not in render(contents)


def test_many_models_still_render(root: Path) -> None:
    contents = gather.gather(full(root))
    many = tuple(evaluation(f"m{index}", parameters=10 ** (4 + index % 5)) for index in range(20))
    html = render(dataclasses.replace(contents, models=many))
    assert all(f"m{index}" in html for index in range(20))


def test_alignment_is_bounded(root: Path) -> None:
    contents = gather.gather(full(root), aligned_cells=300)
    assert 0 < contents.aligned_rows < ROWS


def test_bars_of_nothing_stand_on_an_axis_of_whole_numbers() -> None:
    twins = find_twins([MODELS[0], bleu(MODELS[1], 0.0), bleu(MODELS[2], 0.0)])
    assert twins
    drawn = str(plots.plot_gold_and_distilled(twins, choose_measure(twins), ["gold", "seqkd"]))
    assert re.search("1e.?9", drawn) is None
    assert "0.0  seqkd" in drawn


def test_long_names_leave_room_for_the_bars() -> None:
    name = "a-student-whose-name-is-as-long-as-a-pipeline-lets-a-name-be-0001"[-64:]
    models = [
        dataclasses.replace(model, name=f"{name[:-4]}{index:04}", trained_on="gold" if index == 1 else name)
        for index, model in enumerate(MODELS)
    ]
    twins = find_twins(models)
    assert twins
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's, that nothing fits
        drawn = str(plots.plot_gold_and_distilled(twins, choose_measure(twins), ["gold", name]))
    assert f"  {name[:7]}…{name[-8:]}" in drawn


def test_a_mean_beyond_the_last_bin_stays_within_the_plot() -> None:
    """A few rows of many thousand tokens put it there: the bins reach to the length of 99 % of the rows."""
    histogram = LengthHistogram(edges=(0, 1, 2), shares=(0.5, 0.5), mean=1e4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "<svg" in plots.plot_lengths([histogram])


def test_matplotlib_does_not_talk_of_its_caches(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    names = ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", "from seqkd.report import plots; plots.mpl.get_cachedir()"],
        env=environment | {"HOME": str(tmp_path / "file")},  # no folder can be made there
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("values", "bold"),
    [
        ((1.0, 3.0, None, 2.0), [False, True, False, False]),
        ((30.001, 30.002, 29.0), [True, True, False]),
        ((100.0, 99.999, None), [False, False, False]),
        ((100.0,), [False]),
        ((None, None), [False, False]),
    ],
)
def test_the_highest_of_a_column_is_bold_unless_all_are_the_same(
    values: tuple[float | None, ...], bold: list[bool]
) -> None:
    assert [cell.best for cell in mark_highest(values, 2)] == bold
