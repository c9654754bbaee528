"""The graph of a pipeline: its parts and the references between them.

This module does not depend on any kind of part. `parts.py` declares the kinds, `expansion.py` adds the parts that the
file does not contain, and `plan_stages` turns each node into stages.
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

SEED = ".seed"  # the suffix, with a number, of a model's name for its later seeds


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A field by which a part names others.

    Attributes:
        field: The place of the field in the table of the part, as in messages.
        kinds: The kinds of part that the field may name, the usual one first.
        default: The kind whose only part is meant if the field is left out; "" if the field then names nothing.
        read: A function from the table to the value of the field, a name or a list of tables with `name`; None if the
            field is a key of the table itself.
        wanted: Whether a part, given its table, needs the reference; if not, the default does not apply.
        ensembles: Whether the name of an ensemble means all its members. Otherwise it means the first one.
        folders: Whether a value that no part has as its name is the path of a folder.
        follows: Whether the reference moves to the new teacher in a later round.
        paired: Whether the n-th seed of a part means the n-th seed of the model that it names, if there is one.
    """

    field: str
    kinds: tuple[str, ...]
    default: str = ""
    read: Callable[[Table], Any] | None = None
    wanted: Callable[[Table], bool] = lambda _: True
    ensembles: bool = False
    folders: bool = False
    follows: bool = True
    paired: bool = False

    def names(self, table: Table) -> list[str]:
        """Return the names that the field holds. The schema of the file refuses other values."""
        value = table.get(self.field) if self.read is None else self.read(table)
        values = value if isinstance(value, (list, tuple)) else [value]
        named = [entry.get("name") if isinstance(entry, Mapping) else entry for entry in values]
        return [name for name in named if isinstance(name, str)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A kind of part.

    Attributes:
        title: The kind as messages write it, e.g. `[[select]]`.
        help: One line about the kind.
        stages: The stages that a part expands to.
        makes: The kinds of thing that the name of a part stands for. Two things of one kind may not have the same name.
        references: The references of a part to others, in their order in Make rules and in the report.
        name: The name of a part that has none in the file; "" if a name is required.
        alone: The place in the file of a part without a name.
        owner: The part that has taken a name, as in messages.
        names: All names of a part, given its table and its own name: an ensemble has one for each member.
        seeds: The number of models that differ only in their seed, given the table.
        reserved: Further names that an ensemble takes, given its own.
        folder: The folder in the run folder that holds the folders of the parts; "" for the run folder itself.
        only: The folder, in the run folder, of a part that is the only one of its kind; "" if it has no special folder.
        label: The label of a part in the report's drawing; `{}` stands for its name.
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
        key: The kind and the name of the part.
        part: The record of the kind.
        settings: The validated table of the part; while names are being resolved, the plain one.
        place: The place of the part in the file.
        links: The parts that it names, by the field of the reference.
        round: The round in which it is made, from 1.
        origin: The key of the same part in the first round.
        whole: All members of the ensemble if the part is its first member; otherwise empty.
        seed: The number of the seed, from 1, among models that differ only in their seed.
        seed_of: The first of these models if this is a later one; otherwise None.
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
        """The kind, which is the name of the table in the file."""
        return self.key[0]

    @property
    def name(self) -> str:
        """The name of the part."""
        return self.key[1]

    @property
    def first(self) -> Key:
        """The first of the models that differ only in their seed; the part itself if there are no others."""
        return self.seed_of or self.key

    @property
    def inputs(self) -> tuple[Key, ...]:
        """All parts that the part is made from."""
        return tuple(dict.fromkeys(key for keys in self.links.values() for key in keys))


class Graph:
    """Parts by key, in the order of the kinds and, within a kind, of the file."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = {node.key: node for node in nodes}

    def __getitem__(self, key: Key) -> Node:
        return self.nodes[key]

    def __contains__(self, key: Key) -> bool:
        return key in self.nodes

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def of_kind(self, *kinds: str) -> list[Node]:
        """List all parts of these kinds."""
        return [node for node in self if node.kind in kinds]

    def parts(self, kind: str) -> list[Node]:
        """List the parts of a kind as in the file: the first members of ensembles, and the first of several seeds."""
        members = {key for node in self for key in node.whole[1:]}
        return [node for node in self.of_kind(kind) if node.key not in members and node.seed == 1]

    def follow(self, node: Node, field: str) -> list[Node]:
        """List the parts that a field of a part names."""
        return [self[key] for key in node.links.get(field, ())]

    def sort(self) -> list[Node]:
        """Sort the parts: each after the parts that it names, otherwise in the order of the graph.

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

    def find_circles(self) -> list[list[Key]]:
        """Find circles of references.

        In each list a part is followed by a part that is made from it, and the last part is the first one.
        """
        links = {node.key: set(node.inputs) for node in self}
        places = {key: place for place, key in enumerate(self.nodes)}
        found = []
        while True:
            try:
                TopologicalSorter(links).prepare()
            except CycleError as error:
                way: list[Key] = error.args[1][:0:-1]  # inputs first, without the end, which repeats the beginning
                start = way.index(min(way, key=places.__getitem__))
                way = [*way[start:], *way[:start]]
                found.append([*way, way[0]])
                for key, named in zip(way, [*way[1:], way[0]], strict=True):
                    links[key].discard(named)
            else:
                return sorted(found, key=lambda way: places[way[0]])

    def find_remade(self, teachers: Iterable[Key]) -> set[Key]:
        """Find the parts that would change if other teachers took the place of `teachers`."""
        old, found = set(teachers), set[Key]()
        for node in self.sort():
            kept = {reference.field for reference in node.part.references if not reference.follows}
            for name, keys in node.links.items():
                if any(key in found or (key in old and name not in kept) for key in keys):
                    found.add(node.key)
        return found

    def upstream(self, node: Node) -> Iterator[Node]:
        """Iterate over all parts that a part is made from, directly or indirectly, the nearest first."""
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
        values: The values of the file, each kind of part a list of tables or one table. They may be invalid otherwise.
        parts: The kinds of part.

    Returns:
        The graph, and a line for each problem with a name: taken twice, unknown, of the wrong kind, missing although
        several parts could be meant, or part of a circle.
    """
    nodes = [node for kind, part in parts.items() for node in _make_nodes(kind, part, values.get(kind))]
    lines = _find_doubles(nodes)
    named = Graph(_drop_doubles(nodes))
    resolved = []
    for node in nodes:
        links = {}
        for reference in node.part.references:
            links[reference.field], problems = _find_links(reference, node, named)
            lines += problems
        resolved.append(replace(node, links=links))
    graph = Graph(_drop_doubles(resolved))
    return graph, list(dict.fromkeys([*lines, *(_explain_circle(graph, way) for way in graph.find_circles())]))


def _make_nodes(kind: str, part: Part, tables: Any) -> Iterator[Node]:
    """Make the nodes of a kind, without links. A part whose required name is missing is named `?` and a number."""
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


def _drop_doubles(nodes: Iterable[Node]) -> list[Node]:
    """Keep only the first of parts with the same kind and name."""
    found: dict[Key, Node] = {}
    for node in nodes:
        found.setdefault(node.key, node)
    return list(found.values())


def _find_doubles(nodes: Sequence[Node]) -> list[str]:
    """Find names that two parts take. A part whose name the file cannot choose has priority."""
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


def _find_links(reference: Reference, node: Node, graph: Graph) -> tuple[tuple[Key, ...], list[str]]:
    """Find the parts that a field of a part names, and a problem for each name that no part has."""
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
        if key is not None and reference.paired and node.seed > 1:
            again = (key[0], f"{name}{SEED}{node.seed}")
            key = again if again in graph else key
        if key is None and reference.folders:
            continue
        if key is None:
            lines.append(f"{place}: {explain_unknown(name, reference.kinds, graph)}")
        else:
            keys += (graph[key].whole if reference.ensembles else ()) or (key,)
    return tuple(keys), lines


def explain_unknown(name: str, kinds: Sequence[str], graph: Graph) -> str:
    """Explain that no part of these kinds has a name: which other part has it, and which names exist."""
    other = next((node.part.title for node in graph if node.name == name and node.part.makes), None)
    there = ", ".join(dict.fromkeys(node.name for node in graph.of_kind(*kinds) if node.name[0] != "?"))
    wrong = "" if other is None else f", which is a {other}"
    return f"no [[{kinds[0]}]] is named {name!r}{wrong}; there is {there or 'nothing'}"


def _explain_circle(graph: Graph, way: Sequence[Key]) -> str:
    """Explain which parts name each other in a circle. The kinds are left out if all are equal."""
    first, named = graph[way[0]], way[1]
    field = next(field for field, keys in first.links.items() if named in keys)
    alike = len({kind for kind, _ in way}) == 1
    steps = " <- ".join(name if alike else f"{kind}.{name}" for kind, name in way)
    return f"{first.place}.{field}: goes in a circle: {steps}"
