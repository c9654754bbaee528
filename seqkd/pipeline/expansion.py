"""A pipeline's graph in full: back-translation, rounds and evaluation as ordinary parts.

In each round what depends on the teacher is made again, by a student of the round before: born-again networks
(Furlanello et al. 2018), and iterated sequence-level distillation. The first round has the names that the file gives;
in round n the names of what is made again end in `.round<n>`. Further rounds therefore leave alone what is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from seqkd.config.toml import listed
from seqkd.pipeline.file import PipelineConfig
from seqkd.pipeline.folders import OF, data_of
from seqkd.pipeline.graph import Graph, Key, Node, Part, resolve
from seqkd.pipeline.parts import MONOLINGUAL, PARTS, REVERSE, TESTS


def graph_of(pipeline: PipelineConfig) -> Graph:
    """All parts that a pipeline makes.

    Raises:
        ConfigError: Names of the pipeline fit nothing.
    """
    values = pipeline.model_dump(mode="json", exclude_none=True)
    graph, lines = resolve(values, PARTS)
    if lines:
        raise listed(lines, pipeline.name)
    settings = {}
    for kind in PARTS:
        parts, tables = getattr(pipeline, kind), values.get(kind, [])
        several = isinstance(parts, tuple)
        settings.update(
            {id(table): part for table, part in zip(tables, parts, strict=True)} if several else {id(tables): parts}
        )
    graph = Graph(replace(node, settings=settings[id(node.settings)]) for node in graph)
    return _with_evaluation(_with_rounds(_with_back_translation(_with_test_sets(graph)), pipeline))


def later(name: str, number: int) -> str:
    """The name that a part which is made again has in a round."""
    return name if number == 1 else f"{name}.round{number}"


def _with_test_sets(graph: Graph) -> Graph:
    """Add the further test sets of each data set. With several data sets its name stands before theirs."""
    data = graph.of("data")
    found = []
    for node in data:
        for name, text in node.settings.tests.items():
            key = ("tests", name if len(data) == 1 else f"{node.name}{OF}{name}")
            found.append(
                Node(key=key, part=TESTS, settings=text, place=node.place, links={"data": (node.key,)}, origin=key)
            )
    nodes = list(graph)
    nodes[len(data) : len(data)] = found
    return Graph(nodes)


def _with_back_translation(graph: Graph) -> Graph:
    """Add the monolingual text, the model of the other direction, and its decode (Sennrich et al. 2016)."""
    nodes = list(graph)
    for node in graph.of("backtranslation"):
        data = data_of(graph, node)
        text = _added(node, ("monolingual", "monolingual"), MONOLINGUAL, {"data": (data.key,)})
        model = _added(node, ("reverse", "reverse"), REVERSE, node.links)
        links = {"teacher": (model.key,), "corpus": (text.key,)}
        lists = _added(node, ("distill", node.name), PARTS["distill"], links)
        at = nodes.index(node)
        nodes[at : at + 1] = [model, lists, replace(node, links={"kbest": (lists.key,)})]
        nodes.insert(len(graph.of("data")), text)
    return Graph(nodes)


def _added(node: Node, key: Key, part: Part, links: Mapping[str, tuple[Key, ...]]) -> Node:
    """A further part with the settings of `node`."""
    return replace(node, key=key, origin=key, part=part, links=links)


def _with_rounds(graph: Graph, pipeline: PipelineConfig) -> Graph:
    """Add what the later rounds make again."""
    successor = pipeline.successor
    if successor is None:
        return graph
    teachers = {node.key for node in graph.of("teachers")}
    again = graph.remade(teachers)
    nodes = list(graph)

    def moved(key: Key, number: int) -> Key:
        return (key[0], later(key[1], number)) if key in again else key

    for number in range(2, pipeline.rounds + 1):
        teacher = moved(("students", successor.name), number - 1)
        for node in (node for node in graph if node.key in again):
            kept = {reference.field for reference in node.part.references if not reference.follows}
            links = {
                field: tuple(
                    dict.fromkeys(
                        teacher if key in teachers and field not in kept else moved(key, number) for key in keys
                    )
                )
                for field, keys in node.links.items()
            }
            first = None if node.seed_of is None else moved(node.seed_of, number)
            nodes.append(replace(node, key=moved(node.key, number), links=links, round=number, seed_of=first))
    return Graph(nodes)


def _with_evaluation(graph: Graph) -> Graph:
    """Evaluate the models of each data set, and report on it."""
    nodes = [node for node in graph if node.kind != "evaluate"]
    models = {node.key: data_of(graph, node).key for node in graph.of("teachers", "students")}
    for node in graph.of("evaluate"):
        for data in graph.of("data"):
            tests = tuple(test.key for test in graph.of("tests") if data_of(graph, test) is data)
            links = {"data": (data.key,), "models": tuple(key for key, of in models.items() if of == data.key)}
            links |= {"tests": tests}
            key = ("evaluate", data.name)
            nodes.append(replace(node, key=key, origin=key, links=links))
    return Graph(nodes)
