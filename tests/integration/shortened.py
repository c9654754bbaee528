"""Shipped pipelines with few of their parts: each kind of part in one of them, at most 12 stages in each."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from seqkd.pipeline.expansion import build_graph
from seqkd.pipeline.file import PipelineConfig
from seqkd.pipeline.graph import Graph, Key
from seqkd.pipeline.reading import read_pipeline
from seqkd.pipeline.stages import plan_stages
from tests.integration.pipelines import SHIPPED

MOST_STAGES = 12
PARTS = ("distill", "select", "soft_targets", "vocabularies", "students")  # the kinds of part that may be left out


def shorten(values: dict[str, Any], keep: frozenset[str]) -> dict[str, Any]:
    """Keep these students of a pipeline, everything that they are made from, and at most two rounds."""
    values = dict(values)
    if values.get("rounds", 1) > 1:
        values["rounds"] = 2
        keep |= {successor.name} if (successor := PipelineConfig.model_validate(values).successor) else set()
    config = PipelineConfig.model_validate(values)
    needed = find_inputs(build_graph(config), {("students", name) for name in keep})
    for kind in PARTS:
        if kind in values:
            values[kind] = [part for part in values[kind] if (kind, part["name"]) in needed]
    if "exports" in values:
        values["exports"] = [part for part in values["exports"] if ("students", part["model"]) in needed]
    if "targets" in values.get("evaluate", {}):
        kept = [name for name in values["evaluate"]["targets"] if needed & {("select", name), ("data", name)}]
        values["evaluate"] = values["evaluate"] | {"targets": kept}
    for name in ("backtranslation", "selftraining"):
        if not any(kind == name for kind, _ in needed):
            values.pop(name, None)
    return values


def find_inputs(graph: Graph, keys: set[Key]) -> set[Key]:
    """Return the keys of these parts and of all parts that they are made from, as the file has them."""
    found: set[Key] = set()
    waiting = list(keys)
    while waiting:
        node = graph[waiting.pop()]
        if node.key not in found:
            found.add(node.key)
            waiting.extend(node.inputs)
    return {graph[key].origin for key in found}


def find_kinds(values: dict[str, Any], name: str) -> frozenset[tuple[str, str]]:
    """Return the kinds of part that a student shows: its architecture, its objective, the rule of its corpus, ..."""
    graph = build_graph(PipelineConfig.model_validate(values))
    found: set[tuple[str, str]] = set()
    for kind, of in find_inputs(graph, {("students", name)}):
        part = next((part for part in values.get(kind, []) if isinstance(part, dict) and part.get("name") == of), {})
        if kind == "students":
            objective = part.get("objective", {})
            found |= {("arch", part.get("model", {}).get("arch", "")), ("objective", objective.get("type", ""))}
            found |= {("objective", key) for key in objective}
            found |= {("objective", term["type"]) for term in objective.get("terms", [])}
            found |= {("hook", hook["type"]) for hook in part.get("hooks", [])}
            found |= {("student", key) for key in part.keys() - {"name", "training"}}
        elif kind == "select":
            found.add(("rule", part.get("rule", "")))
        else:
            found.add(("part", kind))
    return frozenset(found)


@functools.cache
def choose_students() -> dict[Path, frozenset[str]]:
    """Choose for each shipped pipeline the students whose kinds no pipeline before it shows, as far as stages allow.

    Each pipeline shows each kind of its other parts and each of its rules.
    """
    chosen: dict[Path, frozenset[str]] = {}
    shown: set[tuple[str, str]] = set()
    for file in SHIPPED:
        covered = {kind for kind in shown if kind[0] not in ("part", "rule")}
        values = read_pipeline(file).model_dump(mode="json", exclude_none=True, exclude_unset=True)
        kinds = {part["name"]: find_kinds(values, part["name"]) for part in values["students"]}
        keep: frozenset[str] = frozenset()
        while kinds:
            name = max(kinds, key=lambda name: (len(kinds[name] - covered), len(kinds[name])))
            new = kinds.pop(name) - covered
            if keep and (not new or count_stages(values, keep | {name}) > MOST_STAGES):
                continue
            keep, covered = keep | {name}, covered | new
        chosen[file], shown = keep, shown | covered
    return chosen


def count_stages(values: dict[str, Any], keep: frozenset[str]) -> int:
    """Count the stages of a pipeline with these students only."""
    return len(plan_stages(PipelineConfig.model_validate(shorten(values, keep)), Path()))
