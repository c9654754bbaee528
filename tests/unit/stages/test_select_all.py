"""`select` with several targets of a row, each with a weight: the rule "all", and `keep`."""

from __future__ import annotations

import io
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from seqkd.config.stages import SelectConfig, TrainConfig
from seqkd.config.toml import validate
from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.corpus.row_ids import RANK_STEP
from seqkd.errors import ConfigError, CorpusError
from seqkd.stages.select import select
from seqkd.stages.select.shards import PIECE_ROWS
from seqkd.stages.train import train
from seqkd.tools.inspect import inspect
from tests.events import interrupted_before
from tests.unit.stages.select_folders import GOLD, KBEST, contents, write_gold, write_kbest
from tests.unit.stages.test_select_settings import config, rejected, selected, write_rows


def share(score: float, *scores: float) -> float:
    return math.exp(score) / sum(map(math.exp, scores))


def sums(rows: list[dict[str, Any]]) -> dict[int, float]:
    found: dict[int, float] = defaultdict(float)
    for row in rows:
        found[row["id"] % RANK_STEP] += row["weight"]
    return found


def test_every_hypothesis_is_a_row_with_its_share_of_the_list(folders: Path) -> None:
    rows = selected(folders, rule="all")
    assert [(row["id"], row["target"]) for row in rows] == [
        (0, "won"),
        (RANK_STEP, "one"),
        (3, "two and two"),
        (RANK_STEP + 3, "too"),
        (RANK_STEP + 4, "three"),
        (9, "for"),
        (RANK_STEP + 9, "fore"),
    ]
    wanted = [share(-0.5, -0.5, -0.75), share(-0.75, -0.5, -0.75), share(-0.25, -0.25, -1.5), share(-1.5, -0.25, -1.5)]
    wanted += [1.0, share(-0.5, -0.5, -0.625), share(-0.625, -0.5, -0.625)]
    assert [row["weight"] for row in rows] == pytest.approx(wanted)
    assert rows[1] == {
        "id": RANK_STEP,
        "source": "eins",
        "target": "one",
        "source_ids": [10],
        "target_ids": [20],
        "score": -0.75,
        "rule": "all",
        "origin": "teacher",
        "weight": pytest.approx(wanted[1]),
    }
    assert rejected(folders) == ["4\tempty hypothesis\tdropped"]
    manifest = read_manifest(folders / "out")
    assert (manifest.rows, manifest.counts) == (7, {"empty hypothesis": 1})
    assert manifest.extra["equal_to_reference"] == 3


def test_lists_of_one_give_what_seqkd_gives(folders: Path) -> None:
    write_kbest(folders / "single", lists=[(row, hypotheses[:1]) for row, hypotheses in KBEST])
    values: dict[str, Any] = {"kbest": folders / "single", "rejected": "gold", "filters": {"min_score": -0.45}}
    best = selected(folders, "seqkd", rule="seqkd", **values)
    rows = selected(folders, "all", rule="all", **values)
    assert [row.pop("weight") for row in rows] == [1.0] * 4
    assert [row | {"rule": "seqkd"} for row in rows] == best
    assert rejected(folders, "all") == rejected(folders, "seqkd") != []
    one, other = (read_manifest(folders / name) for name in ("all", "seqkd"))
    assert one.counts == other.counts
    assert one.extra | {"rule": "seqkd"} == other.extra


