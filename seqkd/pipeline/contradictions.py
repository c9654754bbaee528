"""Checks for settings of a pipeline that contradict each other, before a teacher is trained or a corpus decoded.

Each problem is one line with its place in the file. The schema and the references have no other problems.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqkd.config.models import ModelConfig, ObjectiveConfig
from seqkd.errors import ModelError, SeqkdError
from seqkd.interop.formats import FORMATS
from seqkd.metrics.registry import METRICS
from seqkd.models.registry import ARCHITECTURES
from seqkd.models.settings import stored_settings
from seqkd.objectives.registry import TaughtSettings
from seqkd.pipeline.expansion import build_graph
from seqkd.pipeline.file import PipelineConfig, SoftTargetsPart, StudentPart
from seqkd.pipeline.folders import find_data
from seqkd.pipeline.graph import Graph, Key
from seqkd.pipeline.vocabularies import find_vocabulary, is_brought
from seqkd.text.vocabularies import Vocabularies


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is trained here, or a readable one that is brought along.

    Attributes:
        arch: The name of the architecture.
        settings: The architecture's settings, by name.
    """

    arch: str
    settings: Mapping[str, Any]


def find_setting_problems(pipeline: PipelineConfig, graph: Graph) -> Iterator[str]:
    """Find the contradictions of a pipeline.

    Args:
        pipeline: A file without other problems.
        graph: The parts of the file, with the file's plain values.
    """
    models = _list_models(pipeline)
    sizes = dict(_vocabulary_sizes(pipeline, graph))
    yield from _find_vocabulary_problems(pipeline)
    yield from _find_teacher_problems(pipeline, graph)
    yield from _find_soft_size_problems(pipeline, graph, sizes)
    yield from _find_score_problems(pipeline, graph)
    for node in graph.of_kind("samples"):
        data = next(part for part in pipeline.data if part.name == find_data(graph, node).name)
        if len(data.train.references) < 2:
            yield (
                f"{node.place}.corpus: the data set {data.name!r} has one target for each source, so there is nothing "
                "to draw; give its train.target a list of files"
            )
    for part in pipeline.select:
        table = "scorer" if part.rerank is None else "rerank"
        made = {model.name for model in graph.follow(graph["select", part.name], "scorer")}
        for side, path in () if part.judge is None else part.judge.models.items():
            if str(path) not in made and not path.is_dir():
                yield f"select.{part.name}.{table}.{side}: no such model folder in {Path.cwd()}: {path}"
    for student in pipeline.students:
        place = f"students.{student.name}"
        yield from _find_taught_problems(pipeline, student)
        yield from _find_top_k_problems(place, student.objective, sizes.get(("students", student.name)))
        if student.init_from is not None and student.init_from.model in models:
            yield from _find_start_problems(place, student, models[student.init_from.model])
    yield from _find_embedding_problems(pipeline, graph)
    yield from _find_metric_problems(pipeline)


def _list_models(pipeline: PipelineConfig) -> dict[str, Model]:
    """List all models by name, except unreadable ones that are brought along, which `prepare` refuses."""
    found = {student.name: _describe(student.model) for student in pipeline.students}
    for part in pipeline.teachers:
        if part.trained:
            found |= {name: _describe(part.model) for name in part.names}
        elif part.folder is not None and (config := _read_config(part.folder)) is not None:
            found |= dict.fromkeys(part.names, Model(config["arch"], config["settings"]))
    return found


def _describe(model: ModelConfig) -> Model:
    return Model(model.arch, stored_settings(model.settings))


def _read_config(folder: Path | None) -> dict[str, Any] | None:
    """Read the description of a model from its folder. Return None if the description is missing or unreadable."""
    from seqkd.models.checkpoint import read_config  # imports torch

    if folder is None or not (folder / "config.json").is_file():
        return None
    try:
        return read_config(folder)
    except ModelError:
        return None


# --- teachers -----------------------------------------------------------------------------------------------------


def _find_teacher_problems(pipeline: PipelineConfig, graph: Graph) -> Iterator[str]:
    """Find teachers that are brought along and cannot teach, or whose vocabulary differs from that of the first."""
    first: dict[str, tuple[Path, tuple[str, str]]] = {}
    asked = {key for node in graph for key in node.links.get("teacher", ())}
    for node, part in zip(graph.parts("teachers"), pipeline.teachers, strict=True):
        if part.folder is None:
            continue
        config = _read_config(part.folder)
        if config is None:
            yield from _find_foreign_model(node.place, part.folder)
            continue
        record = ARCHITECTURES.find(config["arch"])
        if node.key in asked and (record is None or not record.left_to_right):
            teaching = ", ".join(each.name for each in ARCHITECTURES.all() if each.left_to_right)
            yield (
                f"{node.place}.path: {part.folder} is of arch {config['arch']!r}, which cannot teach; give one of: "
                f"{teaching}"
            )
        own = (config["vocabulary"], config["source_vocabulary"] or config["vocabulary"])
        path, shared = first.setdefault(find_data(graph, node).name, (part.folder, own))
        if own != shared and not pipeline.learns_vocabulary:
            yield (
                f"{node.place}.path: the vocabulary of {part.folder} differs from that of {path}, which the data set "
                "uses; add [prepare.vocabulary]: the data set then learns a vocabulary, and each teacher keeps its own"
            )


