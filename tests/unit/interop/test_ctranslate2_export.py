"""Exports to CTranslate2, which reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ctranslate2
import pytest

from seqkd.cli.main import main
from seqkd.corpus.manifest import read_manifest
from seqkd.errors import ModelError
from seqkd.interop.ctranslate2_export import export_model
from seqkd.interop.formats import FORMATS
from seqkd.models.checkpoint import load_model
from seqkd.search import score_pairs
from tests.unit.interop.small_models import draw_texts, write_model

# Together they have each norm, activation, kind of positions and of embeddings, and the options of other toolkits.
MODELS: dict[str, dict[str, Any]] = {
    "pre relu": {},
    "post gelu learned": {"norm": "post", "activation": "gelu", "positions": "learned", "embeddings": "decoder"},
    "swiglu": {"activation": "swiglu", "encoder_layers": 1, "embeddings": "separate", "sides": 2},
    "of Marian": {"norm": "post", "activation": "swish", "output_bias": True, "compatible_with": "marian"},
    "of BART": {"embedding_norm": True, "scale_embeddings": False, "start": 9, "norm_epsilon": 1e-3},
}


def scores_of(model: Path, exported: Path) -> tuple[list[float], list[float]]:
    """The log-probabilities of some pairs by seqkd and by CTranslate2."""
    loaded = load_model(model)
    vocabularies = loaded.vocabularies
    texts = draw_texts(6), draw_texts(6, seed=2)
    ids = vocabularies.source.encode(texts[0]), vocabularies.target.encode(texts[1])
    pieces = [
        [[vocabulary.piece(index) for index in row] for row in rows]
        for vocabulary, rows in zip((vocabularies.source, vocabularies.target), ids, strict=True)
    ]
    scorer: Any = loaded.model
    own = [score.logprob for score in score_pairs([scorer], list(zip(*ids, strict=True)), batch_tokens=500)]
    translator = ctranslate2.Translator(str(exported), inter_threads=1, intra_threads=1)
    return own, [sum(score.log_probs) for score in translator.score_batch(*pieces)]


@pytest.mark.parametrize("name", MODELS)
def test_ctranslate2_gives_the_scores_of_the_model(tmp_path: Path, name: str) -> None:
    write_model(tmp_path / "model", **MODELS[name])
    export_model(tmp_path / "model", tmp_path / "out")
    own, theirs = scores_of(tmp_path / "model", tmp_path / "out")
    assert theirs == pytest.approx(own, abs=5e-5)
    assert min(own) < -5  # they are no zeros
    sides = MODELS[name].get("sides", 1)
    assert (tmp_path / "out" / "shared_vocabulary.json").exists() == (sides == 1)
    for side in ("source", "target"):
        model = "vocab.source.model" if (side, sides) == ("source", 2) else "vocab.model"
        assert (tmp_path / "out" / f"{side}.spm").read_bytes() == (tmp_path / "model" / model).read_bytes()


def test_quantized_exports_are_smaller_and_near(tmp_path: Path) -> None:
    write_model(tmp_path / "model", embeddings="separate")
    sizes = {}
    for quantization, tolerance in (("float32", 0.0), ("float16", 5e-3), ("int8", 0.1)):
        out = tmp_path / quantization
        command = ["export", "ctranslate2", str(tmp_path / "model"), "--out", str(out)]
        assert main([*command, "--quantization", quantization]) == 0
        own, theirs = scores_of(tmp_path / "model", out)
        assert theirs == pytest.approx(own, abs=max(5e-5, 14 * tolerance))  # at most 13 tokens each
        assert (theirs == pytest.approx(own, abs=5e-5)) == (quantization == "float32")
        assert read_manifest(out).extra == {"to": "ctranslate2", "quantization": quantization}
        sizes[quantization] = (out / "model.bin").stat().st_size
    assert sizes["float16"] < 0.6 * sizes["float32"]
    assert sizes["int8"] < 0.9 * sizes["float16"]  # the table of positions stays in float32


@pytest.mark.parametrize(
    ("arch", "why"),
    [("sru", "recurrent units in place of self-attention"), ("ctc", "decodes all positions at once")],
)
def test_a_model_that_ctranslate2_cannot_run_is_refused(tmp_path: Path, arch: str, why: str) -> None:
    write_model(tmp_path / "model", arch)
    with pytest.raises(ModelError, match=rf"(?s)CTranslate2 cannot run the architecture '{arch}'.*{why}.*transformer"):
        export_model(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_quantization_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", "ctranslate2", str(tmp_path / "model"), "--out", str(tmp_path / "out")]
    assert main([*command, "--quantization", "int4"]) == 2
    message = " ".join(capsys.readouterr().err.split())
    for part in ("quantization", "int4", "float16", "int8"):
        assert part in message
    assert not (tmp_path / "out").exists()


def test_an_export_is_no_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path / "model", encoder_layers=1, decoder_layers=1)
    export_model(tmp_path / "model", tmp_path / "out")
    assert FORMATS.get("ctranslate2").fits(tmp_path / "out")
    assert not FORMATS.get("ctranslate2").fits(tmp_path / "model")
    command = ["import", "fairseq", str(tmp_path / "out"), "--dictionary", "d", "--out", str(tmp_path / "back")]
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "has the format ctranslate2" in message
    assert "seqkd cannot import the format ctranslate2" in message
