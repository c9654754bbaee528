"""The stages that the parts of a pipeline expand to: the resolved stage file of each, and the files that it needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from seqkd.config.models import ObjectiveConfig
from seqkd.config.select import SelectSettings
from seqkd.config.stages import (
    CorpusPaths,
    DistillConfig,
    FurtherTestConfig,
    FurtherText,
    MonolingualConfig,
    PrepareConfig,
    SelectConfig,
    SoftTargetsConfig,
    TrainConfig,
    VocabularyConfig,
    WeightedPath,
)
from seqkd.pipeline.file import BackTranslationPart, CorpusNames, DataPart, DistillPart, TeacherPart
from seqkd.pipeline.folders import Plan, Stage, reseeded, seed_of, seeded
from seqkd.pipeline.graph import Node

# --- text ---------------------------------------------------------------------------------------------------------


def prepared(node: Node, plan: Plan) -> Iterator[Stage]:
    """A data set: its text fetched, and prepared with a vocabulary of its own or that of a teacher brought along."""
    part: DataPart = node.settings
    needs: tuple[Path, ...]
    if part.fetch is not None:
        needs = tuple(sorted(part.fetch.script.parent.glob("*.py")))  # the script and what it may import
        name, out = plan.stage_name(node, "fetch"), plan.raw(node)
        fetch = Stage(name=name, kind=None, goal="prepare", config=part.fetch, out=out, needs=needs)
        yield fetch
    base = plan.text(node)

    texts = [text.within(base) for text in (part.train, part.valid, part.test)]
    brought = _brought(node, plan)
    prepare = plan.pipeline.prepare
    config = PrepareConfig(
        train=texts[0],
        valid=texts[1],
        test=texts[2],
        source_language=part.source_language,
        target_language=part.target_language,
        vocabulary=_vocabulary(node, plan),
        vocabulary_from=None if brought is None else brought.settings.path,
        cleaning=prepare.cleaning,
        shard_rows=prepare.shard_rows,
        seed=seed_of(plan.pipeline.seed, "prepare"),
    )
    if part.fetch is not None:
        needs = (base / ".done",)
    else:  # a text that is missing is not named to Make: `seqkd prepare` says it better
        files = [path for text in texts for path in text.files]
        needs = tuple(dict.fromkeys(path for path in files if path.exists()))
    if brought is not None:
        needs = (*needs, plan.made(brought).file)
    name, out = plan.stage_name(node, "prepare"), plan.folder(node)
    yield Stage(name=name, kind="prepare", goal="prepare", config=config, out=out, needs=needs)


def _brought(data: Node, plan: Plan) -> Node | None:
    """The first teacher of a data set that is brought along."""
    teachers = [node for node in plan.graph.of("teachers") if node.settings.path is not None]
    return next((node for node in teachers if plan.data(node) is data), None)


def _vocabulary(data: Node, plan: Plan) -> VocabularyConfig:
    """The vocabulary's settings, with the tag of back-translations among its tags.

    Sources that spell the tag do not get its id.
    """
    settings = plan.pipeline.prepare.vocabulary
    for node in plan.graph.of("backtranslation"):
        tag = node.settings.tag
        if plan.data(node) is data and tag and tag not in (*settings.symbols, *settings.tags):
            return settings.model_copy(update={"tags": (*settings.tags, tag)})
    return settings


def monolingual(node: Node, plan: Plan) -> Iterator[Stage]:
    """The monolingual text, encoded; it serves all rounds."""
    part: BackTranslationPart = node.settings
    data, prepare, gold = plan.data(node), plan.pipeline.prepare, plan.prepared(node)
    config = MonolingualConfig(
        text=tuple(plan.text(data) / path for path in part.text),
        prepared=gold.folder,
        ratio=part.ratio,
        max_length=prepare.cleaning.max_length,
        drop_duplicates=prepare.cleaning.drop_duplicates,
        shard_rows=prepare.shard_rows,
        seed=seed_of(plan.pipeline.seed, "monolingual"),
    )
    # With a fetch step the text is made with the gold one; a text that is missing is not named to Make.
    files = [] if data.settings.fetch is not None else [path for path in config.text if path.exists()]
    yield Stage(
        name="monolingual",
        kind="monolingual",
        goal="prepare",
        config=config,
        out=plan.folder(node),
        needs=(gold.file, *dict.fromkeys(files)),
    )


def tested(node: Node, plan: Plan) -> Iterator[Stage]:
    """A further test set, encoded with the vocabulary of its data set."""
    data, gold = plan.data(node), plan.prepared(node)
    text: FurtherText = node.settings.within(plan.text(data))
    config = FurtherTestConfig(text=text, prepared=gold.folder, shard_rows=plan.pipeline.prepare.shard_rows)
    # With a fetch step the text is made with the gold one; a text that is missing is not named to Make.
    fetched = text.source is not None and data.settings.fetch is not None
    files = [] if fetched else [path for path in text.found().files if path.exists()]
    needs = (gold.file, *dict.fromkeys(files))
    name, out = f"test.{node.name}", plan.folder(node)
    yield Stage(name=name, kind="test", goal="prepare", config=config, out=out, needs=needs)


# --- models -------------------------------------------------------------------------------------------------------


def teacher(node: Node, plan: Plan) -> Iterator[Stage]:
    """A teacher, or a member of an ensemble of them; no stage if it is brought along."""
    part: TeacherPart = node.settings
    if part.training is None:
        return
    training = seeded(part.training, plan.pipeline.seed, part.name)
    if node.name != part.name and node.seed == 1:  # members differ in nothing else (Freitag et al. 2017)
        training = training.model_copy(update={"seed": seed_of(training.seed, node.name)})
    config = TrainConfig(
        role="teacher",
        prepared=plan.prepared(node).folder,
        corpus=_corpora(part.corpus, node, plan),
        model=part.model,
        objective=part.objective,
        training=reseeded(training, node.seed),
    )
    out = plan.folder(node)
    name = out.name if plan.only(node) else f"teacher.{node.name}"
    needs = plan.needs(node, plan.prepared(node).file)
    yield Stage(name=name, kind="train", goal="teacher", config=config, out=out, needs=needs)


def student(node: Node, plan: Plan) -> Iterator[Stage]:
    """A student."""
    part = node.settings
    first = plan.linked(node, "init_from")
    config = TrainConfig(
        role="student",
        prepared=plan.prepared(node).folder,
        corpus=_corpora(part.corpus, node, plan),
        model=part.model,
        objective=_taught(part.objective, node, plan),
        training=reseeded(seeded(part.training, plan.pipeline.seed, "student"), node.seed),
        init_from=None if part.init_from is None else replace(part.init_from, model=str(first[0].folder)),
        hooks=part.hooks,
    )
    name, out, needs = f"student.{node.name}", plan.folder(node), plan.needs(node, plan.prepared(node).file)
    yield Stage(name=name, kind="train", goal="students", config=config, out=out, needs=needs)


def reverse(node: Node, plan: Plan) -> Iterator[Stage]:
    """The model of the other direction, for back-translation."""
    part: BackTranslationPart = node.settings
    config = TrainConfig(
        role="teacher",
        prepared=plan.prepared(node).folder,
        corpus=_corpora(part.corpus, node, plan),
        model=part.model,
        objective=part.objective,
        training=seeded(part.training, plan.pipeline.seed, "reverse"),
        reverse=True,
    )
    needs = plan.needs(node, plan.prepared(node).file)
    yield Stage(name=node.name, kind="train", goal="distill", config=config, out=plan.folder(node), needs=needs)


def _corpora(named: CorpusNames | None, node: Node, plan: Plan) -> CorpusPaths:
    """The training corpora of a model, by path in place of name."""
    corpora = plan.linked(node, "corpus")
    if not isinstance(named, tuple):
        return corpora[0].folder
    return tuple(
        WeightedPath(path=corpus.folder, weight=part.weight) for part, corpus in zip(named, corpora, strict=True)
    )


def _taught(objective: ObjectiveConfig, node: Node, plan: Plan) -> ObjectiveConfig:
    """The objective with the folders that it asks in place of names."""
    if not objective.asking:
        return objective
    return objective.taught_by(
        teachers=tuple(made.folder for made in plan.linked(node, "teacher")),
        soft_targets=next((soft.folder for soft in plan.linked(node, "objective.soft_targets")), None),
    )


# --- distillation -------------------------------------------------------------------------------------------------


def decoded(node: Node, plan: Plan) -> Iterator[Stage]:
    """K-best lists, of what a [[distill]] or [backtranslation] says about the search."""
    part = node.settings
    source = part.source if isinstance(part, DistillPart) else None
    config = DistillConfig(
        models=tuple(model.folder for model in plan.linked(node, "teacher")),
        corpus=plan.linked(node, "corpus")[0].folder,
        search=part.search,
        batch_tokens=part.batch_tokens,
        precision=part.precision,
        workers=part.workers,
        source=source,
        prepared=None if source is None else plan.prepared(node).folder,
    )
    name, out = f"distill.{node.name}", plan.folder(node)
    yield Stage(name=name, kind="distill", goal="distill", config=config, out=out, needs=plan.needs(node))


def selected(node: Node, plan: Plan) -> Iterator[Stage]:
    """A distilled corpus."""
    part = node.settings
    yield _select(node, plan, part.model_dump(exclude={"name", "kbest"}), judges=_judges(part))


def paired(node: Node, plan: Plan) -> Iterator[Stage]:
    """The pairs of back-translations and monolingual text."""
    part: BackTranslationPart = node.settings
    yield _select(node, plan, {"rule": "seqkd", "filters": part.filters, "reverse": True, "tag": part.tag})


def _select(node: Node, plan: Plan, settings: dict[str, object], judges: tuple[Path, ...] = ()) -> Stage:
    (lists,) = plan.graph.linked(node, "kbest")
    kbest, (text,) = plan.made(lists), plan.linked(lists, "corpus")
    fixed = {"kbest": kbest.folder, "gold": text.folder, "prepared": plan.prepared(node).folder}
    return Stage(
        name=f"select.{node.name}",
        kind="select",
        goal="distill",
        config=SelectConfig.model_validate(fixed | settings),
        out=plan.folder(node),
        needs=(*plan.needs(node), text.file, *judges),
    )


def _judges(part: SelectSettings) -> tuple[Path, ...]:
    """What tells that a model which reranks has changed; `seqkd select` says it better than Make if it is missing."""
    models = [] if part.rerank is None else part.rerank.models.values()
    files = [folder / "model.safetensors" for folder in models]
    return tuple(file for file in files if file.exists())


def softened(node: Node, plan: Plan) -> Iterator[Stage]:
    """Soft targets: the teachers' distributions at a corpus' target positions."""
    part = node.settings
    config = SoftTargetsConfig(
        models=tuple(model.folder for model in plan.linked(node, "teacher")),
        corpus=plan.linked(node, "corpus")[0].folder,
        top_k=part.top_k,
        samples=part.samples,
        temperature=part.temperature,
        batch_tokens=part.batch_tokens,
        precision=part.precision,
        workers=part.workers,
        seed=seed_of(plan.pipeline.seed, "soft_targets"),
    )
    yield Stage(
        name=f"soft_targets.{node.name}",
        kind="soft_targets",
        goal="distill",
        config=config,
        out=plan.folder(node),
        needs=plan.needs(node),
    )
