"""`seqkd compare`: the numbers, the rows, and what cannot be compared."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from seqkd.cli.main import main
from seqkd.errors import SeqkdError
from seqkd.metrics.registry import METRICS, Outputs
from seqkd.metrics.significance import compare_outputs
from seqkd.tools.compare import ROWS, Measurement, RunComparison, compare
from seqkd.tools.comparison_page import render, scores_table, settings_table, show
from tests.unit.report.report_folders import EVIL
from tests.unit.tools.comparison_runs import (
    REFERENCES,
    again,
    worse,
    write_evaluation,
    write_model,
    write_runs,
    write_student,
    write_text,
)

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def compared(runs: tuple[Path, Path]) -> RunComparison:
    return compare(*runs, ("small", "small"))


def line(compared: RunComparison, metric: str, decode: str, seed: str = "") -> Measurement:
    (pair,) = compared.pairs
    (found,) = (one for one in pair.measured if (one.metric, one.decode, one.seed) == (metric, decode, seed))
    return found


def outputs(texts: list[str]) -> Outputs:
    return Outputs(hypotheses=texts, references=REFERENCES, sources=REFERENCES)


def shown(compared: RunComparison) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    show(compared, console)
    return console.export_text()


# --- numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["bleu", "chrf", "ter"])
def test_scores_and_p_values_are_those_of_the_outputs(compared: RunComparison, metric: str) -> None:
    found = line(compared, metric, "beam 1")
    first, second = outputs(worse(4)), outputs(worse(6))
    assert (found.a, found.b) == (METRICS.get(metric).score(first).value, METRICS.get(metric).score(second).value)
    assert found.significance is not None
    for test in ("bootstrap", "randomization"):
        expected = compare_outputs(metric, first, second, test=test)
        assert found.significance.p_values[test] == expected.p_value
        assert found.difference == pytest.approx(expected.difference.score)
    assert found.significance.p_value < 0.05


def test_numbers_without_a_test_have_a_difference_alone(compared: RunComparison) -> None:
    found = line(compared, "parameters", "")
    assert (found.a, found.b, found.difference, found.significance) == (1e6, 2e6, 1e6, None)
    assert line(compared, "latency_ms", "beam 5").difference == 0.0


def test_settings_that_differ(compared: RunComparison) -> None:
    (pair,) = compared.pairs
    assert [(one.name, one.a, one.b) for one in pair.settings] == [("model.dim", 32, 64)]


def test_rows_that_changed_most(compared: RunComparison) -> None:
    (pair,) = compared.pairs
    assert pair.decode == "beam 5"
    assert 0 < len(pair.gains) <= ROWS
    differences = [row.difference for row in pair.gains]
    assert differences == sorted(differences, reverse=True)
    assert differences[-1] > 0
    assert pair.losses[0].id == 3  # its output is something else
    assert (pair.losses[0].b, pair.losses[0].reference) == (EVIL, REFERENCES[3])
    for row in (*pair.gains, *pair.losses):
        assert row.difference == row.score_b - row.score_a
        assert worse(5)[row.id] == row.a


def test_curves_are_those_of_both(compared: RunComparison) -> None:
    (pair,) = compared.pairs
    assert [[point.update for point in points] for points in pair.curves] == [[10, 20], [10, 20]]


def test_all_models_that_both_have(runs: tuple[Path, Path]) -> None:
    found = compare(*runs)
    assert [(pair.a, pair.b) for pair in found.pairs] == [("small", "small")]
    assert found.left == {str(runs[0]): ["alone"], str(runs[1]): ["other"]}
    assert found.pairs[0].gains == ()
    assert f"only in {runs[0]}: alone" in shown(found)
    assert "Only in" in render(found)


def test_two_models_of_one_run(runs: tuple[Path, Path]) -> None:
    once = compare(runs[0], None, ("small", "alone"))
    assert [(pair.a, pair.b) for pair in once.pairs] == [("small", "alone")]
    assert once.pairs == compare(runs[0], runs[0], ("small", "alone")).pairs
    assert {one.decode for one in once.pairs[0].measured} == {"", "beam 1"}  # the other has no beam of 5


def test_equal_outputs_do_not_differ(runs: tuple[Path, Path]) -> None:
    found = compare(runs[0], None, ("small", "small"))
    bleu = line(found, "bleu", "beam 5")
    assert bleu.difference == 0.0
    assert bleu.significance is not None
    assert bleu.significance.p_values == {"bootstrap": 1.0, "randomization": 1.0}
    assert found.pairs[0].gains == found.pairs[0].losses == ()
    assert found.pairs[0].settings == ()


def test_models_without_a_decode_in_common_are_compared_at_their_first(tmp_path: Path) -> None:
    write_text(tmp_path)
    write_student(tmp_path, "beams", {"1": worse(4), "5": worse(5)})
    write_student(tmp_path, "nat", {"nat": worse(3)})
    found = compare(tmp_path, None, ("beams", "nat"))
    assert line(found, "bleu", "beam 1 / nat").a == METRICS.get("bleu").score(outputs(worse(4))).value


def test_the_same_text_in_another_vocabulary_is_the_same_text(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for run, vocabulary in ((first, "1" * 64), (second, "2" * 64)):
        again(write_text(run), vocabulary=vocabulary)
        write_student(run, "small", {"1": worse(4)})
    assert line(compare(first, second, ("small", "small")), "bleu", "beam 1").difference == 0.0


def test_further_test_sets_have_rows_of_their_own(tmp_path: Path) -> None:
    for name, rate in (("small", 4), ("large", 6)):
        if not (tmp_path / "gold").exists():
            write_text(tmp_path)
            write_text(tmp_path, "news", REFERENCES[:25])
        write_student(tmp_path, name, {"1": worse(rate)})
        write_evaluation(tmp_path, name, {"1": worse(rate)[:25]}, test="news")
    found = compare(tmp_path, None, ("small", "large"))
    tests = [one.test for one in found.pairs[0].measured if one.metric == "bleu"]
    assert tests == ["test", "news"]
    news = next(one for one in found.pairs[0].measured if one.metric == "bleu" and one.test == "news")
    expected = Outputs(hypotheses=worse(6)[:25], references=REFERENCES[:25], sources=REFERENCES[:25])
    assert news.b == METRICS.get("bleu").score(expected).value
    assert "Test set" in [head.name for head in scores_table(found).heads]


# --- seeds --------------------------------------------------------------------------------------------------------


def test_models_with_seeds_are_paired_by_seed(tmp_path: Path) -> None:
    write_text(tmp_path)
    for number, name in enumerate(("x", "x.seed2", "x.seed3")):
        write_student(tmp_path, name, {"1": worse(4, start=number)}, seed=number)
    for number, name in enumerate(("y", "y.seed2")):
        write_student(tmp_path, name, {"1": worse(6, start=number)}, seed=number)
    found = compare(tmp_path, None, ("x", "y"))
    assert found.pairs[0].seeds == (1, 2)
    mean, first, second = (line(found, "bleu", "beam 1", seed) for seed in ("mean", "1", "2"))
    assert first.difference is not None
    assert second.difference is not None
    assert first.difference != second.difference
    assert mean.difference == pytest.approx((first.difference + second.difference) / 2)
    assert mean.deviation == pytest.approx(abs(first.difference - second.difference) / 2**0.5)
    assert mean.significance is None
    assert first.significance is not None
    assert compare(tmp_path, tmp_path).pairs[0].a == "x"
    assert [pair.a for pair in compare(tmp_path, tmp_path).pairs] == ["x", "y"]
    assert "deviation" in shown(found).lower()
    single = compare(tmp_path, None, ("x.seed3", "y"))  # by its own name a model is one model
    assert single.pairs[0].seeds == (1,)


# --- text, JSON and page ------------------------------------------------------------------------------------------


def test_text_json_and_page_agree(compared: RunComparison) -> None:
    text, page = shown(compared), render(compared)
    cells = [re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[dh][^>]* data-sort=.*?</t[dh]>", page)]
    on_page = "\n".join(html.unescape(cell) for cell in cells)
    for table in (scores_table(compared), settings_table(compared)):
        for row in table.rows:
            assert "\n".join(cell.text for cell in row) in on_page
            words = [cell.text + "*" * cell.best for cell in row]
            assert any(all(word in shown_line for word in words) for shown_line in text.splitlines()), words
    values = json.loads(compared.to_json())
    (pair,) = values["pairs"]
    bleu = next(one for one in pair["measured"] if one["metric"] == "bleu" and one["decode"] == "beam 1")
    p_value = bleu["significance"]["p_values"]["randomization"]
    in_text = next(one for one in text.splitlines() if "beam 1" in one and "BLEU" in one)
    for number in (f"{bleu['a']:.2f}", f"{bleu['b']:.2f}", f"+{bleu['difference']:.2f}*", f"{p_value:.4f}"):
        assert number in in_text
    assert [one["id"] for one in pair["losses"]] == [one.id for one in compared.pairs[0].losses]
    assert pair["curves"][0][1]["valid_bleu"] == 10.0


def test_the_page_escapes_what_models_and_texts_say(compared: RunComparison) -> None:
    page = render(compared)
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "&lt;script&gt;alert" in page
    assert page.count("<svg") == 2
    assert render(compared) == page
    assert EVIL in shown(compared).replace("\n", "")


def test_the_command_prints_and_writes(runs: tuple[Path, Path], tmp_path: Path, capsys: Capture) -> None:
    words = ["compare", *map(str, runs), "--models", "small", "small"]
    page = tmp_path / "page.html"
    assert main([*words, "--json", "--page", str(page)]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == [str(run) for run in runs]
    assert page.read_text().startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert main(words) == 0
    assert "Largest gains of B" in capsys.readouterr().out


# --- what cannot be compared --------------------------------------------------------------------------------------


def one_run(root: Path, name: str = "a", references: list[str] = REFERENCES) -> Path:
    write_text(root / name, references=references)
    write_student(root / name, "small", {"1": worse(4)[: len(references)]})
    return root / name


def texts_differ(root: Path) -> tuple[Path, Path]:
    changed = [f"{text} more" if row < 3 else text for row, text in enumerate(REFERENCES)]
    return one_run(root), one_run(root, "b", changed)


def lengths_differ(root: Path) -> tuple[Path, Path]:
    return one_run(root), one_run(root, "b", REFERENCES[:20])


def one_row(root: Path) -> tuple[Path, Path]:
    return one_run(root, "a", REFERENCES[:1]), one_run(root, "b", REFERENCES[:1])


def no_run(root: Path) -> tuple[Path, Path]:
    (root / "b").mkdir()
    return one_run(root), root / "b"


def no_folder(root: Path) -> tuple[Path, Path]:
    return one_run(root), root / "b"


def nothing_evaluated(root: Path) -> tuple[Path, Path]:
    (root / "b" / "evaluations" / "small").mkdir(parents=True)
    return one_run(root), root / "b"


def further_test(root: Path) -> tuple[Path, Path]:
    first, second = one_run(root), one_run(root, "b")
    write_text(second, "news")
    write_evaluation(second, "small", {"1": worse(4)}, test="news")
    return first, second


def made_again(root: Path) -> tuple[Path, Path]:
    first, second = one_run(root), one_run(root, "b")
    again(first / "gold" / "test", vocabulary="3" * 64)
    return first, second


def cut_outputs(root: Path) -> tuple[Path, Path]:
    first, second = one_run(root), one_run(root, "b")
    (second / "evaluations" / "small" / "hypotheses.beam1.txt").write_text("one\ntwo")
    return first, second


def no_weights(root: Path) -> tuple[Path, Path]:
    first, second = one_run(root), one_run(root, "b")
    shutil.rmtree(second / "students")
    return first, second


def other_names(root: Path) -> tuple[Path, Path]:
    write_text(root / "b")
    write_student(root / "b", "large", {"1": worse(4)})
    return one_run(root), root / "b"


BAD: list[tuple[Callable[[Path], tuple[Path, Path]], str]] = [
    (texts_differ, r"a/gold/test and .*b/gold/test: the test texts differ: references differ in 3 of 40 rows"),
    (lengths_differ, r"the test texts differ: 40 and 20 rows"),
    (one_row, r"test text of 1 row.*\n.*at least two rows"),
    (no_run, r"b: not a run whose models have been evaluated: has no evaluations/"),
    (no_folder, r"b: not a run .*no such folder"),
    (nothing_evaluated, r"b/evaluations: holds no finished evaluation"),
    (further_test, r"b: 'small' was evaluated on test sets that the other model lacks: news"),
    (made_again, r"a/gold/test: differs from the test text that 'small' was evaluated on"),
    (cut_outputs, r"hypotheses.beam1.txt: damaged: 1 whole lines for 40 rows"),
    (no_weights, r"b/students/small/config.json: cannot be read"),
    (other_names, r"no model with the same name(.|\n)*a has small; .*b has large"),
]


@pytest.mark.parametrize(("write", "message"), BAD, ids=[write.__name__ for write, _ in BAD])
def test_bad_input_is_one_message_and_nothing_is_written(
    tmp_path: Path, capsys: Capture, write: Callable[[Path], tuple[Path, Path]], message: str
) -> None:
    first, second = write(tmp_path)
    page = tmp_path / "page.html"
    page.write_text("an earlier one")
    assert main(["compare", str(first), str(second), "--page", str(page)]) == 2
    said = capsys.readouterr()
    assert re.search(message, said.err), said.err
    assert said.err.count("error: ") == 1
    assert said.out == ""
    assert page.read_text() == "an earlier one"


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (("none", "small"), r"a: no evaluated model has the name 'none'\n.*a has small; .*b has other, small"),
        (("other", "small"), r"'other' is in .*b; the first name must be that of a model of the first run"),
        (("small", "planned"), r"b: the model 'planned' has not been evaluated"),
        (("small", "begun"), r"b: the model 'begun' has not been evaluated"),
    ],
)
def test_models_that_are_not_there(tmp_path: Path, models: tuple[str, str], message: str) -> None:
    first, second = one_run(tmp_path), one_run(tmp_path, "b")
    write_student(second, "other", {"1": worse(4)})
    write_model(second, "planned", training={}, settings={})
    write_evaluation(second, "begun", {"1": worse(4)}, finished=False)
    with pytest.raises(SeqkdError, match=message) as caught:
        compare(first, second, models)
    assert caught.value.exit_code == 2


def test_one_run_needs_two_models(tmp_path: Path, capsys: Capture) -> None:
    assert main(["compare", str(one_run(tmp_path))]) == 2
    assert "--models A B" in capsys.readouterr().err
