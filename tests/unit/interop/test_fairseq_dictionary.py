from __future__ import annotations

from pathlib import Path

import pytest
from sentencepiece import SentencePieceTrainer

from seqkd.errors import ModelError
from seqkd.interop.fairseq_dictionary import (
    DictionaryVocabulary,
    dictionary_text,
    piece_vocabulary,
    read_dictionary,
    word_vocabulary,
)
from seqkd.text.vocabulary import Vocabulary

SENTENCES = [
    "the little dog sees a bird",
    "a bird sees the old cat",
    "little cats and dogs sleep",
    "the bird sleeps",
] * 4


def load(built: DictionaryVocabulary, folder: Path) -> Vocabulary:
    path = folder / "built.model"
    path.write_bytes(built.model)
    return Vocabulary.load(path)


def spm(folder: Path, kind: str = "unigram", size: int = 40, byte_fallback: bool = False) -> Path:
    """A model as people train them for fairseq: SentencePiece's own special ids."""
    path = folder / "spm"
    SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_prefix=str(path),
        vocab_size=size + 256 * byte_fallback,
        model_type=kind,
        byte_fallback=byte_fallback,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return path.with_suffix(".model")


def pieces_of(model: Path) -> list[str]:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    return [processor.id_to_piece(index) for index in range(processor.get_piece_size()) if index > 2]


def test_a_dictionary_is_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "dict.txt"
    path.write_text("▁the 12\n\u2028 3\na b 2\n<unk2> 1 #fairseq:overwrite\nmadeupword0000 0\n", encoding="utf-8")
    assert read_dictionary(path) == ["▁the", "\u2028", "a b", "<unk2>", "madeupword0000"]
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert read_dictionary(path)[0] == "▁the"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("the 3\nthe 2\n", "line 2: the symbol 'the' occurs twice"),
        ("the 3\nalone\n", "line 2"),
        ("<s> 3\n", "occurs twice"),
    ],
)
def test_a_damaged_dictionary_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "dict.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        read_dictionary(path)


