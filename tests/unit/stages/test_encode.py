"""Vocabularies besides that of a data set: learning one, encoding corpora with it, and models that have it."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from seqkd.cli.main import main
from seqkd.config.stages import DistillConfig, EncodeConfig, EvaluateConfig, FurtherVocabularyConfig
from seqkd.config.toml import validate
from seqkd.corpus.manifest import read_manifest, write_manifest
from seqkd.corpus.reader import Corpus
from seqkd.corpus.writer import write_shard
from seqkd.errors import ConflictError, CorpusError, InputError, ModelError
from seqkd.metrics.results import read_result
from seqkd.search.loading import recoder
from seqkd.stages.distill import distill
from seqkd.stages.evaluate import evaluate
from seqkd.stages.prepare import encode, further_vocabulary, prepare
from seqkd.stages.prepare.encode import encode_texts
from seqkd.text.vocabularies import Vocabularies
from seqkd.tools.verify import verify
from tests.manifests import comparable
from tests.unit.stages.support import prepare_config
from tests.unit.stages.teachers import make_teacher

TAG = "<bt>"


def learn(gold: Path, out: Path, **settings: Any) -> Path:
    values = {"prepared": gold, "vocabulary": {"size": 30, "byte_fallback": False, "tags": [TAG], **settings}}
    further_vocabulary.run(validate(FurtherVocabularyConfig, values, "file"), out)
    return out


def encoded(corpus: Path, vocabulary: Path, out: Path) -> Path:
    encode.run(EncodeConfig(corpus=corpus, vocabulary=vocabulary), out)
    return out


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for table in Corpus.open(folder).tables() for row in table.to_pylist()]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data, another vocabulary, and a random model of each."""
    root = tmp_path_factory.mktemp("encode")
    config = prepare_config(root)
    lines = (root / "test.en").read_text().splitlines()
    (root / "accepted").write_text("".join(json.dumps([line, f"{line} today"]) + "\n" for line in lines))
    test = config.test.model_copy(update={"accepted": root / "accepted"})
    prepare.run(config.model_copy(update={"test": test, "target_language": "en"}), root / "gold")
    learn(root / "gold", root / "small")
    make_teacher(root / "big", root / "gold" / "vocab.model")
    make_teacher(root / "other", root / "small" / "vocab.model", seed=2)
    return root


def test_a_further_vocabulary(root: Path, tmp_path: Path) -> None:
    """It is a prepared folder with validation text, and its bytes depend on the settings and the text alone."""
    manifest, own = read_manifest(root / "small"), Vocabularies.load(root / "small")
    assert (manifest.kind, manifest.vocabulary) == ("prepared", own.target.digest)
    assert (manifest.extra["pieces"], manifest.extra["target_language"]) == (30, "en")
    learn(root / "gold", tmp_path / "again")
    for path in sorted((root / "small").rglob("*.*")):
        assert comparable(tmp_path / "again" / path.relative_to(root / "small")) == comparable(path), path
    before, after = rows_of(root / "gold" / "valid"), rows_of(root / "small" / "valid")
    for ours, theirs in zip(before, after, strict=True):
        assert {**ours, "source_ids": 0, "target_ids": 0} == {**theirs, "source_ids": 0, "target_ids": 0}
        assert theirs["target_ids"] == own.target.encode([ours["target"]])[0]
    assert verify(root / "small", [root]).problems == []
    assert main(["inspect", str(root / "small")]) == 0
    apart = Vocabularies.load(learn(root / "gold", tmp_path / "apart", joint=False, size=25, tags=[]))
    assert apart.source.digest != apart.target.digest