def test_filters_judge_each_hypothesis_and_a_row_without_any_can_have_its_gold_target(folders: Path) -> None:
    write_kbest(folders / "short", lists=[(0, []), *KBEST[1:]])
    values: dict[str, Any] = {"rule": "all", "kbest": folders / "short", "filters": {"min_score": -0.55}}
    rows = selected(folders, rejected="gold", **values)
    assert [(row["id"], row["origin"], row["weight"], row["score"]) for row in rows] == [
        (0, "gold", 1.0, None),
        (3, "teacher", 1.0, -0.25),
        (4, "gold", 1.0, None),
        (9, "teacher", 1.0, -0.5),
    ]
    assert rejected(folders) == [
        "0\tno hypothesis\tgold target",
        f"{RANK_STEP + 3}\tlow score\tdropped",
        "4\tempty hypothesis\tgold target",
        f"{RANK_STEP + 4}\tlow score\tdropped",
        f"{RANK_STEP + 9}\tlow score\tdropped",
    ]
    manifest = read_manifest(folders / "out")
    assert manifest.counts == {"low score": 3}
    assert manifest.extra["rejected_to_gold_target"] == {"empty hypothesis": 1, "no hypothesis": 1}
    assert [row["id"] for row in selected(folders, "dropped", **values)] == [3, 9]
    assert rejected(folders, "dropped")[0] == "0\tno hypothesis\tdropped"


def test_rows_of_k_best_lists_in_another_order_are_found_by_id(folders: Path) -> None:
    write_kbest(folders / "shuffled", lists=[KBEST[1], (0, []), KBEST[3], KBEST[2]])
    write_kbest(folders / "straight", lists=[(0, []), *KBEST[1:]])
    one, other = (
        selected(folders, f"{name}-out", rule="all", kbest=folders / name) for name in ("shuffled", "straight")
    )
    assert one == other
    assert rejected(folders, "shuffled-out") == rejected(folders, "straight-out")


@pytest.mark.parametrize(
    ("values", "most"),
    [
        ({"rule": "all", "filters": {"duplicates": True, "min_score": -0.75}}, 8),
        ({"rule": "seqkd", "keep": 3, "filters": {"duplicates": True, "min_score": -0.3}}, 3),
    ],
    ids=["all", "keep"],
)
def test_without_duplicates_the_weights_of_what_is_left_sum_to_one(
    values: dict[str, Any], most: int, tmp_path: Path
) -> None:
    write_rows(tmp_path, 40, size=7, best=8, kinds=30)  # eight hypotheses, some of them alike
    rows = selected(tmp_path, "whole", **values)
    assert len({row["id"] for row in rows}) == len(rows)
    assert len({(row["source"], row["target"]) for row in rows}) == len(rows)
    assert list(sums(rows).values()) == pytest.approx([1.0] * len(sums(rows)))
    manifest = read_manifest(tmp_path / "whole")
    assert manifest.counts.keys() == {"duplicate pair", "low score"}
    assert manifest.rows + sum(manifest.counts.values()) == 40 * most
    assert len(rejected(tmp_path, "whole")) == sum(manifest.counts.values())

    with interrupted_before("manifest.json"), pytest.raises(KeyboardInterrupt):
        selected(tmp_path, **values)
    (tmp_path / "out" / "shard-00002.arrow").unlink()
    selected(tmp_path, **values)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_pieces_and_processes_change_nothing(tmp_path: Path) -> None:
    write_rows(tmp_path, 60, size=13)
    values: dict[str, Any] = {"rule": "all", "rejected": "gold", "filters": {"max_ter": 60.0, "min_score": -0.4}}
    selected(tmp_path, "alone", workers=1, **values)
    selected(tmp_path, "together", workers=2, **values)
    assert contents(tmp_path / "alone") == contents(tmp_path / "together")
    found = []
    for name, size in (("pieces", PIECE_ROWS + 100), ("whole", 500)):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name, PIECE_ROWS + 100, size=size)
        found.append(selected(tmp_path / name, workers=1, **values))
    assert found[0] == found[1]


def test_next_is_refused() -> None:
    plain = {"kbest": "k", "gold": "g", "prepared": "p", "rule": "all", "rejected": "next"}
    with pytest.raises(ConfigError, match='rejected is "drop" or "gold"'):
        validate(SelectConfig, plain, "file")


def test_ids_that_are_those_of_hypotheses_already_are_refused(folders: Path) -> None:
    rows = [(row + RANK_STEP, *rest) for row, *rest in GOLD]
    write_gold(folders / "prepared" / "again", rows=rows)  # type: ignore[arg-type]
    with pytest.raises(CorpusError, match="ids from 0 to 999,999,999,999"):
        selected(folders, rule="all", gold=folders / "prepared" / "again")
    assert not (folders / "out").exists()


