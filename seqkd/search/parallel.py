"""Decoding with models that write all positions at once, in batches by length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol, TypeAlias

import torch

from seqkd.errors import InputError, WorkError
from seqkd.models.protocol import Output, ParallelSettings
from seqkd.search.intake import Intake, Sentence
from seqkd.search.scoring import Scorer, pad_rows, raw_scores
from seqkd.search.settings import Hypothesis

Pair: TypeAlias = tuple[list[int], list[int]]  # ids of a source and of a target
Recode: TypeAlias = Callable[[Sequence[Pair]], list[Pair]]


class Decoder(Protocol):
    """A decoder of sentences: `BeamSearch` or `ParallelSearch`.

    Attributes:
        too_long: Row ids whose source, with end of sentence, is longer than the model's positions. They were not
            decoded.
        unjudged: Row ids of candidates that no rescorer could score, one for each candidate.
        retried: Row ids that were decoded again in float32.
    """

    too_long: list[int]
    unjudged: list[int]
    retried: list[int]

    def decode(
        self, sources: Iterable[tuple[int, list[int]]], *, batch_tokens: int
    ) -> Iterator[tuple[int, list[Hypothesis]]]:
        """Map row ids and source ids without end of sentence to row ids and hypotheses, best first, each row once.

        A source without tokens has one empty translation; a row in `too_long` has none.
        """
        ...


class ParallelSearch:
    """Decodes with a `ParallelModel`.

    Args:
        model: The model, in evaluation mode.
        settings: See `ParallelSettings`.
        rescorers: Left-to-right models that choose among the candidates by their own log-probability for each token:
            noisy parallel decoding (Gu et al. 2018, section 4). Without them the model's own ranking stands. Candidates
            whose source or ids are longer than a rescorer's positions come after all that were judged, in the model's
            own order and with its scores.
        recode: Converts pairs of source and target ids to ids of the rescorers' vocabularies; None if they have the
            model's.
        fallback: Returns the same search in float32. Sentences with NaN or infinite scores are decoded again with it;
            without a fallback such scores are an error.

    Attributes:
        too_long: See `Decoder`.
        unjudged: See `Decoder`.
        retried: See `Decoder`.

    Raises:
        InputError: The model does not support the strategy.
    """

    def __init__(
        self,
        model: Any,
        settings: ParallelSettings,
        *,
        rescorers: Sequence[Scorer] = (),
        recode: Recode | None = None,
        fallback: Callable[[], ParallelSearch] | None = None,
    ) -> None:
        known = model.strategies()
        if settings.strategy != "auto" and settings.strategy not in known:
            raise InputError(
                f"the model does not support the strategy {settings.strategy!r}",
                expected=f"one of: auto, {', '.join(known)}",
            )
        self.model, self.settings, self.rescorers, self.fallback = model, settings, rescorers, fallback
        self.recode = recode
        self.device = next(model.parameters()).device
        self.too_long: list[int] = []
        self.unjudged: list[int] = []
        self.retried: list[int] = []

    def decode(
        self, sources: Iterable[tuple[int, list[int]]], *, batch_tokens: int
    ) -> Iterator[tuple[int, list[Hypothesis]]]:
        """Decode sentences.

        Args:
            sources: Row ids and source ids without end of sentence.
            batch_tokens: Source tokens that are decoded together, including padding and end of sentence. The number is
                halved when a batch does not fit in memory.

        Yields:
            Row id and hypotheses, best first, each row once. A source without tokens has one empty translation; a
            source in `too_long` has none.

        Raises:
            WorkError: Scores are NaN or infinite even in float32, or one sentence alone does not fit in memory.
        """
        sentences = (Sentence(row, source) for row, source in sources)
        intake = Intake(sentences, max_positions=self.model.max_positions, batch_tokens=batch_tokens)
        self.too_long.extend(intake.too_long)
        for row in intake.empty:
            yield row, [Hypothesis([], 0.0, 0.0, "eos")]
        for row in intake.too_long:
            yield row, []
        broken: list[Sentence] = []
        yield from intake.drain(lambda: self._batch(intake, broken))
        if broken:
            yield from self._again(broken, intake.batch_tokens)

    def _batch(self, intake: Intake, broken: list[Sentence]) -> Iterator[tuple[int, list[Hypothesis]]]:
        """Decode a batch. Sentences with NaN or infinite scores are added to `broken`."""
        width, count = intake.width, intake.count
        batch = [intake.queue.popleft() for _ in range(count)]
        try:
            found = self._together(batch, intake.batch_tokens)
        except (RuntimeError, MemoryError) as error:
            intake.put_back(error, batch, count=count, width=width)
            return
        for sentence, hypotheses in zip(batch, found, strict=True):
            if hypotheses is None:
                broken.append(sentence)
            else:
                yield sentence.row, hypotheses

    def _again(self, broken: list[Sentence], batch_tokens: int) -> Iterator[tuple[int, list[Hypothesis]]]:
        rows = sorted(sentence.row for sentence in broken)
        if self.fallback is None:
            raise WorkError(
                f"the model's scores are NaN or infinite for {len(rows)} sentences",
                where=f"row {', '.join(map(str, rows[:10]))}{' ...' * (len(rows) > 10)}",
                hint="check the checkpoint, or decode in float32",
            )
        self.retried.extend(rows)
        again = self.fallback()
        yield from again.decode(((s.row, s.source) for s in broken), batch_tokens=batch_tokens)
        self.unjudged = [row for row in self.unjudged if row not in rows] + again.unjudged

    @torch.inference_mode()
    def _together(self, batch: list[Sentence], batch_tokens: int) -> list[list[Hypothesis] | None]:
        """Return the hypotheses of each sentence, or None if a score is not finite."""
        model, settings = self.model, self.settings
        source = pad_rows([[*sentence.source, model.eos_id] for sentence in batch], model.pad_id).to(self.device)
        if self.rescorers:
            every = model.translate(source, replace(settings, nbest=settings.candidates))
            outputs = self._rescore(batch, every, batch_tokens)
        else:
            outputs = model.translate(source, settings)
        return [
            [Hypothesis(output.ids, output.score, output.logprob, "eos") for output in found]
            if found and all(math.isfinite(output.score) and math.isfinite(output.logprob) for output in found)
            else None
            for found in outputs
        ]

    def _rescore(
        self, batch: list[Sentence], outputs: Sequence[Sequence[Output]], batch_tokens: int
    ) -> list[list[Output]]:
        """Sort candidates by the rescorers' log-probability per token; candidates without one come last."""
        room = min(int(rescorer.max_positions) for rescorer in self.rescorers)
        every: list[Pair] = [
            (sentence.source, output.ids) for sentence, found in zip(batch, outputs, strict=True) for output in found
        ]
        recoded = every if self.recode is None else self.recode(every)
        fits = [max(map(len, pair)) < room for pair in recoded]
        pairs = [pair for pair, fit in zip(recoded, fits, strict=True) if fit]
        judged, others, rest_of_fits = [], [], iter(fits)
        for found in outputs:
            own = list(islice(rest_of_fits, len(found)))
            judged.append([output for output, fit in zip(found, own, strict=True) if fit])
            others.append([output for output, fit in zip(found, own, strict=True) if not fit])
        scores = iter(raw_scores(self.rescorers, pairs, batch_tokens=batch_tokens, device=self.device))
        ranked = []
        for sentence, chosen, rest in zip(batch, judged, others, strict=True):
            again = []
            for output in chosen:
                score = next(scores)
                again.append(Output(output.ids, score.logprob / score.tokens, score.logprob))
            again.sort(key=lambda output: -output.score)  # stable: ties keep the model's order
            ranked.append([*again, *rest][: self.settings.nbest])
            self.unjudged.extend([sentence.row] * len(rest))
        return ranked
