"""Data sets with tags, data sets that share sources, and vocabularies of several data sets."""

from __future__ import annotations

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
from seqkd.errors import ConfigError, InputError, ModelError
from seqkd.stages.prepare import encode, further_vocabulary, prepare
from seqkd.stages.train import train
from seqkd.stages.train.validating import find_languages
from seqkd.text.vocabularies import Vocabularies
from tests.unit.stages.support import prepare_config
from tests.unit.stages.teachers import MODEL, TRAINING


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