def _find_score_problems(pipeline: PipelineConfig, graph: Graph) -> Iterator[str]:
    """Find rules and filters that read scores of lists whose source gives none."""
    asked = {("distill", part.name): part.source for part in pipeline.distill}
    asked |= {("teachers", part.name): part.source for part in pipeline.teachers}
    for part in pipeline.select:
        for lists in graph.follow(graph["select", part.name], "kbest"):
            for node in (lists, *graph.follow(lists, "teacher")):
                source = asked.get(node.key)
                if source is None or not source.unscored:
                    continue
                for key in part.reads_scores:
                    what = f"{part.rule!r} reads" if key == "rule" else "reads"
                    yield (
                        f"select.{part.name}.{key}: {what} the scores of {lists.name!r}, but {node.place}.source gives "
                        "texts without scores; choose a rule and filters that do not read scores, or a source that "
                        "gives them"
                    )


def _find_metric_problems(pipeline: PipelineConfig) -> Iterator[str]:
    """Find metrics that need accepted translations if a test text has none."""
    needing = [name for name in pipeline.evaluate.metrics or () if "accepted" in METRICS.get(name).needs]
    for data in pipeline.data:
        texts = {"test": data.test.accepted, **{f"tests.{name}": text.accepted for name, text in data.tests.items()}}
        without = [name for name, accepted in texts.items() if accepted is None]
        if needing and without:
            yield (
                f"evaluate.metrics: {', '.join(needing)} needs accepted translations, but {', '.join(without)} of the "
                f"data set {data.name} has none; give `accepted` there, or leave the metric out"
            )


# --- vocabularies -------------------------------------------------------------------------------------------------


def _vocabulary_sizes(pipeline: PipelineConfig, graph: Graph) -> Iterator[tuple[tuple[str, str], int]]:
    """Find the largest possible size of the target vocabulary of each part that has one, if it is known."""
    own, sizes = _list_sizes(pipeline, graph)
    for node in graph.of_kind("students", "soft_targets"):
        model = graph.follow(node, "teacher")[0] if node.kind == "soft_targets" else node
        key = find_vocabulary(graph, pipeline, model)
        size = sizes.get(key) if key in sizes else own.get(key[1], pipeline.prepare.vocabulary.size)
        if size:
            yield node.key, size


def _list_sizes(pipeline: PipelineConfig, graph: Graph) -> tuple[dict[str, int], dict[Key, int]]:
    """List the sizes of vocabularies that are brought along by data set, and those of vocabularies and teachers by key.

    The size is 0 if it is not known: the model is still to be imported or cannot be read, or its tokenizer needs a
    library.
    """
    sizes: dict[Key, int] = {("vocabularies", part.name): part.size for part in pipeline.vocabularies}
    of_data: dict[str, int] = {}
    for node, part in zip(graph.parts("teachers"), pipeline.teachers, strict=True):
        if part.path is None:
            continue
        try:
            size = 0 if part.folder is None else Vocabularies.load(part.folder).target.size
        except ModelError:
            size = 0
        sizes[node.key] = size
        if not pipeline.learns_vocabulary:
            of_data.setdefault(find_data(graph, node).name, size)
    return of_data, sizes


def _find_vocabulary_problems(pipeline: PipelineConfig) -> Iterator[str]:
    """Find models that are compared piece by piece with a model of another vocabulary, in all rounds."""
    graph = build_graph(pipeline)

    def describe(key: Key) -> str:
        return {"vocabularies": f"the vocabulary {key[1]!r}", "data": "the vocabulary of the data set"}.get(
            key[0], f"the vocabulary that {key[1]!r} brings along"
        )

    for node in graph.of_kind("students"):
        own = find_vocabulary(graph, pipeline, node)
        soft = [*graph.follow(node, "objective.soft_targets"), *graph.follow(node, "soft_targets")]
        asked = [("objective", "the distributions of", each) for each in graph.follow(node, "teacher")]
        for part in soft:
            asked += [("objective", "the soft targets of", each) for each in graph.follow(part, "teacher")[:1]]
        asked += [("init_from", "the weights of", each) for each in graph.follow(node, "init_from")]
        for field, taken, other in asked:
            theirs = find_vocabulary(graph, pipeline, other)
            if theirs == own:
                continue
            advice = (
                "learn from a corpus that the teacher wrote ([[distill]] and [[select]])"
                if field == "objective"
                else "leave init_from out"
            )
            yield (
                f"{node.place}.{field}: takes {taken} {other.name!r}, which has {describe(theirs)}, but the student "
                f"has {describe(own)}, whose pieces differ; give both models the same vocabulary, or {advice}"
            )


