"""The relations between the parts of a pipeline, in the words of its report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from seqkd.pipeline.file import TEACHER
from seqkd.pipeline.folders import is_asked, list_data
from seqkd.pipeline.graph import Graph, Node
from seqkd.pipeline.names import WeightedName
from seqkd.pipeline.vocabularies import ENCODED, ENCODED_TEST, find_original, is_brought


def describe_corpora(graph: Graph, model: Node) -> str:
    """Describe the training corpora of a model: `gold + 2 seqkd`, or in blocks of updates `100 gold / 50 seqkd`.

    The text of the data set itself is `gold`. If the model has several data sets, each one has its own name.
    """
    parts = [find_original(graph, part) for part in graph.follow(model, "corpus")]
    several = len(list_data(graph, model)) > 1
    corpora = [
        part.name if several and part.kind == "data" else _format_label(part).removeprefix("corpus ") for part in parts
    ]
    if blocks := getattr(model.settings, "alternate", None):
        return " / ".join(f"{block.updates} {name}" for name, block in zip(corpora, blocks, strict=True))
    shares = model.settings.corpora or (WeightedName(name=name) for name in corpora)
    return " + ".join(
        ("" if share.weight == 1 else f"{share.weight:g} ") + ("" if share.noise is None else "noised ") + name
        for name, share in zip(corpora, shares, strict=True)
    )


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


def find_grids(students: Sequence[Node]) -> Iterator[tuple[str, ...]]:
    """Find students that start from the same model and differ in one number of the objective, in its order."""
    found: dict[str, list[tuple[float, str]]] = {}
    for student in students:
        if student.settings.init_from is None or student.seed > 1:
            continue
        table = student.settings.model_dump(mode="json", exclude={"name", "seeds"})
        objective = table.pop("objective")
        for key, value in objective.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                others = {name: each for name, each in objective.items() if name != key}
                alike = json.dumps([key, others, table, student.round], sort_keys=True)
                found.setdefault(alike, []).append((float(value), student.name))
    yield from (tuple(name for _, name in sorted(grid)) for grid in found.values() if len(grid) > 1)


def _reads_gold(graph: Graph, model: Node) -> bool:
    """Whether the training text of a model is that of its data sets alone, each with its own weight."""
    weighted = any(part.weight != 1.0 or part.noise is not None for part in model.settings.corpora)
    weighted = weighted or model.settings.alternate is not None
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
        fields = (field for field in node.links if field != "data")  # the data set that monolingual text belongs to
        for field in sorted(fields, key=lambda field: field in first):  # the model that it starts from is last
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
