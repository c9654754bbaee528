"""How the parts of a pipeline belong together, in the words of its report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from seqkd.pipeline.file import TEACHER
from seqkd.pipeline.graph import Graph, Node


def trained_on(graph: Graph, model: Node) -> str:
    """The training corpora of a model in a word: `gold + 2 seqkd`. The text of the data set itself is `gold`."""
    named = model.settings.corpus
    weights = [part.weight for part in named] if isinstance(named, tuple) else [1.0]
    corpora = [_label(part).removeprefix("corpus ") for part in graph.linked(model, "corpus")]
    shares = zip(corpora, weights, strict=True)
    return " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in shares)


def baselines(graph: Graph, students: Sequence[Node]) -> Iterator[tuple[str, str]]:
    """For each student the first one of the same model settings that learns from gold text alone, if it is another.

    Of students with several seeds it is the one with the same number, so that gains are paired by seed.
    """
    plain = [
        node
        for node in students
        if node.seed == 1
        and trained_on(graph, node) == "gold"
        and node.settings.init_from is None
        and node.settings.objective.type == node.settings.model.record.objective
    ]
    for student in students:
        baseline = next((node for node in plain if node.settings.model == student.settings.model), None)
        if baseline is not None and baseline.key != student.first:
            pair = (node for node in students if node.first == baseline.key and node.seed == student.seed)
            yield from ((student.name, node.name) for node in pair)


def edges(graph: Graph, parts: Sequence[Node]) -> Iterator[tuple[str, str]]:
    """What is made from what, for the report's drawing."""
    for node in parts:
        if node.kind in ("data", "monolingual", "evaluate", "tests", "vocabularies") or _brought(node) or node.seed > 1:
            continue  # models that differ in their seed alone have one box
        first = {reference.field for reference in node.part.references if not reference.follows}
        for field in sorted(node.links, key=lambda field: field in first):  # the weights that it starts from at last
            yield from ((_label(other), _label(node)) for other in graph.linked(node, field))
        if node.kind == "select" and "references" in node.settings.record.reads:
            (lists,) = graph.linked(node, "kbest")
            yield from ((_label(other), _label(node)) for other in graph.linked(lists, "corpus"))


def _brought(node: Node) -> bool:
    return node.kind == "teachers" and node.settings.path is not None


def _label(node: Node) -> str:
    """The name of a box. Kinds stand before names: a corpus and a student may share one."""
    if node.kind == "teachers" and node.settings.name == TEACHER:
        return node.name
    return node.part.label.format(node.name)
