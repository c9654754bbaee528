"""Data sets with tags, data sets that share sources, and vocabularies of several data sets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from seqkd.config.stages import (
    EncodeConfig,
    FurtherVocabularyConfig,
    PrepareConfig,
    TrainConfig,
    VocabularyConfig,
)
from seqkd.config.toml import validate
from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.errors import ConfigError, CorpusError, InputError, ModelError
from seqkd.stages.distill import soft_targets
from seqkd.stages.prepare import encode, further_vocabulary, prepare
from seqkd.stages.train import train
from seqkd.stages.train.validating import find_languages
from seqkd.text.vocabularies import Vocabularies
from tests.unit.stages.support import prepare_config
from tests.unit.stages.teachers import MODEL, TRAINING, make_teacher, soft_config


def with_tag(config: PrepareConfig, tag: str) -> PrepareConfig:
    vocabulary = config.vocabulary.model_copy(update={"symbols": (tag,), "size": 45})
    return config.model_copy(update={"tag": tag, "vocabulary": vocabulary})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`en` has English targets and no tag; `xx` has the same sources, fewer rows, and a tag."""
    folder = tmp_path_factory.mktemp("groups")
    english = prepare_config(folder)
    (folder / "train.xx").write_text("".join(f"{line} x\n" for line in (folder / "train.en").read_text().splitlines()))
    target = english.train.model_copy(update={"target": folder / "train.xx"})
    other = with_tag(english.model_copy(update={"train": target, "shares_sources": folder / "en"}), "<2xx>")
    # Another set of rows is left out, so that ids differ.
    other = other.model_copy(update={"cleaning": other.cleaning.model_copy(update={"max_length": 8})})
    prepare.run(english, folder / "en")
    prepare.run(other, folder / "xx")
    return folder


def rows(folder: Path) -> list[dict[str, object]]:
    return [row for table in Corpus.open(folder).tables() for row in table.to_pylist()]


def test_a_tag_opens_sources_and_their_ids(run: Path) -> None:
    vocabulary = Vocabularies.load(run / "xx").source
    for part in ("train", "valid", "test"):
        assert read_manifest(run / "xx" / part).extra["source_tag"] == "<2xx>"
        found = rows(run / "xx" / part)
        assert all(str(row["source"]).startswith("<2xx> ") for row in found)
        assert [row["source_ids"] for row in found] == vocabulary.encode([str(row["source"]) for row in found])
        assert all(row["source_ids"].count(vocabulary.id_of("<2xx>")) == 1 for row in found)  # type: ignore[attr-defined]
    assert read_manifest(run / "xx").fingerprint["config"]["source_tag"] == "<2xx>"
    assert "source_tag" not in read_manifest(run / "en" / "train").extra


def test_rows_with_a_shared_source_name_the_first_row(run: Path) -> None:
    first: dict[str, object] = {}
    for row in rows(run / "en" / "train"):
        first.setdefault(str(row["source"]), row["id"])
    found = rows(run / "xx" / "train")
    assert 0 < len(found) < len(first)
    assert [row["source_row"] for row in found] == [first[str(row["source"]).removeprefix("<2xx> ")] for row in found]
    assert any(row["source_row"] != row["id"] for row in found)
    assert "source_row" not in rows(run / "xx" / "valid")[0]


def test_a_row_that_the_other_data_set_lacks_has_no_source_row(tmp_path: Path) -> None:
    config = prepare_config(tmp_path)
    config = config.model_copy(update={"cleaning": config.cleaning.model_copy(update={"max_length": 5})})
    prepare.run(config, tmp_path / "short")
    prepare.run(config.model_copy(update={"shares_sources": tmp_path / "short"}), tmp_path / "same")
    whole = prepare_config(tmp_path).model_copy(update={"shares_sources": tmp_path / "short"})
    prepare.run(whole, tmp_path / "whole")
    assert [row["source_row"] for row in rows(tmp_path / "same" / "train")] == [
        row["id"] for row in rows(tmp_path / "same" / "train")
    ]
    missing = [row for row in rows(tmp_path / "whole" / "train") if row["source_row"] is None]
    assert missing
    assert all(len(str(row["source"]).split()) > 5 for row in missing)


