from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from seqkd.corpus.manifest import Manifest, build_fingerprint, write_manifest
from seqkd.errors import ModelError
from seqkd.models.checkpoint import (
    combine_digests,
    load_model,
    model_digest,
    model_files,
    read_weights,
    save_model,
    write_weights,
)
from seqkd.models.registry import build
from seqkd.text.mapped import MAP, PieceMap
from seqkd.text.vocabularies import VOCABULARY, Vocabularies
from seqkd.text.vocabulary import Vocabulary

SETTINGS: dict[str, Any] = {"dim": 16, "heads": 2, "ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1}


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("vocab")
    text = ["der hund schläft heute nicht", "die katze jagt den hund", "alle vögel singen morgens laut"] * 4
    for name, size in (("a.model", 290), ("b.model", 285)):
        Vocabulary.train(
            iter(text),
            folder / name,
            size=size,
            type="unigram",
            byte_fallback=True,
            character_coverage=1.0,
            symbols=(),
            seed=1,
        )
    return folder / "a.model", folder / "b.model"


def make(folder: Path, vocab: Path, source: Path | None = None, **more: Any) -> torch.nn.Module:
    torch.manual_seed(3)
    settings = {**SETTINGS, **more}
    sizes = {"source_vocab": Vocabulary.load(source or vocab).size, "target_vocab": Vocabulary.load(vocab).size}
    model = build("transformer", settings, **sizes).eval()
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder, model, arch="transformer", settings=settings, vocab=vocab, source_vocab=source)
    return model


@pytest.mark.parametrize("embeddings", ["shared", "decoder", "separate"])
@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_round_trip(tmp_path: Path, vocabularies: tuple[Path, Path], embeddings: str, positions: str) -> None:
    model = make(tmp_path, vocabularies[0], embeddings=embeddings, positions=positions)
    loaded = load_model(tmp_path)
    source, target = torch.tensor([[5, 6, 2]]), torch.tensor([[2, 7]])
    assert torch.equal(loaded.model(source, target), model(source, target))
    assert loaded.arch == "transformer"
    assert loaded.settings["embeddings"] == embeddings
    assert loaded.vocabularies.joint
    assert not loaded.model.training
    tied = loaded.model.output_weight is loaded.model.target_embedding
    assert tied == (embeddings != "separate")


def test_a_vocabulary_of_another_kind(tmp_path: Path, vocabularies: tuple[Path, Path]) -> None:
    """A model keeps a map of pieces with its SentencePiece model, and a change of the map is noticed."""
    pieces = Vocabulary.load(vocabularies[0]).pieces()
    (tmp_path / VOCABULARY).write_bytes(vocabularies[0].read_bytes())
    (tmp_path / MAP).write_bytes(PieceMap(pieces=(*pieces[:4], *pieces[:3:-1])).to_bytes())
    model = build("transformer", SETTINGS, source_vocab=len(pieces), target_vocab=len(pieces)).eval()
    save_model(tmp_path, model, arch="transformer", settings=SETTINGS, vocab=tmp_path)
    assert load_model(tmp_path).vocabularies.digests() == Vocabularies.load(tmp_path).digests()
    assert sorted(model_files(tmp_path)) == ["config.json", "model.safetensors", MAP, VOCABULARY]
    before = model_digest(tmp_path)
    (tmp_path / MAP).write_bytes(PieceMap(pieces=(*pieces, "<row>")).to_bytes())
    assert model_digest(tmp_path) != before
    with pytest.raises(ModelError, match="not the vocabulary that this model was trained with"):
        load_model(tmp_path)
    with pytest.raises(ModelError, match=rf"the model has {len(pieces)} target pieces, but the vocabulary has"):
        save_model(tmp_path, model, arch="transformer", settings=SETTINGS, vocab=tmp_path)


def test_two_vocabularies(tmp_path: Path, vocabularies: tuple[Path, Path]) -> None:
    target, source = vocabularies
    make(tmp_path, target, source, embeddings="decoder")
    loaded = load_model(tmp_path)
    assert loaded.vocabularies.target.digest == Vocabulary.load(target).digest
    assert not loaded.vocabularies.joint
    assert loaded.vocabularies.source.digest == Vocabulary.load(source).digest


def test_dtype(tmp_path: Path, vocabularies: tuple[Path, Path]) -> None:
    make(tmp_path, vocabularies[0])
    assert load_model(tmp_path, dtype=torch.bfloat16).model.output_weight.dtype == torch.bfloat16


def test_digest_is_of_the_contents(tmp_path: Path, vocabularies: tuple[Path, Path]) -> None:
    make(tmp_path / "a", vocabularies[0])
    make(tmp_path / "b", vocabularies[0])
    digest = model_digest(tmp_path / "a")
    assert digest == model_digest(tmp_path / "b") == load_model(tmp_path / "b").digest
    weights = read_weights(tmp_path / "b" / "model.safetensors")
    weights["encoder_norm.bias"] += 1
    write_weights(tmp_path / "b" / "model.safetensors", weights)
    assert model_digest(tmp_path / "b") != digest


