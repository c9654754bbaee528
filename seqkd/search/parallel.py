"""Decoding with models that write all positions at once: batches by length, nothing lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from seqkd.errors import InputError, WorkError
from seqkd.models.protocol import Output, ParallelSettings
from seqkd.progress import say
from seqkd.search.memory import out_of_memory
from seqkd.search.scoring import ForcedModel, pad_rows, score_pairs
from seqkd.search.settings import Hypothesis


class Decoder(Protocol):
    """Anything that decodes sentences: `BeamSearch`, or `ParallelSearch`.

    Attributes:
        truncated: Row ids whose source was longer than the model's positions and was cut.
    """

    truncated: list[int]

    def decode(
        self, sources: Iterable[tuple[int, list[int]]], *, batch_tokens: int
    ) -> Iterator[tuple[int, list[Hypothesis]]]:
        """Row ids and source ids without end of sentence, to row ids and hypotheses, best first; each row once."""
        ...


@dataclass(frozen=True, slots=True)
class _Sentence:
    row: int
    source: list[int]


class ParallelSearch:
    """Decodes with a `ParallelModel`.

    Args:
        model: The model, in evaluation mode.
        settings: See `ParallelSettings`.
        rescorers: Left-to-right models that choose among the candidates by their own log-probability for each token:
            noisy parallel decoding (Gu et al. 2018, section 4). Without them the model's own ranking stands.

    Attributes:
        truncated: See `Decoder`.

    Raises:
        InputError: The model has no such strategy.
    """

    def __init__(self, model: Any, settings: ParallelSettings, *, rescorers: Sequence[ForcedModel] = ()) -> None:
        known = model.strategies()
        if settings.strategy != "auto" and settings.strategy not in known:
            raise InputError(
                f"the model does not decode by strategy {settings.strategy!r}",
                expected=f"one of: auto, {', '.join(known)}",
            )
        self.model, self.settings, self.rescorers = model, settings, rescorers
        self.device = next(model.parameters()).device
        self.truncated: list[int] = []

    def decode(
        self, sources: Iterable[tuple[int, list[int]]], *, batch_tokens: int
    ) -> Iterator[tuple[int, list[Hypothesis]]]:
        """Decode sentences.

        Args:
            sources: Row ids and source ids without end of sentence.
            batch_tokens: Source tokens, padding and end of sentence counted, that are decoded together. Halved for the
                rest when a batch does not fit in memory.

        Yields:
            Row id and hypotheses, best first, each row once. A source without tokens has one empty translation.

        Raises:
            WorkError: Scores are NaN or infinite, or one sentence alone does not fit in memory.
        """
        waiting = []
        for row, source in sources:
            if not source:
                yield row, [Hypothesis([], 0.0, 0.0, "eos")]
                continue
            if len(source) >= self.model.max_positions:
                self.truncated.append(row)
                source = source[: self.model.max_positions - 1]
            waiting.append(_Sentence(row, source))
        queue = deque(sorted(waiting, key=lambda sentence: (-len(sentence.source), sentence.row)))
        while queue:
            count = max(1, min(batch_tokens // (len(queue[0].source) + 1), len(queue)))
            batch = [queue.popleft() for _ in range(count)]
            try:
                found = self._together(batch, batch_tokens)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if count == 1:
                    raise WorkError(
                        "one sentence alone does not fit in memory",
                        where=f"row {batch[0].row}",
                        hint="use fewer candidates or a device with more memory",
                    ) from error
                queue.extendleft(reversed(batch))
                batch_tokens = max(1, count * (len(batch[0].source) + 1) // 2)
                say(f"search: out of memory at {count} sentences; going on with {batch_tokens:,} tokens a batch")
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            yield from found

    @torch.inference_mode()
    def _together(self, batch: list[_Sentence], batch_tokens: int) -> list[tuple[int, list[Hypothesis]]]:
        model, settings = self.model, self.settings
        source = pad_rows([[*sentence.source, model.eos_id] for sentence in batch], model.pad_id).to(self.device)
        if self.rescorers:
            every = model.translate(source, replace(settings, nbest=settings.candidates))
            outputs = self._rescored(batch, every, batch_tokens)
        else:
            outputs = model.translate(source, settings)
        broken = [
            sentence.row
            for sentence, found in zip(batch, outputs, strict=True)
            if not found or any(output.score != output.score or abs(output.score) == float("inf") for output in found)
        ]
        if broken:
            raise WorkError(
                f"the model's scores are NaN or infinite for {len(broken)} sentences",
                where=f"row {', '.join(map(str, broken[:10]))}",
                hint="check the checkpoint, or decode in float32",
            )
        return [
            (sentence.row, [Hypothesis(output.ids, output.score, output.logprob, "eos") for output in found])
            for sentence, found in zip(batch, outputs, strict=True)
        ]

    def _rescored(
        self, batch: list[_Sentence], outputs: Sequence[Sequence[Output]], batch_tokens: int
    ) -> list[list[Output]]:
        """Candidates in the order of the rescorers' log-probability for each token."""
        pairs = [
            (sentence.source, output.ids) for sentence, found in zip(batch, outputs, strict=True) for output in found
        ]
        scores = iter(score_pairs(self.rescorers, pairs, batch_tokens=batch_tokens, device=self.device))
        ranked = []
        for found in outputs:
            again = []
            for output in found:
                score = next(scores)
                again.append(Output(output.ids, score.logprob / score.tokens, score.logprob))
            again.sort(key=lambda output: -output.score)  # stable: ties keep the model's order
            ranked.append(again[: self.settings.nbest])
        return ranked
