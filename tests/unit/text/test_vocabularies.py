from __future__ import annotations

from pathlib import Path

import pytest

from seqkd.errors import ModelError
from seqkd.text.vocabularies import SOURCE_VOCABULARY, VOCABULARY, Vocabularies
from seqkd.text.vocabulary import Vocabulary


def trained(path: Path, *sentences: str) -> Path:
    Vocabulary.train(
        sentences * 20,
        path,
        size=20,
        type="bpe",
        byte_fallback=False,
        character_coverage=1.0,
        symbols=(),
        seed=1,
    )
    return path


def test_one_for_both_sides(tmp_path: Path) -> None:
    trained(tmp_path / VOCABULARY, "ein hund", "a dog")
    found = Vocabularies.load(tmp_path)
    assert found.source is found.target
    assert found.joint
    assert list(found.files()) == [VOCABULARY]


def test_one_of_each(tmp_path: Path) -> None:
    trained(tmp_path / VOCABULARY, "a dog", "no cat")
    trained(tmp_path / SOURCE_VOCABULARY, "ein hund", "keine katze")
    found = Vocabularies.load(tmp_path)
    assert not found.joint
    assert {name: own.path.name for name, own in found.files().items()} == {name: name for name in found.files()}
    turned = found.reversed()
    assert (turned.source, turned.target) == (found.target, found.source)
    assert dict(found.sides()) == {"target": found.target, "source": found.source}


def test_the_same_pieces_in_two_files_are_joint(tmp_path: Path) -> None:
    trained(tmp_path / VOCABULARY, "ein hund")
    (tmp_path / SOURCE_VOCABULARY).write_bytes((tmp_path / VOCABULARY).read_bytes())
    assert Vocabularies.load(tmp_path).joint


def test_a_folder_without_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"(?s)holds no vocabulary.*vocab\.model \(sentencepiece\)"):
        Vocabularies.load(tmp_path)
