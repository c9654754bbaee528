"""Diverse beam search: plain search where it is not diverse, spread where it is."""

from __future__ import annotations

import pytest
import torch

from seqkd.search import BeamSettings
from seqkd.search.diverse import rank_groups
from tests.unit.search.support import decode, engine, lists, sentences, tiny_model


def test_one_group_is_plain_beam_search() -> None:
    model = engine(tiny_model(end_bias=0.1))
    rows = sentences(10)
    one = BeamSettings(beam=4, nbest=4, diverse_groups=1, diverse_strength=9.0)
    assert decode(model, one, rows) == decode(model, BeamSettings(beam=4, nbest=4), rows)
    torch.manual_seed(1)
    scores = torch.randn(3, 4, 50)
    found, ids, beams = rank_groups(scores, groups=1, strength=9.0, forced=torch.zeros(3, dtype=torch.bool))
    values, places = scores.flatten(1).topk(8)
    assert found.equal(values)
    assert (beams * 50 + ids).equal(places)


def test_groups_without_a_penalty_search_alone() -> None:
    model = engine(tiny_model(end_bias=0.1))
    rows = sentences(10)
    apart = lists(decode(model, BeamSettings(beam=3, nbest=3, diverse_groups=3, diverse_strength=0.0), rows))
    greedy = lists(decode(model, BeamSettings(beam=1), rows))
    assert apart == {row: [best] * 3 for row, [best] in greedy.items()}


def test_groups_open_differently() -> None:
    model = engine(tiny_model(seed=2, end_bias=0.1))
    rows = sentences(15)

    def openings(**options: float) -> int:
        chosen = BeamSettings(beam=6, nbest=6, **options)  # type: ignore[arg-type]
        found = decode(model, chosen, rows)
        return sum(len({h.ids[0] for h in hypotheses}) for hypotheses in found.values())

    plain, some = openings(), openings(diverse_groups=3, diverse_strength=1.0)
    assert plain < some < openings(diverse_groups=6, diverse_strength=50.0)


@pytest.mark.parametrize("groups", [2, 3, 6])
def test_penalties_are_those_of_a_plain_loop(groups: int) -> None:
    torch.manual_seed(groups)
    scores = torch.randn(4, 6, 11)
    forced = torch.tensor([False, False, True, False])
    found, ids, beams = rank_groups(scores, groups=groups, strength=0.8, forced=forced)
    size = 6 // groups
    for slot in range(4):
        expected: list[list[tuple[float, int, int]]] = []
        for group in range(groups):
            taken = [token for earlier in expected for _, token, _ in earlier]
            ranked = [
                (float(scores[slot, beam, token]) - (0.0 if forced[slot] else 0.8) * taken.count(token), token, beam)
                for beam in range(group, 6, groups)
                for token in range(11)
            ]
            expected.append(sorted(ranked, reverse=True)[: 2 * size])
        mixed = [expected[group][rank] for rank in range(2 * size) for group in range(groups)]
        assert ids[slot].tolist() == [token for _, token, _ in mixed]
        assert beams[slot].tolist() == [beam for _, _, beam in mixed]
        assert found[slot].tolist() == pytest.approx([value for value, _, _ in mixed], abs=1e-5)


def test_a_forced_prefix_is_not_penalised() -> None:
    model = engine(tiny_model(end_bias=0.1))
    rows, prefix = sentences(5), [9, 8]

    def found(strength: float) -> object:
        # As long as the prefix: neither its tokens nor the end behind them are anybody's choice.
        chosen = BeamSettings(
            beam=2,
            nbest=2,
            diverse_groups=2,
            diverse_strength=strength,
            max_length_ratio=0.0,
            max_length_extra=len(prefix),
        )
        return decode(model, chosen, rows, prefix=prefix)

    assert found(90.0) == found(0.0)
