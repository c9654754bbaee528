"""The stages of the parts of a pipeline: the resolved stage file of each, and the files that it needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from seqkd.config.formats import ExportConfig, ImportConfig
from seqkd.config.models import ObjectiveConfig
from seqkd.config.prepare import OWN_TEST, PreparedGroup
from seqkd.config.stages import (
    BlockPath,
    CorpusPaths,
    EncodeConfig,
    FurtherTestConfig,
    FurtherText,
    FurtherVocabularyConfig,
    MonolingualConfig,
    PrepareConfig,
    SampleConfig,
    TrainConfig,
    VocabularyConfig,
    WeightedPath,
)
from seqkd.pipeline.file import (
    BackTranslationPart,
    DataPart,
    SelfTrainingPart,
    StudentPart,
    TeacherPart,
    VocabularyPart,
)
from seqkd.pipeline.folders import (
    MAKE_SAFE,
    Output,
    Plan,
    Stage,
    derive_seed,
    set_later_seed,
    set_seed,
)
from seqkd.pipeline.graph import Node
from seqkd.pipeline.names import (
    BlockName,
    CorpusNames,
    WeightedName,
    list_corpora,
)
from seqkd.pipeline.vocabularies import ENCODED_TEST, find_original, find_vocabulary

# --- text ---------------------------------------------------------------------------------------------------------


def plan_prepare(node: Node, plan: Plan) -> Iterator[Stage]:
    """Plan a data set: fetch its text, and prepare it with its own vocabulary or that of a teacher brought along."""
    part: DataPart = node.settings
    if part.fetch is not None:
        needs = tuple(sorted(part.fetch.script.parent.glob("*.py")))  # the script and modules that it may import
        name, out = plan.stage_name(node, "fetch"), plan.raw_folder(node)
        fetch = Stage(name=name, kind=None, goal="prepare", config=part.fetch, out=out, needs=needs)
        yield fetch
    base = plan.text_folder(node)

    texts = [text.resolve_in(base) for text in (part.train, part.valid, part.test)]
    brought = _find_brought_teacher(node, plan)
    if brought is not None:
        yield from plan_teacher(brought, plan)  # the corpora need its vocabulary; its own turn adds no second stage
    prepare = plan.pipeline.prepare
    shared = [plan.prepare_output(other) for other in plan.graph.follow(node, "shares_sources")]
    config = PrepareConfig(
        train=texts[0],
        valid=texts[1],
        test=texts[2],
        source_language=part.source_language,
        target_language=part.target_language,
        tag=part.tag,
        shares_sources=shared[0].folder if shared else None,
        vocabulary=_add_tags(plan.pipeline.prepare.vocabulary, [node], plan),
        vocabulary_from=None if brought is None else plan.output(brought).folder,
        cleaning=prepare.cleaning,
        shard_rows=prepare.shard_rows,
        seed=derive_seed(plan.pipeline.seed, "prepare"),
    )
    needs = _text_needs(node, [path for text in texts for path in text.files], plan)
    if brought is not None:
        needs = (*needs, plan.output(brought).file)
    needs = (*needs, *(made.file for made in shared))
    name, out = plan.stage_name(node, "prepare"), plan.folder(node)
    yield Stage(name=name, kind="prepare", goal="prepare", config=config, out=out, needs=needs)


def _text_needs(data: Node, files: Iterable[Path], plan: Plan) -> tuple[Path, ...]:
    """Return the files that Make must see before a stage reads text of a data set.

    Missing texts are not named to Make; the message of the stage is better.
    """
    if data.settings.fetch is not None:
        return (plan.text_folder(data) / ".done",)
    return tuple(dict.fromkeys(path for path in files if path.exists()))


def _find_brought_teacher(data: Node, plan: Plan) -> Node | None:
    """Find the first teacher of a data set that is brought along, unless the data set learns a vocabulary."""
    if plan.pipeline.learns_vocabulary:
        return None
    teachers = [node for node in plan.graph.of_kind("teachers") if node.settings.path is not None]
    return next((node for node in teachers if plan.data(node) is data), None)


def _add_tags(settings: VocabularyConfig, sets: Sequence[Node], plan: Plan) -> VocabularyConfig:
    """Return the settings of a vocabulary of data sets, with their tags and the tag of back-translations.

    The tags of data sets are symbols, because they are part of the text. The tag of back-translations is put into rows
    by its id, and text that spells it does not get this id.
    """
    own = (data.settings.tag for data in sets)
    symbols = tuple(dict.fromkeys(tag for tag in own if tag and tag not in (*settings.symbols, *settings.tags)))
    settings = settings.model_copy(update={"symbols": (*settings.symbols, *symbols)}) if symbols else settings
    for node in plan.graph.of_kind("backtranslation"):
        tag = node.settings.tag
        if plan.data(node) in sets and tag and tag not in (*settings.symbols, *settings.tags):
            return settings.model_copy(update={"tags": (*settings.tags, tag)})
    return settings


def plan_vocabulary(node: Node, plan: Plan) -> Iterator[Stage]:
    """Plan a further vocabulary of one or several data sets."""
    part: VocabularyPart = node.settings
    sets = plan.list_data(node)
    gold = [plan.prepare_output(data) for data in sets]
    groups = tuple(PreparedGroup(group=data.name, path=made.folder) for data, made in zip(sets, gold, strict=True))
    config = FurtherVocabularyConfig(
        prepared=groups if len(sets) > 1 else gold[0].folder,
        vocabulary=_add_tags(part.settings, sets, plan),
        seed=derive_seed(plan.pipeline.seed, "prepare"),
    )
    name, out = f"vocabulary.{node.name}", plan.folder(node)
    needs = tuple(made.file for made in gold)
    yield Stage(name=name, kind="vocabulary", goal="prepare", config=config, out=out, needs=needs)


def plan_encoded(node: Node, plan: Plan) -> Iterator[Stage]:
    """Plan a corpus or a test set that is encoded with another vocabulary."""
    (corpus,), (vocabulary,) = (plan.linked_outputs(node, field) for field in ("corpus", "vocabulary"))
    tested = node.kind == ENCODED_TEST
    if tested and find_original(plan.graph, node).kind == "data":
        gold = plan.prepare_output(node)
        corpus = Output(gold.folder / OWN_TEST, gold.file)
    of_data = find_original(plan.graph, node).kind == "data"
    yield Stage(
        name=f"encode.{node.name}" if not tested else f"encode.test.{node.name}",
        kind="encode",
        goal="report" if tested else "prepare" if of_data else "distill",
        config=EncodeConfig(corpus=corpus.folder, vocabulary=vocabulary.folder),
        out=plan.folder(node),
        needs=(corpus.file, vocabulary.file),
    )


def plan_sample(node: Node, plan: Plan) -> Iterator[Stage]:
    """Plan a corpus with one target of each source."""
    (corpus,) = plan.linked_outputs(node, "corpus")
    config = SampleConfig(corpus=corpus.folder, seed=derive_seed(plan.pipeline.seed, "sample"))
    name, out = f"sample.{node.name}", plan.folder(node)
    yield Stage(name=name, kind="sample", goal="prepare", config=config, out=out, needs=(corpus.file,))


def plan_monolingual(node: Node, plan: Plan) -> Iterator[Stage]:
    """Plan the encoding of monolingual text, which all rounds share."""
    part: BackTranslationPart | SelfTrainingPart = node.settings
    data, prepare, gold = plan.data(node), plan.pipeline.prepare, plan.prepare_output(node)
    config = MonolingualConfig(
        text=tuple(plan.text_folder(data) / path for path in part.text),
        prepared=gold.folder,
        side="source" if isinstance(part, SelfTrainingPart) else "target",
        ratio=part.ratio,
        max_length=prepare.cleaning.max_length,
        drop_duplicates=prepare.cleaning.drop_duplicates,
        shard_rows=prepare.shard_rows,
        seed=derive_seed(plan.pipeline.seed, "monolingual"),
    )
    # A fetch step also writes this text. Missing texts are not named to Make.
    files = [] if data.settings.fetch is not None else [path for path in config.text if path.exists()]
    yield Stage(
        name=node.name,
        kind="monolingual",
        goal="prepare",
        config=config,
        out=plan.folder(node),
        needs=(gold.file, *dict.fromkeys(files)),
    )


def plan_test(node: Node, plan: Plan) -> Iterator[Stage]:
    """Plan a further test set, encoded with the vocabulary of its data set."""
    data, gold = plan.data(node), plan.prepare_output(node)
    text: FurtherText = node.settings.resolve_in(plan.text_folder(data))
    config = FurtherTestConfig(text=text, prepared=gold.folder, shard_rows=plan.pipeline.prepare.shard_rows)
    # A fetch step also writes this text. Missing texts are not named to Make.
    fetched = text.source is not None and data.settings.fetch is not None
    files = [] if fetched else [path for path in text.find_files().files if path.exists()]
    needs = (gold.file, *dict.fromkeys(files))
    name, out = f"test.{node.name}", plan.folder(node)
    yield Stage(name=name, kind="test", goal="prepare", config=config, out=out, needs=needs)


# --- models -------------------------------------------------------------------------------------------------------


def plan_teacher(node: Node, plan: Plan) -> Iterator[Stage]:
    """Plan a teacher or a member of an ensemble. A model folder that is brought along has no stage."""
    part: TeacherPart = node.settings
    if part.format is not None:
        yield from _plan_import(node, plan)
    if part.training is None:
        return
    training = set_seed(part.training, plan.pipeline.seed, part.name)
    if node.name != part.name and node.seed == 1:  # members differ only in their seed (Freitag et al. 2017)
        training = training.model_copy(update={"seed": derive_seed(training.seed, node.name)})
    config = TrainConfig(
        role="teacher",
        prepared=_prepared_output(node, plan).folder,
        corpus=_corpus_paths(part.corpus, node, plan),
        corpus_temperature=part.corpus_temperature,
        model=part.model,
        objective=part.objective,
        training=set_later_seed(training, node.seed),
    )
    out = plan.folder(node)
    name = out.name if plan.only(node) else f"teacher.{node.name}"
    needs = plan.needs(node, _prepared_output(node, plan).file)
    yield Stage(name=name, kind="train", goal="teacher", config=config, out=out, needs=needs)


def _plan_import(node: Node, plan: Plan) -> Iterator[Stage]:
    """Plan a teacher of another toolkit: fetch its files, and import them."""
    part: TeacherPart = node.settings
    assert part.path is not None  # the schema of the file demands it
    assert part.format is not None
    path, needs = part.path, _list_files(part.path)
    if part.fetch is not None:
        fetched = plan.actual_folder(plan.root / "fetched" / node.name)
        data = plan.data(node)
        texts = data.settings.train.resolve_in(plan.text_folder(data)).files
        yield Stage(
            name=plan.stage_name(node, "fetch.teacher"),
            kind=None,
            goal="teacher",
            config=part.fetch.model_copy(update={"args": ("--text", *map(str, texts), *part.fetch.args)}),
            out=fetched,
            needs=(*sorted(part.fetch.script.parent.glob("*.py")), *_text_needs(data, texts, plan)),
        )
        fetched = plan.actual_folder(fetched)
        path, needs = fetched / part.path, (fetched / ".done",)
    config, out = ImportConfig(path=path, format=part.format), plan.folder(node)
    name = out.name if plan.only(node) else f"teacher.{node.name}"
    yield Stage(name=name, kind="import", goal="teacher", config=config, out=out, needs=needs)


def _list_files(path: Path) -> tuple[Path, ...]:
    """List a file, or the files in a folder, that Make can name. A missing one is left to the message of the stage."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return tuple(file for file in files if file.is_file() and MAKE_SAFE.match(str(file)))


