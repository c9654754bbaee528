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
    assert found.files() == {VOCABULARY: (tmp_path / VOCABULARY).read_bytes()}
    assert found.digests() == {VOCABULARY: found.target.digest}


def test_one_of_each(tmp_path: Path) -> None:
    trained(tmp_path / VOCABULARY, "a dog", "no cat")
    trained(tmp_path / SOURCE_VOCABULARY, "ein hund", "keine katze")
    found = Vocabularies.load(tmp_path)
    assert not found.joint
    assert found.files() == {name: (tmp_path / name).read_bytes() for name in (VOCABULARY, SOURCE_VOCABULARY)}
    assert found.digests() == {VOCABULARY: found.target.digest, SOURCE_VOCABULARY: found.source.digest}
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
