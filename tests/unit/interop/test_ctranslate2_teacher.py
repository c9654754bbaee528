"""Model folders of CTranslate2 as a source of k-best lists."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import ctranslate2
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from seqkd.config.stages import DistillConfig
from seqkd.config.toml import validate
from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.errors import ConflictError, ModelError, SeqkdError, WorkError
from seqkd.interop.ctranslate2_export import export_model
from seqkd.interop.ctranslate2_teacher import CTranslate2Settings, Teacher, inputs
from seqkd.interop.seqkd_models import ModelSettings, Search
from seqkd.interop.sources import Answer, Candidate, Place, Row
from seqkd.models.checkpoint import load_model
from seqkd.models.protocol import SOURCE_TOO_LONG
from seqkd.search import BeamSettings
from seqkd.stages.distill import distill
from seqkd.stages.prepare import prepare
from tests.unit.interop.small_models import SIZES, draw_texts, write_model
from tests.unit.stages.support import few_config

HERE = Place(device="cpu", threads=1)
OPTIONS: dict[str, Any] = {"beam": 4, "nbest": 3, "length_penalty": 0.6, "max_positions": SIZES["max_positions"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ctranslate2")
    write_model(folder / "model", norm="post", output_bias=True)
    export_model(folder / "model", folder / "exported")
    return folder / "exported"


@pytest.fixture
def copied(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "copied"))


def rows_of(model: Path, texts: list[str]) -> list[Row]:
    ids = load_model(model.parent / "model").vocabularies.source.encode(texts)
    return [Row(id=number, text=text, ids=found) for number, (text, found) in enumerate(zip(texts, ids, strict=True))]


def lists_of(folder: Path, rows: list[Row], **options: Any) -> list[list[Candidate]]:
    answer = Teacher(CTranslate2Settings(model=folder, **OPTIONS | options), HERE)(rows)()
    return [list(found) for found in answer.lists]


def test_the_lists_are_those_of_seqkds_search(model: Path) -> None:
    rows = rows_of(model, draw_texts(30, most=6))
    search = BeamSettings(beam=4, nbest=3, length_penalty=0.6, stopping="first", min_length=0)
    settings = ModelSettings(models=(model.parent / "model",), search=search, batch_tokens=500, precision="float32")
    expected: Answer = Search(settings, HERE)(rows)()
    compared = 0
    for own, theirs in zip(expected.lists, lists_of(model, rows), strict=True):
        if any(
            one.ended != "eos" for one in (*own, *theirs)
        ):  # seqkd forces the end at the limit, CTranslate2 does not
            continue
        compared += 1
        assert theirs[0].text == own[0].text
        for values in zip(own, theirs, strict=True):
            scores, logprobs = ([getattr(one, name) for one in values] for name in ("score", "logprob"))
            assert scores[0] == pytest.approx(scores[1], abs=2e-5)
            assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-4)
    assert compared >= 8


def test_a_prefix_is_forced_and_is_no_part_of_text_and_log_probability(model: Path) -> None:
    rows = rows_of(model, draw_texts(4, most=6))
    found = lists_of(model, rows, source_prefix=("▁s1",), target_prefix=("▁s2", "▁s3"))
    translator = ctranslate2.Translator(str(model))
    for row, candidates in zip(rows, found, strict=True):
        source = ["▁" + word for word in ["s1", *row.text.split()]]
        for one in candidates:
            target = ["▁" + word for word in ["s2", "s3", *one.text.split()]]
            (scored,) = translator.score_batch([source], [target])
            length = len(one.text.split()) + (one.ended == "eos")
            expected = sum(scored.log_probs[2 : 2 + length])
            assert one.logprob == pytest.approx(expected, abs=1e-4)
            assert one.score == pytest.approx(expected / (2 + length) ** 0.6, abs=1e-4)


def test_outputs_end_at_the_limit_and_sources_that_are_too_long_have_no_list(model: Path) -> None:
    rows = rows_of(model, [" ".join(["s1"] * count) for count in (2, 23, 24, 30)] + [" "])
    answer = Teacher(
        CTranslate2Settings(model=model, **OPTIONS | {"max_length_ratio": 0.0, "max_length_extra": 1}), HERE
    )(rows)()
    assert [len(found) for found in answer.lists] == [3, 3, 0, 0, 0]
    assert answer.counts == {SOURCE_TOO_LONG: 2}
    for found in answer.lists:
        for one in found:
            assert len(one.text.split()) + (one.ended == "eos") == 1
    with pytest.raises(WorkError, match=r"(?s)row 3: CTranslate2 cannot decode.*positions >= 24.*set max_positions"):
        lists_of(model, rows, max_positions=100)


def test_a_tokenizer_of_hugging_face_gives_the_lists_of_sentencepiece(copied: Path, model: Path) -> None:
    rows = rows_of(model, draw_texts(8))
    expected = lists_of(model, rows)
    pieces = json.loads((copied / "shared_vocabulary.json").read_text())
    tokenizer = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>"}
    make: Any = PreTrainedTokenizerFast
    made = make(tokenizer_object=tokenizer, unk_token="<unk>", **special)
    made.save_pretrained(copied / "tokenizer")
    (copied / "source.spm").unlink()
    assert lists_of(copied, rows) == expected


def test_lists_of_a_stage_and_its_fingerprint(copied: Path, tmp_path: Path) -> None:
    prepare.run(few_config(tmp_path), tmp_path / "gold")
    values = {
        "corpus": tmp_path / "gold" / "train",
        "prepared": tmp_path / "gold",
        "source": {"type": "ctranslate2", "model": str(copied), **OPTIONS},
    }
    config = validate(DistillConfig, values, "file")
    distill.run(config, tmp_path / "kbest", device="cpu")
    manifest = read_manifest(tmp_path / "kbest")
    assert manifest.rows == 20
    assert manifest.extra["source"] == "ctranslate2"
    assert set(manifest.fingerprint["inputs"]) == {"corpus", "source.model", "source.tokenizer"}
    lists = [row for table in Corpus.open(tmp_path / "kbest", "kbest").tables() for row in table.to_pylist()]
    assert all(one["logprob"] < 0 and one["ids"] for row in lists for one in row["hypotheses"] if one["text"])
    (copied / "config.json").write_text((copied / "config.json").read_text() + " ")
    with pytest.raises(ConflictError, match=r"source\.model"):
        distill.run(config, tmp_path / "kbest", device="cpu")


def damage(folder: Path, name: str, contents: bytes | None) -> None:
    if contents is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(contents)


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("model.bin", None, r"copied: model\.bin: no such file"),
        ("config.json", b"{", r"config\.json: cannot be read"),
        ("source.spm", None, r"copied: contains no tokenizer.*expected: source\.spm and target\.spm.*`tokenizer`"),
        ("source.spm", b"x", r"source\.spm: is not a SentencePiece model"),
        ("model.bin", b"\x06\x00\x00\x00\x10\x00", r"copied: CTranslate2 cannot load it: .*incomplete.*convert"),
        ("shared_vocabulary.json", None, r"copied: CTranslate2 cannot load it: "),
        ("shared_vocabulary.json", b'["<s>', r"copied: CTranslate2 cannot load it: "),
    ],
)
def test_a_damaged_folder_is_refused(copied: Path, name: str, contents: bytes | None, message: str) -> None:
    damage(copied, name, contents)
    with pytest.raises(ModelError, match=f"(?s){message}"):
        lists_of(copied, [])


def test_missing_files_are_found_before_work_starts(copied: Path, tmp_path: Path) -> None:
    assert inputs(CTranslate2Settings(model=copied)).keys() == {"model", "tokenizer"}
    other = CTranslate2Settings(model=copied, tokenizer=tmp_path / "none.spm")
    for settings in (CTranslate2Settings(model=tmp_path / "none"), other):
        with pytest.raises(ModelError, match="no such"):
            inputs(settings)


def test_settings_that_cannot_be_are_refused(model: Path) -> None:
    values = {"corpus": "c", "prepared": "p"}
    for table, message in (
        ({"nbest": 6}, "nbest 6 is more than beam 5"),
        ({"source_tokenizer": "s"}, "source_tokenizer needs tokenizer"),
        ({"target_prefix": ["a", "b", "c"], "max_positions": 4}, "leaves no place behind the prefix"),
        ({"compute_type": "int4"}, "compute_type"),
    ):
        with pytest.raises(SeqkdError, match=message):
            validate(DistillConfig, {**values, "source": {"type": "ctranslate2", "model": "m", **table}}, "file")
    absent = {"int8_bfloat16", "int8_float16", "bfloat16", "float16"} - ctranslate2.get_supported_compute_types("cpu")
    with pytest.raises(ModelError, match="cpu does not support the compute type"):
        lists_of(model, [], compute_type=sorted(absent)[0])
