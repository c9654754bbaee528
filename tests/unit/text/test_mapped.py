from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from seqkd.errors import ModelError
from seqkd.text.mapped import MAP, SOURCE_MAP, MappedVocabulary, PieceMap, order_ids
from seqkd.text.vocabularies import SOURCE_VOCABULARY, VOCABULARY, Vocabularies
from seqkd.text.vocabulary import Vocabulary
from tests.properties import examples

_RANDOM = random.Random(5)
WORDS = ["".join(_RANDOM.choice("abdegiklmnorstuäß") for _ in range(_RANDOM.randint(1, 7))) for _ in range(120)]
SENTENCES = [" ".join(_RANDOM.choice(WORDS) for _ in range(7)) for _ in range(200)]
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30) | st.sampled_from(
    [*SENTENCES[:20], "</s> <pad> <s> <unk> de_DE <mask>", "☃☃ river"]
)
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")


def foreign_model(path: Path, *, size: int = 90, unk: int = 1, eos: int = 0, seed: int = 0) -> Path:
    """Train a SentencePiece model with special ids as other toolkits have them."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES[seed:]),
        model_prefix=str(path.with_suffix("")),
        vocab_size=size,
        bos_id=-1,
        eos_id=eos,
        unk_id=unk,
        pad_id=-1,
        character_coverage=1.0,
        minloglevel=2,
    )
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return Vocabulary.train(
        iter(SENTENCES),
        tmp_path_factory.mktemp("plain") / VOCABULARY,
        size=350,
        type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        symbols=(),
        seed=1,
    )


@pytest.fixture(scope="module")
def shuffled(plain: Vocabulary) -> MappedVocabulary:
    """The pieces of `plain` in another order, with rows that belong to no piece between them."""
    pieces = plain.pieces()[4:]
    random.Random(1).shuffle(pieces)
    pieces = [*SPECIAL, "de_DE", *pieces[:50], "<row 1>", *pieces[50:], "<mask>"]
    made = PieceMap(pieces=tuple(pieces), silent=("de_DE", "<row 1>", "<mask>"), prefix=("de_DE",))
    path = plain.path.with_name(MAP)
    path.write_bytes(made.to_bytes())
    return MappedVocabulary(plain.path, path)


@examples(60)
@given(text=TEXT)
def test_ids_are_those_of_the_model_in_another_order(plain: Vocabulary, shuffled: MappedVocabulary, text: str) -> None:
    (normal,) = plain.normalize([text])
    assert shuffled.normalize([text]) == [normal]
    (ids,) = plain.encode([normal])
    ((first, *others),) = shuffled.encode([normal])
    assert first == shuffled.id_of("de_DE")
    assert [shuffled.piece(index) for index in others] == [plain.piece(index) for index in ids]
    assert shuffled.decode([[first, *others, shuffled.eos_id, shuffled.pad_id]]) == plain.decode([ids])
    assert shuffled.decode([[], [first], ids]) == ["", "", shuffled.decode([ids])[0]]


@examples(60)
@given(text=TEXT)
def test_text_never_becomes_a_silent_piece(shuffled: MappedVocabulary, text: str) -> None:
    silent = {0, 1, 2, *(shuffled.id_of(piece) for piece in ("de_DE", "<row 1>", "<mask>"))}
    assert not silent.intersection(shuffled.encode([text])[0][1:])


def test_sizes_and_names(plain: Vocabulary, shuffled: MappedVocabulary) -> None:
    assert shuffled.size == plain.size + 3 == len(shuffled.pieces())
    assert shuffled.id_of("no such piece") is None
    assert shuffled.digest != plain.digest
    assert shuffled.prefix == (4,)
    assert shuffled.encode([]) == []
    assert shuffled.encode(["", "a"])[0] == [4]


def test_marianmt(tmp_path: Path) -> None:
    """Two models and one table, with ids as in the folders of MarianMT: end 0, unknown 1, padding last."""
    transformers = pytest.importorskip("transformers")
    models = [
        foreign_model(tmp_path / f"{side}.spm.model", seed=seed) for side, seed in (("source", 0), ("target", 90))
    ]
    own = [sentencepiece.SentencePieceProcessor(model_file=str(path)) for path in models]
    pieces = [each.id_to_piece(index) for each in own for index in range(2, each.get_piece_size())]
    table = ["</s>", "<unk>", *dict.fromkeys([">>de<<", *pieces]), "<pad>"]
    # A few pieces are missing, as they are in published folders.
    table.remove(own[0].id_to_piece(60))
    (tmp_path / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(table)}))
    theirs = transformers.MarianTokenizer(str(models[0]), str(models[1]), str(tmp_path / "vocab.json"))

    order = order_ids(len(table), pad=len(table) - 1, eos=0, unk=1)
    names = tuple("<s>" if index is None else table[index] for index in order)
    (tmp_path / VOCABULARY).write_bytes(models[1].read_bytes())
    (tmp_path / SOURCE_VOCABULARY).write_bytes(models[0].read_bytes())
    (tmp_path / MAP).write_bytes(PieceMap(pieces=names, silent=(">>de<<",)).to_bytes())
    (tmp_path / SOURCE_MAP).write_bytes(PieceMap(pieces=names, silent=(">>de<<",), prefix=(">>de<<",)).to_bytes())
    ours = Vocabularies.load(tmp_path)
    assert ours.joint
    assert ours.source.digest != ours.target.digest

    texts = [*SENTENCES[:60], "ein ☃ hund", "日本"]
    back = {their: our for our, their in enumerate(order) if their is not None}
    sources = theirs([f">>de<<{text}" for text in texts], add_special_tokens=False)["input_ids"]
    targets = theirs(text_target=texts, add_special_tokens=False)["input_ids"]
    assert ours.source.encode(texts) == [[back[index] for index in row] for row in sources]
    assert ours.target.encode(texts) == [[back[index] for index in row] for row in targets]
    assert any(ours.source.unk_id in row for row in ours.source.encode(SENTENCES))
    known = [row for row in targets if theirs.unk_token_id not in row]
    assert len(known) > 50
    decoded = theirs.batch_decode(known, skip_special_tokens=True, use_source_tokenizer=False)
    assert ours.target.decode([[back[index] for index in row] for row in known]) == decoded


@given(st.data())
@examples(40)
def test_order_of_ids(data: st.DataObject) -> None:
    size = data.draw(st.integers(4, 12))
    pad, eos, unk, bos = data.draw(st.permutations(range(size)))[:4]
    unknown = data.draw(st.sampled_from([unk, None]))
    first = data.draw(st.sampled_from([bos, None]))
    order = order_ids(size, pad=pad, eos=eos, unk=unknown, bos=first)
    assert order[:4] == [first, pad, eos, unknown]
    rest = [index for index in order[4:] if index is not None]
    assert rest == sorted(rest)
    assert sorted(index for index in order if index is not None) == list(range(size))
    assert order_ids(size, bos=0, pad=1, eos=2, unk=3) == list(range(size))


@pytest.mark.parametrize("special", [{"pad": 2, "eos": 2}, {"pad": 9, "eos": 1}, {"pad": 0, "eos": 1, "unk": -1}])
def test_wrong_special_ids(special: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="special ids"):
        order_ids(9, **special)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a map of pieces: "),
        ("[" * 5000, "is not a map of pieces"),
        ("[]", "expected: lists of pieces: pieces, silent, prefix"),
        ('{"pieces": [1, 2], "silent": [], "prefix": []}', "expected: lists of pieces"),
        ('{"pieces": ["a"], "silent": [], "prefix": []}', "lists 1 pieces"),
        ('{"pieces": ["a", "b", "c", "d", "d"], "silent": [], "prefix": []}', "of which 4 differ"),
        ('{"pieces": ["a", "b", "c", "d"], "silent": ["x"], "prefix": ["y"]}', "does not list: x, y"),
    ],
)
def test_a_damaged_map(plain: Vocabulary, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / MAP).write_text(content)
    with pytest.raises(ModelError, match=message) as caught:
        MappedVocabulary(plain.path, tmp_path / MAP)
    assert caught.value.where == str(tmp_path / MAP)


def test_missing_files(shuffled: MappedVocabulary, tmp_path: Path) -> None:
    (tmp_path / MAP).write_bytes(shuffled.path.read_bytes())
    with pytest.raises(ModelError, match=r"vocab\.model: cannot be read"):
        Vocabularies.load(tmp_path)
    (tmp_path / VOCABULARY).write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"vocab\.model: is not a SentencePiece model"):
        Vocabularies.load(tmp_path)
