"""Small models of fairseq's architectures, and sentences for them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from seqkd.models.registry import build
from seqkd.objectives.base import Batch
from seqkd.search.scoring import pad_rows

PIECES = 34
MAX_POSITIONS = 20

_STACKS = {
    "encoder_embed_dim": 16,
    "decoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 32,
    "decoder_ffn_embed_dim": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
}
_KERNELS = {"encoder_kernel_size_list": "[3]", "decoder_kernel_size_list": "[3]"}
PARALLEL: dict[str, dict[str, Any]] = {
    "cmlm_transformer": _STACKS,
    "insertion_transformer": _STACKS,
    "iterative_nonautoregressive_transformer": _STACKS,
    "levenshtein_transformer": _STACKS,
    "nacrf_transformer": {**_STACKS, "crf_beam_approx": 8},
    "nonautoregressive_transformer": {**_STACKS, "src_embedding_copy": True},
}
LEFT_TO_RIGHT: dict[str, dict[str, Any]] = {
    "bart_base": _STACKS,
    "fconv": {
        **dict.fromkeys(("encoder_embed_dim", "decoder_embed_dim", "decoder_out_embed_dim"), 16),
        "encoder_layers": "[(16, 3)]",
        "decoder_layers": "[(16, 3)]",
    },
    "lightconv": {**_STACKS, **_KERNELS, "encoder_conv_dim": 16, "decoder_conv_dim": 16},
    "lstm": {
        **dict.fromkeys(("encoder_embed_dim", "encoder_hidden_size", "decoder_embed_dim"), 16),
        **dict.fromkeys(("decoder_hidden_size", "decoder_out_embed_dim"), 16),
        "encoder_bidirectional": True,
    },
    "transformer": _STACKS,
    "transformer_align": _STACKS,
    "transformer_iwslt_de_en": {**_STACKS, "share_all_embeddings": True},
}
EVERY = PARALLEL | LEFT_TO_RIGHT


def small(name: str, *, seed: int = 1, spread: float = 1.0, **more: Any) -> Any:
    """A model in evaluation mode.

    Args:
        name: Of fairseq's registry.
        seed: Of its weights.
        spread: They are multiplied by it; large ones make for longer and more diverse outputs.
        more: Options beside those of `EVERY`.
    """
    torch.manual_seed(seed)
    settings = {"settings": {**EVERY[name], **more}, "max_positions": MAX_POSITIONS}
    model = build(f"fairseq:{name}", settings, source_vocab=PIECES, target_vocab=PIECES)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(spread)
    return model.eval()


def sentences(rows: int, seed: int = 1) -> list[list[int]]:
    """Source ids without end of sentence."""
    draw = random.Random(seed)
    return [[draw.randrange(4, PIECES) for _ in range(draw.randint(1, 9))] for _ in range(rows)]


def translated(source: list[int]) -> list[int]:
    """What the tests' models learn: another piece for each."""
    return [PIECES + 3 - piece for piece in source]


def batch_of(sources: list[list[int]]) -> Batch:
    """Pairs of `translated`."""
    targets = [translated(source) for source in sources]
    target_out = pad_rows([[*target, 2] for target in targets], 1)
    kept = target_out.flatten().ne(1).nonzero().flatten()
    return Batch(
        np.arange(len(sources)),
        pad_rows([[*source, 2] for source in sources], 1),
        pad_rows([[2, *target] for target in targets], 1),
        target_out,
        kept,
        len(kept),
    )
