"""Objectives by name."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from seqkd.extensions import Registry, resolve, settings_class
from seqkd.models.registry import Architecture

if TYPE_CHECKING:  # planning a pipeline and listing registries should not import torch
    from seqkd.objectives.terms import Models, Term


TeacherPrecision = Literal["auto", "float32", "bf16", "fp16"]


class AskingSettings(Protocol):
    """Settings of an objective that uses a teacher.

    Attributes:
        teachers: Folders of models that run beside the student; several form an ensemble.
        precision: Precision of the teachers' products.
    """

    @property
    def teachers(self) -> tuple[Path, ...]:
        """See above."""
        ...

    @property
    def precision(self) -> TeacherPrecision:
        """See above."""
        ...


class TaughtSettings(AskingSettings, Protocol):
    """Settings of an objective that can take a teacher's distributions from stored soft targets.

    Attributes:
        soft_targets: Folder of stored soft targets, in place of teachers that run beside the student.
        temperature: Temperature of the distributions.
        direction: Direction of the divergence: forward from the teacher's distribution, reverse from the student's.
    """

    @property
    def soft_targets(self) -> Path | None:
        """See above."""
        ...

    @property
    def temperature(self) -> float:
        """See above."""
        ...

    @property
    def direction(self) -> str:
        """See above."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """The data that an objective needs besides the model and its batch.

    An objective that needs a teacher has settings of the type `AskingSettings`.

    Attributes:
        teacher_distributions: A teacher's distribution at every target position, from a teacher that runs beside the
            student or from stored soft targets.
        teacher_states: A teacher's hidden states or attention.
        teacher_samples: A teacher's outputs during training.
        soft_targets: Whether stored soft targets can provide the distributions. The settings are then `TaughtSettings`.
        row_weights: Whether rows are counted by their weights, if the corpus has weights.
        groups: The data set of each row.
        rivals: The rivals of targets. A term that reads them stands beside another one.
    """

    teacher_distributions: bool = False
    teacher_states: bool = False
    teacher_samples: bool = False
    soft_targets: bool = False
    row_weights: bool = False
    groups: bool = False
    rivals: bool = False

    @property
    def teacher(self) -> bool:
        """Whether it needs a teacher."""
        return self.teacher_distributions or self.teacher_states or self.teacher_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A term that training minimises, by itself or in a sum.

    Attributes:
        name: The name that files use.
        help: A description in one line.
        settings: `module:attribute` of its settings, a frozen dataclass.
        build: `module:attribute` of a callable that takes the settings and `Models`, and returns a `Term`.
        needs: The data that it needs.
        suits: Ways of decoding, or names of architectures, that can be trained with it. An architecture whose record
            names it as the default objective need not be listed.
    """

    name: str
    help: str
    settings: str
    build: str
    needs: Needs = Needs()
    suits: frozenset[str] = frozenset()

    def fits(self, architecture: Architecture) -> bool:
        """Whether an architecture can be trained with it."""
        return architecture.objective == self.name or not self.suits.isdisjoint(
            (architecture.decodes, architecture.name)
        )


_ASKING = ("teachers", "precision")  # the fields of `AskingSettings`, and those that `TaughtSettings` adds
_TAUGHT = ("soft_targets", "temperature", "direction")


def find_missing_settings(record: Objective) -> str:
    """Name the settings for teachers that an objective with a teacher lacks; "" if none is missing."""
    wanted = (*(_ASKING if record.needs.teacher else ()), *(_TAUGHT if record.needs.soft_targets else ()))
    there = {field.name for field in fields(settings_class(record.settings))}
    missing = [name for name in wanted if name not in there]
    return f"needs a teacher, but its settings lack {', '.join(missing)}" if missing else ""


OBJECTIVES = Registry(
    "objective",
    Objective,
    group="seqkd.objectives",
    check=find_missing_settings,
    own={
        "nll": Objective(
            name="nll",
            help="Negative log-likelihood with label smoothing",
            settings="seqkd.objectives.nll:NllSettings",
            build="seqkd.objectives.nll:build",
            needs=Needs(row_weights=True),
            suits=frozenset({"left to right"}),
        ),
        "word_kd": Objective(
            name="word_kd",
            help="The teacher's distribution at every target position (Kim and Rush 2016, equation 5), and the NLL",
            settings="seqkd.objectives.word_kd:WordKdSettings",
            build="seqkd.objectives.word_kd:build",
            needs=Needs(teacher_distributions=True, soft_targets=True, row_weights=True),
            suits=frozenset({"left to right"}),
        ),
        "nat": Objective(
            name="nat",
            help="Cross-entropy at every position, and of the length or the fertilities",
            settings="seqkd.objectives.nat:NatLossSettings",
            build="seqkd.objectives.nat:build",
        ),
        "cmlm": Objective(
            name="cmlm",
            help="Cross-entropy at masked positions, and of the length",
            settings="seqkd.objectives.cmlm:CmlmLossSettings",
            build="seqkd.objectives.cmlm:build",
        ),
        "ctc": Objective(
            name="ctc",
            help="Connectionist temporal classification (Graves et al. 2006)",
            settings="seqkd.objectives.ctc:CtcLossSettings",
            build="seqkd.objectives.ctc:build",
            needs=Needs(row_weights=True),
        ),
        "dag": Objective(
            name="dag",
            help="Negative log-likelihood summed over all paths through the graph (Huang et al. 2022, section 3.2)",
            settings="seqkd.objectives.dag:DagLossSettings",
            build="seqkd.objectives.dag:build",
            needs=Needs(row_weights=True),
        ),
        "fairseq": Objective(
            name="fairseq",
            help="The loss that fairseq itself trains the architecture with",
            settings="seqkd.objectives.nll:NllSettings",
            build="seqkd.interop.fairseq_loss:build",
        ),
        "margin": Objective(
            name="margin",
            help="The margin of the hope over the fear, of a corpus of rule pair; beside another term",
            settings="seqkd.objectives.margin:MarginSettings",
            build="seqkd.objectives.margin:build",
            needs=Needs(rivals=True, row_weights=True),
            suits=frozenset({"left to right"}),
        ),
    },
)


def suitable_objectives(architecture: Architecture) -> list[str]:
    """Name the objectives with which an architecture can be trained, its default first.

    Raises:
        ExtensionError: Two packages register the same name.
    """
    others = [record.name for record in OBJECTIVES.all() if record.fits(architecture)]
    return list(dict.fromkeys((architecture.objective, *others)))


def build_term(record: Objective, settings: Any, models: Models) -> Term:
    """Build a term of an objective.

    Args:
        record: The record of the term.
        settings: The settings of the term.
        models: See `Models`.

    Raises:
        ExtensionError: The module behind the record cannot be imported.
        ModelError: The term needs a package that is not installed, or does not fit the models.
    """
    term: Term = resolve(record.build)(settings, models)
    return term