def plan_export(node: Node, plan: Plan) -> Iterator[Stage]:
    """Plan the export of a model."""
    (model,) = plan.linked_outputs(node, "model")
    config = ExportConfig(model=model.folder, format=node.settings.format)
    name, out = f"export.{node.name}", plan.folder(node)
    yield Stage(name=name, kind="export", goal="exports", config=config, out=out, needs=(model.file,))


def plan_student(node: Node, plan: Plan) -> Iterator[Stage]:
    """Plan a student."""
    part: StudentPart = node.settings
    first = plan.linked_outputs(node, "init_from")
    config = TrainConfig(
        role="student",
        prepared=_prepared_output(node, plan).folder,
        corpus=None if part.corpus is None else _corpus_paths(part.corpus, node, plan),
        corpus_temperature=part.corpus_temperature,
        teachers=_find_group_teachers(part, node, plan),
        soft_targets={
            group: soft.folder
            for group, soft in zip(part.soft_targets, plan.linked_outputs(node, "soft_targets"), strict=True)
        },
        alternate=_block_paths(part.alternate, node, plan),
        model=part.model,
        objective=_fill_in_teachers(part.objective, node, plan),
        training=set_later_seed(set_seed(part.training, plan.pipeline.seed, "student"), node.seed),
        init_from=None if part.init_from is None else replace(part.init_from, model=str(first[0].folder)),
        hooks=part.hooks,
    )
    name, out, needs = f"student.{node.name}", plan.folder(node), plan.needs(node, _prepared_output(node, plan).file)
    yield Stage(name=name, kind="train", goal="students", config=config, out=out, needs=needs)