def test_unequal_sources_are_refused(run: Path, tmp_path: Path) -> None:
    config = prepare_config(tmp_path).model_copy(update={"shares_sources": run / "en"})
    (tmp_path / "train.de").write_text((tmp_path / "train.de").read_text().replace("hund", "vogel"))
    with pytest.raises(InputError, match=r"train\.de: differs from the source side of the data set in .*/en, whose"):
        prepare.run(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tag_that_is_no_piece_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tag: '<2yy>' is not a piece; add it to vocabulary.symbols"):
        validate(PrepareConfig, {**prepare_config(tmp_path).model_dump(), "tag": "<2yy>"}, "test")
    brought = prepare_config(tmp_path).model_copy(update={"tag": "<2yy>", "vocabulary_from": run / "en"})
    with pytest.raises(ModelError, match=r"has no piece '<2yy>', which is the tag that sources of the data set open"):
        prepare.run(brought, tmp_path / "out")
    with pytest.raises(ModelError, match="has no piece '<2xx>'"):
        encode.run(EncodeConfig(corpus=run / "xx" / "train", vocabulary=run / "en"), tmp_path / "encoded")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "encoded").exists()


@pytest.fixture(scope="module")
def both(run: Path) -> Path:
    values = {
        "prepared": [{"group": "en", "path": run / "en"}, {"group": "xx", "path": run / "xx"}],
        "vocabulary": VocabularyConfig(size=50, byte_fallback=False, symbols=("<2xx>",)),
    }
    further_vocabulary.run(validate(FurtherVocabularyConfig, values, "test"), run / "both")
    return run / "both"


def test_a_vocabulary_of_several_data_sets(run: Path, both: Path) -> None:
    manifest = read_manifest(both)
    assert manifest.fingerprint["inputs"].keys() == {"train@en", "valid@en", "train@xx", "valid@xx"}
    assert {name: facts["valid_rows"] for name, facts in manifest.extra["groups"].items()} == {"en": 20, "xx": 20}
    for group in ("en", "xx"):
        encoded = Corpus.open(both / f"valid@{group}")
        assert manifest.extra[f"valid@{group}"] == encoded.manifest.digest()
        assert [row["source"] for row in rows(encoded.path)] == [row["source"] for row in rows(run / group / "valid")]


@pytest.mark.parametrize(
    ("groups", "problem"),
    [
        (("en", "yy"), r"corpus\.group: no data set yy in .*both; expected: one of: en, xx"),
        ((None, None), r"corpus\.group: missing; expected: one of: en, xx"),
    ],
)
def test_groups_that_the_prepared_folder_does_not_have(
    run: Path, both: Path, tmp_path: Path, groups: tuple[str | None, str | None], problem: str
) -> None:
    corpora = [{"path": run / "en" / "train", "group": groups[0]}, {"path": run / "xx" / "train", "group": groups[1]}]
    values = {"prepared": both, "corpus": corpora, "model": MODEL, "training": TRAINING}
    with pytest.raises(ConfigError) as caught:
        train.run(validate(TrainConfig, values, "test"), tmp_path / "out", device="cpu")
    text = f"{caught.value.where}: {caught.value.what}; expected: {caught.value.expected}"
    assert re.fullmatch(problem, text), text


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"corpus": [{"path": "a", "group": "en"}, {"path": "b"}]}, "some corpora have a `group` and some have none"),
        (
            {"corpus": [{"path": "a", "group": "en"}, {"path": "b", "group": "en"}], "corpus_temperature": 2.0},
            "corpus_temperature: all corpora are of one data set",
        ),
        (
            {"corpus": [{"path": "a", "group": "en"}, {"path": "b", "group": "xx", "weight": 2.0}]}
            | {"corpus_temperature": 2.0},
            "corpus_temperature: the corpora have weights, too",
        ),
        (
            {"training": {**TRAINING, "best_by": {"metric": "nll", "group": "yy"}}},
            "training.best_by.group: 'yy' is not one of several groups",
        ),
    ],
)
def test_settings_that_contradict_each_other(more: dict[str, object], problem: str) -> None:
    corpora = [{"path": "a", "group": "en"}, {"path": "b", "group": "xx"}]
    values = {"prepared": "both", "corpus": corpora, "model": MODEL, "training": TRAINING, **more}
    with pytest.raises(ConfigError, match=problem):
        validate(TrainConfig, values, "test")


