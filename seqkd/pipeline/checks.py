"""What is wrong with a pipeline's references beyond their names, each in one line with its place in the file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seqkd.config.search import MOST_LETTERS
from seqkd.errors import ModelError
from seqkd.models.registry import ARCHITECTURES
from seqkd.pipeline.file import BackTranslationPart, PipelineConfig
from seqkd.pipeline.graph import Graph, Node, unknown
from seqkd.pipeline.parts import asks_teacher
from seqkd.selection.registry import RULES
from seqkd.text.vocabularies import SOURCE_VOCABULARY, VOCABULARY
from seqkd.text.vocabulary import Vocabulary

_OF_A_ROUND = re.compile(r"\.round\d+$")


def reference_problems(graph: Graph) -> Iterator[str]:
    """References that cannot be, from the plain values: the file may have other problems, too.

    Args:
        graph: What `resolve` made of a file, whose names may be wrong.
    """
    for node in graph.of("students"):
        yield from _soft_target_problems(graph, node)
        if "teacher" in node.settings and not asks_teacher(node.settings):
            yield f"{node.place}.teacher: the objective asks no teacher that runs beside the student; leave it out"
        for key in node.links["vocabulary"]:
            yield (
                f"{node.place}.vocabulary: {key[1]!r}: a student with another vocabulary than its data set's is not "
                "supported yet; leave it out"
            )
    for node in graph.of("teachers", "students"):
        if node.seed > 1 and len(node.name) > MOST_LETTERS:
            yield f"{node.place}.seeds: makes {node.name!r}; names have at most {MOST_LETTERS} letters"
    for node in graph.of("distill"):
        for corpus in graph.linked(node, "corpus"):
            rule = RULES.find(str(corpus.settings.get("rule")))
            if rule is not None and rule.values is None:
                yield (
                    f'{node.place}.corpus: {corpus.name!r} is of rule "{rule.name}", so that it has a source several '
                    "times"
                )
    for node in graph.of("backtranslation"):
        if not any(node.key in student.inputs for student in graph.of("students")):
            yield (f'backtranslation: none of [[students]] has the corpus "{node.name}", by itself or among others')


def data_problems(graph: Graph, values: Mapping[str, Any]) -> Iterator[str]:
    """Parts of several data sets, and what does not fit teachers that are brought along.

    Args:
        graph: What `resolve` made of a file, without problems of names.
        values: The file's plain values.
    """
    sets: dict[tuple[str, str], set[str]] = {}
    for node in graph.order():
        below = [sets[key] for key in node.inputs]
        sets[node.key] = {node.name} if node.kind == "data" else set().union(*below)
        if len(sets[node.key]) > 1 and all(len(names) < 2 for names in below):
            yield (
                f"{node.place}: is made from the data sets {', '.join(sorted(sets[node.key]))}, each of which has a "
                "vocabulary of its own; mixing them is not supported yet: name parts of one data set"
            )
    brought = [node for node in graph.of("teachers") if "path" in node.settings]
    of = {name for node in brought for name in sets[node.key]}
    prepare = values.get("prepare")
    if isinstance(prepare, Mapping) and "vocabulary" in prepare and of == {node.name for node in graph.of("data")}:
        yield "prepare.vocabulary: the teacher that is brought along has its own, which all models share"
    for node in graph.of("backtranslation"):
        for teacher in brought:
            if sets[teacher.key] == sets[node.key]:
                yield from _tag_problems(node, teacher)


def _soft_target_problems(graph: Graph, student: Node) -> Iterator[str]:
    named = student.settings.get("corpus")
    for soft in graph.linked(student, "objective.soft_targets"):
        for corpus in graph.linked(soft, "corpus"):
            if isinstance(named, str) and corpus.name != named:
                yield (
                    f"{student.place}.objective.soft_targets: {soft.name!r} is of the corpus {corpus.name!r}, the "
                    f"student of {named!r}"
                )


def _tag_problems(node: Node, teacher: Node) -> Iterator[str]:
    """A tag that the vocabulary of a teacher does not have; nothing if the vocabulary cannot be read."""
    mark = node.settings.get("tag", BackTranslationPart.model_fields["tag"].default)
    path = teacher.settings["path"]
    if not (isinstance(path, str) and isinstance(mark, str) and mark):
        return
    files = [Path(path) / name for name in (SOURCE_VOCABULARY, VOCABULARY)]
    try:
        vocabulary = next((Vocabulary.load(file) for file in files if file.exists()), None)
    except ModelError:  # `seqkd prepare` says it better
        return
    if vocabulary is not None and vocabulary.id_of(mark) is None:
        yield (
            f"backtranslation.tag: the vocabulary of the teacher that is brought along has no piece {mark!r}; "
            'name one that it has, or tag = "" for none'
        )


def model_problems(pipeline: PipelineConfig, graph: Graph) -> Iterator[str]:
    """Students that cannot teach, and what is wrong with rounds, in a file that is right otherwise."""
    students = {part.name: part for part in pipeline.students}
    for node in (node for node in graph if "teacher" in node.links):
        for key in node.links["teacher"]:
            named = graph[key].first[1]
            if key[0] == "students" and not students[named].model.record.left_to_right:
                yield f"{node.place}.teacher: {_cannot_teach(pipeline, named)}"
    yield from _round_problems(pipeline, graph)


def _cannot_teach(pipeline: PipelineConfig, name: str) -> str:
    arch = next(part.model.arch for part in pipeline.students if part.name == name)
    teaching = ", ".join(record.name for record in ARCHITECTURES.all() if record.left_to_right)
    return (
        f"{name!r} is of arch {arch!r}, which beam search does not decode; name a student that can teach, one of: "
        f"{teaching}"
    )


def _round_problems(pipeline: PipelineConfig, graph: Graph) -> Iterator[str]:
    names = [part.name for part in pipeline.students]
    if pipeline.next_teacher is not None and pipeline.next_teacher not in names:
        yield f"next_teacher: {unknown(pipeline.next_teacher, ('students',), graph)}"
        return
    if pipeline.rounds == 1:
        return
    for node in graph.of("distill", "select", "soft_targets", "students"):
        if _OF_A_ROUND.search(node.name):
            yield f"{node.place}: names that end so are those of later rounds"
    if len(pipeline.teachers) > 1:
        yield f"rounds: is {pipeline.rounds}, but there are several [[teachers]]; only one can have successors"
    successor = pipeline.successor
    if successor is None:
        yield (
            f"next_teacher: missing: the student that teaches the next of {pipeline.rounds} rounds; there is "
            f"{', '.join(names)}"
            if names
            else f"rounds: is {pipeline.rounds}, but there are no [[students]] that could teach the next round"
        )
    elif not successor.model.record.left_to_right:
        yield f"next_teacher: {_cannot_teach(pipeline, successor.name)}"
    elif ("students", successor.name) not in graph.remade(node.key for node in graph.of("teachers")):
        yield (
            f"next_teacher: {successor.name!r} learns nothing from the teacher, so that each round would be like the "
            "one before; name a student of a distilled corpus, or of objective word_kd"
        )
