"""Hugging Face generate with the same weights in MarianMTModel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from tests.bench.peers import harness
from tests.bench.settings import Settings
from tests.bench.work import load_marian

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PAD, EOS = 1, 2


def load(work: Path, settings: Settings) -> harness.Decoder:
    """The model, and batches sorted by length."""
    model = load_marian(work / "marian", DTYPES[settings.precision]).to(settings.device)

    @torch.inference_mode()
    def decode(sources: Sequence[list[int]]) -> list[list[harness.Scored]]:
        order = sorted(range(len(sources)), key=lambda row: -len(sources[row]))
        found: dict[int, list[harness.Scored]] = {}
        for start in range(0, len(order), settings.batch):
            rows = order[start : start + settings.batch]
            width = len(sources[rows[0]]) + 1
            tokens = torch.full((len(rows), width), PAD)
            for place, row in enumerate(rows):
                tokens[place, : len(sources[row]) + 1] = torch.tensor([*sources[row], EOS])
            tokens = tokens.to(settings.device)
            answer = model.generate(
                input_ids=tokens,
                attention_mask=tokens.ne(PAD).long(),
                num_beams=settings.beam,
                num_return_sequences=settings.nbest,
                do_sample=False,
                length_penalty=1.0,
                early_stopping=True,
                max_new_tokens=settings.max_length + 1,
                min_new_tokens=1,
                bad_words_ids=[[PAD]],
                return_dict_in_generate=True,
                output_scores=True,
            )
            lists = answer.sequences.cpu().unflatten(0, (len(rows), settings.nbest)).tolist()
            scores = (
                answer.sequences_scores.cpu().float().unflatten(0, (len(rows), settings.nbest)).tolist()
                if settings.beam > 1
                else [[0.0] * settings.nbest] * len(rows)
            )
            for row, ids, values in zip(rows, lists, scores, strict=True):
                found[row] = [(_cut(one[1:]), value) for one, value in zip(ids, values, strict=True)]
        return [found[row] for row in range(len(sources))]

    return decode


def _cut(ids: list[int]) -> list[int]:
    return ids[: ids.index(EOS)] if EOS in ids else ids


if __name__ == "__main__":
    harness.main("marian_generate")
