from __future__ import annotations

import hashlib
import io
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from seqkd.errors import InputError, ModelError, WorkError
from seqkd.text.normalize import NORMALIZATIONS, Normalization, Normalizer
from seqkd.text.vocabulary import Vocabulary, sample_reservoir

_RANDOM = random.Random(0)
WORDS = ["".join(_RANDOM.choice("abdegiklmnorstuäß") for _ in range(_RANDOM.randint(1, 7))) for _ in range(150)]
SENTENCES = [" ".join(_RANDOM.choice(WORDS) for _ in range(8)) for _ in range(300)]
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


def train(
    out: Path,
    sentences: list[str] | None = None,
    *,
    size: int = 300,
    type: Literal["unigram", "bpe"] = "unigram",
    byte_fallback: bool = True,
    symbols: tuple[str, ...] = (),
    tags: tuple[str, ...] = (),
    seed: int = 1,
    normalization: Normalization = "nmt_nfkc",
    max_sentence_length: int = 4192,
    sample_sentences: int = 10_000,
) -> Vocabulary:
    return Vocabulary.train(
        iter(SENTENCES if sentences is None else sentences),
        out,
        size=size,
        type=type,
        byte_fallback=byte_fallback,
        character_coverage=1.0,
        symbols=symbols,
        seed=seed,
        tags=tags,
        normalization=normalization,
        max_sentence_length=max_sentence_length,
        sample_sentences=sample_sentences,
    )


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return train(tmp_path_factory.mktemp("vocabulary") / "vocab.model")


def test_special_ids_and_size(vocabulary: Vocabulary) -> None:
    assert (vocabulary.bos_id, vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2, 3)
    assert vocabulary.size == 300 == len(vocabulary.pieces()) == len(set(vocabulary.pieces()))
    assert vocabulary.pieces()[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert vocabulary.piece(299) == vocabulary.pieces()[299]


@given(TEXT)
def test_with_byte_fallback_every_text_comes_back(vocabulary: Vocabulary, text: str) -> None:
    normal = Normalizer()(text)
    ids = vocabulary.encode([normal])[0]
    # What normalisation would change once more (few code points) does not come back as it was.
    if Normalizer()(normal) == normal:
        assert vocabulary.decode([ids]) == [normal]
    assert not {0, 1, 2, 3} & set(ids)


def test_special_pieces_in_the_text_are_just_text(vocabulary: Vocabulary) -> None:
    text = "a <s> b </s> <pad> <unk>"
    ids = vocabulary.encode([text])[0]
    assert not {0, 1, 2, 3} & set(ids)
    assert vocabulary.decode([ids]) == [text]


def test_special_ids_leave_no_trace_in_text(vocabulary: Vocabulary) -> None:
    ids = vocabulary.encode([WORDS[5]])[0]
    assert vocabulary.decode([[0, *ids, 2, 1, 1]]) == [WORDS[5]]


def test_batches_are_as_one_by_one(vocabulary: Vocabulary) -> None:
    texts = [*SENTENCES[:20], "", "日本"]
    assert vocabulary.encode(texts) == [vocabulary.encode([text])[0] for text in texts]
    assert vocabulary.decode(vocabulary.encode(texts)) == texts
    assert vocabulary.encode([]) == []
    assert vocabulary.decode([]) == []
    assert vocabulary.encode([""]) == [[]]


def test_without_byte_fallback_the_unknown_piece(tmp_path: Path) -> None:
    vocabulary = train(tmp_path / "v", size=60, byte_fallback=False)
    assert vocabulary.unk_id in vocabulary.encode(["river 日"])[0]


@pytest.mark.parametrize("type_", ["unigram", "bpe"])
def test_training_is_deterministic(tmp_path: Path, type_: Literal["unigram", "bpe"]) -> None:
    first = train(tmp_path / "a", type=type_)
    assert train(tmp_path / "b", type=type_).digest == first.digest
    assert first.digest == hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()
    assert Vocabulary.load(tmp_path / "a").pieces() == first.pieces()


def test_the_type_matters(tmp_path: Path) -> None:
    assert train(tmp_path / "a", type="bpe").pieces() != train(tmp_path / "b", type="unigram").pieces()


def test_symbols_are_never_split(tmp_path: Path) -> None:
    vocabulary = train(tmp_path / "v", symbols=("<2de>", "a,b"))
    for symbol in ("<2de>", "a,b"):
        index = vocabulary.pieces().index(symbol)
        assert vocabulary.encode([f"{symbol} river"])[0].count(index) == 1
        assert vocabulary.encode([f"un{symbol}der"])[0].count(index) == 1


@pytest.mark.parametrize(
    "symbols", [("",), ("a b",), ("<s>",), ("x", "x"), ("\u00bd",), ("\uff41",), ("\u2581x",), ("<0x41>",)]
)
def test_impossible_symbols(tmp_path: Path, symbols: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="symbol"):
        train(tmp_path / "v", symbols=symbols)


@pytest.mark.parametrize("type_", ["unigram", "bpe"])
def test_too_large_a_size_names_the_largest_and_that_one_works(
    tmp_path: Path, type_: Literal["unigram", "bpe"]
) -> None:
    with pytest.raises(InputError, match=r"size = \d+ or less") as caught:
        train(tmp_path / "v", size=9000, type=type_)
    assert "9,000 pieces" in str(caught.value)
    assert not list(tmp_path.iterdir())
    found = re.search(r"size = (\d+)", str(caught.value))
    assert found
    assert train(tmp_path / "v", size=int(found[1]), type=type_).size == int(found[1])


def test_too_small_a_size_names_the_smallest_and_that_one_works(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"byte_fallback = false") as caught:
        train(tmp_path / "v", size=100)
    found = re.search(r"size = (\d+) or more", str(caught.value))
    assert found
    assert train(tmp_path / "v", size=int(found[1])).size == int(found[1])


@pytest.mark.parametrize("sentences", [[], ["", "  "]])
def test_no_text_is_an_error(tmp_path: Path, sentences: list[str]) -> None:
    with pytest.raises(InputError, match="the corpus is empty"):
        train(tmp_path / "v", sentences)


def test_training_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "v")
    with pytest.raises(InputError):
        train(tmp_path / "w", size=9000)
    assert capfd.readouterr() == ("", "")


