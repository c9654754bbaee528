from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seqkd.corpus.manifest import read_manifest
from seqkd.errors import ConflictError, ModelError
from seqkd.interop.fairseq import export_checkpoint, import_checkpoint
from seqkd.interop.fairseq_checkpoint import read_checkpoint
from seqkd.interop.fairseq_dictionary import word_vocabulary
from seqkd.models.checkpoint import load_model, save_model
from seqkd.models.settings import TransformerSettings
from seqkd.models.transformer import Transformer

SYMBOLS = [f"s{number}" for number in range(20)]
SETTINGS: dict[str, Any] = {
    "dim": 16,
    "heads": 2,
    "ffn_dim": 24,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "dropout": 0.1,
    "norm": "post",
    "positions": "sinusoidal",
    "activation": "relu",
    "embeddings": "shared",
    "max_positions": 12,
}


def model_folder(folder: Path, **changes: Any) -> tuple[Path, Transformer]:
    settings = SETTINGS | changes
    torch.manual_seed(1)
    model = Transformer(TransformerSettings(**settings), source_vocab=24, target_vocab=24).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight))
    out = folder / "model"
    out.mkdir()
    vocab = folder / "words.model"
    vocab.write_bytes(word_vocabulary(SYMBOLS).model)
    save_model(out, model, arch="transformer", settings=settings, vocab=vocab, source_vocab=None)
    return out, model


def exported(folder: Path, **changes: Any) -> Path:
    model, _ = model_folder(folder, **changes)
    export_checkpoint(model, folder / "exported")
    return folder / "exported"


def altered(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """An exported checkpoint with something about it changed."""
    contents = read_checkpoint(exported(folder) / "checkpoint.pt")
    change(contents)
    path = folder / "altered.pt"
    torch.save(contents, path)
    return path


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
@pytest.mark.parametrize("embeddings", ["shared", "decoder", "separate"])
def test_export_then_import_gives_the_same_model(tmp_path: Path, norm: str, positions: str, embeddings: str) -> None:
    changes = {"norm": norm, "positions": positions, "embeddings": embeddings, "activation": "gelu"}
    folder, model = model_folder(tmp_path, **changes)
    export_checkpoint(folder, tmp_path / "exported")
    report = import_checkpoint(
        tmp_path / "exported" / "checkpoint.pt",
        tmp_path / "back",
        dictionary=tmp_path / "exported" / "dict.tgt.txt",
        source_dictionary=tmp_path / "exported" / "dict.src.txt",
    )
    back = load_model(tmp_path / "back")
    assert dict(back.settings) == SETTINGS | changes
    assert back.vocabularies.joint
    assert back.vocabularies.target.pieces()[4:] == ["▁" + symbol for symbol in SYMBOLS]
    assert report.parameters == sum(weight.numel() for weight in model.parameters())
    source, target = torch.tensor([[5, 6, 7, 2], [9, 2, 1, 1]]), torch.tensor([[2, 8, 9], [2, 10, 11]])
    with torch.no_grad():
        assert torch.equal(back.model(source, target), model(source, target))


def test_the_model_folder_is_whole_and_importing_again_does_nothing(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    words = folder / "dict.tgt.txt"
    import_checkpoint(folder / "checkpoint.pt", tmp_path / "model2", dictionary=words)
    manifest = read_manifest(tmp_path / "model2")
    assert manifest.kind == "model"
    assert manifest.extra["arch"] == "transformer"
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "model2").iterdir()}
    import_checkpoint(folder / "checkpoint.pt", tmp_path / "model2", dictionary=words)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "model2").iterdir()} == before


def test_a_dictionary_of_sentencepiece_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    (folder / "dict.tgt.txt").write_text("".join(f"\u2581p{number} 1\n" for number in range(len(SYMBOLS))))
    with pytest.raises(ModelError, match=r"(?s)dict\.tgt\.txt: 20 of 20 symbols.*--sentencepiece"):
        import_checkpoint(folder / "checkpoint.pt", tmp_path / "out", dictionary=folder / "dict.tgt.txt")
    assert not (tmp_path / "out").exists()