def test_a_missing_or_binary_dictionary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        read_dictionary(tmp_path / "none.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="cannot be read"):
        read_dictionary(tmp_path / "binary")


def test_words_keep_their_ids_and_their_text(tmp_path: Path) -> None:
    built = word_vocabulary(["the", "do@@", "gs", "."])
    vocabulary = load(built, tmp_path)
    assert vocabulary.size == 8
    assert vocabulary.encode(["the do@@ gs  .", "the cat"]) == [[4, 5, 6, 7], [4, 3]]
    assert vocabulary.decode([[4, 5, 6, 7]]) == ["the dogs ."]
    assert dictionary_text(vocabulary.path) == "the 1\ndo@@ 1\ngs 1\n. 1\n"


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_pieces_in_another_order_segment_text_as_before(tmp_path: Path, kind: str) -> None:
    import sentencepiece

    model = spm(tmp_path, kind)
    symbols = sorted(pieces_of(model), key=lambda piece: piece[::-1])
    vocabulary = load(piece_vocabulary(symbols, model), tmp_path)
    assert vocabulary.pieces()[4:] == symbols
    before = sentencepiece.SentencePieceProcessor(model_file=str(model))
    for sentence in SENTENCES[:4]:
        ids = vocabulary.encode([sentence])[0]
        assert [vocabulary.piece(index) for index in ids] == before.encode(sentence, out_type=str)
        assert vocabulary.decode([ids]) == [sentence]


def test_our_own_dictionary_comes_back_one_to_one(tmp_path: Path) -> None:
    path = tmp_path / "vocab.model"
    first = Vocabulary.train(
        SENTENCES,
        path,
        size=286,
        type="unigram",
        byte_fallback=True,
        character_coverage=1.0,
        symbols=("<2de>",),
        seed=1,
    )
    (tmp_path / "dict.txt").write_text(dictionary_text(path), encoding="utf-8")
    built = piece_vocabulary(read_dictionary(tmp_path / "dict.txt"), path)
    second = load(built, tmp_path)
    assert (built.unmatched, built.left_out, built.bytes_off) == (0, 0, False)
    assert second.pieces() == first.pieces()
    text = ["the bird <2de> sleeps ☃"]
    assert second.encode(text) == first.encode(text)


def test_what_does_not_match_is_counted(tmp_path: Path) -> None:
    model = spm(tmp_path)
    pieces = pieces_of(model)
    dropped = next(piece for piece in pieces if len(piece) > 2)
    built = piece_vocabulary([*(piece for piece in pieces if piece != dropped), "madeupword0000"], model)
    vocabulary = load(built, tmp_path)
    assert (built.matched, built.unmatched, built.left_out) == (len(pieces) - 1, 1, 1)
    assert vocabulary.size == len(pieces) + 4
    used = {index for row in vocabulary.encode([*SENTENCES, "madeupword0000"]) for index in row}
    assert vocabulary.size - 1 not in used, "an entry that SentencePiece lacks never comes from text"
    assert vocabulary.decode(vocabulary.encode(SENTENCES)) == SENTENCES
    assert len(built.notes("vocabulary")) == 3


def test_bpe_entries_whose_merges_are_gone_are_counted(tmp_path: Path) -> None:
    model = spm(tmp_path, "bpe")
    pieces = pieces_of(model)
    assert piece_vocabulary(pieces, model).unreachable == 0
    longest = max(pieces, key=len)
    assert len(longest) > 2
    built = piece_vocabulary([piece for piece in pieces if len(piece) == 1 or piece == longest], model)
    assert built.unreachable == 1


def test_byte_fallback_goes_when_bytes_are_missing(tmp_path: Path) -> None:
    model = spm(tmp_path, byte_fallback=True)
    pieces = [piece for piece in pieces_of(model) if piece != "<0xE2>"]
    built = piece_vocabulary(pieces, model)
    assert built.bytes_off
    vocabulary = load(built, tmp_path)
    assert 3 in vocabulary.encode(["☃"])[0]
    assert any("byte fallback is off" in line for line in built.notes("vocabulary"))


def test_a_foreign_sentencepiece_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="none of its pieces"):
        piece_vocabulary(["xyzzy", "plugh"], spm(tmp_path))
    (tmp_path / "text").write_text("no model")
    with pytest.raises(ModelError, match="not a SentencePiece model"):
        piece_vocabulary(["xyzzy"], tmp_path / "text")
    with pytest.raises(ModelError, match="cannot be read"):
        piece_vocabulary(["xyzzy"], tmp_path / "none")


@pytest.mark.parametrize(
    "symbols", [["▁the", "▁a", "s", "ing"], ["▁", *(f"w{number}" for number in range(500))]], ids=["english", "chinese"]
)
def test_symbols_of_sentencepiece_need_its_model(symbols: list[str]) -> None:
    with pytest.raises(ModelError, match=r"(?s)they are SentencePiece's.*--sentencepiece"):
        word_vocabulary(symbols)


def test_marks_of_subword_nmt_are_joined_in_outputs(tmp_path: Path) -> None:
    built = word_vocabulary(["the", "do@@", "gs", "g", ".", "un@@"])
    assert "3 entries" not in " ".join(built.notes("vocabulary"))
    assert "2 entries end with @@" in " ".join(built.notes("vocabulary"))
    vocabulary = load(built, tmp_path)
    ids = vocabulary.encode(["the do@@ gs .", "the do@@"])
    assert vocabulary.unk_id not in ids[0]
    assert vocabulary.decode(ids) == ["the dogs .", "the do"]  # as fairseq's --remove-bpe has it
    assert vocabulary.join_words(["un@@ do@@ g s@@"]) == ["undog s"]


def test_other_vocabularies_leave_such_text_alone(tmp_path: Path) -> None:
    words = load(word_vocabulary(["the", "dog"]), tmp_path)
    assert words.join_words(["a@@ b", " c@@"]) == ["a@@ b", " c@@"]
    assert "tokenise all text" in " ".join(word_vocabulary(["the"]).notes("vocabulary"))
