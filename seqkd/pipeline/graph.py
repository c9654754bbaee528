"""The graph of a pipeline: parts, the parts that each of them names, and what follows from these references.

This module knows no kind of part. `parts.py` declares the kinds, `expansion.py` adds the parts that the file does not
write out, and `plan_stages` turns each node into stages.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqkd.pipeline.folders import Plan, Stage

Key = tuple[str, str]  # the kind and the name of a part
Table = Mapping[str, Any]  # a table of the pipeline file, as plain values

SEED = ".seed"  # behind a model's name, with a number: the same model of another seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A field by which a part names others.

    Attributes:
        field: The field's place in the part's table, as messages have it.
        kinds: The kinds of part that it may name, the usual one first.
        default: The kind whose only part is meant if the field is left out; "" if the field then names nothing.
        read: What the field holds, given the part's table, if it does not lie at the top of the table: a name, or a
            list of tables with `name`.
        wanted: Whether a part, given its table, needs the reference; if not, the default does not apply.
        ensembles: Whether the name of an ensemble means all its members. Otherwise it means the first one.
        follows: Whether the part is another one if a later round has another teacher for it to name.
    """

    field: str
    kinds: tuple[str, ...]
    default: str = ""
    read: Callable[[Table], Any] | None = None
    wanted: Callable[[Table], bool] = lambda _: True
    ensembles: bool = False
    follows: bool = True

    def names(self, table: Table) -> list[str]:
        """The names that the field holds; what is not a name is left for the configuration's schema to refuse."""
        value = table.get(self.field) if self.read is None else self.read(table)
        values = value if isinstance(value, (list, tuple)) else [value]
        named = [entry.get("name") if isinstance(entry, Mapping) else entry for entry in values]
        return [name for name in named if isinstance(name, str)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A kind of part.

    Attributes:
        title: The kind as messages write it, e.g. `[[select]]`.
        help: One line about it.
        stages: The stages that a part expands to.
        makes: The kinds of thing that its name stands for. No two parts may give one name to two things of a kind.
        references: By which its parts name others, in the order in which Make and the report have them.
        name: The name of a part that has none in the file; "" if a name is required.
        alone: Where such a part stands in the file.
        owner: How a message calls the part that has taken a name.
        names: All names of a part, given its table and its own name: an ensemble has one for each member.
        seeds: In how many models that differ in their seed alone a part results, given its table.
        reserved: Further names that an ensemble takes, given its own.
        folder: In which folder of the run its parts have theirs; "" for the run folder itself.
        only: The folder of the only part of the kind, in the run folder; "" if it is no exception.
        label: How the report's drawing calls a part; `{}` stands for its name.
    """

    title: str
    help: str
    stages: Callable[[Node, Plan], Iterable[Stage]]
    makes: tuple[str, ...] = ()
    references: tuple[Reference, ...] = ()
    name: str = ""
    alone: str = ""
    owner: str = ""
    names: Callable[[Table, str], Sequence[str]] = lambda _, name: (name,)
    seeds: Callable[[Table], int] = lambda _: 1
    reserved: Callable[[str], Sequence[str]] = lambda _: ()
    folder: str = ""
    only: str = ""
    label: str = "{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A part in the graph.

    Attributes:
        key: Its kind and its name.
        part: Its kind's record.
        settings: What the file says about it: the validated table; the plain one while names are being resolved.
        place: Where it stands in the file.
        links: The parts that it names, by the field of the reference.
        round: The round in which it is made, from 1.
        origin: Its key in the first round.
        whole: All members of the ensemble that it is the first member of, if it is one.
        seed: The number of its seed, from 1, among models that differ in it alone.
        seed_of: The first of these models, if it is a later one.
    """

    key: Key
    part: Part
    settings: Any
    place: str
    links: Mapping[str, tuple[Key, ...]] = field(default_factory=dict)
    round: int = 1
    origin: Key
    whole: tuple[Key, ...] = ()
    seed: int = 1
    seed_of: Key | None = None

    @property
    def kind(self) -> str:
        """Its kind, which is the name of its table in the file."""
        return self.key[0]

    @property
    def name(self) -> str:
        """Its name."""
        return self.key[1]

    @property
    def first(self) -> Key:
        """The first of the models that differ in their seed alone; itself if there are no others."""
        return self.seed_of or self.key

    @property
    def inputs(self) -> tuple[Key, ...]:
        """All parts that it is made from."""
        return tuple(dict.fromkeys(key for keys in self.links.values() for key in keys))


class Graph:
    """Parts by key, in the order of the file's kinds and, within a kind, of the file."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = {node.key: node for node in nodes}

    def __getitem__(self, key: Key) -> Node:
        return self.nodes[key]

    def __contains__(self, key: Key) -> bool:
        return key in self.nodes

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def of(self, *kinds: str) -> list[Node]:
        """All parts of these kinds."""
        return [node for node in self if node.kind in kinds]

    def parts(self, kind: str) -> list[Node]:
        """The parts of a kind as the file has them: of an ensemble, and of several seeds, the first one."""
        members = {key for node in self for key in node.whole[1:]}
        return [node for node in self.of(kind) if node.key not in members and node.seed == 1]

    def linked(self, node: Node, field: str) -> list[Node]:
        """The parts that a field of a part names."""
        return [self[key] for key in node.links.get(field, ())]

    def order(self) -> list[Node]:
        """All parts, each behind those that it names, otherwise in the graph's order.

        Raises:
            CycleError: Parts name each other in a circle.
        """
        places = {key: place for place, key in enumerate(self.nodes)}
        sorter = TopologicalSorter({node.key: node.inputs for node in self})
        sorter.prepare()
        ready: list[tuple[int, Key]] = []
        found = []
        while sorter.is_active():
            for key in sorter.get_ready():
                heapq.heappush(ready, (places[key], key))
            _, key = heapq.heappop(ready)
            sorter.done(key)
            found.append(self[key])
        return found

    def circles(self) -> list[list[Key]]:
        """Circles of references: in each list a part is followed by one that it names, and the last is the first."""
        links = {node.key: set(node.inputs) for node in self}
        places = {key: place for place, key in enumerate(self.nodes)}
        found = []
        while True:
            try:
                TopologicalSorter(links).prepare()
            except CycleError as error:
                way: list[Key] = error.args[1][:0:-1]  # without its end, which is its beginning; what is made first
                start = way.index(min(way, key=places.__getitem__))
                way = [*way[start:], *way[:start]]
                found.append([*way, way[0]])
                for key, named in zip(way, [*way[1:], way[0]], strict=True):
                    links[key].discard(named)
            else:
                return sorted(found, key=lambda way: places[way[0]])

    def remade(self, teachers: Iterable[Key]) -> set[Key]:
        """The parts that other teachers in the place of `teachers` would make other ones."""
        old, found = set(teachers), set[Key]()
        for node in self.order():
            kept = {reference.field for reference in node.part.references if not reference.follows}
            for name, keys in node.links.items():
                if any(key in found or (key in old and name not in kept) for key in keys):
                    found.add(node.key)
        return found

    def upstream(self, node: Node) -> Iterator[Node]:
        """All parts that a part is made from, directly or not, the nearest first."""
        seen, waiting = {node.key}, [node]
        for here in waiting:
            for key in here.inputs:
                if key not in seen:
                    seen.add(key)
                    waiting.append(self[key])
                    yield self[key]


def resolve(values: Table, parts: Mapping[str, Part]) -> tuple[Graph, list[str]]:
    """Make the graph of a file's plain values.

    Args:
        values: The file's values, each kind of part a list of tables or one table. They may have any other problem.
        parts: The kinds of part.

    Returns:
        The graph, and a line for each problem with a name: taken twice, unknown, of the wrong kind, missing although
        there are several parts that could be meant, or part of a circle.
    """
    nodes = [node for kind, part in parts.items() for node in _nodes(kind, part, values.get(kind))]
    lines = _doubled(nodes)
    named = Graph(_first(nodes))
    resolved = []
    for node in nodes:
        links = {}
        for reference in node.part.references:
            links[reference.field], problems = _linked(reference, node, named)
            lines += problems
        resolved.append(replace(node, links=links))
    graph = Graph(_first(resolved))
    return graph, list(dict.fromkeys([*lines, *(_circle(graph, way) for way in graph.circles())]))


def _nodes(kind: str, part: Part, tables: Any) -> Iterator[Node]:
    """The parts of a kind, not yet linked. A part without the name that it must have is called `?` and a number."""
    for index, table in enumerate(tables if isinstance(tables, (list, tuple)) else [tables]):
        if not isinstance(table, Mapping):
            continue
        name = table.get("name", part.name)
        known = isinstance(name, str) and bool(name)
        place = part.alone if part.alone and "name" not in table else f"{kind}.{name if known else '?'}"
        keys = [(kind, member) for member in part.names(table, name if known else f"?{index}")]
        for key in keys:
            whole = tuple(keys) if key == keys[0] and len(keys) > 1 else ()
            yield Node(key=key, part=part, settings=table, place=place, origin=key, whole=whole)
        for number in range(2, part.seeds(table) + 1):
            key = (kind, f"{keys[0][1]}{SEED}{number}")
            yield Node(key=key, part=part, settings=table, place=place, origin=key, seed=number, seed_of=keys[0])


def _first(nodes: Iterable[Node]) -> list[Node]:
    """Of parts with the same kind and name the first."""
    found: dict[Key, Node] = {}
    for node in nodes:
        found.setdefault(node.key, node)
    return list(found.values())


def _doubled(nodes: Sequence[Node]) -> list[str]:
    """Names that two parts take. A part whose name the file does not choose has the better claim."""
    taken: dict[tuple[str, str], Node] = {}
    lines = []
    for node in sorted(nodes, key=lambda node: not node.part.name):
        names = [node.name, *(node.part.reserved(node.name) if node.whole else ())]
        for thing, name in ((thing, name) for thing in node.part.makes for name in names):
            other = taken.setdefault((thing, name), node)
            if other is node:
                continue
            by = f"another of {node.part.title}" if other.kind == node.kind else other.part.owner
            if other.seed > 1:
                by = f"a seed of {other.first[1]!r}"
            place = f"{node.place}.seeds" if node.seed > 1 else f"{node.kind}.{name}"
            what = f"makes {name!r}, and the name" if node.seed > 1 else "the name"
            lines.append(f"{place}: {what} is taken by {by}")
    return lines


def _linked(reference: Reference, node: Node, graph: Graph) -> tuple[tuple[Key, ...], list[str]]:
    """The parts that a field of a part names, and a line for each name that fits nothing."""
    place, table = f"{node.place}.{reference.field}", node.settings
    names, lines, keys = reference.names(table), [], list[Key]()
    if reference.default and reference.field not in table and reference.wanted(table):
        parts = graph.parts(reference.default)
        names = [part.name for part in parts]
        if len(parts) > 1:
            lines.append(f"{place}: missing: name one of {parts[0].part.title}: {', '.join(names)}")
            names = []
    for name in names:
        key = next(((kind, name) for kind in reference.kinds if (kind, name) in graph), None)
        if key is None:
            lines.append(f"{place}: {unknown(name, reference.kinds, graph)}")
        else:
            keys += (graph[key].whole if reference.ensembles else ()) or (key,)
    return tuple(keys), lines


def unknown(name: str, kinds: Sequence[str], graph: Graph) -> str:
    """Say that no part of these kinds has a name, which part has it, and which names there are."""
    other = next((node.part.title for node in graph if node.name == name and node.part.makes), None)
    there = ", ".join(dict.fromkeys(node.name for node in graph.of(*kinds) if node.name[0] != "?"))
    wrong = "" if other is None else f", which is a {other}"
    return f"no [[{kinds[0]}]] is named {name!r}{wrong}; there is {there or 'nothing'}"


def _circle(graph: Graph, way: Sequence[Key]) -> str:
    """Say which parts name each other; only names are needed if all are of one kind."""
    first, named = graph[way[0]], way[1]
    field = next(field for field, keys in first.links.items() if named in keys)
    alike = len({kind for kind, _ in way}) == 1
    steps = " <- ".join(name if alike else f"{kind}.{name}" for kind, name in way)
    return f"{first.place}.{field}: goes in a circle: {steps}"
