"""The relations between the parts of a pipeline, in the words of its report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from seqkd.pipeline.file import TEACHER
from seqkd.pipeline.folders import is_asked, list_data
from seqkd.pipeline.graph import Graph, Node
from seqkd.pipeline.vocabularies import ENCODED, ENCODED_TEST, find_original, is_brought


def describe_corpora(graph: Graph, model: Node) -> str:
    """Describe the training corpora of a model: `gold + 2 seqkd`.

    The text of the data set itself is `gold`. If the model has several data sets, each one has its own name.
    """
    named = model.settings.corpus
    weights = [part.weight for part in named] if isinstance(named, tuple) else [1.0]
    parts = [find_original(graph, part) for part in graph.follow(model, "corpus")]
    several = len(list_data(graph, model)) > 1
    corpora = [
        part.name if several and part.kind == "data" else _format_label(part).removeprefix("corpus ") for part in parts
    ]
    shares = zip(corpora, weights, strict=True)
    return " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in shares)


def find_baselines(graph: Graph, students: Sequence[Node]) -> Iterator[tuple[str, str]]:
    """Find the baseline of each student: the first other student with the same model settings and gold text alone.

    Both have the same vocabulary and data sets. The baseline of a later seed is the seed with the same number, so that
    gains are paired by seed.
    """
    plain = [
        node
        for node in students
        if node.seed == 1
        and _reads_gold(graph, node)
        and node.settings.init_from is None
        and node.settings.objective.type == node.settings.model.record.objective
    ]
    for student in students:
        own = list_data(graph, student)
        alike = [node for node in plain if node.settings.model == student.settings.model]
        alike = [node for node in alike if list_data(graph, node) == own]
        baseline = next((node for node in alike if node.settings.vocabulary == student.settings.vocabulary), None)
        if baseline is not None and baseline.key != student.first:
            pair = (node for node in students if node.first == baseline.key and node.seed == student.seed)
            yield from ((student.name, node.name) for node in pair)


def _reads_gold(graph: Graph, model: Node) -> bool:
    """Whether the training text of a model is that of its data sets alone, each with its own weight."""
    named = model.settings.corpus
    weighted = isinstance(named, tuple) and any(part.weight != 1.0 for part in named)
    return not weighted and all(find_original(graph, part).kind == "data" for part in graph.follow(model, "corpus"))


def list_edges(graph: Graph, parts: Sequence[Node], data: Node) -> Iterator[tuple[str, str]]:
    """List the edges of the drawing in the report of a data set, from each part to the parts made from it."""

    def label(node: Node) -> str:
        return f"data {node.name}" if node.kind == "data" and node is not data else _format_label(node)

    for node in parts:
        if (
            node.kind in ("data", "monolingual", "evaluate", "report", "tests", ENCODED, ENCODED_TEST)
            or is_brought(node)
            or is_asked(node)
            or node.seed > 1
        ):
            continue  # models that differ only in their seed have one box
        first = {reference.field for reference in node.part.references if not reference.follows}
        for field in sorted(node.links, key=lambda field: field in first):  # the model that it starts from is last
            others = [find_original(graph, other) for other in graph.follow(node, field)]
            yield from ((label(other), label(node)) for other in others)
        if node.kind == "select" and "references" in node.settings.record.reads:
            (lists,) = graph.follow(node, "kbest")
            yield from ((label(other), label(node)) for other in graph.follow(lists, "corpus"))


def _format_label(node: Node) -> str:
    """Return the label of a box. It includes the kind, because a corpus and a student may share a name."""
    if node.kind == "teachers" and node.settings.name == TEACHER:
        return node.name
    return node.part.label.format(node.name)