def plan_reverse(node: Node, plan: Plan) -> Iterator[Stage]:
    """Plan the reverse model, for back-translation."""
    part: BackTranslationPart = node.settings
    config = TrainConfig(
        role="teacher",
        prepared=plan.prepare_output(node).folder,
        corpus=_corpus_paths(part.corpus, node, plan),
        model=part.model,
        objective=part.objective,
        training=set_seed(part.training, plan.pipeline.seed, "reverse"),
        reverse=True,
    )
    needs = plan.needs(node, plan.prepare_output(node).file)
    yield Stage(name=node.name, kind="train", goal="distill", config=config, out=plan.folder(node), needs=needs)


def _prepared_output(model: Node, plan: Plan) -> Output:
    """Return the folder with the vocabulary and the validation text of a model."""
    vocabulary = plan.graph[find_vocabulary(plan.graph, plan.pipeline, model)]
    return plan.prepare_output(model) if vocabulary.kind == "data" else plan.output(vocabulary)


def _corpus_paths(named: CorpusNames | None, node: Node, plan: Plan) -> CorpusPaths:
    """Return the training corpora of a model, by path instead of name.

    Each one has its data set as its group if the vocabulary of the model belongs to several data sets.
    """
    corpora, groups = plan.linked_outputs(node, "corpus"), _find_groups(node, plan)
    if not isinstance(named, tuple) and not any(groups):
        return corpora[0].folder
    shares = list_corpora(named) or tuple(WeightedName(name=part.name) for part in plan.graph.follow(node, "corpus"))
    return tuple(
        WeightedPath(path=corpus.folder, weight=share.weight, group=group, noise=share.noise)
        for corpus, share, group in zip(corpora, shares, groups, strict=True)
    )