def bytes_read() -> int:
    """Bytes that this process has asked the system for."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_folder_is_hashed_once_until_a_file_changes(tmp_path: Path, vocabularies: tuple[Path, Path]) -> None:
    folder = tmp_path / "model"
    make(folder, vocabularies[0])
    weights = folder / "model.safetensors"
    size = weights.stat().st_size
    assert size > 10_000
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))  # not a file of this moment, whose times cannot be relied on
    before, first = bytes_read(), model_digest(folder)
    assert bytes_read() - before >= size
    before = bytes_read()
    assert model_digest(folder) == first
    assert bytes_read() - before < size
    with weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    changed = model_digest(folder)
    os.utime(weights, (1e9, 1e9))  # the same size and time of change as before
    assert model_digest(folder) == changed != first


def test_tied_weights_are_stored_once(tmp_path: Path, vocabularies: tuple[Path, Path]) -> None:
    make(tmp_path, vocabularies[0])
    tables = [name for name in read_weights(tmp_path / "model.safetensors") if "embedding" in name or "output" in name]
    assert len(tables) == 1


def test_another_vocabulary_is_refused(tmp_path: Path, vocabularies: tuple[Path, Path]) -> None:
    make(tmp_path, vocabularies[0])
    shutil.copy(vocabularies[1], tmp_path / "vocab.model")
    with pytest.raises(ModelError, match="not the vocabulary that this model was trained with"):
        load_model(tmp_path)


def test_a_vocabulary_of_another_size_is_not_saved(tmp_path: Path, vocabularies: tuple[Path, Path]) -> None:
    model = make(tmp_path, vocabularies[0])
    with pytest.raises(ModelError, match="290 target pieces, but the vocabulary has 285"):
        save_model(tmp_path, model, arch="transformer", settings=SETTINGS, vocab=vocabularies[1])


def test_damage_is_named(tmp_path: Path, vocabularies: tuple[Path, Path]) -> None:
    make(tmp_path, vocabularies[0])
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"model\.safetensors: damaged"):
        load_model(tmp_path)
    weights.unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
        load_model(tmp_path)
    with pytest.raises(ModelError, match="no such folder"):
        load_model(tmp_path / "nowhere")


def test_weights_of_another_shape(tmp_path: Path, vocabularies: tuple[Path, Path]) -> None:
    make(tmp_path, vocabularies[0])
    config = json.loads((tmp_path / "config.json").read_text())
    config["settings"]["ffn_dim"] = 64
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"do not fit the model:\n.*shape \[32, 16\], in the model \[64, 16\]"):
        load_model(tmp_path)


@pytest.mark.parametrize("change", [{"arch": 3}, {"format": 99}, {"arch": "rnn"}, {"settings": {"dims": 4}}])
def test_bad_settings(tmp_path: Path, vocabularies: tuple[Path, Path], change: dict[str, Any]) -> None:
    make(tmp_path, vocabularies[0])
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "change", [{"ffn_dim": 10**9}, {"encoder_layers": 10**9}, {"max_positions": 10**18}, {"dim": -(10**12)}]
)
def test_sizes_are_held_against_the_weights_before_memory_is_asked_for(
    tmp_path: Path, vocabularies: tuple[Path, Path], change: dict[str, Any]
) -> None:
    make(tmp_path, vocabularies[0])
    config = json.loads((tmp_path / "config.json").read_text())
    config["settings"] |= change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=rf"config.json: {next(iter(change))} is .*\n.*by the weights"):
        load_model(tmp_path)


def test_a_folder_whose_files_are_not_its_manifests(tmp_path: Path, vocabularies: tuple[Path, Path]) -> None:
    make(tmp_path / "a", vocabularies[0])
    files = model_files(tmp_path / "a")
    assert combine_digests(files) == model_digest(tmp_path / "a")
    made_by = build_fingerprint("train", {}, {})
    write_manifest(tmp_path / "a", Manifest(kind="model", fingerprint=made_by, extra={"files": files}))
    load_model(tmp_path / "a")
    make(tmp_path / "b", vocabularies[0], activation="gelu")
    shutil.copy(tmp_path / "b" / "config.json", tmp_path / "a")
    with pytest.raises(ModelError, match=r"changed after it was made:\n +config.json: the SHA-256"):
        load_model(tmp_path / "a")


def test_unknown_architecture_lists_what_there_is() -> None:
    with pytest.raises(ModelError, match=r"'rnn'\n  expected: one of: .*transformer"):
        build("rnn", {}, source_vocab=8, target_vocab=8)
