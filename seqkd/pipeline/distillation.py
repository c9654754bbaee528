"""The stages of decodes, distilled corpora and soft targets: the resolved stage file of each, and its inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from seqkd.config.sources import SourceConfig
from seqkd.config.stages import DistillConfig, SelectConfig, SoftTargetsConfig
from seqkd.interop.workers import TeacherSettings
from seqkd.pipeline.file import BackTranslationPart, DistillPart, SelectPart, SelfTrainingPart
from seqkd.pipeline.folders import Plan, Stage, derive_seed, is_asked
from seqkd.pipeline.graph import Node
from seqkd.pipeline.vocabularies import find_vocabulary


def plan_distill(node: Node, plan: Plan) -> Iterator[Stage]:
    """Plan the k-best lists of a [[distill]], [backtranslation] or [selftraining]."""
    part = node.settings
    source, asked = _find_source(node, plan)
    # Lists have the pieces of the data set, whatever wrote them.
    foreign = source is not None or any(
        find_vocabulary(plan.graph, plan.pipeline, model) != plan.data(node).key
        for model in plan.graph.follow(node, "teacher")
    )
    config = DistillConfig(
        models=tuple(model.folder for model in plan.linked_outputs(node, "teacher")),
        corpus=plan.linked_outputs(node, "corpus")[0].folder,
        search=part.search,
        batch_tokens=part.batch_tokens,
        precision=part.precision,
        workers=part.workers,
        source=source,
        prepared=plan.prepare_output(node).folder if foreign else None,
    )
    name, out = f"distill.{node.name}", plan.folder(node)
    needs = tuple(dict.fromkeys((*plan.needs(node), *asked)))
    yield Stage(name=name, kind="distill", goal="distill", config=config, out=out, needs=needs)


def _find_source(node: Node, plan: Plan) -> tuple[SourceConfig | None, tuple[Path, ...]]:
    """Find the source of the lists of a [[distill]]: its own, or the teacher that it names; None for models.

    Returns:
        The source, and the file that marks the model that its command runs as complete.
    """
    part = node.settings
    own = isinstance(part, DistillPart) and part.source is not None
    owner = node if own else next((each for each in plan.graph.follow(node, "teacher") if is_asked(each)), None)
    if owner is None:
        return None, ()
    source: SourceConfig = owner.settings.source
    if not isinstance(source.settings, TeacherSettings) or source.settings.model is None:
        return source, ()
    made = plan.linked_outputs(owner, "source.model")
    if not made:
        return source, _find_weights([source.settings.model])
    settings = replace(source.settings, model=made[0].folder)
    return source.model_copy(update={"settings": settings}), (made[0].file,)


def plan_select(node: Node, plan: Plan) -> Iterator[Stage]:
    """Plan the stage of a distilled corpus."""
    yield _plan_choice(node, plan, node.settings.model_dump(exclude={"name", "kbest"}))


def plan_pseudo_pairs(node: Node, plan: Plan) -> Iterator[Stage]:
    """Plan the pairs of monolingual source text and the targets that a model wrote."""
    decoding = {"text", "ratio", "teacher", "corpus", "search", "batch_tokens", "precision"}
    yield _plan_choice(node, plan, node.settings.model_dump(exclude=decoding))


def _plan_choice(node: Node, plan: Plan, settings: dict[str, object]) -> Stage:
    """Plan the choice of targets from k-best lists, with a scorer or without one."""
    part: SelectPart | SelfTrainingPart = node.settings
    files: tuple[Path, ...] = ()
    if part.judge is not None:
        made = {model.name: plan.output(model).folder for model in plan.graph.follow(node, "scorer")}
        folders = {side: made[str(name)] for side, name in part.judge.models.items() if str(name) in made}
        settings["scorer" if part.rerank is None else "rerank"] = part.judge.with_models(folders)
        files = _find_weights(folder for side, folder in part.judge.models.items() if side not in folders)
    return _plan_selection(node, plan, settings, judges=files)


def plan_pairs(node: Node, plan: Plan) -> Iterator[Stage]:
    """Plan the pairs of back-translations and monolingual text."""
    part: BackTranslationPart = node.settings
    yield _plan_selection(node, plan, {"rule": "seqkd", "filters": part.filters, "reverse": True, "tag": part.tag})


def _plan_selection(node: Node, plan: Plan, settings: dict[str, object], judges: tuple[Path, ...] = ()) -> Stage:
    (lists,) = plan.graph.follow(node, "kbest")
    kbest, (text,) = plan.output(lists), plan.linked_outputs(lists, "corpus")
    fixed = {"kbest": kbest.folder, "gold": text.folder, "prepared": plan.prepare_output(node).folder}
    return Stage(
        name=f"select.{node.name}",
        kind="select",
        goal="distill",
        config=SelectConfig.model_validate(fixed | settings),
        out=plan.folder(node),
        needs=(*plan.needs(node), text.file, *judges),
    )


def _find_weights(folders: Iterable[Path]) -> tuple[Path, ...]:
    """Return the weights of models in folders. If a model is missing, `seqkd select` has the better message."""
    files = [folder / "model.safetensors" for folder in folders]
    return tuple(file for file in files if file.exists())


def plan_soft_targets(node: Node, plan: Plan) -> Iterator[Stage]:
    """Plan soft targets: the teachers' distributions at the target positions of a corpus."""
    part = node.settings
    config = SoftTargetsConfig(
        models=tuple(model.folder for model in plan.linked_outputs(node, "teacher")),
        corpus=plan.linked_outputs(node, "corpus")[0].folder,
        top_k=part.top_k,
        samples=part.samples,
        temperature=part.temperature,
        batch_tokens=part.batch_tokens,
        precision=part.precision,
        workers=part.workers,
        seed=derive_seed(plan.pipeline.seed, "soft_targets"),
    )
    yield Stage(
        name=f"soft_targets.{node.name}",
        kind="soft_targets",
        goal="distill",
        config=config,
        out=plan.folder(node),
        needs=plan.needs(node),
    )