def test_a_group_whose_tokenizer_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message names the group."""
    monkeypatch.setattr("sacrebleu.utils.SACREBLEU_DIR", str(tmp_path))
    loop = {**TRAINING, "valid_bleu": True, "tokenizer": "flores101"}
    training = validate(TrainConfig, {"prepared": "p", "corpus": "c", "training": loop}, "test").training
    with pytest.raises(InputError, match="group th: the tokenizer flores101 needs its model"):
        find_languages(training, {"th": "th"})
    with pytest.raises(InputError, match=r"^tokenizer: the tokenizer flores101 needs its model"):
        find_languages(training, {"": "th"})


def test_stored_and_live_distributions_of_each_group_teach_the_same(both: Path, run: Path, tmp_path: Path) -> None:
    corpora, teachers, stored = [], {}, {}
    for number, group in enumerate(("en", "xx")):
        encode.run(EncodeConfig(corpus=run / group / "train", vocabulary=both), tmp_path / group)
        corpora.append({"path": tmp_path / group, "group": group})
        teachers[group] = [make_teacher(tmp_path / f"teacher-{group}", both / "vocab.model", seed=number)]
        soft_targets.run(
            soft_config(both, *teachers[group], corpus=tmp_path / group, top_k=50), tmp_path / f"s-{group}"
        )
        stored[group] = tmp_path / f"s-{group}"
    values = {"prepared": both, "corpus": corpora, "model": MODEL, "training": TRAINING}
    values |= {"objective": {"type": "word_kd", "alpha": 0.9}}
    losses = {}
    for name, more in (("live", {"teachers": teachers}), ("stored", {"soft_targets": stored})):
        train.run(validate(TrainConfig, {**values, **more}, "test"), tmp_path / name, device="cpu")
        losses[name] = [line["train_loss"] for line in json.loads((tmp_path / name / "history.json").read_text())]
    assert losses["stored"] == pytest.approx(losses["live"], rel=0.01)
    inputs = read_manifest(tmp_path / "stored").fingerprint["inputs"]
    assert inputs["soft_targets@xx"] == read_manifest(stored["xx"]).digest()
    exchanged = {"en": stored["xx"], "xx": stored["en"]}
    with pytest.raises(CorpusError, match=r"these soft targets were not made for the corpus .*/en"):
        train.run(validate(TrainConfig, {**values, "soft_targets": exchanged}, "test"), tmp_path / "out", device="cpu")
    soft_targets.run(soft_config(both, *teachers["xx"], corpus=tmp_path / "xx", top_k=4), tmp_path / "few")
    few = {**stored, "xx": tmp_path / "few"}
    with pytest.raises(CorpusError, match=r"few: keeps other pieces of a distribution than .*/s-en"):
        train.run(validate(TrainConfig, {**values, "soft_targets": few}, "test"), tmp_path / "out", device="cpu")


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"teachers": {"en": ["t"]}}, "teachers: none for the group xx; give some for each group"),
        ({"teachers": {"en": ["t"], "xx": ["t"]}, "objective": {"type": "nll"}}, "takes no distributions of teachers"),
        ({"soft_targets": {"xx": "s"}}, "soft_targets: none for the group en; give some for each group"),
        (
            {"soft_targets": {"en": "s", "xx": "s"}, "teachers": {"en": ["t"], "xx": ["t"]}},
            "teachers, soft_targets: give one or the other",
        ),
        (
            {"soft_targets": {"en": "s", "xx": "s"}}
            | {"corpus": [{"path": name, "group": "en"} for name in "ab"] + [{"path": "c", "group": "xx"}]},
            "soft_targets: belong to one corpus of each group",
        ),
        ({"corpus": "a", "teachers": {"en": ["t"]}}, "teachers: are for several groups; give objective.teachers"),
    ],
)
def test_teachers_that_groups_cannot_have(more: dict[str, object], problem: str) -> None:
    corpora = [{"path": "a", "group": "en"}, {"path": "b", "group": "xx"}]
    values = {"prepared": "both", "corpus": corpora, "model": MODEL, "training": TRAINING}
    with pytest.raises(ConfigError, match=problem):
        validate(TrainConfig, {**values, "objective": {"type": "word_kd"}, **more}, "test")
