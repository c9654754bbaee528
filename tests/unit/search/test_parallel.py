"""The driver of models that write all positions at once, with a model that writes its source backwards."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from seqkd.errors import InputError, WorkError
from seqkd.models.protocol import Output, ParallelModel, ParallelSettings
from seqkd.search.cpu.engine import NativeModel
from seqkd.search.cpu.scoring import NativeScorer
from seqkd.search.cpu.weights import available
from seqkd.search.parallel import Pair, ParallelSearch
from seqkd.search.scoring import Scorer, score_pairs
from tests.unit.search.support import EOS, PAD, sentences, tiny_model

ROOM = 6


class Backwards(nn.Module):
    """Its n-th candidate is the source backwards without its first n tokens, worse by n."""

    pad_id, eos_id, max_positions = PAD, EOS, ROOM

    def __init__(self, *, most: int = 1000, broken: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.most, self.broken = most, broken
        self.batches: list[tuple[int, int]] = []

    def strategies(self) -> tuple[str, ...]:
        return ("greedy",)

    def translate(self, source: Tensor, settings: ParallelSettings) -> Sequence[Sequence[Output]]:
        assert not torch.is_grad_enabled()
        self.batches.append((source.size(0), source.size(1)))
        if source.numel() > self.most:
            raise torch.OutOfMemoryError
        score = float("nan") if self.broken else 0.0
        found = []
        for row in source.tolist():
            ids = [token for token in row if token not in (PAD, EOS)][::-1]
            found.append([Output(ids[index:], score - index, score) for index in range(settings.candidates)])
        return [outputs[: settings.nbest] for outputs in found]


class Longer(nn.Module):
    """Another model's candidates with one token more."""

    def __init__(self, model: Backwards) -> None:
        super().__init__()
        self.model = model
        self.pad_id, self.eos_id, self.max_positions = model.pad_id, model.eos_id, model.max_positions

    def strategies(self) -> tuple[str, ...]:
        return self.model.strategies()

    def translate(self, source: Tensor, settings: ParallelSettings) -> Sequence[Sequence[Output]]:
        found = self.model.translate(source, settings)
        return [[output._replace(ids=[*output.ids, 6]) for output in outputs] for outputs in found]


def backwards(rows: list[tuple[int, list[int]]]) -> dict[int, list[int]]:
    return {row: source[::-1] for row, source in rows}


def fitting(rows: list[tuple[int, list[int]]]) -> list[tuple[int, list[int]]]:
    return [(row, source) for row, source in rows if len(source) < ROOM]


def test_every_row_comes_back_once_whatever_the_batches() -> None:
    rows = [*sentences(40), (1, [])]
    model = Backwards()
    assert isinstance(model, ParallelModel)
    for budget in (1, 20, 1000):
        search = ParallelSearch(model, ParallelSettings())
        found = list(search.decode(rows, batch_tokens=budget))
        assert len(found) == len(rows)
        assert {row: lists[0].ids for row, lists in found if lists} == backwards(fitting(rows))
        assert sorted(search.too_long) == sorted(row for row, source in rows if len(source) >= ROOM)
        assert sorted(row for row, lists in found if not lists) == sorted(search.too_long)
    assert max(count * width for count, width in model.batches) <= 1000


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(capfd: pytest.CaptureFixture[str]) -> None:
    rows = sentences(40)
    model = Backwards(most=30)
    found = dict(ParallelSearch(model, ParallelSettings()).decode(rows, batch_tokens=200))
    assert {row: lists[0].ids for row, lists in found.items() if lists} == backwards(fitting(rows))
    assert "out of memory" in capfd.readouterr().err
    with pytest.raises(WorkError, match="one sentence alone does not fit"):
        list(ParallelSearch(Backwards(most=1), ParallelSettings()).decode(rows, batch_tokens=200))


def test_rescorers_choose_among_the_candidates() -> None:
    rows = sentences(12, longest=5)
    judge = tiny_model()
    three = ParallelSettings(candidates=3, nbest=3)
    own = dict(ParallelSearch(Backwards(), three).decode(rows, batch_tokens=100))
    settings = ParallelSettings(candidates=3, nbest=2)
    found = dict(ParallelSearch(Backwards(), settings, rescorers=[judge]).decode(rows, batch_tokens=100))
    for row, source in rows:
        pairs = [(source, hypothesis.ids) for hypothesis in own[row]]
        scored = score_pairs([judge], pairs, batch_tokens=100)
        expected = sorted((pair.logprob / pair.tokens for pair in scored), reverse=True)[:2]
        assert [hypothesis.score for hypothesis in found[row]] == pytest.approx(expected, abs=1e-5)
    assert any(found[row][0].ids != own[row][0].ids for row, _ in rows)


