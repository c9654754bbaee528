"""CTranslate2's Translator, with workers of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import ctranslate2

from tests.bench.peers import harness
from tests.bench.settings import Settings

OWN_WORKERS = True
PRECISIONS = {"fp16": "float16", "bf16": "bfloat16"}


def load(work: Path, settings: Settings) -> harness.Decoder:
    """The translator; sentences that it refuses a number format for are an error, not a silent float32."""
    compute_type = PRECISIONS.get(settings.precision, settings.precision)
    offered = ctranslate2.get_supported_compute_types(settings.device)
    if compute_type not in offered:
        raise SystemExit(f"ctranslate2 has no {compute_type} here, only {', '.join(sorted(offered))}")
    translator = ctranslate2.Translator(
        str(work / "ctranslate2"),
        device=settings.device,
        compute_type=compute_type,
        inter_threads=settings.processes,
        intra_threads=settings.threads,
    )
    source_pieces: list[str] = json.loads((work / "source_pieces.json").read_text())
    target_pieces: list[str] = json.loads((work / "target_pieces.json").read_text())
    target_ids = {piece: index for index, piece in enumerate(target_pieces)}

    def decode(sources: Sequence[list[int]]) -> list[list[harness.Scored]]:
        results = translator.translate_batch(
            [[source_pieces[index] for index in source] for source in sources],
            beam_size=settings.beam,
            num_hypotheses=settings.nbest,
            length_penalty=1.0,
            max_decoding_length=settings.max_length,
            max_batch_size=settings.batch,
            batch_type="tokens" if settings.unit == "tokens" else "examples",
            return_scores=True,
            # Padding can be an output piece for it, and is one where its logit of 0 is large.
            suppress_sequences=[["<blank>"]],
        )
        return [
            [
                ([target_ids[piece] for piece in pieces], score)
                for pieces, score in zip(result.hypotheses, result.scores, strict=True)
            ]
            for result in results
        ]

    return decode


if __name__ == "__main__":
    harness.main("ctranslate2_translate")
