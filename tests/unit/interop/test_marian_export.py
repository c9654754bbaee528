"""Exports to Marian, read by a forward pass in NumPy. docs/exports.md has a check with Marian itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor

from seqkd.cli.main import main
from seqkd.errors import ModelError
from seqkd.interop.formats import FORMATS
from seqkd.interop.marian_export import export_model
from seqkd.models.checkpoint import load_model
from seqkd.search import score_pairs
from tests.unit.interop.marian_numpy import MarianModel
from tests.unit.interop.small_models import draw_texts, write_model

MODELS: dict[str, dict[str, Any]] = {
    "ssru post": {"arch": "sru", "norm": "post"},
    "ssru pre": {"arch": "sru", "embeddings": "separate", "sides": 2, "activation": "gelu"},
    "post": {"norm": "post", "activation": "swish", "embeddings": "decoder", "output_bias": True},
    "pre": {"encoder_layers": 1},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_forward_pass_over_the_file_gives_the_scores_of_the_model(tmp_path: Path, name: str) -> None:
    folder, out = tmp_path / "model", tmp_path / "out"
    write_model(folder, compatible_with="marian", **MODELS[name])
    export_model(folder, out)
    loaded, written = load_model(folder), MarianModel(out / "model.npz")
    texts = draw_texts(5), draw_texts(5, seed=2)
    own_vocabularies = (loaded.vocabularies.source, loaded.vocabularies.target)
    pairs = list(zip(*(found.encode(rows) for found, rows in zip(own_vocabularies, texts, strict=True)), strict=True))
    scorer: Any = loaded.model
    own = [score.logprob for score in score_pairs([scorer], pairs, batch_tokens=500)]
    names = ("source", "target") if MODELS[name].get("sides") == 2 else ("spm", "spm")
    files = [out / ("vocab.spm" if side == "spm" else f"vocab.{side}.spm") for side in names]
    processors = [SentencePieceProcessor(model_file=str(file)) for file in files]
    for processor in processors:
        ids = [processor.eos_id(), processor.unk_id(), processor.bos_id(), processor.pad_id()]
        assert ids == [0, 1, 2, 3]
    theirs = [
        written.score(*([*processor.encode(row), 0] for processor, row in zip(processors, rows, strict=True)))
        for rows in zip(*texts, strict=True)
    ]
    assert theirs == pytest.approx(own, abs=1e-4)
    assert min(own) < -5
    assert written.unread == set()
    assert all(array.ndim == 2 and array.dtype == np.float32 for array in written.arrays.values())
    decoder = (out / "decoder.yml").read_text()
    assert f"vocabs: [{files[0].name}, {files[1].name}]" in decoder
    assert "max-length: 23" in decoder


def test_a_model_with_other_options_is_refused_and_they_are_named(tmp_path: Path) -> None:
    write_model(tmp_path / "sru", "sru", activation="swiglu")
    write_model(tmp_path / "transformer", positions="learned", embedding_norm=True, start="zero")
    write_model(tmp_path / "ctc", "ctc")
    for name, differences in (
        ("sru", ("start is 'eos', and must be 'zero'", "position_offset is 2", "value_bias is True", "swiglu")),
        ("transformer", ("norm_epsilon is 1e-05", "positions is 'learned'", "embedding_norm is True")),
        ("ctc", ("Marian has no equivalent of the architecture 'ctc'",)),
    ):
        with pytest.raises(ModelError) as error:
            export_model(tmp_path / name, tmp_path / "out")
        for difference in differences:
            assert difference in str(error.value)
        assert "start is" not in str(error.value) or name == "sru"
        assert not (tmp_path / "out").exists()


def test_the_command_writes_a_folder_that_is_recognised(tmp_path: Path) -> None:
    write_model(tmp_path / "model", "sru", compatible_with="marian", encoder_layers=1, decoder_layers=1)
    assert main(["export", "marian", str(tmp_path / "model"), "--out", str(tmp_path / "out")]) == 0
    record = FORMATS.get("marian")
    assert record.fits(tmp_path / "out")
    assert record.fits(tmp_path / "out" / "model.npz")
    assert not record.fits(tmp_path / "model")
    assert not record.fits(tmp_path / "none")