def test_a_rescorer_with_other_ids_gets_its_own() -> None:
    """The ids in the vocabulary of the rescorer are others, and there are more of them."""
    rows = sentences(12, longest=5)
    judge = tiny_model()
    settings = ParallelSettings(candidates=3, nbest=3)

    def recode(pairs: Sequence[Pair]) -> list[Pair]:
        return [(source[::-1], [*target[::-1], 4]) for source, target in pairs]

    own = dict(ParallelSearch(Backwards(), settings).decode(rows, batch_tokens=100))
    search = ParallelSearch(Backwards(), settings, rescorers=[judge], recode=recode)
    found = dict(search.decode(rows, batch_tokens=100))
    for row, source in rows:
        pairs = recode([(source, hypothesis.ids) for hypothesis in own[row]])
        scored = [pair.logprob / pair.tokens for pair in score_pairs([judge], pairs, batch_tokens=100)]
        expected = sorted(zip(scored, own[row], strict=True), key=lambda pair: -pair[0])
        assert [hypothesis.ids for hypothesis in found[row]] == [hypothesis.ids for _, hypothesis in expected]
        assert [one.score for one in found[row]] == pytest.approx([score for score, _ in expected], abs=1e-5)


@pytest.mark.parametrize("native", [False, True])
def test_candidates_beyond_a_rescorers_positions_lose_and_are_counted(native: bool) -> None:
    judge: Scorer = tiny_model(heads=1)
    if native:
        if not available("float32"):
            pytest.skip("the kernels need a C++ compiler")
        judge = NativeScorer(NativeModel(tiny_model(heads=1), "float32"))
    room = judge.max_positions
    model = Backwards()
    model.max_positions = 2 * room
    three = ParallelSettings(candidates=3, nbest=3)
    rows = [(0, [5, 6, 7] * 3), (1, [8] * (room - 1)), (2, [9] * room), (3, [4, 5])]
    search = ParallelSearch(Longer(model), three, rescorers=[judge])
    found = dict(search.decode(rows, batch_tokens=100))
    own = dict(ParallelSearch(Longer(model), three).decode(rows, batch_tokens=100))
    assert search.too_long == []
    assert search.unjudged == [2, 2, 2, 1]  # longest first; of row 1 the longest candidate alone
    assert found[2] == own[2]  # if all lose, the model's own first stays
    assert found[1][-1] == own[1][0]
    assert {len(one.ids) for one in found[1][:2]} == {room - 1, room - 2}
    assert len(found[0]) == len(found[3]) == 3


def test_unjudged_candidates_are_counted_once_if_a_batch_is_decoded_again() -> None:
    judge = tiny_model(heads=1)
    broken, sound = Backwards(broken=True), Backwards()
    broken.max_positions = sound.max_positions = 2 * judge.max_positions
    settings = ParallelSettings(candidates=2, nbest=1)
    again = ParallelSearch(sound, settings, rescorers=[judge])
    search = ParallelSearch(broken, settings, rescorers=[judge], fallback=lambda: again)
    list(search.decode([(4, [5] * judge.max_positions)], batch_tokens=100))
    assert (search.retried, search.unjudged) == ([4], [4, 4])


def test_scores_that_are_no_numbers_and_strategies_that_are_none() -> None:
    with pytest.raises(WorkError, match="NaN or infinite for 3 sentences") as caught:
        list(
            ParallelSearch(Backwards(broken=True), ParallelSettings()).decode(sentences(3, longest=5), batch_tokens=100)
        )
    assert sorted(str(caught.value.where).removeprefix("row ").split(", ")) == ["0", "14", "7"]
    with pytest.raises(InputError, match="'lookahead'") as unknown:
        ParallelSearch(Backwards(), ParallelSettings(strategy="lookahead"))
    assert unknown.value.expected == "one of: auto, greedy"
    with pytest.raises(ValueError, match="nbest"):
        ParallelSettings(nbest=2)