def _find_foreign_model(place: str, path: Path) -> Iterator[str]:
    """Find a model of another toolkit whose format the file does not name."""
    name = next((each.name for each in FORMATS.all() if each.read is not None and each.fits(path)), None)
    if name is not None:
        yield f'{place}.path: {path} is a model of {name}; add format = "{name}", with which a stage imports it'


def _find_soft_size_problems(
    pipeline: PipelineConfig, graph: Graph, sizes: Mapping[tuple[str, str], int]
) -> Iterator[str]:
    for node, part in zip(graph.of_kind("soft_targets"), pipeline.soft_targets, strict=True):
        yield from _check_top_k(f"{node.place}.top_k", part.top_k, sizes.get(node.key))


def _find_top_k_problems(place: str, objective: ObjectiveConfig, size: int | None) -> Iterator[str]:
    for where, term in _place_terms(f"{place}.objective", objective):
        yield from _check_top_k(f"{where}.top_k", getattr(term.asking, "top_k", None), size)


def _check_top_k(place: str, top_k: int | None, size: int | None) -> Iterator[str]:
    if top_k is not None and size is not None and top_k > size:
        yield f"{place}: is {top_k:,}, but the vocabulary has {size:,} pieces; give at most {size}"


def _find_embedding_problems(pipeline: PipelineConfig, graph: Graph) -> Iterator[str]:
    """Find embeddings that source and target share although each side has its own vocabulary."""
    apart = {("vocabularies", part.name) for part in pipeline.vocabularies if not part.joint}
    if not pipeline.prepare.vocabulary.joint:
        apart |= {node.key for node in graph.of_kind("data")}
    if not pipeline.learns_vocabulary:
        apart -= {find_data(graph, node).key for node in graph.of_kind("teachers") if is_brought(node)}
    parts = [*zip(graph.parts("teachers"), pipeline.teachers, strict=True)]
    trained = [(node, part.model) for node, part in parts if part.trained]
    trained += [(node, part.model) for node, part in zip(graph.parts("students"), pipeline.students, strict=True)]
    for node, model in trained:
        key = find_vocabulary(graph, pipeline, node)
        if getattr(model.settings, "embeddings", None) == "shared" and key in apart:
            place = f"vocabularies.{key[1]}" if key[0] == "vocabularies" else "prepare.vocabulary"
            yield (
                f'{node.place}.model.embeddings: is "shared", but {place}.joint is false; give "decoder" or "separate"'
            )


# --- students -----------------------------------------------------------------------------------------------------


def _place_terms(place: str, objective: ObjectiveConfig) -> Iterator[tuple[str, Any]]:
    """List the terms of an objective with their places."""
    for index, term in enumerate(objective.terms):
        yield (f"{place}.terms.{index}" if objective.listed else place), term


def _find_taught_problems(pipeline: PipelineConfig, student: StudentPart) -> Iterator[str]:
    """Find objectives that cannot learn from the soft targets that they name."""
    written = {part.name: part for part in pipeline.soft_targets}
    for place, term in _place_terms(f"students.{student.name}.objective", student.objective):
        taught = term.taught
        named: tuple[str, ...] = () if taught is None else (str(taught.soft_targets),)
        if taught is None and term.record.needs.soft_targets:
            taught, named = term.settings, tuple(student.soft_targets.values())
        for soft in (written[name] for name in named if name in written):
            yield from _find_unlike(place, taught, soft)


def _find_unlike(place: str, taught: TaughtSettings, soft: SoftTargetsPart) -> Iterator[str]:
    """Find settings of a term that its soft targets do not have."""
    if taught.temperature != soft.temperature:
        yield (
            f"{place}.temperature: is {taught.temperature}, but the soft targets {soft.name!r} are written at "
            f"temperature {soft.temperature}; give both the same temperature"
        )
    if soft.samples is not None and taught.direction == "reverse":
        yield (
            f'{place}.direction: is "reverse", but the soft targets {soft.name!r} are samples, which give every '
            'other piece probability zero; give "forward", or top_k in place of samples'
        )


def _find_start_problems(place: str, student: StudentPart, first: Model) -> Iterator[str]:
    """Find reasons why a student cannot start from a model. Both models are built without memory for weights."""
    assert student.init_from is not None
    own = _describe(student.model)
    if own == first and not student.init_from.choices:
        return
    import torch  # imported only if a student starts from a different model

    from seqkd.models.registry import build
    from seqkd.training.initialiser import Original, initialise

    def build_empty(model: Model) -> torch.nn.Module:
        with torch.device("meta"):
            return build(model.arch, model.settings, source_vocab=16, target_vocab=16)

    if own.arch == first.arch:
        try:
            models = build_empty(own), build_empty(first)
        except (SeqkdError, RuntimeError):  # a package is missing, or cannot build without memory
            return
    else:
        models = torch.nn.Module(), torch.nn.Module()
    try:
        initialise(
            models[0], own.arch, own.settings, Original(models[1], first.arch, first.settings), student.init_from
        )
    except ModelError as error:
        what = " ".join(error.what.split())
        expected = f"; expected: {error.expected}" if error.expected else ""
        yield f"{place}.{what}" if what.startswith("init_from") else f"{place}.init_from: {what}{expected}"