def test_another_checkpoint_does_not_replace_a_model_unasked(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    words = folder / "dict.tgt.txt"
    import_checkpoint(folder / "checkpoint.pt", tmp_path / "model2", dictionary=words)
    contents = read_checkpoint(folder / "checkpoint.pt")
    contents["model"]["decoder.layers.0.fc1.bias"] += 1
    torch.save(contents, tmp_path / "other.pt")
    with pytest.raises(ConflictError, match=r"inputs\.checkpoint"):
        import_checkpoint(tmp_path / "other.pt", tmp_path / "model2", dictionary=words)


def test_sides_with_their_own_dictionaries(tmp_path: Path) -> None:
    folder = exported(tmp_path, embeddings="separate")
    (folder / "dict.src.txt").write_text("".join(f"q{number} 1\n" for number in range(20)))
    import_checkpoint(
        folder / "checkpoint.pt",
        tmp_path / "back",
        dictionary=folder / "dict.tgt.txt",
        source_dictionary=folder / "dict.src.txt",
    )
    back = load_model(tmp_path / "back")
    assert not back.vocabularies.joint
    assert back.vocabularies.source.encode(["q3 s3"]) == [[7, 3]]
    assert back.vocabularies.target.encode(["q3 s3"]) == [[3, 7]]


def test_newer_checkpoints_keep_their_arguments_in_cfg(tmp_path: Path) -> None:
    def move(contents: dict[str, Any]) -> None:
        flat = vars(contents["args"])
        stacks: dict[str, Any] = {
            stack: {
                name.removeprefix(f"{stack}_"): value for name, value in flat.items() if name.startswith(f"{stack}_")
            }
            for stack in ("encoder", "decoder")
        }
        rest = {name: value for name, value in flat.items() if not name.startswith(("encoder_", "decoder_"))}
        contents["cfg"], contents["args"] = {"model": rest | stacks}, None

    path = altered(tmp_path, move)
    import_checkpoint(path, tmp_path / "back", dictionary=tmp_path / "exported" / "dict.tgt.txt")
    assert dict(load_model(tmp_path / "back").settings) == SETTINGS


def test_half_precision_and_old_names_are_read(tmp_path: Path) -> None:
    def age(contents: dict[str, Any]) -> None:
        weights = contents["model"]
        contents["model"] = {name: weight.half() for name, weight in weights.items()}
        del contents["model"]["decoder.output_projection.weight"]
        contents["model"]["decoder.embed_positions._float_tensor"] = torch.zeros(1)

    path = altered(tmp_path, age)
    import_checkpoint(path, tmp_path / "back", dictionary=tmp_path / "exported" / "dict.tgt.txt")
    assert next(load_model(tmp_path / "back").model.parameters()).dtype == torch.float32


def _set(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda contents: setattr(contents["args"], name, value)


def _drop(contents: dict[str, Any]) -> None:
    del contents["model"]["encoder.layers.1.fc2.bias"]


def _add(contents: dict[str, Any]) -> None:
    contents["model"]["decoder.embed_length.weight"] = torch.zeros(2)


def _narrow(contents: dict[str, Any]) -> None:
    for name in ("fc1.weight", "fc1.bias"):
        contents["model"][f"decoder.layers.0.{name}"] = contents["model"][f"decoder.layers.0.{name}"][:8]
    weight = contents["model"]["decoder.layers.0.fc2.weight"]
    contents["model"]["decoder.layers.0.fc2.weight"] = weight[:, :8]


def _no_arguments(contents: dict[str, Any]) -> None:
    contents["args"] = None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("layernorm_embedding", True), "layernorm_embedding=True"),
        (_set("no_scale_embedding", True), "no_scale_embedding=True"),
        (_set("decoder_normalize_before", True), "normalize_before is False in the encoder and True in the decoder"),
        (_set("activation_fn", "tanh"), "activation_fn is 'tanh'"),
        (_set("encoder_attention_heads", 3), "attention_heads"),
        (_set("encoder_attention_heads", None), "lack encoder_attention_heads"),
        (_drop, "missing: encoder.layers.1.fc2.bias"),
        (_add, "no place for: decoder.embed_length.weight"),
        (_narrow, "shapes differ: decoder.0.ffn"),
        (_no_arguments, "no training arguments"),
    ],
)
def test_what_our_transformer_is_not_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = altered(tmp_path, change)
    with pytest.raises(ModelError, match=message) as caught:
        import_checkpoint(path, tmp_path / "back", dictionary=tmp_path / "exported" / "dict.tgt.txt")
    assert caught.value.where == str(path)
    assert not (tmp_path / "back").exists()


def test_a_dictionary_of_another_size_is_refused(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    (tmp_path / "dict.txt").write_text("a 1\nb 1\n")
    with pytest.raises(ModelError, match="24 source embeddings, but the source dictionary has 6 entries"):
        import_checkpoint(folder / "checkpoint.pt", tmp_path / "back", dictionary=tmp_path / "dict.txt")


class Trap:
    """Runs code when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("trapped",))


@pytest.mark.parametrize("old_format", [False, True])
def test_nothing_in_a_checkpoint_is_ever_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old_format: bool) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "trap.pt"
    contents = {"args": argparse.Namespace(), "model": {}, "extra_state": Trap()}
    torch.save(contents, path, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(ModelError, match="mkdir") as caught:
        read_checkpoint(path)
    assert caught.value.hint
    assert not Path("trapped").exists()


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        read_checkpoint(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ModelError):
        read_checkpoint(tmp_path / "text.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    with pytest.raises(ModelError):
        read_checkpoint(tmp_path / "empty.pt")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps({"weights": 1}, protocol=2))
    with pytest.raises(ModelError):
        read_checkpoint(tmp_path / "pickle.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ModelError, match="no `model`"):
        read_checkpoint(tmp_path / "list.pt")


def test_options_that_fairseq_does_not_have_are_refused_by_name(tmp_path: Path) -> None:
    folder, _ = model_folder(tmp_path, start="zero", output_bias=True)
    with pytest.raises(ModelError, match="start = 'zero', output_bias = True"):
        export_checkpoint(folder, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_swiglu_has_no_equal_in_fairseq(tmp_path: Path) -> None:
    folder, _ = model_folder(tmp_path, activation="swiglu")
    with pytest.raises(ModelError, match="swiglu"):
        export_checkpoint(folder, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
