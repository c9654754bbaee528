"""Model folders: `model.safetensors`, `config.json`, and the files of the vocabularies."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from seqkd.corpus.files import atomic_path, atomic_write
from seqkd.corpus.manifest import MANIFEST, read_manifest
from seqkd.corpus.vocabularies import write_vocabularies
from seqkd.errors import CorpusError, ModelError
from seqkd.models.registry import build
from seqkd.text.vocabularies import SOURCE_VOCABULARY, VOCABULARY, Vocabularies, list_files
from seqkd.text.vocabulary import Vocabulary

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FORMAT = 1

_FILES = (WEIGHTS, CONFIG)
_EXPECTED = f"a model folder: {WEIGHTS}, {CONFIG}, {VOCABULARY} or another vocabulary"
_AGAIN = "train or copy the model again, or check the path"
_NAMED = 5  # weights named in an error message
_SETTLED_NS = 2_000_000_000  # the age from which a file's times reveal every change
_MOST = 100_000  # settings up to this value are allowed whatever the weights, such as the longest sentence in tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """The contents of a model folder.

    Attributes:
        model: The model, in evaluation mode, on the requested device.
        arch: The name of its architecture.
        settings: The settings of the architecture.
        vocabularies: The vocabularies of source and target.
        digest: `model_digest` of the folder.
    """

    model: nn.Module
    arch: str
    settings: dict[str, Any]
    vocabularies: Vocabularies
    digest: str


def collect_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of a model as its file stores it: a tensor with several names (tied embeddings) appears once."""
    seen: set[int] = set()
    weights = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            weights[name] = value.detach()
    return weights


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file, atomically.

    Raises:
        WorkError: The file cannot be written, for example because the disk is full.
    """
    plain = {name: weights[name].detach().cpu().contiguous() for name in sorted(weights)}
    with atomic_path(path) as temporary:
        try:
            save_file(plain, temporary, metadata={"format": "pt"})
        except SafetensorError as error:  # wraps an error of the system
            raise OSError(None, str(error)) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors that `write_weights` wrote.

    Raises:
        ModelError: The file does not exist or is damaged.
    """
    with _open(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a safetensors file, whose table of contents is then checked against the size of the file."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise ModelError("no such file", where=str(path), expected="a model's weights", hint=_AGAIN) from None
    except (OSError, SafetensorError) as error:
        raise ModelError(f"damaged: {error}", where=str(path), hint=_AGAIN) from None


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], where: Path) -> None:
    """Copy tensors into a model.

    Raises:
        ModelError: Names or shapes differ from those of the model.
    """
    _check_weights(model, weights, where)
    with torch.no_grad():
        for name, value in collect_weights(model).items():
            value.copy_(weights[name])


def _check_weights(model: nn.Module, weights: Mapping[str, Tensor], where: Path) -> None:
    own = collect_weights(model)
    problems = [f"{name}: missing" for name in own if name not in weights]
    problems += [f"{name}: is not a weight of the model" for name in weights if name not in own]
    problems += [
        f"{name}: has shape {list(weights[name].shape)}, in the model {list(own[name].shape)}"
        for name in own
        if name in weights and own[name].shape != weights[name].shape
    ]
    if problems:
        more = f"\n    and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        what = "the weights do not fit the model:\n    " + "\n    ".join(problems[:_NAMED]) + more
        raise ModelError(what, where=str(where))


def save_model(
    folder: Path,
    model: nn.Module,
    *,
    arch: str,
    settings: Mapping[str, Any],
    vocab: Path,
    source_vocab: Path | None = None,
) -> None:
    """Write the files of a model folder. Equal weights give equal bytes.

    Args:
        folder: The folder, which must exist.
        model: The model. Its weights are stored in their own type.
        arch: The name of its architecture.
        settings: The settings from which the registry builds the model.
        vocab: The SentencePiece model of the target, and of the source unless `source_vocab` is given; or `folder`
            itself if it already contains its vocabularies, which may be of any kind (`write_vocabularies`).
        source_vocab: The SentencePiece model of the source, if it is a file of its own.

    Raises:
        ModelError: A vocabulary cannot be read, or its size differs from the model's.
        WorkError: A file cannot be written, for example because the disk is full.
    """
    if vocab == folder:
        vocabularies = Vocabularies.load(folder)
    else:
        target = Vocabulary.load(vocab)
        vocabularies = Vocabularies(Vocabulary.load(source_vocab) if source_vocab else target, target)
    _check_sizes(model, vocabularies, folder)
    if vocab != folder:
        write_vocabularies(folder, vocabularies)
    digests = vocabularies.digests()
    values = {
        "format": FORMAT,
        "arch": arch,
        "settings": dict(settings),
        "vocabulary": digests[VOCABULARY],
        "source_vocabulary": digests.get(SOURCE_VOCABULARY),
    }
    atomic_write(folder / CONFIG, (json.dumps(values, indent=2, sort_keys=True) + "\n").encode())
    write_weights(folder / WEIGHTS, collect_weights(model))


