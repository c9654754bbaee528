"""Hugging Face's Marian as a peer of the GPU engine."""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from tests.bench.gpu import Scale, Sources


def hugging_face(
    scale: Scale, sources: Sources, lengths: Sequence[int], dtype: torch.dtype, device: torch.device
) -> dict[str, Any] | None:
    """Marian of the same size with random weights; a batch runs for as many tokens as our outputs have on average."""
    if importlib.util.find_spec("transformers") is None:
        return None
    # A torchaudio that does not fit torch would keep it from loading, and nothing here needs audio.
    sys.modules.setdefault("torchaudio", None)  # type: ignore[arg-type]
    from transformers import MarianConfig, MarianMTModel

    torch.manual_seed(1)
    config = MarianConfig(
        vocab_size=scale.vocab,
        d_model=scale.dim,
        encoder_layers=scale.layers,
        decoder_layers=scale.layers,
        encoder_attention_heads=scale.heads,
        decoder_attention_heads=scale.heads,
        encoder_ffn_dim=scale.ffn_dim,
        decoder_ffn_dim=scale.ffn_dim,
        max_position_embeddings=256,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    )
    peer: Any = MarianMTModel(config)
    peer = peer.eval().to(device, dtype)
    order = sorted(range(len(sources)), key=lambda row: -len(sources[row][1]))

    def run(batch: int) -> None:
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            longest = max(len(sources[row][1]) for row in rows) + 1
            ids = torch.full((len(rows), longest), 1)
            for at, row in enumerate(rows):
                ids[at, : len(sources[row][1]) + 1] = torch.tensor([*sources[row][1], 2])
            steps = max(1, round(statistics.mean(lengths[row] for row in rows)))
            with torch.inference_mode():
                ids = ids.to(device)
                peer.generate(
                    ids, attention_mask=ids.ne(1), num_beams=scale.beam, min_new_tokens=steps, max_new_tokens=steps
                )

    best: dict[str, Any] | None = None
    for batch in (128, 256, 512) if device.type == "cuda" else (2,):
        run(batch)
        start = time.perf_counter()
        run(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took = time.perf_counter() - start
        if best is None or len(sources) / took > best["sentences_per_second"]:
            tokens = sum(length + 1 for length in lengths)
            best = {
                "label": f"Hugging Face's Marian, {str(dtype).removeprefix('torch.')} logits",
                "batch": batch,
                "sentences_per_second": len(sources) / took,
                "tokens_per_second": tokens / took,
            }
    return best
