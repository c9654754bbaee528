from __future__ import annotations

import pytest

from seqkd.training.groups import find_weights, join_groups, name_measure, split_measure


def test_the_shares_of_groups_by_temperature() -> None:
    rows, groups = [800, 100, 100], ["large", "small", "small"]
    assert find_weights(rows, groups, 1.0) == pytest.approx([1.0, 1.0, 1.0])
    weights = find_weights(rows, groups, 5.0)
    large, small = 0.8**0.2, 0.2**0.2
    assert weights == pytest.approx([1000 * large / (large + small) / 800] + 2 * [1000 * small / (large + small) / 200])
    assert sum(weight * n for weight, n in zip(weights, rows, strict=True)) == pytest.approx(1000)
    even = find_weights(rows, groups, 1e9)
    assert even[0] * 800 == pytest.approx(500)


def test_the_means_of_a_validation_and_its_groups() -> None:
    nll, metrics = join_groups({"de": (1.0, {"bleu": 10.0}), "fr": (3.0, {"bleu": 30.0})})
    assert nll == 2.0
    assert metrics == {"bleu": 20.0, "nll@de": 1.0, "bleu@de": 10.0, "nll@fr": 3.0, "bleu@fr": 30.0}
    assert join_groups({"": (1.5, {"bleu": 7.0})}) == (1.5, {"bleu": 7.0})


def test_the_name_of_a_measure() -> None:
    assert split_measure(name_measure("bleu", "de")) == ("bleu", "de")
    assert split_measure(name_measure("bleu", "")) == ("bleu", "")