def load_model(
    folder: str | Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> LoadedModel:
    """Read a model folder. Nothing is unpickled.

    Args:
        folder: A folder that `save_model` wrote.
        dtype: The type of the loaded weights.
        device: The device of the loaded model.

    Raises:
        ModelError: A file is missing or damaged or differs from the one in the folder's manifest, or the weights,
            settings and vocabularies do not fit each other.
    """
    folder = Path(folder)
    files = model_files(folder)
    if changed := changed_files(folder, files):
        raise ModelError(
            "was changed after it was made:\n    " + "\n    ".join(changed),
            where=str(folder),
            hint="copy or train the model again; a model with other files needs its own folder",
        )
    config = read_config(folder)
    vocabularies = _vocabularies(folder, config)
    weights = read_weights(folder / WEIGHTS)
    _check_settings(config["settings"], weights, folder / CONFIG)
    sizes = {"source_vocab": vocabularies.source.size, "target_vocab": vocabularies.target.size}
    if ":" not in config["arch"]:  # models of other packages cannot be built without allocating memory
        with torch.device("meta"):
            _check_weights(build(config["arch"], config["settings"], **sizes), weights, folder / WEIGHTS)
    model = build(config["arch"], config["settings"], **sizes)
    load_weights(model, weights, folder / WEIGHTS)
    return LoadedModel(
        model=model.to(device=device, dtype=dtype).eval(),
        arch=config["arch"],
        settings=config["settings"],
        vocabularies=vocabularies,
        digest=combine_digests(files),
    )


def _check_settings(settings: Mapping[str, Any], weights: Mapping[str, Tensor], where: Path) -> None:
    """Refuse sizes that cannot be those of the weights, before memory is allocated for them."""
    sizes = [size for weight in weights.values() for size in weight.shape]
    for key, value in settings.items():
        if isinstance(value, Mapping):
            _check_settings(value, weights, where)
        elif isinstance(value, int):
            most = len(weights) if key.endswith("layers") else max(_MOST, *sizes, 0)
            if abs(value) > most:
                raise ModelError(f"{key} is {value:.3g}", where=str(where), expected=f"at most {most:,} by the weights")


def read_config(folder: str | Path) -> dict[str, Any]:
    """Read the configuration of a model folder: format, arch, settings, vocabulary and source_vocabulary.

    Raises:
        ModelError: The file does not exist or has other contents.
    """
    folder = Path(folder)
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"cannot be read: {error}", where=str(path), expected="a model configuration", hint=_AGAIN
        ) from None
    kinds: dict[str, Any] = {
        "format": int,
        "arch": str,
        "settings": dict,
        "vocabulary": str,
        "source_vocabulary": (str, type(None)),
    }
    if not isinstance(values, dict) or any(
        key not in values or not isinstance(values[key], kind) for key, kind in kinds.items()
    ):
        raise ModelError("is not a model configuration", where=str(path), expected=f"the keys {', '.join(kinds)}")
    if values["format"] > FORMAT:
        raise ModelError(
            f"format {values['format']} is newer than format {FORMAT} of this seqkd",
            where=str(path),
            hint="update seqkd",
        )
    return values


def check_model(folder: str | Path) -> None:
    """Check the configuration, the vocabularies and the table of weights of a model folder without building the model.

    Raises:
        ModelError: A file is missing or damaged, or the model was trained with another vocabulary.
    """
    folder = Path(folder)
    config = read_config(folder)
    _vocabularies(folder, config)
    with _open(folder / WEIGHTS):
        pass


