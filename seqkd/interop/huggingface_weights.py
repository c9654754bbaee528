"""The weights of a Hugging Face folder, and their conversion to those of seqkd's Transformer."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from seqkd.errors import ModelError
from seqkd.interop.fairseq_weights import corresponding_names
from seqkd.interop.huggingface_config import ModelFacts
from seqkd.interop.pickles import check_pickles

# The files that can hold the weights, in order of preference. An index lists the parts of a large model.
FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

_PART = re.compile(r"[\w.-]+\.(safetensors|bin)")
# Buffers that are computed anew.
_COMPUTED = re.compile(r"(encoder|decoder)\.(version|embed_positions\.(weights|_float_tensor))$")
_AGAIN = "download or copy the file again"
# The bias of a piece that the model must never write, for which the other model has no row.
NEVER_WRITTEN = -1e4


def weight_files(folder: Path) -> list[Path]:
    """Find the files with the weights of a folder.

    Raises:
        ModelError: There are none, or an index is damaged or names a file that is missing.
    """
    found = next((folder / name for name in FILES if (folder / name).exists()), None)
    if found is None:
        raise ModelError("has no weights", where=str(folder), expected=" or ".join(FILES[::2]))
    if found.suffix != ".json":
        return [found]
    try:
        names = sorted(set(json.loads(found.read_bytes())["weight_map"].values()))
        if not names or not all(isinstance(name, str) and _PART.fullmatch(name) for name in names):
            raise ValueError("it names no files in this folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"is not an index of weights: {error}", where=str(found), hint=_AGAIN) from None
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ModelError(
            f"the folder lacks {', '.join(missing)}", where=str(found), expected="all parts of the weights", hint=_AGAIN
        )
    return [folder / name for name in names]


def read_weights(files: Sequence[Path]) -> dict[str, Tensor]:
    """Read weights without running any code that a file may contain.

    Raises:
        ModelError: A file is damaged, needs classes, or holds weights that are no floats.
    """
    weights: dict[str, Tensor] = {}
    for path in files:
        part = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
        for name, value in part.items():
            if not isinstance(value, Tensor) or not value.is_floating_point():
                kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise ModelError(
                    f"{name} is {kind}", where=str(path), expected="weights in float32, float16 or bfloat16"
                )
            weights[name] = value
    return weights


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"damaged: {error}", where=str(path), hint=_AGAIN) from None


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        check_pickles(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except pickle.UnpicklingError as error:
        needed = sorted(_needed(path, error))
        raise ModelError(
            f"it can only be loaded by running code: it needs {', '.join(needed)}" if needed else "damaged",
            where=str(path),
            expected="tensors alone",
            hint="use a copy of the model with model.safetensors" if needed else _AGAIN,
        ) from None
    except Exception as error:  # the class of the error depends on the damage
        line = str(error).split("\n", 1)[0] or type(error).__name__
        raise ModelError(f"damaged: {line}", where=str(path), hint=_AGAIN) from None
    if not isinstance(found, dict):
        raise ModelError("holds no weights by name", where=str(path), hint=_AGAIN)
    return dict(found)


def _needed(path: Path, error: pickle.UnpicklingError) -> set[str]:
    try:
        return set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a file from before torch's zip format, or another kind of damage
        return set(re.findall(r"GLOBAL ([\w.]+)", str(error)))


def convert(
    weights: Mapping[str, Tensor], facts: ModelFacts, source_order: Sequence[int | None], order: Sequence[int | None]
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Convert the weights of a model to those of seqkd's Transformer.

    Args:
        weights: The weights by the library's names, of any float type.
        facts: The facts about the model.
        source_order: The row of the library's table for each source id of seqkd; None for a row of zeros.
        order: The row for each target id. A piece without a row is never written.

    Returns:
        float32 tensors by the names of `Transformer.state_dict()` without the bias of the output layer; and this bias,
        `[target_vocab]`, or None if it is zero for all pieces.

    Raises:
        ModelError: Weights are missing, seqkd's architecture has no place for some, or a table has another number of
            rows than the configuration says.
    """
    theirs = _by_stack(weights, facts)
    names = dict(
        corresponding_names(
            facts.settings["encoder_layers"],
            facts.settings["decoder_layers"],
            pre_norm=facts.settings["norm"] == "pre",
            learned=facts.settings["positions"] == "learned",
        )
    )
    if facts.settings.get("embedding_norm"):
        for side, stack in (("source", "encoder"), ("target", "decoder")):
            for kind in ("weight", "bias"):
                names[f"{side}_embedding_norm.{kind}"] = (f"{stack}.layernorm_embedding.{kind}",)
    wanted = {part for parts in names.values() for part in parts}
    if missing := sorted(wanted - theirs.keys()):
        raise ModelError(f"weights are missing: {_some(missing)}", expected=f"a model of the type {facts.kind}")
    if foreign := sorted(theirs.keys() - wanted - {"final_logits_bias"}):
        raise ModelError(
            f"it has weights that seqkd's Transformer has no place for: {_some(foreign)}",
            expected=f"a model of the type {facts.kind}",
        )
    ours = {name: torch.cat([theirs[part].float() for part in parts]) for name, parts in names.items()}
    for name in ("source_positions", "target_positions"):
        if name in ours:
            ours[name] = _positions(ours[name], facts, name)
    bias = theirs.get("final_logits_bias", torch.zeros(facts.rows)).float().flatten()
    tables = {"source_embedding": (source_order, facts.source_rows), "target_embedding": (order, facts.rows)}
    tables |= {"output_weight": (order, facts.rows), "final_logits_bias": (order, facts.rows)}
    for name, (rows, count) in tables.items():
        table = bias if name == "final_logits_bias" else ours[name]
        if len(table) != count:
            raise ModelError(f"{name} has {len(table):,} rows, in {facts.where} {count:,}")
        fill = NEVER_WRITTEN if name == "final_logits_bias" else 0.0
        picked = torch.full((len(rows), *table.shape[1:]), fill)
        there = torch.tensor([place for place, row in enumerate(rows) if row is not None])
        picked[there] = table[torch.tensor([row for row in rows if row is not None])]
        if name == "final_logits_bias":
            bias = picked
        else:
            ours[name] = picked
    return ours, bias if bool(bias.any()) else None


