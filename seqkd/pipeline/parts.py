"""The kinds of part of a pipeline, with their references to other parts and the stages that they expand to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from seqkd.interop.sources import WORKER
from seqkd.models.registry import ARCHITECTURES, DEFAULT
from seqkd.objectives.registry import OBJECTIVES
from seqkd.pipeline.distillation import plan_distill, plan_pairs, plan_pseudo_pairs, plan_select, plan_soft_targets
from seqkd.pipeline.evaluation import plan_evaluation, plan_report
from seqkd.pipeline.file import BACK_TRANSLATION, ENSEMBLE, GOLD, MOST_SEEDS, SELF_TRAINING, TEACHER, teacher_names
from seqkd.pipeline.graph import Part, Reference, Table
from seqkd.pipeline.recipes import (
    plan_encoded,
    plan_export,
    plan_monolingual,
    plan_prepare,
    plan_reverse,
    plan_sample,
    plan_student,
    plan_teacher,
    plan_test,
    plan_vocabulary,
)
from seqkd.selection.registry import DEFAULT_SCORER, SCORERS


def asks_teacher(table: Table) -> bool:
    """Whether a term of a model's objective, given the model's table, asks a teacher that runs beside it."""
    if table.get("soft_targets"):
        return False  # of each data set
    model = table.get("model")
    architecture = ARCHITECTURES.find(str(model.get("arch", DEFAULT) if isinstance(model, Mapping) else DEFAULT))
    usual = "" if architecture is None else architecture.objective
    records = [
        OBJECTIVES.find(str(term.get("type", usual))) for term in _list_terms(table) if "soft_targets" not in term
    ]
    return any(record is not None and record.needs.teacher for record in records)


def _list_terms(table: Table) -> list[Table]:
    """List the tables of the terms of an objective. An objective without a list is one term."""
    objective = table.get("objective", {})
    if not isinstance(objective, Mapping):
        return []
    terms = objective.get("terms", [objective])
    return [term for term in terms if isinstance(term, Mapping)] if isinstance(terms, (list, tuple)) else []


def _find_soft_targets(table: Table) -> Any:
    """Find the soft targets that an objective reads. All its terms read the same ones."""
    return next((term["soft_targets"] for term in _list_terms(table) if "soft_targets" in term), None)


def _find_corpora(table: Table) -> Any:
    """Find the corpora of a model: alone, with weights, or in blocks of updates."""
    blocks = table.get("alternate")
    if not isinstance(blocks, (list, tuple)):
        return table.get("corpus")
    return [block.get("corpus") for block in blocks if isinstance(block, Mapping)]


def _find_start(table: Table) -> Any:
    """Find the name of the model that another one starts from, given alone or in a table."""
    first = table.get("init_from")
    return first.get("model") if isinstance(first, Mapping) else first


def _list_asked(table: Table) -> Any:
    """List the names of the teachers that a student asks: one, or one for each data set."""
    teacher = table.get("teacher")
    return list(teacher.values()) if isinstance(teacher, Mapping) else teacher


def _list_stored(table: Table) -> Any:
    """List the names of the soft targets of each data set of a student."""
    stored = table.get("soft_targets")
    return list(stored.values()) if isinstance(stored, Mapping) else []


def _find_judges(table: Table) -> Any:
    """Find the models of a scorer, by name or folder."""
    judge = table.get("scorer", table.get("rerank"))
    scorer = SCORERS.find(str(judge.get("type", DEFAULT_SCORER))) if isinstance(judge, Mapping) else None
    if scorer is None:
        return []
    return [judge.get(side) for side in scorer.folders]


def _name_members(table: Table, name: str) -> Sequence[str]:
    count = table.get("ensemble")
    return teacher_names(name, min(count, 16) if isinstance(count, int) else 1)  # the schema refuses larger numbers


def _count_seeds(table: Table) -> int:
    count = table.get("seeds")
    return min(count, MOST_SEEDS) if isinstance(count, int) else 1  # the schema refuses larger numbers


def _find_asked_model(table: Table) -> Any:
    """Find the model that the command of an external worker runs, by name or folder."""
    source = table.get("source")
    worker = isinstance(source, Mapping) and source.get("type", WORKER) == WORKER
    return source.get("model") if isinstance(source, Mapping) and worker else None


_TEXT = ("select", "data", "backtranslation", "samples", "selftraining")
_ASKED_MODEL = Reference(field="source.model", kinds=("teachers", "students"), read=_find_asked_model, folders=True)
_TEACHER = Reference(field="teacher", kinds=("teachers", "students"), default="teachers", ensembles=True)
_JUDGES = Reference(field="scorer", kinds=("teachers", "students"), read=_find_judges, folders=True, follows=False)

PARTS: Mapping[str, Part] = {
    "data": Part(
        title="[[data]]",
        help="A data set: training, validation and test text in two languages",
        stages=plan_prepare,
        makes=("corpus",),
        references=(Reference(field="shares_sources", kinds=("data",)),),
        name=GOLD,
        alone="data",
        owner="the prepared corpus",
        folder="data",
        only="gold",
        label="gold",  # each data set has a report of its own
    ),
    "teachers": Part(
        title="[[teachers]]",
        help="A model that teaches: trained here, an ensemble of such models, or a model folder",
        stages=plan_teacher,
        makes=("model",),
        references=(
            Reference(field="corpus", kinds=_TEXT, default="data"),
            Reference(field="vocabulary", kinds=("vocabularies",)),
            _ASKED_MODEL,
        ),
        name=TEACHER,
        alone="teacher",
        owner="the teacher",
        names=_name_members,
        seeds=_count_seeds,
        reserved=lambda name: (name + ENSEMBLE,),
        folder="teachers",
        only="teacher",
        label="teacher {}",
    ),
    "samples": Part(
        title="[[samples]]",
        help="One target of each source of a data set with several targets, drawn at random",
        stages=plan_sample,
        makes=("corpus",),
        references=(Reference(field="corpus", kinds=("data",), default="data"),),
        folder="corpora",
        label="corpus {}",
    ),
    "distill": Part(
        title="[[distill]]",
        help="K-best lists for the sources of a corpus, written by a teacher or another source",
        stages=plan_distill,
        makes=("k-best lists",),
        references=(
            replace(_TEACHER, wanted=lambda table: "source" not in table),
            Reference(
                field="corpus", kinds=("data", "select", "backtranslation", "samples", "selftraining"), default="data"
            ),
            _ASKED_MODEL,
        ),
        folder="kbest",
        label="k-best {}",
    ),
    "select": Part(
        title="[[select]]",
        help="A distilled corpus: targets that a rule chooses from k-best lists",
        stages=plan_select,
        makes=("corpus",),
        references=(
            Reference(field="kbest", kinds=("distill",)),
            _JUDGES,
        ),
        folder="corpora",
        label="corpus {}",
    ),
    "selftraining": Part(
        title="[selftraining]",
        help="Training pairs from monolingual source text, whose targets a model writes",
        stages=plan_pseudo_pairs,
        makes=("corpus", "k-best lists"),
        references=(_TEACHER, Reference(field="corpus", kinds=("data",), default="data"), _JUDGES),
        name=SELF_TRAINING,
        alone="selftraining",
        owner="[selftraining]",
        folder="corpora",
        label="corpus {}",
    ),
    "backtranslation": Part(
        title="[backtranslation]",
        help="Training pairs from monolingual target text, whose sources a reverse model writes",
        stages=plan_pairs,
        makes=("corpus", "k-best lists"),
        references=(Reference(field="corpus", kinds=("select", "data"), default="data"),),
        name=BACK_TRANSLATION,
        alone="backtranslation",
        owner="[backtranslation]",
        folder="corpora",
        label="corpus {}",
    ),
    "soft_targets": Part(
        title="[[soft_targets]]",
        help="A teacher's distributions at the target positions of a training corpus",
        stages=plan_soft_targets,
        makes=("soft targets",),
        references=(_TEACHER, Reference(field="corpus", kinds=("select", "data", "samples"), default="data")),
        folder="soft_targets",
        label="soft targets {}",
    ),
    "students": Part(
        title="[[students]]",
        help="A model that is trained on one or several corpora",
        stages=plan_student,
        makes=("model",),
        references=(
            Reference(field="corpus", kinds=_TEXT, read=_find_corpora),
            Reference(field="init_from", kinds=("students", "teachers"), read=_find_start, follows=False, paired=True),
            Reference(field="objective.soft_targets", kinds=("soft_targets",), read=_find_soft_targets),
            Reference(field="soft_targets", kinds=("soft_targets",), read=_list_stored),
            Reference(
                field="teacher",
                kinds=("teachers", "students"),
                default="teachers",
                read=_list_asked,
                wanted=asks_teacher,
                ensembles=True,
            ),
            Reference(field="vocabulary", kinds=("vocabularies",)),
        ),
        seeds=_count_seeds,
        owner="[[students]]",
        folder="students",
        label="student {}",
    ),
    "vocabularies": Part(
        title="[[vocabularies]]",
        help="A vocabulary besides that of the data set, for students and teachers",
        stages=plan_vocabulary,
        makes=("vocabulary",),
        references=(Reference(field="corpus", kinds=("data",), default="data"),),
        folder="vocabularies",
        label="vocabulary {}",
    ),
    "exports": Part(
        title="[[exports]]",
        help="A model in the format of another toolkit",
        stages=plan_export,
        makes=("export",),
        # In each round the students are exported, but not the student that has become the teacher.
        references=(Reference(field="model", kinds=("students", "teachers"), follows=False),),
        folder="exports",
        label="export {}",
    ),
    "evaluate": Part(
        title="[evaluate]",
        help="The decodes and metrics by which every model is evaluated",
        stages=plan_evaluation,
        references=(
            Reference(field="targets", kinds=("select", "data"), follows=False),
            Reference(field="agreement", kinds=("teachers", "students"), follows=False),
        ),
        name="evaluate",
        alone="evaluate",
    ),
}

# The file has no tables for these parts; `expansion.py` adds them.
TESTS = Part(
    title="[data.tests]",
    help="A further test set of a data set",
    stages=plan_test,
    folder="tests",
)
CORPUS_ENCODED = Part(
    title="encoded corpus",
    help="A training corpus with the vocabulary of a model",
    stages=plan_encoded,
    folder="corpora",
)
TESTS_ENCODED = Part(
    title="encoded test set",
    help="A test set with the vocabulary of a model",
    stages=plan_encoded,
    folder="tests",
)
MONOLINGUAL = Part(
    title="monolingual text",
    help="The target text of [backtranslation]",
    stages=plan_monolingual,
    label="monolingual text",
)
UNLABELLED = Part(
    title="monolingual source text",
    help="The source text of [selftraining]",
    stages=plan_monolingual,
    label="monolingual source text",
)
REVERSE = Part(
    title="reverse model", help="The model that translates the text of [backtranslation]", stages=plan_reverse
)
REPORT = Part(title="report", help="The results of a data set", stages=plan_report)
