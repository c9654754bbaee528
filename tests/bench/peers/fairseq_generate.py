"""What fairseq-generate does, without its reading and printing: the generator on batches sorted by length."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from seqkd.models.functional import leave_out_cudnn_attention
from tests.bench.peers import harness
from tests.bench.settings import Settings


def load(work: Path, settings: Settings) -> harness.Decoder:
    """fairseq's SequenceGenerator with the model made ready for inference as fairseq-generate does it."""
    os.environ["FAIRSEQ_LOG_LEVEL"] = "ERROR"
    from fairseq import checkpoint_utils
    from fairseq.sequence_generator import SequenceGenerator

    # As seqkd itself does, so that both are measured with the same attention.
    leave_out_cudnn_attention(torch.device(settings.device))
    folder = work / "fairseq"
    with torch.serialization.safe_globals([argparse.Namespace]):
        models, config, task = checkpoint_utils.load_model_ensemble_and_task(
            [str(folder / "checkpoint.pt")], arg_overrides={"data": str(folder)}
        )
    for model in models:
        if settings.precision == "fp16":
            model.half()
        model.to(settings.device)
        model.prepare_for_inference_(config)
    generator = SequenceGenerator(
        models,
        task.target_dictionary,
        beam_size=settings.beam,
        max_len_a=0,
        max_len_b=settings.max_length,
        len_penalty=1.0,
    )

    def decode(sources: Sequence[list[int]]) -> list[list[harness.Scored]]:
        order = sorted(range(len(sources)), key=lambda row: -len(sources[row]))
        found: dict[int, list[harness.Scored]] = {}
        for start in range(0, len(order), settings.batch):
            rows = order[start : start + settings.batch]
            width = len(sources[rows[0]]) + 1
            tokens = torch.full((len(rows), width), 1)
            for place, row in enumerate(rows):  # fairseq pads sources on the left
                tokens[place, width - len(sources[row]) - 1 :] = torch.tensor([*sources[row], 2])
            lengths = torch.tensor([len(sources[row]) + 1 for row in rows])
            batch = {"src_tokens": tokens.to(settings.device), "src_lengths": lengths.to(settings.device)}
            for row, hypotheses in zip(rows, generator.generate(models, {"net_input": batch}), strict=True):
                best = hypotheses[: settings.nbest]
                found[row] = [(h["tokens"].tolist()[:-1], float(h["score"])) for h in best]
        return [found[row] for row in range(len(sources))]

    return decode


if __name__ == "__main__":
    harness.main("fairseq_generate")
