"""Monolingual target text becomes training pairs: encoded, decoded by a model of the other direction, turned round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seqkd.cli.main import main
from seqkd.config.stages import DistillConfig, MonolingualConfig, SelectConfig, TrainConfig
from seqkd.config.toml import validate
from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.errors import ConfigError, CorpusError, InputError, ModelError, TextError
from seqkd.models.checkpoint import load_model
from seqkd.stages.distill import distill
from seqkd.stages.prepare import monolingual, prepare
from seqkd.stages.select import select
from seqkd.stages.train import train
from seqkd.text.vocabulary import Vocabulary
from tests.events import interrupted_before
from tests.manifests import comparable
from tests.unit.stages.support import WORDS, prepare_config
from tests.unit.stages.teachers import MODEL, TRAINING

TAG = "<bt>"
LONGER = TRAINING | {"max_updates": 80, "validate_every": 40}  # so that outputs are not all empty
LINES = [
    f"{first} {second} {third}" for first in WORDS.values() for second in WORDS.values() for third in ("red", "all")
]


@pytest.fixture(scope="module", params=[True, False], ids=["joint", "separate"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    config = prepare_config(folder, size=40 if request.param else 30, joint=request.param)
    vocabulary = config.vocabulary.model_copy(update={"tags": (TAG,)})
    prepare.run(config.model_copy(update={"vocabulary": vocabulary}), folder / "prepared")
    (folder / "one.en").write_text("".join(f"{line}\n" for line in ["", *LINES[:100], LINES[0]]))
    (folder / "two.en").write_text("".join(f"{line}\n" for line in [*LINES[100:], LINES[3], "long " * 300]))
    return folder / "prepared"


def mono_config(prepared: Path, **more: Any) -> MonolingualConfig:
    texts = [prepared.parent / name for name in ("one.en", "two.en")]
    return validate(MonolingualConfig, {"text": texts, "prepared": prepared, "shard_rows": 30, **more}, "test")


def train_config(prepared: Path, **more: Any) -> TrainConfig:
    model = MODEL | {"embeddings": "decoder"}
    values = {"prepared": prepared, "corpus": prepared / "train", "model": model, "training": LONGER, "reverse": True}
    return validate(TrainConfig, values | more, "test")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for table in Corpus.open(folder, "corpus").tables() for row in table.to_pylist()]


@pytest.fixture(scope="module")
def made(prepared: Path) -> Path:
    """Monolingual text, a reverse model, its k-best lists."""
    folder = prepared.parent
    monolingual.run(mono_config(prepared, ratio=0.5), folder / "mono")
    train.run(train_config(prepared), folder / "reverse", device="cpu")
    search = {"beam": 2, "nbest": 2, "min_length": 2, "max_length_extra": 3}
    lists = {"models": [folder / "reverse"], "corpus": folder / "mono", "search": search, "workers": 1}
    distill.run(validate(DistillConfig, lists, "test"), folder / "kbest", device="cpu")
    return folder


def select_config(made: Path, **more: Any) -> SelectConfig:
    values = {"kbest": made / "kbest", "gold": made / "mono", "prepared": made / "prepared", "rule": "seqkd"}
    return validate(SelectConfig, {**values, "reverse": True, "tag": TAG, **more}, "test")


def test_text_is_drawn_and_encoded_as_sources(prepared: Path, made: Path) -> None:
    gold, manifest = read_manifest(prepared / "train"), read_manifest(made / "mono")
    rows = rows_of(made / "mono")
    assert len(rows) == manifest.rows == round(0.5 * gold.rows)
    assert [row["id"] for row in rows] == list(range(gold.rows, gold.rows + len(rows)))  # none is a gold row's
    texts = [row["source"] for row in rows]
    assert len(set(texts)) == len(texts)
    assert [LINES.index(text) for text in texts] == sorted(LINES.index(text) for text in texts)  # in their order
    target = Vocabulary.load(prepared / "vocab.model")
    assert [row["source_ids"] for row in rows] == target.encode(texts)
    assert all(row["target"] == "" and row["target_ids"] == [] for row in rows)
    assert manifest.extra["source_vocabulary"] == target.digest
    assert manifest.vocabulary == read_manifest(prepared).extra["source_vocabulary"]
    rejected = (made / "mono" / "rejected.tsv").read_text().splitlines()
    assert rejected[1:] == ["1\tempty side", "102\tduplicate pair", "203\tduplicate pair", "204\ttoo long"]


def test_all_text_is_taken_where_all_is_asked_for(prepared: Path, tmp_path: Path) -> None:
    monolingual.run(mono_config(prepared, ratio=200 / read_manifest(prepared / "train").rows), tmp_path / "mono")
    assert [row["source"] for row in rows_of(tmp_path / "mono")] == LINES


def test_an_interrupted_run_ends_with_the_same_bytes(prepared: Path, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "mono"
    with interrupted_before("shard-00002.arrow"), pytest.raises(KeyboardInterrupt):
        monolingual.run(mono_config(prepared, ratio=0.5), out)
    assert len(list(out.glob("*.arrow"))) == 2
    monolingual.run(mono_config(prepared, ratio=0.5), out)
    for path in (made / "mono").iterdir():
        assert comparable(out / path.name) == comparable(path)


@pytest.mark.parametrize(("total", "wanted"), [(5, 5), (40, 7), (9, 1)])
def test_draws_are_of_the_size_asked_for_and_even(total: int, wanted: int) -> None:
    counts = [0] * total
    for seed in range(400):
        chosen = [
            int(text) for text, _ in monolingual.draw_texts(((str(n), "") for n in range(total)), total, wanted, seed)
        ]
        assert len(chosen) == wanted
        assert chosen == sorted(set(chosen))
        for n in chosen:
            counts[n] += 1
    expected = 400 * wanted / total
    assert max(abs(count - expected) for count in counts) <= 6 * expected**0.5


def test_the_reverse_model_learns_to_write_sources(prepared: Path, made: Path) -> None:
    model, folder = load_model(made / "reverse"), made / "reverse"
    ours = read_manifest(prepared)
    assert model.vocabularies.target.digest == ours.extra["source_vocabulary"]
    assert model.vocabularies.source.digest == ours.vocabulary
    manifest, gold = read_manifest(folder), read_manifest(prepared / "train")
    assert (manifest.source_tokens, manifest.target_tokens) == (gold.target_tokens, gold.source_tokens)
    assert manifest.fingerprint["config"]["reverse"] is True
    assert manifest.fingerprint["inputs"]["corpus"] != gold.digest()


def test_pairs_have_tagged_hypotheses_as_sources_and_the_text_as_targets(made: Path, tmp_path: Path) -> None:
    select.run(select_config(made), tmp_path / "pairs")
    select.run(select_config(made, tag=""), tmp_path / "plain")
    prepared, lists = made / "prepared", Corpus.open(made / "kbest", "kbest")
    best = {row["id"]: row["hypotheses"][0] for table in lists.tables() for row in table.to_pylist()}
    other = prepared / "vocab.source.model"
    piece = Vocabulary.load(other if other.exists() else prepared / "vocab.model").id_of(TAG)
    text = {row["id"]: row for row in rows_of(made / "mono")}
    pairs, plain = rows_of(tmp_path / "pairs"), rows_of(tmp_path / "plain")
    assert pairs
    for row, bare in zip(pairs, plain, strict=True):
        hypothesis = best[row["id"]]
        assert (row["target"], row["target_ids"]) == (text[row["id"]]["source"], text[row["id"]]["source_ids"])
        assert row["source"] == f"{TAG} {hypothesis['text']}"
        assert row["source_ids"] == [piece, *hypothesis["ids"]]
        assert (bare["source"], bare["source_ids"]) == (hypothesis["text"], hypothesis["ids"])
        assert (row["origin"], row["score"]) == ("backtranslation", hypothesis["score"])
    manifest, ours = read_manifest(tmp_path / "pairs"), read_manifest(prepared)
    assert manifest.vocabulary == ours.vocabulary
    assert manifest.extra["source_vocabulary"] == ours.extra["source_vocabulary"]
    assert len(pairs) + sum(manifest.counts.values()) == len(text)
    assert manifest.source_tokens == sum(len(row["source_ids"]) for row in pairs)
    assert manifest.target_tokens == sum(len(row["target_ids"]) for row in pairs)


def test_a_student_learns_from_them_beside_gold_text(prepared: Path, made: Path, tmp_path: Path) -> None:
    select.run(select_config(made), tmp_path / "pairs")
    corpora = [{"path": prepared / "train"}, {"path": tmp_path / "pairs", "weight": 0.5}]
    train.run(train_config(prepared, corpus=corpora, reverse=False), tmp_path / "student", device="cpu")
    rows = [read_manifest(folder).rows for folder in (prepared / "train", tmp_path / "pairs")]
    assert read_manifest(tmp_path / "student").rows == sum(rows)


# --- text of the source language ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pseudo(made: Path) -> Path:
    """Text of the source language, and k-best lists of a model of the direction of the gold text."""
    folder = made / "pseudo"
    folder.mkdir()
    (folder / "mono.txt").write_text("".join(f"{a} {b}\n" for a in WORDS for b in WORDS if a != b))
    monolingual.run(
        mono_config(made / "prepared", text=[folder / "mono.txt"], side="source", ratio=0.4), folder / "mono"
    )
    train.run(train_config(made / "prepared", reverse=False), folder / "teacher", device="cpu")
    search = {"beam": 2, "nbest": 2, "min_length": 2, "max_length_extra": 3}
    lists = {"models": [folder / "teacher"], "corpus": folder / "mono", "search": search, "workers": 1}
    distill.run(validate(DistillConfig, lists, "test"), folder / "kbest", device="cpu")
    return folder


def pseudo_config(pseudo: Path, **more: Any) -> SelectConfig:
    values = {"kbest": pseudo / "kbest", "gold": pseudo / "mono", "prepared": pseudo.parent / "prepared"}
    return validate(SelectConfig, {**values, "rule": "seqkd", **more}, "test")


def test_hypotheses_for_source_text_become_its_targets(pseudo: Path, tmp_path: Path) -> None:
    ours, gold = read_manifest(pseudo.parent / "prepared"), read_manifest(pseudo.parent / "prepared" / "train")
    text, manifest = rows_of(pseudo / "mono"), read_manifest(pseudo / "mono")
    assert (manifest.vocabulary, manifest.extra["source_vocabulary"]) == (
        ours.vocabulary,
        ours.extra["source_vocabulary"],
    )
    assert [row["id"] for row in text] == list(range(gold.rows, gold.rows + round(0.4 * gold.rows)))
    select.run(pseudo_config(pseudo), tmp_path / "pairs")
    lists = Corpus.open(pseudo / "kbest", "kbest")
    best = {row["id"]: row["hypotheses"][0] for table in lists.tables() for row in table.to_pylist()}
    pairs, sources = rows_of(tmp_path / "pairs"), {row["id"]: row for row in text}
    assert pairs
    for row in pairs:
        assert (row["source"], row["source_ids"]) == (sources[row["id"]]["source"], sources[row["id"]]["source_ids"])
        assert (row["target"], row["target_ids"]) == (best[row["id"]]["text"], best[row["id"]]["ids"])
        assert row["origin"] == "teacher"
    made = read_manifest(tmp_path / "pairs")
    assert (made.extra["monolingual_rows"], made.extra["gold"]) == (len(text), manifest.extra["gold"])
    assert "monolingual" not in made.extra
    corpora = [{"path": pseudo.parent / "prepared" / "train"}, {"path": tmp_path / "pairs", "noise": {"drop": 0.2}}]
    config = train_config(pseudo.parent / "prepared", corpus=corpora, reverse=False)
    train.run(config, tmp_path / "student", device="cpu")
    assert read_manifest(tmp_path / "student").rows == gold.rows + len(pairs)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"reverse": True}, "is not monolingual text of the target language"),
        ({"rule": "seqinter"}, "is monolingual text, which has no references"),
        ({"rejected": "gold"}, "is monolingual text, which has no references"),
    ],
)
def test_source_text_without_targets_has_no_references(
    pseudo: Path, tmp_path: Path, more: dict[str, Any], problem: str
) -> None:
    with pytest.raises(CorpusError, match=problem):
        select.run(pseudo_config(pseudo, **more), tmp_path / "pairs")
    config = train_config(pseudo.parent / "prepared", corpus=pseudo / "mono", reverse=False)
    with pytest.raises(CorpusError, match="has no targets to train on"):
        train.run(config, tmp_path / "model", device="cpu")


# --- what cannot be ----------------------------------------------------------------------------------------------


def test_too_little_text_is_told_with_the_ratio_that_there_is_text_for(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"asks for 400 lines.* 200 of 204 can be used") as caught:
        monolingual.run(mono_config(prepared, ratio=2.0), tmp_path / "mono")
    assert "a ratio of at most 1" in str(caught.value)
    monolingual.run(mono_config(prepared, ratio=1.0), tmp_path / "mono")  # what was begun is not in the way


def test_missing_text_is_told_all_at_once(prepared: Path, tmp_path: Path) -> None:
    config = mono_config(prepared, text=[tmp_path / "a", tmp_path / "b"])
    with pytest.raises(InputError, match="2 problems") as caught:
        monolingual.run(config, tmp_path / "mono")
    assert str(caught.value).count("no such file") == 2
    (tmp_path / "a").write_text("")
    with pytest.raises(TextError, match="the corpus is empty"):
        monolingual.run(mono_config(prepared, text=[tmp_path / "a"]), tmp_path / "mono")
    assert not (tmp_path / "mono").exists()


def test_monolingual_text_is_nothing_to_train_on_or_to_select_as_it_is(made: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="has no targets to train on"):
        train.run(train_config(made / "prepared", corpus=made / "mono"), tmp_path / "model", device="cpu")
    with pytest.raises(CorpusError, match="is monolingual text"):
        select.run(select_config(made, reverse=False, tag=""), tmp_path / "pairs")
    with pytest.raises(CorpusError, match="is not monolingual text"):
        select.run(select_config(made, gold=made / "prepared" / "train"), tmp_path / "pairs")


def test_a_tag_must_be_a_piece(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no piece '<other>'"):
        select.run(select_config(made, tag="<other>"), tmp_path / "pairs")
    assert not (tmp_path / "pairs").exists()


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"reverse": False}, "tag: is for sources that a model wrote"),
        ({"rule": "seqinter"}, "reads references, and monolingual text has none"),
        ({"filters": {"max_ter": 50.0}}, "reads references, and monolingual text has none"),
        ({"tag": "<b t>"}, "tag"),
    ],
)
def test_settings_that_do_not_go_together(made: Path, more: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        select_config(made, **more)


@pytest.mark.parametrize("ratio", [0.0, -1.0, 101.0])
def test_a_ratio_out_of_range(prepared: Path, ratio: float) -> None:
    with pytest.raises(ConfigError, match="ratio"):
        mono_config(prepared, ratio=ratio)


def test_another_vocabulary_is_refused(made: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    prepare.run(prepare_config(other, size=38), other / "prepared")
    with pytest.raises(CorpusError, match="another"):
        select.run(select_config(made, prepared=other / "prepared", tag=""), tmp_path / "pairs")
    monolingual.run(mono_config(other / "prepared", text=[made / "one.en"], ratio=0.1), tmp_path / "mono")
    lists = {"models": [made / "reverse"], "corpus": tmp_path / "mono"}
    with pytest.raises(CorpusError, match=r"was made with a (source|target) vocabulary other than"):
        distill.run(validate(DistillConfig, lists, "test"), tmp_path / "kbest", device="cpu")


def test_the_command_takes_monolingual_text(prepared: Path, tmp_path: Path) -> None:
    file = tmp_path / "mono.toml"
    file.write_text(f'text = ["{prepared.parent}/one.en"]\nprepared = "{prepared}"\nratio = 0.2\n')
    assert main(["prepare", "--monolingual", "--config", str(file), "--out", str(tmp_path / "mono")]) == 0
    assert read_manifest(tmp_path / "mono").extra["monolingual"] is True
    assert main(["inspect", str(tmp_path / "mono")]) == 0
