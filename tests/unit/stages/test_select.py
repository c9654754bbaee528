from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from seqkd.config.stages import SelectConfig
from seqkd.corpus.manifest import read_manifest
from seqkd.errors import ConflictError, CorpusError
from seqkd.stages.select import select
from tests.events import interrupted_before, placed
from tests.unit.stages.select_folders import (
    KBEST,
    SOURCE_IDS,
    VOCABULARY,
    Lists,
    contents,
    rows_of,
    write_kbest,
    write_prepared,
)


def config(folders: Path, rule: str = "seqkd", kbest: str = "kbest") -> SelectConfig:
    prepared = folders / "prepared"
    return SelectConfig.model_validate(
        {"kbest": folders / kbest, "gold": prepared / "train", "prepared": prepared, "rule": rule}
    )


def test_seqkd_takes_text_ids_and_score_of_the_best_hypothesis(folders: Path) -> None:
    select.run(config(folders), folders / "out")
    rows = rows_of(folders / "out")
    assert [row["target"] for row in rows] == ["won", "two and two", "for"]
    assert rows[1] == {
        "id": 3,
        "source": "zwei",
        "target": "two and two",
        "source_ids": [11],
        "target_ids": [21, 22],
        "score": -0.25,
        "rule": "seqkd",
        "origin": "teacher",
    }


def test_seqinter_takes_what_is_nearest_to_the_reference(folders: Path) -> None:
    select.run(config(folders, "seqinter"), folders / "out")
    assert [row["target"] for row in rows_of(folders / "out")] == ["one", "two and two", "three", "for"]


def test_an_empty_hypothesis_is_left_out_counted_and_listed(folders: Path) -> None:
    select.run(config(folders), folders / "out")
    manifest = read_manifest(folders / "out")
    assert manifest.counts == {"empty hypothesis": 1}
    assert (folders / "out" / "rejected.tsv").read_text() == "id\treason\tbecame\n4\tempty hypothesis\tdropped\n"
    assert 4 not in [row["id"] for row in rows_of(folders / "out")]


def test_the_manifest_counts_rows_tokens_and_copies_of_the_reference(folders: Path) -> None:
    select.run(config(folders), folders / "out")
    manifest = read_manifest(folders / "out")
    assert (manifest.rows, manifest.source_tokens, manifest.target_tokens) == (3, 3, 4)
    assert manifest.vocabulary == VOCABULARY
    assert manifest.extra["equal_to_reference"] == 1
    assert manifest.extra["share_equal_to_reference"] == pytest.approx(1 / 3)


def test_rows_are_joined_by_id_not_by_line(folders: Path) -> None:
    shuffled = [KBEST[1], KBEST[0], KBEST[3], KBEST[2]]
    write_kbest(folders / "shuffled", lists=shuffled)
    select.run(config(folders, kbest="kbest"), folders / "one")
    select.run(config(folders, kbest="shuffled"), folders / "other")
    assert rows_of(folders / "one") == rows_of(folders / "other")


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([KBEST[0], KBEST[0], *KBEST[2:]], "more than one k-best list: 0"),
        ([KBEST[0], (7, KBEST[1][1]), *KBEST[2:]], "no k-best list: 3"),
        ([*KBEST[:2], KBEST[2], (4, KBEST[3][1])], "more than one k-best list: 4"),
    ],
)
def test_ids_that_do_not_match_are_named(folders: Path, lists: Lists, message: str) -> None:
    write_kbest(folders / "wrong", lists=lists)
    with pytest.raises(CorpusError, match=message):
        select.run(config(folders, kbest="wrong"), folders / "out")
    assert not (folders / "out" / "manifest.json").exists()


def test_lists_of_another_corpus_with_the_same_ids_are_refused(folders: Path) -> None:
    write_kbest(folders / "wrong", sources=SOURCE_IDS | {9: [77]})
    with pytest.raises(CorpusError, match="1 ids were decoded from other sources: 9"):
        select.run(config(folders, kbest="wrong"), folders / "out")


def test_another_number_of_shards_is_refused_before_work_starts(folders: Path) -> None:
    write_kbest(folders / "wrong", size=4)
    with pytest.raises(CorpusError, match="1 shards of k-best lists for 2 shards"):
        select.run(config(folders, kbest="wrong"), folders / "out")
    assert not (folders / "out").exists()


def test_another_vocabulary_is_refused(folders: Path) -> None:
    write_prepared(folders / "prepared", "cd" * 32)
    with pytest.raises(CorpusError, match="another vocabulary"):
        select.run(config(folders), folders / "out")


@pytest.mark.parametrize("lost", ["shard-00000.arrow", "shard-00001.arrow", "rejected.tsv"])
def test_an_interrupted_run_goes_on_to_the_same_bytes(folders: Path, lost: str) -> None:
    select.run(config(folders), folders / "whole")
    with interrupted_before("manifest.json"), pytest.raises(KeyboardInterrupt):
        select.run(config(folders), folders / "out")
    (folders / "out" / lost).unlink()
    select.run(config(folders), folders / "out")
    assert contents(folders / "out") == contents(folders / "whole")


def test_finished_shards_are_not_written_again(folders: Path) -> None:
    with interrupted_before("shard-00001.arrow"), pytest.raises(KeyboardInterrupt):
        select.run(config(folders), folders / "out")
    with placed(".arrow") as written:
        select.run(config(folders), folders / "out")
    assert written == ["shard-00001.arrow"]


def test_a_second_run_does_nothing_and_another_rule_is_refused(folders: Path) -> None:
    select.run(config(folders), folders / "out")
    before = {path: path.stat().st_mtime_ns for path in (folders / "out").iterdir()}
    select.run(config(folders), folders / "out")
    assert before == {path: path.stat().st_mtime_ns for path in (folders / "out").iterdir()}
    with pytest.raises(ConflictError, match=r"config\.rule"):
        select.run(config(folders, "seqinter"), folders / "out")
    select.run(config(folders, "seqinter"), folders / "out", overwrite=True)
    assert rows_of(folders / "out")[0]["target"] == "one"


def test_a_list_without_hypotheses_counts_as_empty(folders: Path) -> None:
    write_kbest(folders / "short", lists=[(0, []), *KBEST[1:]])
    select.run(config(folders, kbest="short"), folders / "out")
    assert [row["id"] for row in rows_of(folders / "out")] == [3, 9]


def test_a_shard_whose_rows_are_all_rejected_stays_in_place(folders: Path) -> None:
    write_kbest(folders / "empty", lists=[(0, [("", [], 0.0)]), (3, [(" ", [8], 0.0)]), *KBEST[2:]])
    select.run(config(folders, kbest="empty"), folders / "out")
    assert [shard.rows for shard in read_manifest(folders / "out").shards] == [0, 1]
    shutil.rmtree(folders / "kbest")  # the output stands alone
    assert [row["id"] for row in rows_of(folders / "out")] == [9]
