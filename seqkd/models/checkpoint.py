"""Model folders: `model.safetensors`, `config.json`, `vocab.model`, and `vocab.source.model` where sides differ."""

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
from seqkd.errors import CorpusError, ModelError
from seqkd.models.registry import build
from seqkd.text.vocabularies import SOURCE_VOCABULARY, VOCABULARY, Vocabularies
from seqkd.text.vocabulary import Vocabulary

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FORMAT = 1

_FILES = (WEIGHTS, CONFIG, VOCABULARY)
_AGAIN = "train or copy the model again, or check the path"
_NAMED = 5  # in an error message
_SETTLED_NS = 2_000_000_000  # age of a file from which its times tell every change
_MOST = 100_000  # a setting may be this large whatever the weights: longest sentences, in tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model folder's contents.

    Attributes:
        model: In evaluation mode, on the device asked for.
        arch: Its architecture's name.
        settings: The architecture's own options.
        vocabularies: Of source and target.
        digest: `model_digest` of the folder.
    """

    model: nn.Module
    arch: str
    settings: dict[str, Any]
    vocabularies: Vocabularies
    digest: str


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """What a model's file holds: its state, where a tensor that has several names (tied embeddings) appears once."""
    seen: set[int] = set()
    weights = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            weights[name] = value.detach()
    return weights


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, whole or not at all.

    Raises:
        WorkError: The system refuses: disk full, no permission.
    """
    plain = {name: weights[name].detach().cpu().contiguous() for name in sorted(weights)}
    with atomic_path(path) as temporary:
        try:
            save_file(plain, temporary, metadata={"format": "pt"})
        except SafetensorError as error:  # its own wrapper of the system's refusal
            raise OSError(None, str(error)) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors that `write_weights` wrote.

    Raises:
        ModelError: No such file, or damaged.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file; its table of contents has been checked against its size."""
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
        ModelError: Names or shapes differ from the model's.
    """
    _check_weights(model, weights, where)
    with torch.no_grad():
        for name, value in weights_of(model).items():
            value.copy_(weights[name])


def _check_weights(model: nn.Module, weights: Mapping[str, Tensor], where: Path) -> None:
    own = weights_of(model)
    problems = [f"{name}: missing" for name in own if name not in weights]
    problems += [f"{name}: the model has no such weight" for name in weights if name not in own]
    problems += [
        f"{name}: shape {list(weights[name].shape)}, the model's is {list(own[name].shape)}"
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
    """Write a model folder's files; equal weights give equal bytes.

    Args:
        folder: Must be there.
        model: Its weights are stored in their own type.
        arch: Its name in the registry.
        settings: What the registry builds it from.
        vocab: The SentencePiece model of the target, and of the source too without `source_vocab`.
        source_vocab: The source's, where it has its own.

    Raises:
        ModelError: A vocabulary cannot be read or has not as many pieces as the model.
        WorkError: The system refuses: disk full, no permission.
    """
    target = Vocabulary.load(vocab)
    source = Vocabulary.load(source_vocab) if source_vocab else None
    _check_sizes(model, target, source, folder)
    atomic_write(folder / VOCABULARY, vocab.read_bytes())
    if source_vocab:
        atomic_write(folder / SOURCE_VOCABULARY, source_vocab.read_bytes())
    values = {
        "format": FORMAT,
        "arch": arch,
        "settings": dict(settings),
        "vocabulary": target.digest,
        "source_vocabulary": source.digest if source else None,
    }
    atomic_write(folder / CONFIG, (json.dumps(values, indent=2, sort_keys=True) + "\n").encode())
    write_weights(folder / WEIGHTS, weights_of(model))


def load_model(
    folder: str | Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> LoadedModel:
    """Read a model folder. Nothing is unpickled.

    Args:
        folder: What `save_model` wrote.
        dtype: Of the weights once loaded.
        device: Where to put them.

    Raises:
        ModelError: A file is missing, damaged or not the one that the folder's manifest recorded; or weights, settings
            and vocabulary do not fit each other.
    """
    folder = Path(folder)
    files = model_files(folder)
    if changed := changed_files(folder, files):
        raise ModelError(
            "changed after it was made:\n    " + "\n    ".join(changed),
            where=str(folder),
            hint="copy or train the model again; a model of other files needs a folder of its own",
        )
    config = read_config(folder)
    source = target = _vocabulary(folder / VOCABULARY, config["vocabulary"])
    if config["source_vocabulary"] is not None:
        source = _vocabulary(folder / SOURCE_VOCABULARY, config["source_vocabulary"])
    weights = read_weights(folder / WEIGHTS)
    _check_settings(config["settings"], weights, folder / CONFIG)
    sizes = {"source_vocab": source.size, "target_vocab": target.size}
    if ":" not in config["arch"]:  # other packages' models cannot be built without memory
        with torch.device("meta"):
            _check_weights(build(config["arch"], config["settings"], **sizes), weights, folder / WEIGHTS)
    model = build(config["arch"], config["settings"], **sizes)
    load_weights(model, weights, folder / WEIGHTS)
    return LoadedModel(
        model=model.to(device=device, dtype=dtype).eval(),
        arch=config["arch"],
        settings=config["settings"],
        vocabularies=Vocabularies(source, target),
        digest=digest_of(files),
    )


def _check_settings(settings: Mapping[str, Any], weights: Mapping[str, Tensor], where: Path) -> None:
    """Refuse sizes that the weights cannot be of, before memory is asked for in their name."""
    sizes = [size for weight in weights.values() for size in weight.shape]
    for key, value in settings.items():
        if isinstance(value, Mapping):
            _check_settings(value, weights, where)
        elif isinstance(value, int):
            most = len(weights) if key.endswith("layers") else max(_MOST, *sizes, 0)
            if abs(value) > most:
                raise ModelError(f"{key} is {value:.3g}", where=str(where), expected=f"at most {most:,} by the weights")


def read_config(folder: str | Path) -> dict[str, Any]:
    """What a model folder says of its model: format, arch, settings, vocabulary, source_vocabulary.

    Raises:
        ModelError: There is no such file, or it says something else.
    """
    folder = Path(folder)
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"cannot be read: {error}", where=str(path), expected="a model's settings", hint=_AGAIN
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
        raise ModelError("not a model's settings", where=str(path), expected=f"the keys {', '.join(kinds)}")
    if values["format"] > FORMAT:
        raise ModelError(
            f"format {values['format']} is newer than this seqkd's {FORMAT}", where=str(path), hint="update seqkd"
        )
    return values


def check_model(folder: str | Path) -> None:
    """Look at a model folder without building the model: settings, vocabularies and the weights' table of contents.

    Raises:
        ModelError: A file is missing or damaged, or a vocabulary is another one than the model was trained with.
    """
    folder = Path(folder)
    config = read_config(folder)
    _vocabulary(folder / VOCABULARY, config["vocabulary"])
    if config["source_vocabulary"] is not None:
        _vocabulary(folder / SOURCE_VOCABULARY, config["source_vocabulary"])
    with _opened(folder / WEIGHTS):
        pass


def model_digest(folder: str | Path) -> str:
    """SHA-256 (hex) over a model folder's files: the same model gives the same digest wherever it lies.

    Raises:
        ModelError: Not a model folder, or a file cannot be read.
    """
    folder = Path(folder)
    return digest_of(model_files(folder))


def model_files(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of each file of a model folder, by name; a model's manifest records them under `files`.

    Raises:
        ModelError: Not a model folder, or a file cannot be read.
    """
    if not folder.is_dir():
        raise ModelError("no such folder", where=str(folder), expected="a model folder: " + ", ".join(_FILES))
    files = {}
    for name in (*_FILES, SOURCE_VOCABULARY):
        try:
            files[name] = _file_digest(folder / name)
        except FileNotFoundError:
            if name != SOURCE_VOCABULARY:
                raise ModelError(
                    f"not a finished model folder: no {name}",
                    where=str(folder),
                    expected="a model folder: " + ", ".join(_FILES),
                    hint="finish its training by running the same command again, or check the path",
                ) from None
        except OSError as error:
            raise ModelError(f"cannot be read: {error.strerror}", where=str(folder / name), hint=_AGAIN) from None
    return files


