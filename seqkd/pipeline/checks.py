"""Checks of the references between the parts of a pipeline, beyond their names.

Each problem is one line with its place in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from seqkd.config.search import MOST_LETTERS
from seqkd.errors import ModelError
from seqkd.models.registry import ARCHITECTURES
from seqkd.pipeline.file import BackTranslationPart, PipelineConfig
from seqkd.pipeline.graph import Graph, Node, explain_unknown
from seqkd.pipeline.parts import asks_teacher
from seqkd.selection.registry import RULES
from seqkd.text.vocabularies import Vocabularies

_OF_A_ROUND = re.compile(r"\.round\d+$")


def find_reference_problems(graph: Graph) -> Iterator[str]:
    """Find references that are not possible, in plain values: the file may have other problems, too.

    Args:
        graph: The result of `resolve` for a file whose names may be wrong.
    """
    for node in graph.of_kind("students"):
        yield from _find_soft_target_problems(graph, node)
        if "teacher" in node.settings and not asks_teacher(node.settings):
            yield f"{node.place}.teacher: the objective does not ask a teacher that runs "
        "beside the student; leave it out"
    for node in graph.of_kind("teachers", "students"):
        if node.seed > 1 and len(node.name) > MOST_LETTERS:
            yield f"{node.place}.seeds: makes {node.name!r}; names have at most {MOST_LETTERS} letters"
    used = {key for node in graph for key in node.links.get("vocabulary", ())}
    for node in graph.of_kind("vocabularies"):
        if node.key not in used:
            yield f"{node.place}: no teacher or student has this vocabulary; name it in one of them, or leave it out"
    for node in graph.of_kind("distill"):
        for corpus in graph.follow(node, "corpus"):
            rule = RULES.find(str(corpus.settings.get("rule")))
            keeps = corpus.settings.get("keep", 1)
            if (rule is not None and rule.values is None) or (isinstance(keeps, int) and keeps > 1):
                yield (
                    f"{node.place}.corpus: {corpus.name!r} holds each source several times, by its rule or by `keep`; "
                    "name another corpus"
                )
    yield from _find_asked_teacher_problems(graph)
    for node in graph.of_kind("backtranslation"):
        if not any(node.key in student.inputs for student in graph.of_kind("students")):
            yield (f'backtranslation: no student has the corpus "{node.name}", alone or among others')


def _find_asked_teacher_problems(graph: Graph) -> Iterator[str]:
    """Find parts that need a model, but name a teacher that is a source of k-best lists."""
    asked = {node.key for node in graph.of_kind("teachers") if "source" in node.settings}
    for node in graph:
        for field in ("teacher", "init_from", "model"):
            named = next((key[1] for key in node.links.get(field, ()) if key in asked), None)
            if named is None:
                continue
            if node.kind != "distill":
                yield (
                    f"{node.place}.{field}: {named!r} is a source of k-best lists, which gives texts and has no "
                    "model; name a teacher that is trained here or brought along"
                )
            others = sorted(node.settings.keys() & {"search", "batch_tokens", "precision"})
            if node.kind == "distill" and others:
                yield (
                    f"{node.place}.{others[0]}: is for a teacher with a model, but {named!r} is a source of k-best "
                    "lists; leave it out"
                )


def find_data_problems(graph: Graph, values: Mapping[str, Any]) -> Iterator[str]:
    """Find parts made from several data sets, and settings that do not fit teachers that are brought along.

    Args:
        graph: The result of `resolve` for a file without problems of names.
        values: The file's plain values.
    """
    sets: dict[tuple[str, str], set[str]] = {}
    for node in graph.sort():
        # A scorer segments texts again, so its models may belong to other data sets.
        below = [sets[key] for field, keys in node.links.items() if field != "scorer" for key in keys]
        sets[node.key] = {node.name} if node.kind == "data" else set().union(*below)
        if len(sets[node.key]) > 1 and all(len(names) < 2 for names in below):
            yield (
                f"{node.place}: is made from the data sets {', '.join(sorted(sets[node.key]))}, each of which has a "
                "vocabulary of its own; mixing them is not supported yet: name parts of one data set"
            )
    brought = [node for node in graph.of_kind("teachers") if "path" in node.settings and "format" not in node.settings]
    prepare = values.get("prepare")
    if isinstance(prepare, Mapping) and "vocabulary" in prepare:
        return  # data sets learn their vocabularies, whatever teachers bring along
    for node in graph.of_kind("backtranslation"):
        for teacher in brought:
            if sets[teacher.key] == sets[node.key]:
                yield from _find_tag_problems(node, teacher)


def _find_soft_target_problems(graph: Graph, student: Node) -> Iterator[str]:
    named = student.settings.get("corpus")
    for soft in graph.follow(student, "objective.soft_targets"):
        for corpus in graph.follow(soft, "corpus"):
            if isinstance(named, str) and corpus.name != named:
                yield (
                    f"{student.place}.objective.soft_targets: {soft.name!r} belongs to the corpus {corpus.name!r}, "
                    f"but the student has {named!r}; name the soft targets of its corpus"
                )


def _find_tag_problems(node: Node, teacher: Node) -> Iterator[str]:
    """Find a tag that is not in the vocabulary of a teacher. There is no problem if the vocabulary cannot be read."""
    mark = node.settings.get("tag", BackTranslationPart.model_fields["tag"].default)
    path = teacher.settings["path"]
    if not (isinstance(path, str) and isinstance(mark, str) and mark):
        return
    try:
        known = Vocabularies.load(path).source.id_of(mark) is not None
    except ModelError:  # `seqkd prepare` reports this in more detail
        return
    if not known:
        yield (
            f"backtranslation.tag: the vocabulary of the teacher that is brought along has no piece {mark!r}; "
            'name a piece that it has, or give tag = "" for no tag'
        )


def find_model_problems(pipeline: PipelineConfig, graph: Graph) -> Iterator[str]:
    """Find students that cannot teach and problems of rounds, in a file without other problems."""
    students = {part.name: part for part in pipeline.students}
    for node in (node for node in graph if "teacher" in node.links):
        for key in node.links["teacher"]:
            named = graph[key].first[1]
            if key[0] == "students" and not students[named].model.record.left_to_right:
                yield f"{node.place}.teacher: {_explain_cannot_teach(pipeline, named)}"
    yield from _find_round_problems(pipeline, graph)


def _explain_cannot_teach(pipeline: PipelineConfig, name: str) -> str:
    arch = next(part.model.arch for part in pipeline.students if part.name == name)
    teaching = ", ".join(record.name for record in ARCHITECTURES.all() if record.left_to_right)
    return (
        f"{name!r} is of arch {arch!r}, which beam search does not decode; name a student that can teach, one of: "
        f"{teaching}"
    )


def _find_round_problems(pipeline: PipelineConfig, graph: Graph) -> Iterator[str]:
    names = [part.name for part in pipeline.students]
    if pipeline.next_teacher is not None and pipeline.next_teacher not in names:
        yield f"next_teacher: {explain_unknown(pipeline.next_teacher, ('students',), graph)}"
        return
    if pipeline.rounds == 1:
        return
    for node in graph.of_kind("distill", "select", "soft_targets", "students", "exports"):
        if _OF_A_ROUND.search(node.name):
            yield f"{node.place}: names that end in .round and a number are reserved for later "
        "rounds; choose another name"
    if any(teacher.source is not None for teacher in pipeline.teachers):
        yield f"rounds: is {pipeline.rounds}, but a teacher is a source of k-best lists; rounds need a model"
    if len(pipeline.teachers) > 1:
        yield f"rounds: is {pipeline.rounds}, but there are several [[teachers]]; rounds need exactly one"
    successor = pipeline.successor
    if successor is None:
        yield (
            f"next_teacher: missing: the student that teaches the next of {pipeline.rounds} rounds; there is "
            f"{', '.join(names)}"
            if names
            else f"rounds: is {pipeline.rounds}, but there are no [[students]] that could teach the next round"
        )
    elif not successor.model.record.left_to_right:
        yield f"next_teacher: {_explain_cannot_teach(pipeline, successor.name)}"
    elif ("students", successor.name) not in graph.find_remade(node.key for node in graph.of_kind("teachers")):
        yield (
            f"next_teacher: {successor.name!r} learns nothing from the teacher, so each round would repeat the "
            "one before; name a student of a distilled corpus, or of objective word_kd"
        )