def test_a_corpus_with_other_pieces(root: Path, tmp_path: Path) -> None:
    out = encoded(root / "gold" / "train", root / "small", tmp_path / "train")
    own = Vocabularies.load(root / "small")
    before, after = rows_of(root / "gold" / "train"), rows_of(out)
    assert [row["id"] for row in after] == list(range(200))
    for ours, theirs in zip(before, after, strict=True):
        assert theirs["source_ids"] == own.source.encode([ours["source"]])[0]
        assert (theirs["source"], theirs["target"]) == (ours["source"], ours["target"])
    manifest = read_manifest(out)
    assert manifest.target_tokens == sum(len(row["target_ids"]) for row in after)
    assert [shard.rows for shard in manifest.shards] == [80, 80, 40]
    assert verify(out, [root]).problems == []
    # Back again, the rows are those of the data set.
    assert rows_of(encoded(out, root / "gold", tmp_path / "back")) == before
    # Another vocabulary is another folder.
    with pytest.raises(ConflictError, match="vocabulary"):
        encoded(root / "gold" / "train", root / "gold", out)


def test_what_cannot_be_encoded(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no vocabulary"):
        encoded(root / "gold" / "train", tmp_path, tmp_path / "out")
    with pytest.raises(CorpusError):
        encoded(tmp_path, root / "small", tmp_path / "out")
    shutil.copytree(root / "gold" / "train", tmp_path / "mono")
    manifest = json.loads((tmp_path / "mono" / "manifest.json").read_text())
    manifest["extra"]["monolingual"] = True
    (tmp_path / "mono" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorpusError, match="is monolingual text"):
        encoded(tmp_path / "mono", root / "small", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=r"pieces are more than this text supports(?s:.*)at most \d+"):
        learn(root / "gold", tmp_path / "large", size=3000)
    assert not (tmp_path / "large" / "manifest.json").exists()
    learn(root / "gold", tmp_path / "large", size=35)


def test_tags_are_pieces_of_their_own(root: Path) -> None:
    small, gold = Vocabularies.load(root / "small").source, Vocabularies.load(root / "gold").source
    texts = [f"{TAG} der hund", "der hund", f"der {TAG} hund"]
    piece = small.id_of(TAG)
    plain = small.encode(texts[1:])
    assert encode_texts(texts, small, tag=TAG) == [[piece, *plain[0]], *plain]
    assert encode_texts(texts, small) == small.encode(texts)
    assert encode_texts(texts[1:2], gold, tag=TAG) == gold.encode(texts[1:2])
    with pytest.raises(ModelError, match=f"has no piece '{TAG}'"):
        encode_texts(texts, gold, tag=TAG)


def test_a_teacher_with_another_vocabulary(root: Path, tmp_path: Path) -> None:
    """Its lists are those of the corpus in its own pieces, with the pieces of the data set."""
    search = {"beam": 3, "nbest": 3, "max_length_ratio": 1.0}
    own = {"models": [root / "other"], "search": search, "precision": "float32", "workers": 1}
    corpus = encoded(root / "gold" / "test", root / "small", tmp_path / "test")
    distill.run(validate(DistillConfig, {**own, "corpus": corpus}, "file"), tmp_path / "direct")
    foreign = {**own, "corpus": root / "gold" / "test"}
    distill.run(validate(DistillConfig, {**foreign, "prepared": root / "gold"}, "file"), tmp_path / "lists")
    gold, vocabulary = rows_of(root / "gold" / "test"), Vocabularies.load(root / "gold").target
    direct, lists = rows_of(tmp_path / "direct"), rows_of(tmp_path / "lists")
    for row, theirs, ours in zip(gold, direct, lists, strict=True):
        assert ours["source_ids"] == row["source_ids"]
        for a, b in zip(theirs["hypotheses"], ours["hypotheses"], strict=True):
            assert {**a, "ids": 0} == {**b, "ids": 0}
            assert b["ids"] == vocabulary.encode([b["text"]])[0]
    with pytest.raises(CorpusError, match="vocabulary other than the teacher's"):
        distill.run(validate(DistillConfig, foreign, "file"), tmp_path / "refused")
    mixed = {**foreign, "models": [root / "other", root / "big"], "prepared": root / "gold"}
    with pytest.raises(ModelError, match="the target vocabulary of this teacher is not that of the first model"):
        distill.run(validate(DistillConfig, mixed, "file"), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    # A model of the corpus' own vocabulary is not converted.
    same = {**own, "models": [root / "big"], "corpus": root / "gold" / "test"}
    distill.run(validate(DistillConfig, same, "file"), tmp_path / "same")
    distill.run(validate(DistillConfig, {**same, "prepared": root / "gold"}, "file"), tmp_path / "named")
    assert rows_of(tmp_path / "same") == rows_of(tmp_path / "named")
    assert read_manifest(tmp_path / "same").fingerprint == read_manifest(tmp_path / "named").fingerprint


def test_a_rescorer_reads_text_in_its_own_pieces(root: Path) -> None:
    gold, small = Vocabularies.load(root / "gold"), Vocabularies.load(root / "small")
    assert recoder(gold, Vocabularies.load(root / "gold")) is None
    recode = recoder(gold, small)
    assert recode is not None
    texts = [("der hund jagt", "the dog chases"), ("", "cat"), ("rot", "")]
    pairs = [(gold.source.encode([source])[0], gold.target.encode([target])[0]) for source, target in texts]
    expected = [(small.source.encode([source])[0], small.target.encode([target])[0]) for source, target in texts]
    assert recode(pairs) == expected


def evaluated(root: Path, model: str, corpus: Path, out: Path, **more: Any) -> Path:
    values = {"name": model, "model": root / model, "role": "student", "corpus": corpus, "beams": [1], **more}
    values |= {"search": {"max_length_ratio": 0.5}, "precision": "float32", "metrics": ["bleu", "valid"]}
    evaluate.run(validate(EvaluateConfig, values, "file"), out)
    return out


def test_an_evaluation_beside_models_with_another_vocabulary(root: Path, tmp_path: Path) -> None:
    test = encoded(root / "gold" / "test", root / "small", tmp_path / "test")
    first = evaluated(root, "big", root / "gold" / "test", tmp_path / "big", timed=False)
    beside = {"speed_against": root / "big", "baseline": first}
    result = read_result(evaluated(root, "other", test, tmp_path / "other", **beside))
    assert result.compared_with == "big"
    assert result.decodes["1"].significance
    assert result.decodes["1"].valid is not None
    assert result.baseline is not None
    assert (result.pieces, result.vocabulary) == (30, Vocabularies.load(root / "small").target.digest)
    # Both perplexities are of the same likelihood.
    rows = rows_of(test)
    tokens, characters = (sum(len(row[name]) for row in rows) for name in ("target_ids", "target"))
    assert result.perplexity is not None
    assert result.perplexity_per_character is not None
    likelihood = math.log(result.perplexity) * (tokens + len(rows))
    assert likelihood == pytest.approx(math.log(result.perplexity_per_character) * characters)
    with pytest.raises(CorpusError, match=r"vocabulary other than(?s:.*)seqkd prepare --encode"):
        evaluated(root, "other", root / "gold" / "test", tmp_path / "refused")
    with pytest.raises(CorpusError, match="test text other than"):
        evaluated(root, "big", root / "gold" / "valid", tmp_path / "refused", baseline=tmp_path / "other")


def test_rivals_are_encoded_like_targets(root: Path, tmp_path: Path) -> None:
    shards = []
    for index, table in enumerate(Corpus.open(root / "gold" / "train").tables()):
        rivals = [f"{text} today" for text in table.column("target").to_pylist()]
        table = table.append_column("rival", pa.array(rivals))
        table = table.append_column("rival_ids", pa.array([[9]] * len(rivals), pa.list_(pa.int32())))
        table = table.append_column("rival_margin", pa.array([0.25] * len(rivals), pa.float32()))
        (tmp_path / "pairs").mkdir(exist_ok=True)
        shards.append(write_shard(tmp_path / "pairs", index, table))
    manifest = read_manifest(root / "gold" / "train")
    write_manifest(tmp_path / "pairs", dataclasses.replace(manifest, shards=shards))
    vocabulary = Vocabularies.load(root / "small").target
    for row in rows_of(encoded(tmp_path / "pairs", root / "small", tmp_path / "out")):
        assert row["rival"] == f"{row['target']} today"
        assert [row["rival_ids"]] == encode_texts([row["rival"]], vocabulary)
        assert row["rival_margin"] == 0.25