def _by_stack(weights: Mapping[str, Tensor], facts: ModelFacts) -> dict[str, Tensor]:
    """Return the weights by the names of their stacks, with every tied table under each of its names."""
    theirs = {name.removeprefix("model."): value for name, value in weights.items()}
    theirs = {name: value for name, value in theirs.items() if not _COMPUTED.match(name)}
    shared, head = theirs.pop("shared.weight", None), theirs.pop("lm_head.weight", None)
    for stack in ("encoder", "decoder"):
        name = f"{stack}.embed_tokens.weight"
        if shared is not None and (facts.settings["embeddings"] == "shared" or name not in theirs):
            theirs[name] = shared
        positions = f"{stack}.embed_positions.weight"
        if facts.kind == "m2m_100":
            theirs.pop(positions, None)
        elif facts.kind == "marian" and positions not in theirs:
            theirs[positions] = marian_positions(facts.settings["max_positions"], facts.settings["dim"])
    tied = facts.settings["embeddings"] != "separate"
    output = theirs.get("decoder.embed_tokens.weight") if tied else head
    if output is not None:
        theirs["decoder.output_projection.weight"] = output
    return theirs


def _positions(table: Tensor, facts: ModelFacts, name: str) -> Tensor:
    """Return the rows of a table of positions that belong to positions."""
    table = table[facts.position_rows :]
    if len(table) < facts.settings["max_positions"]:
        wanted = facts.settings["max_positions"]
        raise ModelError(f"{name} has {len(table):,} positions, in {facts.where} {wanted:,}")
    return table[: facts.settings["max_positions"]].clone()


def marian_positions(count: int, dim: int) -> Tensor:
    """Compute the positions of MarianMT, `[count, dim]`: sines, then cosines, of `t / 10000 ** (i / (dim / 2))`."""
    rates = np.power(10_000.0, -2.0 * (np.arange(dim) // 2) / dim)
    angles = np.arange(count)[:, None] * rates
    return torch.from_numpy(np.concatenate((np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])), axis=1)).float()


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
