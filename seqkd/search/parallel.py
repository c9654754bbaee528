"""Decoding with models that write all positions at once: batches by length, nothing lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch

from seqkd.errors import InputError, WorkError
from seqkd.models.protocol import Output, ParallelSettings
from seqkd.search.intake import Intake, Sentence
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
        sentences = (Sentence(row, source) for row, source in sources)
        intake = Intake(sentences, max_positions=self.model.max_positions, batch_tokens=batch_tokens)
        self.truncated.extend(intake.truncated)
        for row in intake.empty:
            yield row, [Hypothesis([], 0.0, 0.0, "eos")]
        while intake.queue:
            width, count = intake.width, intake.count
            batch = [intake.queue.popleft() for _ in range(count)]
            try:
                found = self._together(batch, intake.batch_tokens)
            except (RuntimeError, MemoryError) as error:
                intake.put_back(error, batch, count=count, width=width, device=self.device)
                continue
            yield from found

    @torch.inference_mode()
    def _together(self, batch: list[Sentence], batch_tokens: int) -> list[tuple[int, list[Hypothesis]]]:
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
        self, batch: list[Sentence], outputs: Sequence[Sequence[Output]], batch_tokens: int
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