def _block_paths(blocks: tuple[BlockName, ...] | None, node: Node, plan: Plan) -> tuple[BlockPath, ...] | None:
    """Return the corpora of a model that are trained on in turn, by path instead of name."""
    if blocks is None:
        return None
    corpora, groups = plan.linked_outputs(node, "corpus"), _find_groups(node, plan)
    return tuple(
        BlockPath(corpus=corpus.folder, updates=block.updates, group=group)
        for block, corpus, group in zip(blocks, corpora, groups, strict=True)
    )


def _find_groups(node: Node, plan: Plan) -> list[str | None]:
    """Find the group of each corpus of a model: its data set if the vocabulary belongs to several, or None."""
    grouped = len(plan.list_data(plan.graph[find_vocabulary(plan.graph, plan.pipeline, node)])) > 1
    return [plan.data(part).name if grouped else None for part in plan.graph.follow(node, "corpus")]


def _fill_in_teachers(objective: ObjectiveConfig, node: Node, plan: Plan) -> ObjectiveConfig:
    """Replace the names of teachers and soft targets in an objective by their folders."""
    if not objective.asking:
        return objective
    grouped = isinstance(node.settings.teacher, dict)
    return objective.with_teachers(
        teachers=() if grouped else tuple(made.folder for made in plan.linked_outputs(node, "teacher")),
        soft_targets=next((soft.folder for soft in plan.linked_outputs(node, "objective.soft_targets")), None),
    )


def _find_group_teachers(part: StudentPart, node: Node, plan: Plan) -> dict[str, tuple[Path, ...]]:
    """Find the folders of the teachers of each data set; empty if the student names one teacher for all."""
    if not isinstance(part.teacher, dict):
        return {}
    named = {other.name: other for other in plan.graph.follow(node, "teacher")}
    found = {}
    for group, name in part.teacher.items():
        whole = [plan.graph[key] for key in named[name].whole] or [named[name]]
        found[group] = tuple(plan.output(model).folder for model in whole)
    return found
