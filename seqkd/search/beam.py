"""Batched beam search over any number of sentences, with continuous refill.

Sentences are decoded longest first, in a fixed number of slots. Finished sentences are collected and waiting sentences
take their slots, so that the device always works on full batches. When no sentence is waiting, the batch shrinks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from seqkd.errors import InputError, WorkError
from seqkd.search.candidates import RowCandidates, penalize
from seqkd.search.choosing import Choosing, choosing_on
from seqkd.search.constraints import Shaper
from seqkd.search.ensemble import Ensemble
from seqkd.search.frontier import Frontier
from seqkd.search.frontier_state import FrontierState
from seqkd.search.intake import Intake, Sentence, most_together
from seqkd.search.pace import PACES, Pace, Transfer, send
from seqkd.search.protocol import FusedSearchModel, RoundingModel, SearchModel, SteppingModel
from seqkd.search.sampling import Sampler
from seqkd.search.scoring import pad_rows
from seqkd.search.settings import BeamSettings, Hypothesis

# The share of free slots at which they are filled, because encoding a few sentences at a time wastes the device.
REFILL_SHARE = 8
# When no sentence is waiting, the batch shrinks once fewer of its slots than this share are busy.
KEEP_SHARE = 0.75


@dataclass(frozen=True, slots=True)
class _PendingFlags:
    """The sentences in the slots after a group of steps, and the transfer of the flags `done`, `bad` `[2, slots]`."""

    held: list[Sentence | None]
    flags: Transfer


@dataclass(frozen=True, slots=True)
class _LeavingSentences:
    """Sentences whose slots are free again and whose hypotheses are being transferred to the host."""

    sentences: list[Sentence]
    fields: Transfer | None


class BeamSearch:
    """Decodes with one model or an ensemble, by beam search or, if the settings say so, by sampling.

    Args:
        models: The models. The probabilities of several models are averaged.
        settings: Beam, k-best, length penalty, limits and options.
        fallback: Returns the same models in float32. Sentences with NaN or infinite logits are decoded again with them;
            without a fallback such logits are an error.
        prefix: Target ids with which every output begins unless `decode` is given others, such as the language that the
            models were made to write (`SearchTeam.prefix`).
        pace: The pace at which the host asks for finished sentences; None for the default of the models' device.
        choosing: How continuations are chosen from logits; None for the fastest functions on the models' device.

    Attributes:
        too_long: See `Decoder`.
        unjudged: See `Decoder`; always empty.
        retried: See `Decoder`.
    """

    def __init__(
        self,
        models: Sequence[SearchModel],
        settings: BeamSettings,
        *,
        fallback: Callable[[], Sequence[SearchModel]] | None = None,
        prefix: Sequence[int] = (),
        pace: Pace | None = None,
        choosing: Choosing | None = None,
    ) -> None:
        self.settings = settings
        # The settings of the runs. An ensemble has already applied the temperature to its members' logits.
        self._applied = settings if len(models) == 1 else replace(settings, temperature=1.0)
        self.model: SearchModel = models[0] if len(models) == 1 else Ensemble(models, temperature=settings.temperature)
        rounding = [model for model in models if isinstance(model, RoundingModel)]
        self._cache_width: Callable[[int], int] = rounding[0].cache_width if rounding else int
        self.fallback, self.prefix = fallback, prefix
        self.pace = pace or PACES.get(self.model.device.type, PACES["cuda"])
        self.choosing = choosing or choosing_on(self.model.device)
        self.too_long: list[int] = []
        self.unjudged: list[int] = []
        self.retried: list[int] = []

    def decode(
        self,
        sources: Iterable[tuple[int, list[int]]],
        *,
        batch_tokens: int,
        prefix: Sequence[int] | Mapping[int, Sequence[int]] | None = None,
    ) -> Iterator[tuple[int, list[Hypothesis]]]:
        """Decode sentences.

        Args:
            sources: Row ids and source ids without end of sentence.
            batch_tokens: Source tokens that are decoded together, including padding and end of sentence. The number is
                halved when a batch does not fit in memory. On CUDA devices a batch also has at most as many sentences
                as `most_together` says.
            prefix: Target ids with which every output begins, such as a language tag, or a prefix for each row id (rows
                without one are free). None for the prefix of the search. They count in the length and the
                log-probability of the output, and the longest output has at least their number.

        Yields:
            Row id and k-best list, each row once, in order of completion. A source without tokens has one empty
            translation, whatever the prefix. The list of a source in `too_long` is empty.

        Raises:
            InputError: A prefix contains padding, end of sentence or an invalid id, or is too long for the model.
            WorkError: Logits are NaN or infinite even in float32, or one sentence alone does not fit in memory.
        """
        model = self.model
        prefix = self.prefix if prefix is None else prefix

        def opening(row: int) -> list[int]:
            return self._check_prefix(prefix.get(row, ()) if isinstance(prefix, Mapping) else prefix, row)

        sentences = (Sentence(row, source, opening(row) if source else []) for row, source in sources)
        most = most_together(model.device, vocab=model.target_vocab, beam=self.settings.beam)
        intake = Intake(
            sentences,
            max_positions=model.max_positions,
            batch_tokens=batch_tokens,
            most=most,
            cache_width=self._cache_width,
        )
        self.too_long.extend(intake.too_long)
        for row in intake.empty:
            yield row, [Hypothesis([], 0.0, 0.0, "eos")]
        for row in intake.too_long:
            yield row, []
        broken: list[Sentence] = []
        yield from intake.drain(lambda: self._run(intake, broken))
        if broken:
            yield from self._again(broken, intake.batch_tokens)

    def _run(self, intake: Intake, broken: list[Sentence]) -> Iterator[tuple[int, list[Hypothesis]]]:
        """Decode with one set of caches. Sentences with NaN or infinite logits are added to `broken`."""
        run = _Run(self.model, self._applied, intake, self.pace, self.choosing)
        try:
            yield from run.results()
        except (RuntimeError, MemoryError) as error:
            intake.put_back(error, run.unfinished_sentences(), count=run.slots, width=run.width)
        broken.extend(run.broken)

    def _check_prefix(self, prefix: Sequence[int], row: int) -> list[int]:
        model = self.model
        for token in prefix:
            if not 0 <= token < model.target_vocab or token in (model.pad_id, model.eos_id):
                raise InputError(
                    f"the prefix contains the id {token}",
                    where=f"row {row}",
                    expected=f"ids below {model.target_vocab} that are neither padding nor end of sentence",
                )
        if len(prefix) >= model.max_positions:
            raise InputError(
                f"the prefix is {len(prefix)} tokens long",
                where=f"row {row}",
                expected=f"less than the model's {model.max_positions} positions",
            )
        return list(prefix)

    def _again(self, broken: list[Sentence], batch_tokens: int) -> Iterator[tuple[int, list[Hypothesis]]]:
        rows = sorted(sentence.row for sentence in broken)
        if self.fallback is None:
            shown = ", ".join(map(str, rows[:10])) + (" ..." if len(rows) > 10 else "")
            raise WorkError(
                f"the model's logits are NaN or infinite for {len(rows)} sentences",
                where=f"row {shown}",
                hint="check the checkpoint; if it was decoded in fp16, use bf16 or float32",
            )
        self.retried.extend(rows)
        again = BeamSearch(self.fallback(), self.settings, pace=self.pace, choosing=self.choosing)
        yield from again.decode(
            ((s.row, s.source) for s in broken),
            batch_tokens=batch_tokens,
            prefix={s.row: s.prefix for s in broken},
        )


class _Run:
    """A run with one set of caches, from its first sentence until all slots are empty."""

    def __init__(
        self, model: SearchModel, settings: BeamSettings, intake: Intake, pace: Pace, choosing: Choosing
    ) -> None:
        self.model, self.settings, self.intake, self.queue = model, settings, intake, intake.queue
        self.width, self.slots = intake.width, intake.count
        self.broken: list[Sentence] = []
        self.held: list[Sentence | None] = [None] * self.slots
        self.leaving: deque[_LeavingSentences] = deque()
        self.fused = model if isinstance(model, FusedSearchModel) else None
        self.stepping = model if isinstance(model, SteppingModel) else None
        self.pace, self.choosing = pace, choosing
        self.longest_prefix = max(len(sentence.prefix) for sentence in self.queue)
        # `shaper` changes whole distributions; it is None if no step needs them. `quick` is the frontier for steps on
        # the best few candidates; it is None if every step needs whole distributions.
        self.shaper: Shaper | None = None
        self.quick: Frontier | None = None

    def unfinished_sentences(self) -> list[Sentence]:
        """Return the sentences that are neither waiting nor finished."""
        leaving = (sentence for leaving in self.leaving for sentence in leaving.sentences)
        return [*(sentence for sentence in self.held if sentence is not None), *leaving]

    def results(self) -> Iterator[tuple[int, list[Hypothesis]]]:
        """Decode until no slot is busy. Sentences much shorter than this run's caches stay in the queue."""
        state, frontier = self._start()
        asked: deque[_PendingFlags] = deque()
        while True:
            self._refill(state, frontier)
            busy = [slot for slot, sentence in enumerate(self.held) if sentence is not None]
            if not busy:
                break
            if len(busy) < KEEP_SHARE * len(self.held) and not self._fits():
                self._shrink(state, frontier, busy)
            for _ in range(self.pace.steps):
                self._step(state, frontier)
            asked.append(self._ask(frontier))
            if len(asked) > self.pace.lag:
                self._release(state, frontier, asked.popleft())
            if len(self.leaving) > self.pace.lag:
                yield from self._harvest(frontier)
        while self.leaving:
            yield from self._harvest(frontier)

    # inference_mode decorates each of these methods, not the generator, so that it is not active outside at a yield.
    @torch.inference_mode()
    def _start(self) -> tuple[Any, Frontier | Sampler]:
        model, settings = self.model, self.settings
        longest = max(settings.max_length(self.width - 1, model.max_positions), self.longest_prefix) + 1
        state = model.new_state(self.slots, settings.beam, self.width, longest)
        frontier = self._frontier(state, longest)
        if settings.whole or self.longest_prefix:
            self.shaper = Shaper(
                settings,
                slots=self.slots,
                # The frontier may hold more positions than were requested, and finished sentences advance to the last.
                max_target=frontier.tokens.size(1),
                longest_prefix=self.longest_prefix,
                eos_id=model.eos_id,
                pad_id=model.pad_id,
                unk_id=model.unk_id,
                device=model.device,
            )
        self.quick = frontier if isinstance(frontier, Frontier) and not settings.whole else None
        return state, frontier

    def _frontier(self, state: Any, longest: int) -> Frontier | Sampler:
        model, settings = self.model, self.settings
        if settings.sampling:
            return Sampler(
                settings,
                slots=self.slots,
                max_target=longest,
                start_id=model.start_id,
                eos_id=model.eos_id,
                device=model.device,
                draw=self.choosing.draw,
            )
        if self.stepping is not None:
            return self.stepping.frontier(state, settings)
        held = FrontierState.idle(self.slots, settings.beam, longest, model.device)
        return Frontier(settings, held, start_id=model.start_id, eos_id=model.eos_id, pad_id=model.pad_id)

    @torch.inference_mode()
    def _shrink(self, state: Any, frontier: Frontier | Sampler, busy: list[int]) -> None:
        kept = torch.tensor(busy)
        self.model.shrink(state, kept)
        keep = send(kept, self.model.device)
        frontier.shrink(keep)
        if self.shaper is not None:
            self.shaper.shrink(keep)
        self.held = [self.held[slot] for slot in busy]

    def _fits(self) -> bool:
        """Whether the next waiting sentence fits these caches well: less than half their width would waste memory."""
        return bool(self.queue) and 2 * self.intake.width > self.width

    @torch.inference_mode()
    def _refill(self, state: Any, frontier: Frontier | Sampler) -> None:
        free = [slot for slot, sentence in enumerate(self.held) if sentence is None]
        if not free or not self._fits() or len(free) * REFILL_SHARE < len(self.held):
            return
        sentences: list[Sentence] = []
        while len(sentences) < len(free) and self._fits():
            sentences.append(self.queue.popleft())
        slots = free[: len(sentences)]
        for slot, sentence in zip(slots, sentences, strict=True):
            self.held[slot] = sentence
        model, device = self.model, self.model.device
        source = pad_rows([[*sentence.source, model.eos_id] for sentence in sentences], model.pad_id)
        minimums = [self.settings.shortest(len(s.source)) for s in sentences]
        limits = [self._limit(sentence) for sentence in sentences]
        model.admit(state, torch.tensor(slots), send(source, device))
        places = self._places(slots)
        frontier.admit(
            places,
            minimums=send(torch.tensor(minimums), device),
            limits=send(torch.tensor(limits), device),
            rows=[sentence.row for sentence in sentences],
        )
        if self.shaper is not None:
            self.shaper.admit(places, [sentence.prefix for sentence in sentences])

    def _places(self, slots: Iterable[int]) -> Tensor:
        return send(torch.tensor(list(slots)), self.model.device)

    def _limit(self, sentence: Sentence) -> int:
        """Return the tokens of the sentence's longest output."""
        return max(self.settings.max_length(len(sentence.source), self.model.max_positions), len(sentence.prefix))

    @torch.inference_mode()
    def _step(self, state: Any, frontier: Frontier | Sampler) -> None:
        shaper, quick = self.shaper, self.quick
        if quick is not None and (shaper is None or not shaper.opening):
            if self.stepping is not None:
                self.stepping.advance(state, quick)
            else:
                self.model.reorder(state, self.choosing.advance(quick, self._candidates(state, quick)))
            return
        assert shaper is not None
        positions = frontier.clock.positions.clone()
        parents = frontier.choose(shaper(self.model.step(state, frontier.last), frontier.clock))
        shaper.follow(parents, frontier.last, positions)
        self.model.reorder(state, parents)

    def _candidates(self, state: Any, frontier: Frontier) -> RowCandidates:
        """Return the best continuations of each hypothesis by the fastest method of the model."""
        model, penalty = self.model, self.settings.unk_penalty
        count = min(frontier.count_needed, model.target_vocab)
        if self.fused is not None:
            # A penalty changes the scores after this step, so the model must not omit rows because of them.
            live = None if penalty else frontier.live
            closing = frontier.clock.at_limit()
            candidates = RowCandidates(*self.fused.step_candidates(state, frontier.last, count, live, closing))
        else:
            candidates = self.choosing.candidates(model.step(state, frontier.last), count, model.eos_id)
        return penalize(candidates, model.unk_id, penalty) if penalty else candidates

    @torch.inference_mode()
    def _ask(self, frontier: Frontier | Sampler) -> _PendingFlags:
        return _PendingFlags(list(self.held), Transfer([torch.stack((frontier.done, frontier.bad))]))

    @torch.inference_mode()
    def _release(self, state: Any, frontier: Frontier | Sampler, asked: _PendingFlags) -> None:
        """Free the slots of sentences that were done when the flags were sent. They have not changed since."""
        done, bad = asked.flags.wait()[0].tolist()
        over = [
            (sentence, broken)
            for sentence, ended, broken in zip(asked.held, done, bad, strict=True)
            if sentence is not None and (ended or broken)
        ]
        # In the meantime slots may have received other sentences and, in a smaller batch, other numbers.
        slots = {id(sentence): slot for slot, sentence in enumerate(self.held)} if over else {}
        over = [(sentence, broken) for sentence, broken in over if id(sentence) in slots]
        sound = [sentence for sentence, broken in over if not broken]
        fields = None
        if over:
            free = [slots[id(sentence)] for sentence, _ in over]
            frontier.done.index_fill_(0, self._places(free), 1)
            self.model.release(state, torch.tensor(free))
        if sound:
            places = self._places(slots[id(sentence)] for sentence in sound)
            fields = Transfer(frontier.collect(places, 1 + max(map(self._limit, sound))))
        # This comes last, so that no sentence is lost if memory runs out above.
        for sentence, _ in over:
            self.held[slots[id(sentence)]] = None
        self.broken.extend(sentence for sentence, broken in over if broken)
        self.leaving.append(_LeavingSentences(sound, fields))

    def _harvest(self, frontier: Frontier | Sampler) -> list[tuple[int, list[Hypothesis]]]:
        """Return the results of the sentences that left first."""
        leaving = self.leaving[0]
        found = [] if leaving.fields is None else frontier.hypotheses(leaving.fields.wait())
        self.leaving.popleft()
        results = []
        for sentence, hypotheses in zip(leaving.sentences, found, strict=True):
            # There is no hypothesis if the model has ruled out every continuation with logits of -inf.
            if hypotheses:
                results.append((sentence.row, hypotheses))
            else:
                self.broken.append(sentence)
        return results
