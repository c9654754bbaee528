"""Construction of the model and its objective from the settings of a stage file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from torch import nn

from seqkd.config.models import ObjectiveConfig
from seqkd.config.stages import TrainConfig
from seqkd.errors import ConfigError, ModelError
from seqkd.models.checkpoint import load_model, read_config
from seqkd.models.registry import ARCHITECTURES, NO_TRACES, build
from seqkd.objectives.groups import GroupedTeacher
from seqkd.objectives.loss import Loss, WeightedTerm
from seqkd.objectives.registry import build_term
from seqkd.objectives.teacher import Teacher
from seqkd.objectives.terms import Models, Term
from seqkd.stages.train.inputs import Inputs
from seqkd.training.initialiser import Original, initialise


def build_model(config: TrainConfig, inputs: Inputs) -> nn.Module:
    """Build the model with its initial weights, which are fresh or copied from another model.

    Raises:
        ConfigError: Embeddings are shared, but source and target have different vocabularies.
        ModelError: The model cannot be built from its settings, or `init_from` is not a suitable model.
    """
    settings, vocabularies = asdict(config.model.settings), inputs.vocabularies
    if settings.get("embeddings") == "shared" and not vocabularies.joint:
        raise ConfigError(
            "embeddings are shared, but source and target have their own vocabularies",
            where="model.embeddings",
            expected='"decoder" or "separate"',
            hint="or prepare with vocabulary.joint = true",
        )
    model = build(
        config.model.arch,
        settings,
        source_vocab=vocabularies.source.size,
        target_vocab=vocabularies.target.size,
    )
    if getattr(model, "shared_embeddings", False) and not vocabularies.joint:
        raise ConfigError(
            "embeddings are shared, but source and target have their own vocabularies",
            where="model.settings",
            expected="share_all_embeddings = false",
            hint="or prepare with vocabulary.joint = true",
        )
    if config.init_from is None:
        return model
    first = load_model(Path(config.init_from.model))
    if [side.digest for _, side in first.vocabularies.sides()] != [side.digest for _, side in vocabularies.sides()]:
        raise ModelError(
            f"its vocabulary differs from that of {config.prepared}",
            where=config.init_from.model,
            hint="start from a model that was trained on this `prepared` folder",
        )
    original = Original(first.model, first.arch, first.settings)
    initialise(model, config.model.arch, settings, original, config.init_from)
    return model


def build_loss(config: TrainConfig, model: nn.Module, teacher: Teacher | GroupedTeacher | None) -> Loss:
    """Build the objective of a model with its initial weights.

    Args:
        config: The settings of the stage.
        model: The student.
        teacher: The teacher that runs beside it, if there is one.

    Raises:
        ModelError: A term reads states or attention that the architecture of the student or a teacher cannot expose.
    """
    models = Models(model, teacher.models if teacher else ())
    objective, own = config.objective, config.model.record
    terms: list[WeightedTerm] = []
    measure: Term | None = None  # a single term is its own measure
    for number, each in enumerate(objective.terms):
        before = sum(other.type == each.type for other in objective.terms[:number])
        name = f"{each.type}_{before + 1}" if before else each.type
        terms.append(WeightedTerm(term=build_term(each.record, each.settings, models), name=name, weight=each.weight))
    if objective.listed:
        measure = next((part.term for part in terms if part.name == own.objective), None)
        if measure is None:
            default = ObjectiveConfig.model_validate({"type": own.objective}).terms[0]
            measure = build_term(default.record, default.settings, models)
    loss = Loss(terms, teacher=teacher, measure=measure)
    lacking = [(f"the student's architecture {config.model.arch!r}", loss.reads.student.without(own.traces))]
    for folder in objective.teachers:
        arch = read_config(folder)["arch"]
        record = ARCHITECTURES.find(arch)
        shown = NO_TRACES if record is None else record.traces
        lacking.append((f"the architecture {arch!r} of the teacher {folder}", loss.reads.teacher.without(shown)))
    for who, parts in lacking:
        if parts:
            raise ModelError(
                f"{who} cannot expose the tensors that {objective.type} reads: {', '.join(parts)}",
                where="objective",
                expected="terms that read what can be traced (`traces` in the architecture's record)",
            )
    return loss
