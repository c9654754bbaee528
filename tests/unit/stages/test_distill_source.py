"""K-best lists of a source that is no model of seqkd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from seqkd.config.stages import DistillConfig, SelectConfig
from seqkd.config.toml import validate
from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.errors import ConfigError, ConflictError, CorpusError, WorkError
from seqkd.interop.sources import SOURCES, Answer, Candidate, KBestSource, Place, Row
from seqkd.stages.distill import distill
from seqkd.stages.prepare import prepare
from seqkd.stages.select import select
from seqkd.text.vocabulary import Vocabulary
from tests.unit.stages.support import prepare_config

HERE = "tests.unit.stages.test_distill_source"


@dataclass(frozen=True, kw_only=True)
class EchoSettings:
    """Settings of a source that gives sources back."""

    version: str = "1"
    scores: bool = False
    most: Annotated[int, Field(ge=1)] = 2


class Echo:
    """Gives the source as it is, and in capitals; nothing for every seventh row."""

    def __init__(self, settings: EchoSettings, place: Place) -> None:
        assert place.device == "cpu"
        self.settings = settings

    def __call__(self, rows: Sequence[Row]) -> Answer:
        score = -1.0 if self.settings.scores else None
        lists = [
            [Candidate(text=text, score=score, logprob=score) for text in (row.text, row.text.upper())]
            if row.id % 7
            else []
            for row in rows
        ]
        empty = sum(not found for found in lists)
        return Answer(lists=lists[1:] if self.settings.version == "short" else lists, counts={"not answered": empty})


def inputs(settings: EchoSettings) -> dict[str, str]:
    return {"echo": settings.version}


ECHO = KBestSource(name="echo", help="x", settings=f"{HERE}:EchoSettings", open=f"{HERE}:Echo", inputs=f"{HERE}:inputs")


@pytest.fixture(autouse=True)
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES.own, "echo", ECHO)


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    prepare.run(prepare_config(tmp_path), tmp_path / "gold")
    return tmp_path / "gold"


def config(gold: Path, **settings: Any) -> DistillConfig:
    values = {"corpus": gold / "train", "prepared": gold, "source": {"type": "echo", **settings}}
    return validate(DistillConfig, values, "file")


def test_texts_of_a_source_become_k_best_lists(gold: Path, tmp_path: Path) -> None:
    out = tmp_path / "kbest"
    distill.run(config(gold), out)
    lists, corpus = Corpus.open(out, "kbest"), Corpus.open(gold / "train", "corpus")
    assert [shard.rows for shard in lists.shards] == [shard.rows for shard in corpus.shards] == [80, 80, 40]
    vocabulary = Vocabulary.load(gold / "vocab.model")
    for index in range(3):
        for row, found in zip(corpus.read_shard(index).to_pylist(), lists.read_shard(index).to_pylist(), strict=True):
            texts = [row["source"], row["source"].upper()] if row["id"] % 7 else []
            assert (found["id"], found["source_ids"]) == (row["id"], row["source_ids"])
            assert [one["text"] for one in found["hypotheses"]] == texts
            assert [one["ids"] for one in found["hypotheses"]] == vocabulary.encode(texts)
            assert all(one["score"] is None and one["ended"] == "unknown" for one in found["hypotheses"])
    manifest = read_manifest(out)
    missing = sum(row % 7 == 0 for row in range(200))
    assert manifest.counts == {"not answered": missing, "hypotheses without a score or a log-probability": 342}
    assert manifest.extra["source"] == "echo"
    assert manifest.fingerprint["inputs"]["source.echo"] == "1"
    assert (out / "rejected.tsv").read_text().splitlines()[:2] == ["id\treason", "0\tno translation by the source"]


def test_another_version_of_a_source_is_another_fingerprint(gold: Path, tmp_path: Path) -> None:
    distill.run(config(gold), tmp_path / "kbest")
    distill.run(config(gold), tmp_path / "kbest")
    with pytest.raises(ConflictError, match=r"echo"):
        distill.run(config(gold, version="2"), tmp_path / "kbest")


def test_rules_that_read_scores_need_scores(gold: Path, tmp_path: Path) -> None:
    for name, scores in (("bare", False), ("scored", True)):
        distill.run(config(gold, scores=scores), tmp_path / name)

    def selected(name: str, **values: Any) -> int:
        plain = {"kbest": tmp_path / name, "gold": gold / "train", "prepared": gold, **values}
        out = tmp_path / f"{name}-{values['rule']}"
        select.run(validate(SelectConfig, plain, "file"), out)
        return read_manifest(out).rows

    known = {"filters": {"unknown": False}}  # capitals are not in the vocabulary
    assert selected("bare", rule="seqkd") == selected("scored", rule="sample", **known) == 171
    assert selected("bare", rule="chrf") == 171
    for values in ({"rule": "sample"}, {"rule": "chrf", "filters": {"min_score": -3.0}}):
        with pytest.raises(
            CorpusError, match=r"(?s)342 hypotheses without a score.*gives scores and log-probabilities"
        ):
            selected("bare", **values)


def test_an_answer_of_another_length_shifts_no_rows(gold: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"(?s)the source returned 79 lists for 80 rows.*one list for each row"):
        distill.run(config(gold, version="short"), tmp_path / "kbest")
    assert not list((tmp_path / "kbest").glob("*.arrow"))


def test_a_source_stands_in_place_of_models() -> None:
    plain = {"corpus": "c"}
    for values, message in (
        ({}, "give either `models` or `source`"),
        ({"models": ["m"], "source": {"type": "echo"}, "prepared": "p"}, "give either `models` or `source`"),
        ({"source": {"type": "echo"}}, "`source` needs `prepared`"),
        ({"source": {"type": "echo", "most": 0}, "prepared": "p"}, "source.most: Input should be greater"),
        ({"source": {"type": "seqkd"}, "prepared": "p"}, "source: models of seqkd are not a `source`"),
        ({"source": {"type": "oracle"}, "prepared": "p"}, "unknown source of k-best lists 'oracle', expected .* echo"),
    ):
        with pytest.raises(ConfigError, match=message):
            validate(DistillConfig, {**plain, **values}, "file")
