"""What an import of a Hugging Face folder refuses, and what it leaves behind."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file

from seqkd.cli.main import main
from seqkd.corpus.manifest import read_manifest
from seqkd.errors import ConflictError, ModelError
from seqkd.interop.formats import FORMATS
from seqkd.interop.huggingface import import_model
from seqkd.interop.huggingface_files import HuggingfaceFiles, sniff
from seqkd.interop.huggingface_hub import locate
from seqkd.models.checkpoint import load_model
from tests.unit.interop import huggingface_support as make

PLAIN = HuggingfaceFiles()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("marian") / "model"
    make.marian(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    shutil.copytree(whole, tmp_path / "model")
    return tmp_path / "model"


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_whole_folder_is_recognised_and_imported_once(whole: Path, tmp_path: Path) -> None:
    record = FORMATS.find("huggingface")
    assert record is not None
    assert record.fits(whole)
    assert not record.fits(tmp_path)
    out = tmp_path / "out"
    first = import_model(whole, out, PLAIN)
    manifest = read_manifest(out)
    assert (manifest.kind, manifest.extra["imported_from"]) == ("model", "huggingface")
    assert not sniff(out)  # a model folder of seqkd has a config.json, too
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert import_model(whole, out, PLAIN) == first
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_the_command(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["import", "huggingface", str(whole), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert f"parameters; {tmp_path / 'out'}" in capsys.readouterr().err
    assert main([*command, "--target-language", "nld"]) == 2
    assert "no target language 'nld'" in capsys.readouterr().err


def test_another_model_does_not_replace_a_folder_unasked(whole: Path, folder: Path, tmp_path: Path) -> None:
    import_model(whole, tmp_path / "out", PLAIN)
    weights = load_file(folder / "model.safetensors")
    weights["final_logits_bias"] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConflictError, match=r"inputs\.weights"):
        import_model(folder, tmp_path / "out", PLAIN)


def test_pickled_weights_in_parts_give_the_same_model(whole: Path, folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"pytorch_model-1.bin": names[::2], "pytorch_model-2.bin": names[1::2]}
    for part, held in parts.items():
        torch.save({name: weights[name] for name in held}, folder / part)
    index = {"weight_map": {name: part for part, held in parts.items() for name in held}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    import_model(whole, tmp_path / "one", PLAIN)
    import_model(folder, tmp_path / "other", PLAIN)
    assert load_model(tmp_path / "one").digest == load_model(tmp_path / "other").digest
    (folder / "pytorch_model-2.bin").unlink()
    with pytest.raises(ModelError, match=r"index\.json: the folder lacks pytorch_model-2\.bin"):
        import_model(folder, tmp_path / "third", PLAIN)


class Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def pickle_code(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"w": Harmful(folder / "ran")}, protocol=2))


def truncate(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return change


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def with_config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", **values)


def rename_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.encoder.layers.0.adapter.weight"] = weights.pop("model.encoder.layers.0.fc1.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def add_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors") | {"model.encoder.adapter.weight": torch.zeros(2)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def quantise(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.shared.weight"] = weights["model.shared.weight"].to(torch.int8)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_config(model_type="t5"), r"(?s)config\.json: its model_type is 't5'.*marian.*type = \"huggingface\""),
        (with_config(architectures=["MarianModel"]), "its architecture is MarianModel"),
        (with_config(activation_function="gelu_new"), "activation_function is 'gelu_new'"),
        (with_config(decoder_ffn_dim=64), "encoder_ffn_dim is 48, and decoder_ffn_dim is 64"),
        (with_config(decoder_attention_heads=4), "decoder_attention_heads is 4"),
        (with_config(tie_word_embeddings=False), "tie_word_embeddings is false"),
        (with_config(quantization_config={"bits": 4}), "quantised"),
        (with_config(auto_map={"AutoModel": "code.Model"}), r"needs Python code of its own \(auto_map\)"),
        (with_config(vocab_size=4), "has .* pieces with the ids 0 to"),
        (with_config(d_model="wide"), "d_model is 'wide'"),
        (with_config(d_model=64), "(shapes differ|rows)"),
        (with_config(encoder_layers=3), r"weights are missing: encoder\.layers\.2"),
        (with_config(pad_token_id=3), "the ids of <pad>, </s> and <unk>"),
        (with_config(eos_token_id=[0, 5]), r"eos_token_id is \[0, 5\]"),
        (truncate("config.json"), r"config\.json: cannot be read"),
        (truncate("vocab.json"), r"vocab\.json: is not a table of pieces"),
        (truncate("source.spm"), "is not a SentencePiece model"),
        (truncate("model.safetensors"), r"model\.safetensors: damaged"),
        (without("source.spm"), r"source\.spm: no such file"),
        (without("vocab.json"), r"vocab\.json: no such file"),
        (without("config.json"), r"config\.json: no such file"),
        (without("model.safetensors"), r"has no weights\n.*model\.safetensors or pytorch_model\.bin"),
        (pickle_code, "(?s)it can only be loaded by running code: it needs"),
        (rename_weight, r"weights are missing: encoder\.layers\.0\.fc1\.weight"),
        (add_weight, r"no place for: encoder\.adapter\.weight"),
        (quantise, r"model\.shared\.weight is torch\.int8"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_made(
    folder: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    change(folder)
    with pytest.raises(ModelError, match=message):
        import_model(folder, tmp_path / "out", PLAIN)
    assert not (tmp_path / "out").exists()
    assert not (folder / "ran").exists()


def test_languages_that_a_model_does_not_have_are_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not read the source language"):
        import_model(whole, tmp_path / "out", HuggingfaceFiles(source_language="deu"))
    with pytest.raises(ModelError, match=r"(?s)no target language 'nld'.*has a single one"):
        import_model(whole, tmp_path / "out", HuggingfaceFiles(target_language="nld"))


def test_the_decoder_of_mbarts_first_form_starts_with_the_target_language(tmp_path: Path) -> None:
    folder, out = tmp_path / "mbart", tmp_path / "out"
    make.mbart(folder, start=None)
    with pytest.raises(ModelError, match=r"(?s)several languages.*give --target-language"):
        import_model(folder, out, HuggingfaceFiles(source_language="en_XX"))
    report = import_model(folder, out, HuggingfaceFiles(source_language="en_XX", target_language="ro_RO"))
    assert report.notes[:2] == ("sources end with </s> en_XX", "outputs continue ro_RO")
    loaded = load_model(out)
    model: Any = loaded.model
    assert loaded.vocabularies.target.piece(model.start_id) == "ro_RO"
    (source,) = loaded.vocabularies.source.encode([make.SENTENCES[0]])
    assert loaded.vocabularies.source.piece(source[-1]) == "en_XX"
    assert source[:-1] == loaded.vocabularies.target.encode([make.SENTENCES[0]])[0]


def test_a_model_that_is_on_no_disk_and_a_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    def offline(**options: Any) -> str:
        return str(snapshot_download(**options, cache_dir=tmp_path, local_files_only=True))

    with pytest.raises(ModelError, match=r"(?s)^Helsinki/opus: there is no such folder here.*path of its folder"):
        locate("Helsinki/opus", download=offline)
    with pytest.raises(ModelError, match="is not a folder"):
        locate(tmp_path / "missing", download=offline)
    with pytest.raises(ModelError, match="a revision is for models on the hub"):
        locate(tmp_path, "main")


def test_pickled_weights_are_fetched_only_if_there_are_no_others(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def download(*, repo_id: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert (repo_id, revision) == ("owner/name", "main")
        asked.append(allow_patterns)
        return str(tmp_path)

    assert locate("owner/name", "main", download=download) == tmp_path
    assert ["*.bin" in patterns for patterns in asked] == [False, True]
    (tmp_path / "model.safetensors").touch()
    locate("owner/name", "main", download=download)
    assert len(asked) == 3
