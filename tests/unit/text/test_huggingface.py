from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.corpus.vocabularies import write_vocabularies
from seqkd.errors import ModelError
from seqkd.text.huggingface import SETTINGS, TOKENIZER, TokenizerSettings, ToolkitVocabulary
from seqkd.text.vocabularies import Vocabularies
from tests.properties import examples
from tests.unit.text.test_mapped import SENTENCES, TEXT

transformers = pytest.importorskip("transformers")
CODES = ["en_XX", "de_DE"]


def make_tokenizer(folder: Path, *, special: list[str], **named: str) -> Any:
    """Train a byte-level tokenizer, as BART has, and write its files."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **named, extra_special_tokens=CODES)
    made.save_pretrained(folder)
    return made


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer that has seqkd's special ids, language codes, and unused rows."""
    folder = tmp_path_factory.mktemp("bart")
    named = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    made = make_tokenizer(folder / TOKENIZER, special=["<s>", "<pad>", "</s>", "<unk>"], **named)
    settings = TokenizerSettings(rows=len(made) + 2, source_prefix=("en_XX",), target_prefix=("de_DE",))
    (folder / TOKENIZER / SETTINGS).write_bytes(settings.to_bytes())
    return folder


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer that has other special ids, and none for the begin of sentence."""
    folder = tmp_path_factory.mktemp("t5")
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    make_tokenizer(folder / TOKENIZER, special=["<pad>", "</s>", "<unk>"], **named)
    return folder


@examples(40)
@given(text=TEXT)
def test_ids_are_those_of_the_library(bart: Path, text: str) -> None:
    found = Vocabularies.load(bart)
    theirs = transformers.AutoTokenizer.from_pretrained(bart / TOKENIZER)
    (ids,) = found.source.encode([text])
    assert ids[0] == found.source.id_of("en_XX")
    assert found.target.encode([text]) == [[found.target.id_of("de_DE"), *ids[1:]]]
    plain = theirs(text, add_special_tokens=False)["input_ids"]
    if not any(special in text for special in theirs.all_special_tokens):
        assert ids[1:] == plain
        assert found.source.decode([[*ids, 2, 1]]) == [" ".join(theirs.decode(plain).split())]
    assert not {0, 1, 2, *found.source.prefix, *found.target.prefix}.intersection(ids[1:])


def test_rows_and_names(bart: Path) -> None:
    found = Vocabularies.load(bart)
    theirs = transformers.AutoTokenizer.from_pretrained(bart / TOKENIZER)
    assert found.target.size == len(theirs) + 2 == len(found.target.pieces())
    assert found.target.pieces()[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert found.target.piece(len(theirs) + 1) == f"<row {len(theirs) + 1}>"
    assert found.target.decode([[len(theirs) + 1], []]) == ["", ""]
    assert found.joint
    assert found.source.digest != found.target.digest
    assert found.source.encode([]) == []


def test_other_special_ids_come_first(t5: Path) -> None:
    found = Vocabularies.load(t5).source
    theirs = transformers.AutoTokenizer.from_pretrained(t5 / TOKENIZER)
    assert found.size == len(theirs) + 1  # a row for the begin of sentence, which this tokenizer does not have
    assert found.pieces()[:4] == ["<row 0>", "<pad>", "</s>", "<unk>"]
    ids = found.encode(SENTENCES[:9])
    assert ids == [[index + 1 for index in row] for row in theirs(SENTENCES[:9], add_special_tokens=False)["input_ids"]]
    assert found.decode(ids) == SENTENCES[:9]


def test_written_again_for_both_directions(bart: Path, tmp_path: Path) -> None:
    one = Vocabularies.load(bart)
    for name in ("same", "turned", "back"):
        (tmp_path / name).mkdir()
    write_vocabularies(tmp_path / "same", one)
    assert Vocabularies.load(tmp_path / "same").digests() == one.digests()
    write_vocabularies(tmp_path / "turned", one.reversed())
    turned = Vocabularies.load(tmp_path / "turned")
    assert turned.digests() == one.reversed().digests()
    assert turned.source.encode(["ab"]) == one.target.encode(["ab"]) != one.source.encode(["ab"])
    write_vocabularies(tmp_path / "back", turned.reversed())
    assert Vocabularies.load(tmp_path / "back").digests() == one.digests()


def _copy(bart: Path, out: Path) -> Path:
    write_vocabularies(out, Vocabularies.load(bart))
    return out / TOKENIZER


def test_the_digest_covers_every_file(bart: Path, tmp_path: Path) -> None:
    folder = _copy(bart, tmp_path)
    before = Vocabularies.load(tmp_path).digests()
    (folder / "notes.txt").write_text("")
    assert Vocabularies.load(tmp_path).digests() != before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", "is not a tokenizer that transformers can read"),
        ("tokenizer_config.json", "[]", "is not a tokenizer that transformers can read"),
        (SETTINGS, "{", "cannot be read"),
        (SETTINGS, '{"rows": 3}', "expected: rows, source_prefix, target_prefix"),
        (SETTINGS, json.dumps(json.loads(TokenizerSettings(rows=9).to_bytes())), "but seqkd.json has 9 rows"),
        (SETTINGS, TokenizerSettings(source_prefix=("xx_YY",)).to_bytes().decode(), "has no token 'xx_YY'"),
    ],
)
def test_damaged_folders(bart: Path, tmp_path: Path, name: str, content: str, message: str) -> None:
    folder = _copy(bart, tmp_path)
    (folder / name).write_text(content)
    with pytest.raises(ModelError, match=message) as caught:
        Vocabularies.load(tmp_path).source.encode(["a"])
    assert caught.value.where.startswith(str(folder))


def test_a_folder_that_would_run_code(bart: Path, tmp_path: Path) -> None:
    folder = _copy(bart, tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": "Own"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('code was run')\n")
    with pytest.raises(ModelError, match="is not a tokenizer that transformers can read"):
        Vocabularies.load(tmp_path).source.encode(["a"])


def test_a_tokenizer_without_padding(tmp_path: Path) -> None:
    make_tokenizer(tmp_path / TOKENIZER, special=["</s>"], eos_token="</s>")
    with pytest.raises(ModelError, match="no token for padding"):
        _ = Vocabularies.load(tmp_path).source.size


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / TOKENIZER).mkdir()
    with pytest.raises(ModelError, match="holds no tokenizer"):
        ToolkitVocabulary(tmp_path / TOKENIZER, "source")


@examples(20)
@given(seed=st.integers(0, 999))
def test_batches_are_as_one_by_one(bart: Path, seed: int) -> None:
    texts = random.Random(seed).sample(SENTENCES, 3)
    found = Vocabularies.load(bart).target
    assert found.encode(texts) == [found.encode([text])[0] for text in texts]
    assert found.decode(found.encode(texts)) == texts
