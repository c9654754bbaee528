"""The full graph of a pipeline, with back-translation, rounds and evaluation as ordinary parts.

Each round makes the parts that depend on the teacher again, with a student of the previous round as the teacher:
born-again networks (Furlanello et al. 2018), and iterated sequence-level distillation. Parts of the first round have
the names in the file. In round n the names of parts that are made again end in `.round<n>`, so that further rounds do
not change the parts of earlier ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from seqkd.config.toml import merge_problems
from seqkd.pipeline.file import PipelineConfig
from seqkd.pipeline.folders import OF, find_data, is_asked, list_tested
from seqkd.pipeline.graph import Graph, Key, Node, Part, resolve
from seqkd.pipeline.parts import CORPUS_ENCODED, MONOLINGUAL, PARTS, REPORT, REVERSE, TESTS, TESTS_ENCODED, UNLABELLED
from seqkd.pipeline.vocabularies import ENCODED, ENCODED_TEST, encoded_key, find_vocabulary, is_brought


def build_graph(pipeline: PipelineConfig) -> Graph:
    """Build the graph of all parts of a pipeline.

    Raises:
        ConfigError: Names in the pipeline do not name a part.
    """
    values = pipeline.model_dump(mode="json", exclude_none=True)
    graph, lines = resolve(values, PARTS)
    if lines:
        raise merge_problems(lines, pipeline.name)
    settings = {}
    for kind in PARTS:
        parts, tables = getattr(pipeline, kind), values.get(kind, [])
        several = isinstance(parts, tuple)
        settings.update(
            {id(table): part for table, part in zip(tables, parts, strict=True)} if several else {id(tables): parts}
        )
    graph = Graph(replace(node, settings=settings[id(node.settings)]) for node in graph)
    graph = _add_rounds(_add_self_training(_add_back_translation(_add_test_sets(graph))), pipeline)
    return _add_evaluation(_add_encodings(graph, pipeline), pipeline)


def name_in_round(name: str, number: int) -> str:
    """Return the name in a round of a part that is made again."""
    return name if number == 1 else f"{name}.round{number}"


def _add_test_sets(graph: Graph) -> Graph:
    """Add the further test sets of each data set. With several data sets, its name is put before theirs."""
    data = graph.of_kind("data")
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


def _add_back_translation(graph: Graph) -> Graph:
    """Add the monolingual text, the reverse model, and its decode (Sennrich et al. 2016)."""
    nodes = list(graph)
    for node in graph.of_kind("backtranslation"):
        data = find_data(graph, node)
        text = _derive_node(node, ("monolingual", "monolingual"), MONOLINGUAL, {"data": (data.key,)})
        model = _derive_node(node, ("reverse", "reverse"), REVERSE, node.links)
        links = {"teacher": (model.key,), "corpus": (text.key,)}
        lists = _derive_node(node, ("distill", node.name), PARTS["distill"], links)
        at = nodes.index(node)
        nodes[at : at + 1] = [model, lists, replace(node, links={"kbest": (lists.key,)})]
        nodes.insert(len(graph.of_kind("data")), text)
    return Graph(nodes)


def _add_self_training(graph: Graph) -> Graph:
    """Add the monolingual text and its decode by the teacher (He et al. 2020)."""
    nodes = list(graph)
    for node in graph.of_kind("selftraining"):
        text = _derive_node(node, ("monolingual", "monolingual-source"), UNLABELLED, {"data": node.links["corpus"]})
        links = {"teacher": node.links["teacher"], "corpus": (text.key,)}
        lists = _derive_node(node, ("distill", node.name), PARTS["distill"], links)
        # A scorer may belong to another data set than the text.
        chosen = {"data": node.links["corpus"], "kbest": (lists.key,), "scorer": node.links["scorer"]}
        at = nodes.index(node)
        nodes[at : at + 1] = [lists, replace(node, links=chosen)]
        nodes.insert(len(graph.of_kind("data")), text)
    return Graph(nodes)


def _derive_node(node: Node, key: Key, part: Part, links: Mapping[str, tuple[Key, ...]]) -> Node:
    """Make a further part with the settings of `node`."""
    return replace(node, key=key, origin=key, part=part, links=links)


def _add_rounds(graph: Graph, pipeline: PipelineConfig) -> Graph:
    """Add the parts that later rounds make again."""
    successor = pipeline.successor
    if successor is None:
        return graph
    teachers = {node.key for node in graph.of_kind("teachers")}
    again = {key for key in graph.find_remade(teachers) if key[0] != "evaluate"}  # one evaluation covers all rounds
    nodes = list(graph)

    def find_in_round(key: Key, number: int) -> Key:
        return (key[0], name_in_round(key[1], number)) if key in again else key

    for number in range(2, pipeline.rounds + 1):
        teacher = find_in_round(("students", successor.name), number - 1)
        for node in (node for node in graph if node.key in again):
            kept = {reference.field for reference in node.part.references if not reference.follows}
            links = {
                field: tuple(
                    dict.fromkeys(
                        teacher if key in teachers and field not in kept else find_in_round(key, number) for key in keys
                    )
                )
                for field, keys in node.links.items()
            }
            first = None if node.seed_of is None else find_in_round(node.seed_of, number)
            nodes.append(replace(node, key=find_in_round(node.key, number), links=links, round=number, seed_of=first))
    return Graph(nodes)


def _add_encodings(graph: Graph, pipeline: PipelineConfig) -> Graph:
    """Let models with another vocabulary than their data set read corpora that are encoded with it.

    Soft targets belong to the corpus that their teacher can read.
    """
    found: set[Key] = set()
    nodes: list[Node] = []
    for node in graph:
        if node.kind in ("teachers", "students", "soft_targets") and not is_brought(node):
            model = graph.follow(node, "teacher")[0] if node.kind == "soft_targets" else node
            vocabulary = find_vocabulary(graph, pipeline, model)
            if vocabulary != find_data(graph, node).key:
                encoded = [_encode(graph, graph[key], vocabulary, ENCODED) for key in node.links["corpus"]]
                nodes += [each for each in encoded if each.key not in found]
                found |= {each.key for each in encoded}
                links = {**node.links, "corpus": tuple(each.key for each in encoded)}
                nodes.append(replace(node, links=links))
                continue
        nodes.append(node)
    return Graph(nodes)


def _encode(graph: Graph, corpus: Node, vocabulary: Key, kind: str) -> Node:
    """Make the node of a corpus or a test set that is encoded again."""
    key = encoded_key(graph, corpus, vocabulary, kind)
    links = {"corpus": (corpus.key,), "vocabulary": (vocabulary,)}
    part = TESTS_ENCODED if kind == ENCODED_TEST else CORPUS_ENCODED
    return Node(key=key, part=part, settings=None, place=corpus.place, links=links, origin=key, round=corpus.round)


def _add_evaluation(graph: Graph, pipeline: PipelineConfig) -> Graph:
    """Evaluate the models of each data set on test sets with their vocabularies, and report on it.

    A model of several data sets is evaluated on the test sets of each one (see `list_tested`). The report of a data set
    also has the results on the data sets that such models join to it.
    """
    nodes = [node for node in graph if node.kind != "evaluate"]
    models = {
        node.key: [data.key for data in list_tested(graph, node)]
        for node in graph.of_kind("teachers", "students")
        if not is_asked(node)
    }
    made = {}
    for node in graph.of_kind("evaluate"):
        for data in graph.of_kind("data"):
            tests = tuple(test.key for test in graph.of_kind("tests") if find_data(graph, test) is data)
            links = {"data": (data.key,), "models": tuple(key for key, of in models.items() if data.key in of)}
            links |= {"tests": tests}
            # Training corpora of other data sets are not measured. Outputs may be compared with those of any model.
            links |= {"targets": tuple(key for key in node.links["targets"] if find_data(graph, graph[key]) is data)}
            links |= {"agreement": node.links["agreement"]}
            own = dict.fromkeys(find_vocabulary(graph, pipeline, graph[model]) for model in links["models"])
            encoded = [
                _encode(graph, graph[test], vocabulary, ENCODED_TEST)
                for vocabulary in own
                if vocabulary != data.key
                for test in (data.key, *tests)
            ]
            nodes += encoded
            links |= {"encoded_tests": tuple(each.key for each in encoded)}
            key = ("evaluate", data.name)
            made[data.key] = replace(node, key=key, origin=key, links=links)
    nodes += made.values()
    for own_data, evaluation in made.items():
        joined = _find_joined(own_data, models.values())
        key = ("report", own_data[1])
        evaluations = tuple(made[other].key for other in made if other in joined)
        links = {"data": (own_data,), "evaluations": evaluations}
        compared = (find_data(graph, graph[model]).key for model in evaluation.links["agreement"])
        links |= {"compared": tuple(made[other].key for other in compared)}
        nodes.append(replace(evaluation, key=key, part=REPORT, origin=key, links=links))
    return Graph(nodes)


def _find_joined(data: Key, models: Iterable[list[Key]]) -> set[Key]:
    """Find the data sets that models join to one, directly or through others; the set itself is one of them."""
    joined = {data}
    several = [set(of) for of in models if len(of) > 1]
    while new := set().union(*(of for of in several if of & joined)) - joined:
        joined |= new
    return joined
