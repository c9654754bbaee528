"""Small random model folders, to be exported."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seqkd.interop.fairseq_dictionary import word_vocabulary
from seqkd.models.checkpoint import save_model
from seqkd.models.registry import build

SYMBOLS = [f"s{number}" for number in range(28)]
SIZES: dict[str, Any] = {
    "dim": 32,
    "heads": 2,
    "ffn_dim": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "max_positions": 24,
}


def write_model(folder: Path, arch: str = "transformer", *, sides: int = 1, **settings: Any) -> nn.Module:
    """Write a random model whose biases and norms are not trivial, with one vocabulary of words or two.

    A left-to-right model writes outputs of many lengths. With an output bias it writes no special pieces.
    """
    torch.manual_seed(1)
    pieces = {"target": SYMBOLS, "source": SYMBOLS if sides == 1 else SYMBOLS[:-4]}
    sizes = {f"{side}_vocab": len(symbols) + 4 for side, symbols in pieces.items()}
    settings = SIZES | settings
    model = build(arch, settings, **sizes).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        named = dict(model.named_parameters(remove_duplicate=False))
        if "output_weight" in named:
            named["output_weight"][2] *= 2.0
        if "output_bias" in named:
            named["output_bias"][[0, 1, 3]] = -30.0
            named["output_bias"][2] = 2.0
    folder.mkdir(parents=True)
    files = {side: folder.parent / f"{folder.name}.{side}.words" for side in pieces}
    for side, symbols in pieces.items():
        files[side].write_bytes(word_vocabulary(symbols).model)
    source = files["source"] if sides == 2 else None
    save_model(folder, model, arch=arch, settings=settings, vocab=files["target"], source_vocab=source)
    return model


def draw_texts(count: int, *, most: int = 12, symbols: int = 24, seed: int = 1) -> list[str]:
    """Draw lines of words of the vocabularies."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(SYMBOLS[:symbols], k=draw.randint(1, most))) for _ in range(count)]
