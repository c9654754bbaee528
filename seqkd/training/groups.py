"""Groups of rows: the data sets of a model that learns from several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from seqkd.metrics.registry import NLL

_OF = "@"  # between a metric and a group; neither name contains it


def name_measure(metric: str, group: str) -> str:
    """Name a metric on one group; without a group it is the mean over all groups."""
    return f"{metric}{_OF}{group}" if group else metric


def split_measure(name: str) -> tuple[str, str]:
    """Split the result of `name_measure` into the metric and the group."""
    metric, _, group = name.partition(_OF)
    return metric, group


def join_groups(found: Mapping[str, tuple[float, Mapping[str, float]]]) -> tuple[float, dict[str, float]]:
    """Join the measurements of a validation by group: their means, in which all groups count the same, and each one.

    Args:
        found: By group, the nats per target token and the metrics of outputs by name.

    Returns:
        The mean of the nats; and by name the means of the metrics, followed by all values of each group, whose names
        are those of `name_measure`. With one group these are the values of the group alone.
    """
    values = [{NLL: nll, **metrics} for nll, metrics in found.values()]
    means = {name: sum(each[name] for each in values) / len(values) for name in values[0]}
    nll = means.pop(NLL)
    if len(found) > 1:
        for group, each in zip(found, values, strict=True):
            means |= {name_measure(name, group): value for name, value in each.items()}
    return nll, means


def find_weights(rows: Sequence[int], groups: Sequence[str], temperature: float) -> list[float]:
    """Find the weights of corpora by which groups are sampled with a temperature (Arivazhagan et al. 2019).

    An epoch has as many rows as all corpora together. A group that has the share s of them gets a share that is
    proportional to s ** (1 / temperature): its own one at 1, and the same one as every other group at infinity. Within
    a group each row counts the same.

    Args:
        rows: The number of rows of each corpus.
        groups: The group of each corpus.
        temperature: Above 0.
    """
    total = sum(rows)
    sizes = {name: sum(n for n, group in zip(rows, groups, strict=True) if group == name) for name in groups}
    shares = {name: (size / total) ** (1.0 / temperature) for name, size in sizes.items()}
    whole = sum(shares.values())
    return [shares[group] / whole * total / sizes[group] for group in groups]
