"""The graph of the pipeline as SVG, with inputs on the left and outputs to the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Edges = Sequence[tuple[str, str]]

NODE_HEIGHT = 32
ROW = 46
GAP = 48
MARGIN = 4
LETTER = 7.3  # width of a letter at the font size below
FONT = 13


@dataclass(frozen=True, slots=True)
class _Node:
    """A box or, if `name` is empty, a bend of a long edge."""

    name: str
    key: tuple[str, ...]


def draw_graph(edges: Edges, kinds: Mapping[str, str]) -> Markup:
    """Draw boxes and curves; empty without edges.

    Edges are left out if a longer way connects the same boxes.

    Args:
        edges: Pairs of the names of boxes, from input to output.
        kinds: The class of each box, for its colour: corpus, kbest, model; others are plain.
    """
    unique = list(dict.fromkeys((start, end) for start, end in edges if start != end))
    if not unique:
        return Markup("")
    columns, links = _make_layers(_drop_shortcuts(unique))
    _untangle(columns, links)
    tallest = max(len(column) for column in columns)
    height = (tallest - 1) * ROW + NODE_HEIGHT + 2 * MARGIN
    places: dict[_Node, tuple[float, float, float]] = {}  # left, middle y, right
    x = float(MARGIN)
    for column in columns:
        width = max((len(node.name) for node in column), default=0) * LETTER + 24
        top = MARGIN + NODE_HEIGHT / 2 + (tallest - len(column)) * ROW / 2
        for index, node in enumerate(column):
            places[node] = (x, top + index * ROW, x + width)
        x += width + GAP
    width = x - GAP + MARGIN
    lines = [_draw_curve(places[start], places[end], tip=bool(end.name)) for start, end in links]
    boxes = [_draw_box(node.name, places[node], kinds.get(node.name, "other")) for node in places if node.name]
    bends = [_draw_bend(places[node]) for node in places if not node.name]
    return Markup(
        f'<svg class="graph" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" '
        f'role="img" aria-label="Stages and their inputs">{"".join(lines + bends + boxes)}</svg>'
    )


def _drop_shortcuts(edges: Edges) -> list[tuple[str, str]]:
    """Leave out edges if another way leads from their start to their end."""
    kept = list(edges)
    for edge in edges:  # one at a time, so that two ways around a circle do not remove each other
        others = [other for other in kept if other != edge]
        if _leads_to(others, *edge):
            kept = others
    return kept


def _leads_to(edges: Edges, start: str, goal: str) -> bool:
    seen, waiting = {start}, [start]
    while waiting:
        here = waiting.pop()
        nexts = {end for begin, end in edges if begin == here} - seen
        seen |= nexts
        waiting += nexts
    return goal in seen - {start}


def _make_layers(edges: Edges) -> tuple[list[list[_Node]], list[tuple[_Node, _Node]]]:
    """Arrange nodes in columns by the longest way to them, with links between neighbouring columns."""
    names = list(dict.fromkeys(name for edge in edges for name in edge))
    depth = dict.fromkeys(names, 0)
    for _ in names:  # as many rounds as the longest way can have steps, so that a cycle ends
        for start, end in edges:
            depth[end] = max(depth[end], min(depth[start] + 1, len(names) - 1))
    columns: list[list[_Node]] = [[] for _ in range(max(depth.values()) + 1)]
    for name in names:
        columns[depth[name]].append(_Node(name, (name,)))
    links = []
    for start, end in edges:
        before = _Node(start, (start,))
        for level in range(depth[start] + 1, depth[end]):
            bend = _Node("", (start, end, str(level)))
            columns[level].append(bend)
            links.append((before, bend))
            before = bend
        links.append((before, _Node(end, (end,))))
    return columns, links


def _untangle(columns: list[list[_Node]], links: list[tuple[_Node, _Node]]) -> None:
    """Order each column by the mean place of its neighbours, forwards, backwards and forwards again."""
    into: dict[_Node, list[_Node]] = {}
    outof: dict[_Node, list[_Node]] = {}
    for start, end in links:
        into.setdefault(end, []).append(start)
        outof.setdefault(start, []).append(end)

    def place(column: list[_Node], neighbours: dict[_Node, list[_Node]]) -> None:
        def mean(node: _Node) -> float:
            near = [height[other] for other in neighbours.get(node, ()) if other in height]
            return sum(near) / len(near) if near else height[node]

        column.sort(key=mean)
        height.update({node: index - (len(column) - 1) / 2 for index, node in enumerate(column)})

    height: dict[_Node, float] = {}
    for column in columns:
        height.update({node: index - (len(column) - 1) / 2 for index, node in enumerate(column)})
    for column in columns[1:]:
        place(column, into)
    for column in columns[-2::-1]:
        place(column, outof)
    for column in columns[1:]:
        place(column, into)


def _draw_curve(start: tuple[float, float, float], end: tuple[float, float, float], *, tip: bool) -> str:
    x1, y1, x2, y2 = start[2], start[1], end[0], end[1]
    stop = x2 - 6 if tip else x2
    middle = x2 - GAP / 2
    path = f'<path class="edge" d="M{x1:.1f} {y1:.1f} H{x2 - GAP:.1f} C{middle:.1f} {y1:.1f} {middle:.1f} {y2:.1f} '
    path += f'{stop:.1f} {y2:.1f}"/>'
    return path + (f'<path class="tip" d="M{x2 - 7:.1f} {y2 - 4:.1f} l7 4 l-7 4 z"/>' if tip else "")


def _draw_bend(place: tuple[float, float, float]) -> str:
    left, y, right = place
    return f'<path class="edge" d="M{left:.1f} {y:.1f} H{right:.1f}"/>'


def _draw_box(name: str, place: tuple[float, float, float], kind: str) -> str:
    left, y, right = place
    return (
        f'<g class="node {escape(kind)}"><rect x="{left:.1f}" y="{y - NODE_HEIGHT / 2:.1f}" '
        f'width="{right - left:.1f}" height="{NODE_HEIGHT}" rx="6"/><text x="{(left + right) / 2:.1f}" '
        f'y="{y + FONT * 0.35:.1f}" font-size="{FONT}" text-anchor="middle">{escape(name)}</text></g>'
    )
