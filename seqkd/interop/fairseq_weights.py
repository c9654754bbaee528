"""Conversion of parameters between fairseq's Transformer and seqkd's, in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from seqkd.errors import ModelError
from seqkd.models.transformer import POSITION_OFFSET

# Buffers without weights, which some versions of fairseq save.
_IGNORED = re.compile(r"(encoder|decoder)\.(version|embed_positions\.(weights|_float_tensor))$")
_LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.")
# fairseq takes a stack without a version, or with a version of at most 2, for one without a final layer norm.
_VERSION = 3.0


def layer_counts(weights: Mapping[str, Tensor]) -> tuple[int, int]:
    """Return the depths of the encoder and the decoder in fairseq's parameters."""
    counts = {"encoder": 0, "decoder": 0}
    for name in weights:
        if found := _LAYER.match(name):
            counts[found[1]] = max(counts[found[1]], int(found[2]) + 1)
    return counts["encoder"], counts["decoder"]


def to_seqkd(weights: Mapping[str, Tensor], *, pre_norm: bool, learned: bool, max_positions: int) -> dict[str, Tensor]:
    """Convert fairseq's parameters to those of seqkd's `Transformer`.

    Args:
        weights: fairseq's parameters, of any float type.
        pre_norm: Whether there are final layer norms.
        learned: Whether positions are a trained table.
        max_positions: Number of rows to take from that table.

    Returns:
        float32 tensors by the names of `Transformer.state_dict()`.

    Raises:
        ModelError: Parameters are missing, or seqkd's architecture has no place for some parameters.
    """
    weights = {name: weight for name, weight in weights.items() if not _IGNORED.match(name)}
    if "decoder.output_projection.weight" not in weights:  # not saved by older versions
        old = "decoder.embed_out" if "decoder.embed_out" in weights else "decoder.embed_tokens.weight"
        if old in weights:
            weights["decoder.output_projection.weight"] = weights[old]
        weights.pop("decoder.embed_out", None)
    names = dict(corresponding_names(*layer_counts(weights), pre_norm=pre_norm, learned=learned))
    wanted = {theirs for parts in names.values() for theirs in parts}
    if missing := sorted(wanted - weights.keys()):
        raise ModelError(f"parameters are missing: {_list_names(missing)}", expected="a fairseq `transformer`")
    if foreign := sorted(weights.keys() - wanted):
        raise ModelError(
            f"it has parameters that seqkd's Transformer has no place for: {_list_names(foreign)}",
            expected="a fairseq `transformer` without extra layers",
        )
    ours = {name: torch.cat([weights[part].float() for part in parts]) for name, parts in names.items()}
    for name in ("source_positions", "target_positions"):
        if name in ours:
            ours[name] = ours[name][POSITION_OFFSET : POSITION_OFFSET + max_positions].clone()
    return ours


def to_fairseq(
    weights: Mapping[str, Tensor], *, pre_norm: bool, learned: bool, layers: tuple[int, int]
) -> dict[str, Tensor]:
    """Convert the parameters of seqkd's `Transformer` to fairseq's.

    Args:
        weights: The result of `Transformer.state_dict()`.
        pre_norm: Whether there are final layer norms.
        learned: Whether positions are a trained table.
        layers: Depths of the encoder and the decoder.

    Returns:
        Tensors by fairseq's names. Tied tensors share memory.
    """
    theirs: dict[str, Tensor] = {}
    for name, parts in corresponding_names(*layers, pre_norm=pre_norm, learned=learned):
        weight = weights[name].detach().cpu()
        if name in ("source_positions", "target_positions"):
            weight = torch.cat([weight.new_zeros(POSITION_OFFSET, weight.size(1)), weight])
        # Each part gets its own memory, because torch.save writes the whole storage of a view.
        pieces = [piece.clone() for piece in weight.chunk(len(parts))] if len(parts) > 1 else [weight]
        theirs.update(zip(parts, pieces, strict=True))
    for stack in ("encoder", "decoder"):
        theirs[f"{stack}.version"] = torch.tensor([_VERSION])
    return theirs


def corresponding_names(
    encoder_layers: int, decoder_layers: int, *, pre_norm: bool, learned: bool
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each parameter of seqkd with its parts in fairseq, which are joined along the first dimension."""
    yield "source_embedding", ("encoder.embed_tokens.weight",)
    yield "target_embedding", ("decoder.embed_tokens.weight",)
    yield "output_weight", ("decoder.output_projection.weight",)
    if learned:
        yield "source_positions", ("encoder.embed_positions.weight",)
        yield "target_positions", ("decoder.embed_positions.weight",)
    for kind in ("weight", "bias"):
        if pre_norm:
            yield f"encoder_norm.{kind}", (f"encoder.layer_norm.{kind}",)
            yield f"decoder_norm.{kind}", (f"decoder.layer_norm.{kind}",)
        for stack, depth in (("encoder", encoder_layers), ("decoder", decoder_layers)):
            for index in range(depth):
                ours, theirs = f"{stack}.{index}", f"{stack}.layers.{index}"
                parts = tuple(f"{theirs}.self_attn.{part}_proj.{kind}" for part in "qkv")
                yield f"{ours}.attention.qkv.{kind}", parts
                yield f"{ours}.attention.out.{kind}", (f"{theirs}.self_attn.out_proj.{kind}",)
                yield f"{ours}.attention_norm.{kind}", (f"{theirs}.self_attn_layer_norm.{kind}",)
                if stack == "decoder":
                    parts = tuple(f"{theirs}.encoder_attn.{part}_proj.{kind}" for part in "kv")
                    yield f"{ours}.cross.query.{kind}", (f"{theirs}.encoder_attn.q_proj.{kind}",)
                    yield f"{ours}.cross.key_value.{kind}", parts
                    yield f"{ours}.cross.out.{kind}", (f"{theirs}.encoder_attn.out_proj.{kind}",)
                    yield f"{ours}.cross_norm.{kind}", (f"{theirs}.encoder_attn_layer_norm.{kind}",)
                yield f"{ours}.ffn.inner.{kind}", (f"{theirs}.fc1.{kind}",)
                yield f"{ours}.ffn.out.{kind}", (f"{theirs}.fc2.{kind}",)
                yield f"{ours}.ffn_norm.{kind}", (f"{theirs}.final_layer_norm.{kind}",)


def _list_names(names: list[str]) -> str:
    shown = ", ".join(names[:6])
    return shown if len(names) <= 6 else f"{shown} and {len(names) - 6} more"