def test_the_best_hypotheses_of_a_row_are_kept(tmp_path: Path) -> None:
    write_rows(tmp_path, 60, size=13, best=5, kinds=50)
    everything = selected(tmp_path, "all", rule="all")
    assert [row | {"rule": "all"} for row in selected(tmp_path, "five", rule="seqkd", keep=5)] == everything
    lists = rows_by_source_row(everything)
    best = {row["id"]: row["target"] for row in selected(tmp_path, "one", rule="seqinter")}
    two = rows_by_source_row(selected(tmp_path, "two", rule="seqinter", keep=2))
    assert two.keys() == lists.keys()
    for row, kept in two.items():
        assert len(kept) == 2
        assert best[row] in [one["target"] for one in kept]
        assert [one["weight"] for one in kept] == pytest.approx(
            [share(one["score"], *(other["score"] for other in kept)) for one in kept]
        )


def test_the_next_best_hypotheses_take_the_places_of_rejected_ones(tmp_path: Path) -> None:
    write_rows(tmp_path, 40, size=7, best=8, kinds=30)
    filled = selected(tmp_path, "next", rule="seqkd", keep=3, rejected="next", filters={"min_score": -0.3})
    assert len(filled) >= len(selected(tmp_path, "drop", rule="seqkd", keep=3, filters={"min_score": -0.3}))


def test_a_gold_target_is_counted_if_the_best_by_score_is_not_among_those_that_the_rule_chose(folders: Path) -> None:
    lists = [*KBEST]
    lists[1] = (3, [("zwei", [30], -0.125), ("two and two", [21, 22], -1.0), ("two and too", [21, 31], -1.5)])
    write_kbest(folders / "three", lists=lists)
    values: dict[str, Any] = {"rule": "seqinter", "keep": 2, "rejected": "gold", "kbest": folders / "three"}
    rows = selected(folders, filters={"min_score": -0.8}, **values)
    assert [(row["id"], row["target"], row["origin"], row["weight"]) for row in rows if row["id"] % RANK_STEP == 3] == [
        (3, "two and two", "gold", 1.0)
    ]
    assert rejected(folders) == [
        "3\tlow score\tgold target",
        f"{2 * RANK_STEP + 3}\tlow score\tdropped",
        "4\tempty hypothesis\tgold target",
        f"{RANK_STEP + 4}\tlow score\tdropped",
    ]
    manifest = read_manifest(folders / "out")
    assert (manifest.rows, manifest.counts) == (6, {"low score": 2})
    assert manifest.extra["rejected_to_gold_target"] == {"empty hypothesis": 1, "low score": 1}


def rows_by_source_row(rows: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["id"] % RANK_STEP].append(row)
    return found


def test_inspect_shows_the_weights(folders: Path) -> None:
    selected(folders, rule="all")
    text = io.StringIO()
    inspect(folders / "out", console=Console(file=text, width=150))
    lines = [" ".join(line.strip("│┃ \n").replace("│", " ").split()) for line in text.getvalue().splitlines()]
    assert "weights: most 1" in lines
    assert "weights: mean 0.571429" in lines


def test_an_objective_that_cannot_count_weights_is_told_before_work_starts(folders: Path) -> None:
    selected(folders, rule="all")
    values = {"prepared": folders / "prepared", "corpus": folders / "out", "role": "student"}
    settings = validate(TrainConfig, {**values, "model": {"arch": "nat"}, "training": {"max_updates": 2}}, "file")
    with pytest.raises(ConfigError, match="cannot count rows by the weights of"):
        train.run(settings, folders / "student", device="cpu")
    assert not (folders / "student").exists()
    assert "weight" in Corpus.open(folders / "out").schema.names
    assert config(folders).rule == "seqkd"
    select.run(config(folders), folders / "plain")
    assert "weight" not in Corpus.open(folders / "plain").schema.names