def digest_of(files: Mapping[str, str]) -> str:
    """The digest of a model whose files have these."""
    names = [name for name in (*_FILES, SOURCE_VOCABULARY) if name in files]
    return hashlib.sha256("".join(f"{name} {files[name]}\n" for name in names).encode()).hexdigest()


def changed_files(folder: Path, files: Mapping[str, str]) -> list[str]:
    """What differs between a model folder's files and what its manifest recorded; nothing where it has none.

    Args:
        folder: The model folder.
        files: From `model_files`.

    Raises:
        ModelError: The manifest is damaged.
    """
    if not (folder / MANIFEST).exists():
        return []
    try:
        recorded = read_manifest(folder).extra.get("files")
    except CorpusError as error:
        raise ModelError(error.what, where=error.where, hint=error.hint) from None
    if not isinstance(recorded, dict):  # made by a seqkd that did not record them
        return []
    return [
        f"{name}: SHA-256 {_short(files.get(name))} is not the manifest's {_short(recorded.get(name))}"
        for name in sorted(files.keys() | recorded.keys())
        if files.get(name) != recorded.get(name)
    ]


def _short(digest: object) -> str:
    return f"{str(digest)[:12]}..." if digest else "(no such file)"


_digests: dict[tuple[int, ...], str] = {}  # of files that this process has read, by what tells a change of them


def _file_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of a file, which is read once a process unless it changes.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if key in _digests:
            return _digests[key]
        digest = hashlib.sha256()  # hashlib.file_digest is Python 3.11's
        while block := file.read(1 << 20):
            digest.update(block)
    # The clock of a file system is coarse: a second change right after the first one may leave no other time.
    if time.time_ns() - found.st_mtime_ns > _SETTLED_NS:
        _digests[key] = digest.hexdigest()
    return digest.hexdigest()


def _vocabulary(path: Path, digest: str) -> Vocabulary:
    vocabulary = Vocabulary.load(path)
    if vocabulary.digest != digest:
        raise ModelError(
            "not the vocabulary that this model was trained with",
            where=str(path),
            expected=f"SHA-256 {digest[:12]}..., found {vocabulary.digest[:12]}...",
            hint="copy the whole model folder, or train the model again",
        )
    return vocabulary


def _check_sizes(model: nn.Module, target: Vocabulary, source: Vocabulary | None, where: Path) -> None:
    for side, vocabulary in (("target", target), ("source", source or target)):
        pieces = getattr(model, f"{side}_vocab")
        if pieces != vocabulary.size:
            raise ModelError(
                f"the model has {pieces} {side} pieces, the vocabulary {vocabulary.size}",
                where=str(where),
                expected=f"the vocabulary the model was built for, not {vocabulary.path}",
            )