def model_digest(folder: str | Path) -> str:
    """Return the SHA-256 (hex) over the files of a model folder, which does not depend on the path of the folder.

    Raises:
        ModelError: The folder is not a model folder, or a file cannot be read.
    """
    folder = Path(folder)
    return combine_digests(model_files(folder))


def model_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 (hex) of each file of a model folder by name. The manifest records them under `files`.

    Raises:
        ModelError: The folder is not a model folder, or a file cannot be read.
    """
    if not folder.is_dir():
        raise ModelError("no such folder", where=str(folder), expected=_EXPECTED)
    files = {}
    for name in (*_FILES, *(list(list_files(folder)) or [VOCABULARY])):
        try:
            files[name] = file_digest(folder / name)
        except FileNotFoundError:
            raise ModelError(
                f"is not a finished model folder: {name} is missing",
                where=str(folder),
                expected=_EXPECTED,
                hint="finish the training by running its command again, or check the path",
            ) from None
        except OSError as error:
            raise ModelError(f"cannot be read: {error.strerror}", where=str(folder / name), hint=_AGAIN) from None
    return files


def combine_digests(files: Mapping[str, str]) -> str:
    """Return the digest of a model, or of another set of files, whose files have these digests by name."""
    names = [*_FILES, *sorted(files.keys() - set(_FILES))]
    return hashlib.sha256("".join(f"{name} {files[name]}\n" for name in names if name in files).encode()).hexdigest()


def changed_files(folder: Path, files: Mapping[str, str]) -> list[str]:
    """List the differences between the files of a model folder and its manifest; empty if it has no manifest.

    Args:
        folder: The model folder.
        files: The result of `model_files`.

    Raises:
        ModelError: The manifest is damaged.
    """
    if not (folder / MANIFEST).exists():
        return []
    try:
        recorded = read_manifest(folder).extra.get("files")
    except CorpusError as error:
        raise ModelError(error.what, where=error.where, hint=error.hint) from None
    if not isinstance(recorded, dict):  # made by a version of seqkd that did not record them
        return []
    return [
        f"{name}: the SHA-256 is {_short(files.get(name))}, in the manifest {_short(recorded.get(name))}"
        for name in sorted(files.keys() | recorded.keys())
        if files.get(name) != recorded.get(name)
    ]


def _short(digest: object) -> str:
    return f"{str(digest)[:12]}..." if digest else "(no such file)"


_digests: dict[tuple[int, ...], str] = {}  # of the files that this process has read, by size, times and inode


def file_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of a file. A process reads the file once unless it changes.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if key in _digests:
            return _digests[key]
        digest = hashlib.sha256()  # hashlib.file_digest needs Python 3.11
        while block := file.read(1 << 20):
            digest.update(block)
    # The clock of a file system is coarse: a second change right after the first may not change the time.
    if time.time_ns() - found.st_mtime_ns > _SETTLED_NS:
        _digests[key] = digest.hexdigest()
    return digest.hexdigest()


def _vocabularies(folder: Path, config: Mapping[str, Any]) -> Vocabularies:
    """Read the vocabularies of a model folder, which must be those of its configuration."""
    found = Vocabularies.load(folder)
    expected = {"target": config["vocabulary"], "source": config["source_vocabulary"] or config["vocabulary"]}
    for side, vocabulary in found.sides():
        if vocabulary.digest != expected[side]:
            raise ModelError(
                "is not the vocabulary that this model was trained with",
                where=str(vocabulary.path),
                expected=f"SHA-256 {expected[side][:12]}..., found {vocabulary.digest[:12]}...",
                hint="copy the whole model folder, or train the model again",
            )
    return found


def _check_sizes(model: nn.Module, vocabularies: Vocabularies, where: Path) -> None:
    for side, vocabulary in vocabularies.sides():
        pieces = getattr(model, f"{side}_vocab")
        if pieces != vocabulary.size:
            raise ModelError(
                f"the model has {pieces} {side} pieces, but the vocabulary has {vocabulary.size}",
                where=str(where),
                expected=f"the vocabulary for which the model was built, not {vocabulary.path}",
            )
