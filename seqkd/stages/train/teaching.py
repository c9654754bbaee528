"""Teachers of stages: their folders are checked against the student's vocabularies, and then loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

import numpy as np
import torch

from seqkd.config.models import ObjectiveConfig
from seqkd.corpus.reader import Corpus
from seqkd.errors import ConfigError, CorpusError, ModelError
from seqkd.models.checkpoint import load_model, model_digest, read_config
from seqkd.models.protocol import Marks, PairLengths
from seqkd.models.registry import ARCHITECTURES
from seqkd.objectives.groups import GroupedTeacher
from seqkd.objectives.registry import TaughtSettings, TeacherPrecision
from seqkd.objectives.teacher import Teacher
from seqkd.stages.prepare.further_vocabulary import name_part
from seqkd.stages.train.vocabularies import HINT
from seqkd.text.vocabularies import TextVocabulary, Vocabularies
from seqkd.training.data import SpecialIds
from seqkd.training.precision import Precision, choose_precision
from seqkd.training.soft import SoftTable

TOO_LONG = "longer than a teacher's max_positions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """Loaded teachers.

    Attributes:
        teacher: The teacher that objectives use.
        in_float32: The same teacher without autocast.
        max_positions: Longest source or target in tokens that all teachers accept, including end of sentence.
        special: The special ids of the teachers.
        vocab: Number of target pieces.
    """

    teacher: Teacher
    in_float32: Teacher
    max_positions: int
    special: SpecialIds
    vocab: int

    def unusable(self, lengths: PairLengths) -> dict[str, Marks]:
        """See `SequenceModel.unusable`."""
        return {TOO_LONG: np.maximum(lengths.source, lengths.target) >= self.max_positions}


def check_teachers(folders: Sequence[Path], vocabularies: Vocabularies, *, of: str = "the corpus") -> None:
    """Check the folders of teachers before work starts.

    Args:
        folders: Model folders.
        vocabularies: The vocabularies that all teachers must have.
        of: The owner of the vocabularies, for the message.

    Raises:
        ModelError: A folder does not contain a model, or the model has other vocabularies or does not decode left to
            right.
    """
    for folder in folders:
        config = read_config(folder)
        record = ARCHITECTURES.find(config["arch"])
        if record is None or not record.left_to_right:
            raise ModelError(
                f"a model of architecture {config['arch']!r} gives no distributions position by position",
                where=str(folder),
                expected=f"one of: {', '.join(each.name for each in ARCHITECTURES.all() if each.left_to_right)}",
            )
        made_with = {"target": config["vocabulary"], "source": config["source_vocabulary"] or config["vocabulary"]}
        for side, vocabulary in vocabularies.sides():
            digest = made_with[side]
            if digest != vocabulary.digest:
                raise ModelError(
                    f"the {side} vocabulary of this teacher is not that of {of}",
                    where=str(folder),
                    expected=f"vocabulary {vocabulary.digest[:12]}..., found {digest[:12]}...",
                    hint=HINT,
                )


def load_teachers(folders: Sequence[Path], *, precision: Literal["auto"] | Precision, device: torch.device) -> Team:
    """Load teachers that `check_teachers` has checked, in evaluation mode and without gradients.

    Args:
        folders: Model folders. The probabilities of several models are averaged.
        precision: Precision of the products. Weights stay in float32.
        device: The device of the teachers.

    Raises:
        ModelError: A folder is damaged.
        InputError: fp16 on a CPU.
    """
    models: list[Any] = [load_model(folder, device=device).model.requires_grad_(False) for folder in folders]
    types = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    first = models[0]
    return Team(
        teacher=Teacher(models, autocast=types[choose_precision(precision, device)]),
        in_float32=Teacher(models),
        max_positions=min(model.max_positions for model in models),
        special=SpecialIds(pad=first.pad_id, eos=first.eos_id, start=first.start_id),
        vocab=first.target_vocab,
    )


class Teaching:
    """The inputs that an objective takes from teachers. They are checked at once, and loaded when they are requested.

    Args:
        objective: The objective. Most objectives need no teacher.
        corpus: The training corpus, or the first of several, because soft targets belong to one corpus.
        vocabularies: The vocabularies of the corpus.
        grouped: The folders of the teachers of each group, in place of those of the objective.
        stored: The soft targets and the training corpus of each group, in place of those of the objective.

    Attributes:
        folders: The folders of the teachers of each group. The group is "" if all rows have the same teachers.

    Raises:
        ConfigError: The settings of the objective do not fit the soft targets, or `top_k` exceeds the vocabulary.
        CorpusError: The soft targets are damaged, or were made for another corpus or vocabulary.
        ModelError: The teacher folder does not contain a model, or the teacher was trained with a different vocabulary.
    """

    def __init__(
        self,
        objective: ObjectiveConfig,
        corpus: Corpus,
        vocabularies: Vocabularies,
        grouped: Mapping[str, tuple[Path, ...]] = MappingProxyType({}),
        stored: Mapping[str, tuple[Path, Corpus]] = MappingProxyType({}),
    ) -> None:
        self.folders = dict(grouped) or ({"": objective.teachers} if objective.teachers else {})
        live = [settings.precision for settings in objective.asking if settings.teachers or grouped]
        self._precision: TeacherPrecision = live[0] if live else "auto"
        check_teachers([folder for folders in self.folders.values() for folder in folders], vocabularies)
        size = vocabularies.target.size
        for term in objective.terms:
            kept = 0 if term.asking is None else getattr(term.asking, "top_k", 0)
            if kept > size:
                raise ConfigError(
                    f"is {kept:,}, but the vocabulary has {size:,} pieces",
                    where="objective.top_k",
                    expected=f"at most {size:,}, or 0 for the whole vocabulary",
                )
        if objective.soft_targets is not None:
            stored = {"": (objective.soft_targets, corpus)}
        self._soft: dict[str, Corpus] = {}
        for group, (path, own) in stored.items():
            self._soft[group] = Corpus.open(path, "soft")
            for term in objective.terms:
                if term.asking is not None and (group or term.taught is not None):
                    _check_soft(self._soft[group], cast(TaughtSettings, term.asking), own, vocabularies.target)
        _check_alike(list(self._soft.values()))

    def digests(self) -> dict[str, str]:
        """Return the digest of each input, for the fingerprint."""
        digests = {
            name_part(f"teacher{n}", group): model_digest(path)
            for group, folders in self.folders.items()
            for n, path in enumerate(folders, start=1)
        }
        return digests | {
            name_part("soft_targets", group): soft.manifest.digest() for group, soft in self._soft.items()
        }

    def soft(self) -> dict[str, SoftTable]:
        """Open the stored soft targets of each group. The group is "" if there is one corpus."""
        return {group: SoftTable(soft) for group, soft in self._soft.items()}

    def teams(self, device: torch.device) -> Teams:
        """Load the teachers that run beside the student, if the objective uses them."""
        return Teams(
            {
                group: load_teachers(folders, precision=self._precision, device=device)
                for group, folders in self.folders.items()
            }
        )


@dataclass(frozen=True, slots=True)
class Teams:
    """The loaded teachers of each group.

    Attributes:
        by_group: The teachers by group; the group is "" if all rows have the same ones. Empty if there are none.
    """

    by_group: Mapping[str, Team]

    @property
    def teacher(self) -> Teacher | GroupedTeacher | None:
        """The teacher that objectives use."""
        if not self.by_group:
            return None
        alone = self.by_group.get("")
        if alone is not None:
            return alone.teacher
        return GroupedTeacher({group: team.teacher for group, team in self.by_group.items()})

    def find(self, group: str) -> Team:
        """Return the teachers of a group."""
        return self.by_group.get("") or self.by_group[group]

    def unusable(self, lengths: PairLengths) -> dict[str, Marks]:
        """See `SequenceModel.unusable`; a row is unusable if any of the teachers cannot use it."""
        found: dict[str, Marks] = {}
        for team in self.by_group.values():
            for reason, marks in team.unusable(lengths).items():
                found[reason] = found[reason] | marks if reason in found else marks
        return found


def _check_alike(soft: Sequence[Corpus]) -> None:
    """Refuse soft targets that hold different numbers of pieces, which one batch cannot hold."""
    kept = [(each.manifest.extra.get("top_k"), each.manifest.extra.get("samples") is None) for each in soft]
    for each, found in zip(soft, kept, strict=True):
        if found != kept[0]:
            raise CorpusError(
                f"keeps other pieces of a distribution than {soft[0].path}",
                where=str(each.path),
                expected="the same top_k, or samples in both",
                hint="write the soft targets of all groups with the same settings",
            )


def _check_soft(soft: Corpus, objective: TaughtSettings, corpus: Corpus, target: TextVocabulary) -> None:
    made_with = soft.manifest.extra
    if soft.manifest.vocabulary != target.digest:
        raise CorpusError(
            "the vocabulary of these soft targets is not that of the corpus",
            where=str(soft.path),
            expected=f"vocabulary {target.digest[:12]}..., found {soft.manifest.vocabulary[:12]}...",
            hint="write soft targets for this corpus with a teacher of this vocabulary",
        )
    wanted, found = corpus.manifest.digest(), str(soft.manifest.fingerprint.get("inputs", {}).get("corpus", ""))
    if wanted != found:
        raise CorpusError(
            f"these soft targets were not made for the corpus {corpus.path}",
            where=str(soft.path),
            expected=f"corpus {wanted[:12]}..., found {found[:12]}...",
            hint="run `seqkd distill --soft-targets` on the corpus that the student is trained on",
        )
    if made_with.get("temperature") != objective.temperature:
        raise ConfigError(
            f"is {objective.temperature}, but {soft.path} was written at temperature {made_with.get('temperature')}",
            where="objective.temperature",
            expected="the same temperature, because the tail cannot be converted to another one",
        )
    if made_with.get("samples") is not None and objective.direction == "reverse":
        raise ConfigError(
            f"is reverse, but {soft.path} contains sampled ids, so all other ids have probability zero",
            where="objective.direction",
            expected="forward",
            hint="write soft targets with top_k",
        )
