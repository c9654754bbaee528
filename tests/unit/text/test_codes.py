"""The vocabulary of byte-pair codes, with fairseq's own tokeniser, codes and dictionary as the reference."""

from __future__ import annotations

import io
import pickle
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from seqkd.errors import ModelError
from seqkd.text.codes import CODES_FILES, CodesVocabulary, MosesSettings, parse_codes
from seqkd.text.vocabularies import Vocabularies

learn_bpe = pytest.importorskip("subword_nmt.learn_bpe")
sacremoses = pytest.importorskip("sacremoses")

TRAIN = [
    'The state-of-the-art model isn\'t "good" & costs 3.50 Euro.',
    "Small models learn from large models, don't they?",
    "A large teacher writes what the small student reads.",
    "The students' outputs [and the teacher's] are compared.",
]
TEXTS = [*TRAIN, "  Unseen wörds: don't panic-- <s> </s> &amp; \u2047 ", ""]


def tokenised(text: str, **options: bool) -> str:
    line: str = sacremoses.MosesTokenizer("en").tokenize(text, return_str=True, **options)
    return line


def write_files(folder: Path, moses: MosesSettings) -> list[Path]:
    """The files of a vocabulary that was learnt from `TRAIN`."""
    from subword_nmt.apply_bpe import BPE

    folder.mkdir(exist_ok=True)
    options = {"aggressive_dash_splits": moses.dash_splits, "escape": moses.escape}
    lines = [tokenised(text, **options) if moses.language else text for text in TRAIN]
    codes = io.StringIO()
    learn_bpe.learn_bpe(io.StringIO("\n".join(lines)), codes, 60, min_frequency=1)
    pieces = " ".join(BPE(io.StringIO(codes.getvalue())).process_line(line) for line in lines).split()
    paths = [folder / name for name in CODES_FILES["target"]]
    paths[0].write_text(codes.getvalue())
    paths[1].write_text("".join(f"{piece} {pieces.count(piece)}\n" for piece in sorted(set(pieces))))
    paths[2].write_bytes(moses.to_bytes())
    return paths


SETTINGS = [
    MosesSettings(),
    MosesSettings(language="en"),
    MosesSettings(language="en", dash_splits=False, escape=False),
]


@pytest.mark.parametrize("moses", SETTINGS)
def test_texts_and_ids_are_those_of_fairseq(tmp_path: Path, moses: MosesSettings) -> None:
    encoders: Any = pytest.importorskip("fairseq.data.encoders")
    dictionary: Any = pytest.importorskip("fairseq.data").Dictionary
    codes, symbols, _ = paths = write_files(tmp_path, moses)
    bpe = encoders.subword_nmt_bpe.SubwordNMTBPE(Namespace(bpe_codes=str(codes), bpe_separator="@@"))
    tokenizer = None
    if moses.language:
        options = {"moses_no_dash_splits": not moses.dash_splits, "moses_no_escape": not moses.escape}
        languages = {"source_lang": moses.language, "target_lang": moses.language}
        tokenizer = encoders.moses_tokenizer.MosesTokenizer(Namespace(**options, **languages))
    known = dictionary.load(str(symbols))
    ours = CodesVocabulary.load(paths)
    texts = [text for text in TEXTS if "<s>" not in text]  # fairseq takes these for special symbols
    for text, ids in zip(texts, ours.encode(texts), strict=True):
        line = bpe.encode(tokenizer.encode(text) if tokenizer else text)
        theirs = known.encode_line(line, add_if_not_exist=False, append_eos=False)
        assert ids == theirs.tolist()
        back = bpe.decode(known.string(theirs))
        if 3 not in ids:
            assert ours.decode([ids]) == [tokenizer.decode(back) if tokenizer else back]
    assert (ours.size, ours.pieces()) == (len(known), known.symbols)


def test_special_symbols_in_text_are_unknown(tmp_path: Path) -> None:
    ours = CodesVocabulary.load(write_files(tmp_path, MosesSettings()))
    assert min(ours.encode(["<s> </s> <pad> <unk>"])[0]) >= 3
    assert ours.decode([[0, ours.encode(["what"])[0][0], 3, 2, 1]])[0].endswith("\u2047")
    assert ours.encode([]) == []
    assert ours.decode([]) == []


def test_a_folder_tells_its_kind_and_sides_may_differ(tmp_path: Path) -> None:
    write_files(tmp_path / "model", MosesSettings(language="en"))
    one = Vocabularies.load(tmp_path / "model")
    assert one.source is one.target
    source = tmp_path / "model" / CODES_FILES["source"][2]
    source.write_bytes(MosesSettings(language="de").to_bytes())
    two = Vocabularies.load(tmp_path / "model")
    assert two.joint
    assert two.source.digest != two.target.digest == one.target.digest
    assert sorted(two.files()) == sorted(name for names in CODES_FILES.values() for name in names)
    copied = pickle.loads(pickle.dumps(two))
    assert copied.source.encode(TEXTS) == two.source.encode(TEXTS)


def test_codes_of_fastbpe_are_those_of_version_2(tmp_path: Path) -> None:
    path = tmp_path / "codes"
    assert parse_codes(b"t h 31\nth e</w> 12\n", path) == "#version: 0.2\nt h\nth e</w>\n"
    assert parse_codes(b"#version: 0.2\nt h\nth e</w>", path) == "#version: 0.2\nt h\nth e</w>\n"
    assert parse_codes(b"t h\r\nth e</w>\r\n", path) == "t h\nth e</w>\n"


@pytest.mark.parametrize(
    ("number", "contents", "message"),
    [
        (0, b"#version: 0.2\nt h\nthree of these\n", r"vocab.codes, line 3: 'three of these' is not a byte-pair code"),
        (0, b"q z\n", "no code makes a piece"),
        (0, b"\xff\xfe", "cannot be read"),
        (1, b"the\n", "'the' is not a dictionary entry"),
        (2, b'{"language": 3}', "does not hold the settings of the Moses tokeniser"),
        (2, b"en", "is not JSON"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, number: int, contents: bytes, message: str) -> None:
    paths = write_files(tmp_path, MosesSettings(language="en"))
    paths[number].write_bytes(contents)
    with pytest.raises(ModelError, match=message):
        Vocabularies.load(tmp_path)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, MosesSettings(language="en"))
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    with pytest.raises(ModelError, match=r"(?s)needs sacremoses.*pip install"):
        Vocabularies.load(tmp_path)
