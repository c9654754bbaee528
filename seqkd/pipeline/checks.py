"""Checks of the references between the parts of a pipeline, beyond their names.

Each problem is one line with its place in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seqkd.config.search import MOST_LETTERS
from seqkd.errors import ModelError
from seqkd.models.registry import ARCHITECTURES
from seqkd.pipeline.file import BackTranslationPart, PipelineConfig
from seqkd.pipeline.folders import list_data
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
    for node in graph.of_kind("backtranslation", "selftraining"):
        if not any(node.key in student.inputs for student in graph.of_kind("students")):
            yield (f'{node.kind}: no student has the corpus "{node.name}", alone or among others')


def _find_asked_teacher_problems(graph: Graph) -> Iterator[str]:
    """Find parts that need a model, but name a teacher that is a source of k-best lists."""
    asked = {node.key for node in graph.of_kind("teachers") if "source" in node.settings}
    for node in graph:
        for field in ("teacher", "init_from", "model", "source.model", "agreement"):
            named = next((key[1] for key in node.links.get(field, ()) if key in asked), None)
            if named is None:
                continue
            if node.kind != "distill" or field != "teacher":
                yield (
                    f"{node.place}.{field}: {named!r} is a source of k-best lists, which gives texts and has no "
                    "model; name a teacher that is trained here or brought along"
                )
            others = sorted(node.settings.keys() & {"search", "batch_tokens", "precision"})
            if node.kind == "distill" and field == "teacher" and others:
                yield (
                    f"{node.place}.{others[0]}: is for a teacher with a model, but {named!r} is a source of k-best "
                    "lists; leave it out"
                )


def find_data_problems(graph: Graph, values: Mapping[str, Any]) -> Iterator[str]:
    """Find problems of parts of several data sets, and settings that do not fit teachers that are brought along.

    Args:
        graph: The result of `resolve` for a file without problems of names.
        values: The file's plain values.
    """
    for node in graph:
        yield from _find_mixing_problems(graph, node)
    for node in graph.of_kind("data"):
        for other in graph.follow(node, "shares_sources"):
            if first := other.settings.get("shares_sources"):
                yield f"{node.place}.shares_sources: {other.name!r} shares its sources with {first!r}; name {first!r}"
    for node in graph.of_kind("distill"):
        yield from _find_language_problems(graph, node)
    for node in graph.of_kind("backtranslation"):
        for data in list_data(graph, node):
            if data.settings.get("tag"):
                yield (
                    f"{data.place}.tag: sources of the data set open with a tag, which the reverse model of "
                    "[backtranslation] would have to write; leave out one or the other"
                )
    brought = [node for node in graph.of_kind("teachers") if "path" in node.settings and "format" not in node.settings]
    prepare = values.get("prepare")
    if isinstance(prepare, Mapping) and "vocabulary" in prepare:
        return  # data sets learn their vocabularies, whatever teachers bring along
    for teacher in brought:
        for data in list_data(graph, teacher):
            advice = "name a piece that it has, or add [prepare.vocabulary]: the data set then learns a vocabulary"
            yield from _find_tag_problems(f"{data.place}.tag", data.settings.get("tag"), teacher, advice)
    for node in graph.of_kind("backtranslation"):
        for teacher in brought:
            if list_data(graph, teacher) == list_data(graph, node):
                tag = node.settings.get("tag", BackTranslationPart.model_fields["tag"].default)
                advice = 'name a piece that it has, or give tag = "" for no tag'
                yield from _find_tag_problems("backtranslation.tag", tag, teacher, advice)


def _find_mixing_problems(graph: Graph, node: Node) -> Iterator[str]:
    """Find parts of several data sets whose vocabulary is not learnt from all of them.

    A scorer segments texts again, so its models may belong to other data sets.
    """
    own = _name_data(graph, node)
    if node.kind in ("teachers", "students"):
        known = _name_known(graph, node)
        missing = [name for name in own if name not in known]
        vocabularies = graph.follow(node, "vocabulary")
        if missing and vocabularies:
            yield (
                f"{node.place}.vocabulary: {vocabularies[0].name!r} is learnt from {', '.join(known)}, but the model "
                f"learns from {', '.join(missing)}; name all of them in vocabularies.{vocabularies[0].name}.corpus"
            )
        elif len(own) > 1 and not vocabularies:
            yield f"{node.place}: {_explain_own(own)}"
        if "corpus_temperature" in node.settings and len(own) < 2:
            yield f"{node.place}.corpus_temperature: all corpora are of one data set; leave it out, or give `weight`"
        yield from _find_group_problems(node, own)
        yield from _find_group_teacher_problems(node, own)
        for data in list_data(graph, node) if len(own) > 1 else ():
            tests = data.settings.get("tests")
            for name in own if isinstance(tests, Mapping) else ():
                if name in tests and name != data.name:
                    yield f"{data.place}.tests.{name}: is also the name of a data set; choose another name"
    elif len(own) > 1 and node.kind == "backtranslation":
        yield f"{node.place}.corpus: names the data sets {', '.join(own)}; name corpora of one data set"
    for field in ("teacher", "init_from", "objective.soft_targets", "soft_targets"):
        for other in graph.follow(node, field):
            known = [*_name_data(graph, other), *_name_known(graph, other)]
            if not {*own} <= {*known}:
                yield f"{node.place}: {_explain_own(sorted({*known, *own}))}"
                return


def _name_data(graph: Graph, node: Node) -> list[str]:
    return [data.name for data in list_data(graph, node)]


def _name_known(graph: Graph, node: Node) -> list[str]:
    """Name the data sets from which the vocabulary of a model, or of the model behind soft targets, is learnt."""
    if node.kind == "soft_targets":
        return [name for model in graph.follow(node, "teacher")[:1] for name in _name_known(graph, model)]
    return [name for part in graph.follow(node, "vocabulary") or [node] for name in _name_data(graph, part)]


def _explain_own(names: Sequence[str]) -> str:
    listed = ", ".join(f'"{name}"' for name in names)
    return (
        f"is made from the data sets {', '.join(names)}, each of which has a vocabulary of its own; name parts of one "
        f"data set, or give its models a `vocabulary` of all of them: [[vocabularies]] with corpus = [{listed}]"
    )


def _find_group_problems(node: Node, own: Sequence[str]) -> Iterator[str]:
    """Find a group that chooses the best validation, but is not a data set of the model."""
    training = node.settings.get("training")
    best = training.get("best_by") if isinstance(training, Mapping) else None
    group = best.get("group") if isinstance(best, Mapping) else None
    if isinstance(group, str) and (group not in own or len(own) < 2):
        what = f"is not one of its data sets: {', '.join(own)}" if len(own) > 1 else "the model has one data set"
        yield f"{node.place}.training.best_by.group: {group!r}: {what}; give a metric alone, or another group"


def _find_group_teacher_problems(node: Node, own: Sequence[str]) -> Iterator[str]:
    """Find data sets of a student without a teacher or soft targets, and teachers of other data sets."""
    for key, what in (("teacher", "teacher"), ("soft_targets", "soft targets")):
        named = node.settings.get(key)
        if not isinstance(named, Mapping) or not named:
            continue
        missing, others = [name for name in own if name not in named], [name for name in named if name not in own]
        if len(own) < 2:
            alone = "give the name of its teacher alone" if key == "teacher" else "give objective.soft_targets"
            yield f"{node.place}.{key}: the student has one data set; {alone}"
        elif missing:
            yield (
                f"{node.place}.{key}: no {what} for the data set {', '.join(missing)}; name one for each data set: "
                f"{', '.join(own)}"
            )
        if others and len(own) > 1:
            yield f"{node.place}.{key}: the student does not learn from the data set {', '.join(others)}; leave it out"


def _list_listed(named: Any) -> list[str]:
    """List the names of corpora that a field of a plain table holds."""
    values = named if isinstance(named, list) else [named]
    return [str(value.get("name") if isinstance(value, Mapping) else value) for value in values]


def _find_language_problems(graph: Graph, node: Node) -> Iterator[str]:
    """Find teachers that write another language than that of the corpus that they decode."""
    for teacher in graph.follow(node, "teacher")[:1]:
        written = {data.settings.get("target_language") for data in list_data(graph, teacher)}
        for data in list_data(graph, node):
            wanted = data.settings.get("target_language")
            if wanted is not None and None not in written and wanted not in written:
                yield (
                    f"{node.place}.teacher: {teacher.name!r} writes {', '.join(sorted(map(str, written)))}, but the "
                    f"target language of the corpus is {wanted}; name a teacher of this language"
                )


def _find_soft_target_problems(graph: Graph, student: Node) -> Iterator[str]:
    named = student.settings.get("corpus")
    for soft in graph.follow(student, "objective.soft_targets"):
        for corpus in graph.follow(soft, "corpus"):
            if isinstance(named, str) and corpus.name != named:
                yield (
                    f"{student.place}.objective.soft_targets: {soft.name!r} belongs to the corpus {corpus.name!r}, "
                    f"but the student has {named!r}; name the soft targets of its corpus"
                )
    for soft in graph.follow(student, "soft_targets"):
        for corpus in graph.follow(soft, "corpus"):
            if corpus.name not in _list_listed(named):
                yield (
                    f"{student.place}.soft_targets: {soft.name!r} belongs to the corpus {corpus.name!r}, which the "
                    "student does not have; name the soft targets of its corpora"
                )


def _find_tag_problems(place: str, tag: Any, teacher: Node, advice: str) -> Iterator[str]:
    """Find a tag that is not in the vocabulary of a teacher. There is no problem if the vocabulary cannot be read."""
    path = teacher.settings["path"]
    if not (isinstance(path, str) and isinstance(tag, str) and tag):
        return
    try:
        known = Vocabularies.load(path).source.id_of(tag) is not None
    except ModelError:  # `seqkd prepare` reports this in more detail
        return
    if not known:
        yield f"{place}: the vocabulary of the teacher that is brought along has no piece {tag!r}; {advice}"


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
