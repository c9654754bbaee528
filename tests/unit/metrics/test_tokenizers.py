from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import pytest
import sacrebleu
import sacrebleu.utils

from seqkd.errors import InputError
from seqkd.metrics.corpus import corpus_bleu, corpus_ter
from seqkd.metrics.tokenizers import Tokenizer, choose_tokenizer, suited_tokenizer

OUTPUT = "\u90a3\u4e2a\u5c0f\u519c\u6c11\u4eca\u5929\u5728\u6cb3\u8fb9\u770b\u5230\u8001\u623f\u5b50\u3002"
REFERENCE = OUTPUT.replace("\u8001", "\u65e7")


@pytest.mark.parametrize(
    ("language", "tokenizer"),
    [
        (None, "13a"),
        ("de", "13a"),
        ("zh", "zh"),
        ("zh-TW", "zh"),
        ("zho_Hans", "zh"),
        ("yue", "zh"),
        ("zh-Latn", "13a"),
        ("ja", "ja-mecab"),
        ("jpn_Jpan", "ja-mecab"),
        ("ko", "ko-mecab"),
        ("th", "char"),
        ("km", "char"),
    ],
)
def test_the_language_chooses_the_tokenizer(
    language: str | None, tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sacrebleu.utils, "SACREBLEU_DIR", str(tmp_path))
    assert suited_tokenizer(language) == tokenizer


def test_a_script_without_blanks_takes_the_model_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sacrebleu.utils, "SACREBLEU_DIR", str(tmp_path))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "flores200sacrebleuspm").write_bytes(b"")
    assert choose_tokenizer("auto", "th") == "flores200"
    assert choose_tokenizer("auto", "zh") == "zh"


def test_one_that_is_asked_for_is_taken() -> None:
    assert choose_tokenizer("char", "zh") == "char"
    assert choose_tokenizer("13a", "zh") == "13a"
    assert choose_tokenizer("intl", None) == "intl"


@pytest.mark.parametrize(
    ("language", "package", "extra"), [("ja", "ipadic", "ja"), ("ja", "MeCab", "ja"), ("ko", "mecab_ko", "ko")]
)
def test_a_missing_package_is_told_with_its_extra(
    language: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(InputError, match=rf"(?s)target_language '{language}' asks for.*seqkd\[{extra}\]"):
        choose_tokenizer("auto", language)


def test_a_missing_model_is_told_and_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sacrebleu.utils, "SACREBLEU_DIR", str(tmp_path))
    for tokenizer in ("flores101", "flores200"):
        with pytest.raises(InputError, match=f"(?s)tokenizer {tokenizer} needs its model.*{tmp_path}"):
            choose_tokenizer(tokenizer, None)
    assert list(tmp_path.iterdir()) == []


def test_bleu_counts_the_words_of_its_tokenizer_and_says_so() -> None:
    found = corpus_bleu([OUTPUT], [[REFERENCE]], tokenizer="zh")
    assert found.value == sacrebleu.corpus_bleu([OUTPUT], [[REFERENCE]], tokenize="zh").score > 70.0
    assert "|tok:zh|" in found.signature
    assert corpus_bleu([OUTPUT], [[REFERENCE]]).value == 0.0


@pytest.mark.skipif(not (find_spec("MeCab") and find_spec("ipadic")), reason="needs the extra ja")
def test_japanese_words_are_those_of_mecab() -> None:
    output, reference = (
        "\u732b\u304c\u5ea7\u308b\u3002\u72ac\u304c\u8d70\u308b\u3002",
        "\u732b\u304c\u5bdd\u308b\u3002\u72ac\u304c\u8d70\u308b\u3002",
    )
    assert choose_tokenizer("auto", "ja") == "ja-mecab"
    found = corpus_bleu([output], [[reference]], tokenizer="ja-mecab")
    assert found.value == sacrebleu.corpus_bleu([output], [[reference]], tokenize="ja-mecab").score > 0.0
    assert "|tok:ja-mecab" in found.signature


def test_ter_counts_characters_where_there_are_no_blanks() -> None:
    found = corpus_ter([OUTPUT], [[REFERENCE]], blanks=False)
    assert found.value == pytest.approx(100 / len(REFERENCE))
    assert "asian:yes" in found.signature
    assert corpus_ter([OUTPUT], [[REFERENCE]]).value == 100.0


def test_every_tokenizer_is_one_of_sacrebleus() -> None:
    assert set(get_args(Tokenizer)) <= set(sacrebleu.BLEU.TOKENIZERS)
