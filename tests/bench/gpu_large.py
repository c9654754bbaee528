"""Sampling and 8-best lists with a teacher of NLLB-1.3B's shape, whose vocabulary has 256,206 pieces."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from seqkd.models.settings import StackSettings
from seqkd.models.transformer import Transformer
from seqkd.search import BeamSearch, BeamSettings
from seqkd.search.gpu.engine import GraphTransformer
from tests.bench.gpu_ctranslate2 import ctranslate2
from tests.bench.gpu_parts import seconds

if TYPE_CHECKING:
    from tests.bench.gpu import Scale, Sources

MOST = 8  # hypotheses of a list, and samples of a sentence
BATCHES = (16, 32, 64)  # of the peer


def shape(scale: Scale) -> Scale:
    """The sizes: those of NLLB-1.3B, or a toy's if `scale` is one."""
    if scale.dim < 64:
        return replace(scale, vocab=54)
    return replace(
        scale,
        dim=1024,
        heads=16,
        ffn_dim=8192,
        layers=24,
        vocab=256_206,
        beam=MOST,
        sentences=min(scale.sentences, 1024),
        repeats=1,
    )


def ways(beam: int) -> dict[str, BeamSettings]:
    """What is timed. Limits make outputs a token longer than their sources, for random weights have no end."""
    common = BeamSettings(beam=beam, nbest=beam, max_length_ratio=1.0, max_length_extra=1, min_length_ratio=1.0)
    return {f"{beam}-best": common, f"{beam} samples": replace(common, sampling=True)}


def random_model(scale: Scale, device: torch.device, dtype: torch.dtype) -> Transformer:
    """Random weights, made on the device."""
    torch.manual_seed(1)
    settings = StackSettings(
        dim=scale.dim,
        heads=scale.heads,
        ffn_dim=scale.ffn_dim,
        encoder_layers=scale.layers,
        decoder_layers=scale.layers,
        norm="pre",
        max_positions=512,
    )
    with torch.device(device):
        model = Transformer(settings, source_vocab=scale.vocab, target_vocab=scale.vocab)
    return model.eval().requires_grad_(False).to(dtype)


def large(
    scale: Scale, sources: Sources, batch_tokens: Sequence[int], dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """Time both ways with each of `batch_tokens`, and the peer with its best batch."""
    model = random_model(scale, device, dtype)
    engine = GraphTransformer(model, ladder=scale.ladder)
    lengths = [len(source) + 1 for _, source in sources]
    found: dict[str, Any] = {"shape": [scale.layers, scale.dim, scale.ffn_dim, scale.heads, scale.vocab], "rows": []}
    for name, settings in ways(scale.beam).items():
        for tokens in batch_tokens:
            row = _time(engine, settings, scale, sources, tokens, device)
            found["rows"].append({"label": f"{name}, engine, float32 logits", "batch_tokens": tokens, **row})
        other = ctranslate2(
            model, scale, sources, lengths, device, nbest=scale.beam, sampling=settings.sampling, batches=BATCHES
        )
        if other is not None:
            found["rows"].append({**other, "label": f"{name}, {other['label']}"})
    return found


def _time(
    engine: GraphTransformer,
    settings: BeamSettings,
    scale: Scale,
    sources: Sources,
    batch_tokens: int,
    device: torch.device,
) -> dict[str, float]:
    count = 0

    def once() -> None:
        nonlocal count
        search = BeamSearch([engine], settings)
        lists = dict(search.decode(sources, batch_tokens=batch_tokens))
        count = sum(len(kbest[0].ids) + 1 for kbest in lists.values())

    first = seconds(once, device)
    middle = statistics.median(seconds(once, device) for _ in range(scale.repeats))
    return {
        "first_seconds": first,
        "sentences_per_second": len(sources) / middle,
        "tokens_per_second": count / middle,
    }