def test_only_a_sample_is_held_and_the_seed_chooses_it(tmp_path: Path) -> None:
    digests = [train(tmp_path / "v", size=280, sample_sentences=20, seed=seed).digest for seed in (1, 2, 1)]
    assert digests[0] == digests[2] != digests[1]


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="cannot be written"):
        train(tmp_path / "nowhere" / "v")


@pytest.mark.parametrize("content", [None, b"", b"no model", b"\0" * 100])
def test_loading_what_is_no_vocabulary(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "v").write_bytes(content)
    with pytest.raises(ModelError, match=re.escape(str(tmp_path / "v"))):
        Vocabulary.load(tmp_path / "v")


def test_loading_a_model_with_other_special_ids(tmp_path: Path) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, vocab_size=60, minloglevel=2
    )
    (tmp_path / "v").write_bytes(model.getvalue())
    with pytest.raises(ModelError, match=r"special ids .* are \(1, -1, 2, 0\)"):
        Vocabulary.load(tmp_path / "v")


@given(count=st.integers(0, 50), limit=st.integers(1, 60), seed=st.integers())
def test_a_reservoir_holds_distinct_items_up_to_its_limit(count: int, limit: int, seed: int) -> None:
    def once() -> Iterator[int]:
        yield from range(count)

    chosen = sample_reservoir(once(), limit, seed)
    assert len(set(chosen)) == len(chosen) == min(count, limit)
    assert set(chosen) <= set(range(count))
    if count <= limit:
        assert chosen == list(range(count))


def test_a_reservoir_chooses_evenly() -> None:
    counts: Counter[int] = Counter()
    for seed in range(4000):
        counts.update(sample_reservoir(range(20), 5, seed))
    # 1,000 expected for each; the standard deviation is about 27.
    assert len(counts) == 20
    assert all(abs(number - 1000) < 5 * 28 for number in counts.values())


def test_the_text_of_a_tag_is_just_text(tmp_path: Path) -> None:
    vocabulary = train(tmp_path / "v", symbols=("<x>",), tags=("<bt>",))
    tag = vocabulary.id_of("<bt>")
    text = "<bt> is <bt>no<bt> tag"
    (ids,) = vocabulary.encode([text])
    assert tag is not None
    assert tag not in ids
    assert vocabulary.decode([ids]) == [text]
    assert vocabulary.decode([[tag, *ids]]) == [text]


@pytest.mark.parametrize("tags", [("",), ("a b",), ("<s>",), ("x", "x"), ("<2de>",), ("<0x41>",)])
def test_impossible_tags(tmp_path: Path, tags: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="tag"):
        train(tmp_path / "v", symbols=("<2de>",), tags=tags)


def test_the_byte_pieces_are_symbols_like_others_without_byte_fallback(tmp_path: Path) -> None:
    vocabulary = train(tmp_path / "v", size=60, byte_fallback=False, symbols=("<0x41>",))
    assert vocabulary.id_of("<0x41>") in vocabulary.encode(["a <0x41>"])[0]


def test_lines_that_the_trainer_leaves_out_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unusual = ["\u00f6" * 2100] * 3 + ["\u2585 \u0142"] * 2  # 4,200 bytes each; the trainer's own mark
    vocabulary = train(tmp_path / "v", [*SENTENCES, *unusual])
    assert "\u0142" not in "".join(vocabulary.pieces())
    told = capsys.readouterr().err
    assert "from 5 of 305 lines" in told
    assert "3 are longer than 4,192 bytes" in told
    assert "2 contain the character" in told


def test_a_higher_limit_lets_long_lines_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentences = [*SENTENCES, " ".join(["\u0142\u00f3d\u017a"] * 1000)]
    assert "\u0142" not in "".join(train(tmp_path / "v", sentences).pieces())
    capsys.readouterr()
    assert "\u0142" in "".join(train(tmp_path / "w", sentences, max_sentence_length=10_000).pieces())
    assert capsys.readouterr().err == ""


def test_long_lines_alone_are_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="of 2 lines 2 are longer than 4,192 bytes") as caught:
        train(tmp_path / "v", ["ab " * 3000] * 2)
    assert "max_sentence_length" in str(caught.value)


@pytest.mark.parametrize("rules", NORMALIZATIONS)
def test_a_vocabulary_knows_its_normalisation(tmp_path: Path, rules: Normalization) -> None:
    vocabulary = train(tmp_path / "v", normalization=rules)
    assert vocabulary.normalization == Vocabulary.load(tmp_path / "v").normalization == rules
    texts = ["\uff21\uff22 \u00bd", "a\u200cb", "e\u0301", "un\u2581der", "\u2585"]
    assert vocabulary.normalize(texts) == Normalizer(rules).normalize_all(texts)


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> list[Vocabulary]:
    folder = tmp_path_factory.mktemp("vocabularies")
    return [train(folder / rules, normalization=rules) for rules in NORMALIZATIONS]


@given(st.lists(TEXT, min_size=1, max_size=4))
def test_ids_of_normalised_text_give_it_back(vocabularies: list[Vocabulary], texts: list[str]) -> None:
    for vocabulary in vocabularies:
        normal = vocabulary.normalize(texts)
        assert vocabulary.decode(vocabulary.encode(normal)) == normal
