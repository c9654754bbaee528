"""A pipeline's stages and the folders that they write."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from seqkd.config.stages import DistillConfig, TrainingConfig, WeightedPath
from seqkd.pipeline.file import BackTranslationPart, DistillPart, PipelineConfig, WeightedName
from seqkd.pipeline.rounds import Round


@dataclass(frozen=True, slots=True)
class Made:
    """What a stage made: its folder, and the file that says that the folder is whole."""

    folder: Path
    file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One rule.

    Attributes:
        name: Of its stage file, e.g. `student.seqkd`.
        command: The seqkd command; "" for the fetch step, which runs a script.
        goal: The Make goal that asks for it.
        config: The resolved stage file.
        out: Its output folder.
        needs: Files that it is made from, beside its stage file.
        options: Of the command, beside those that every stage has.
    """

    name: str
    command: str
    goal: str
    config: BaseModel
    out: Path
    needs: tuple[Path, ...]
    options: tuple[str, ...] = ()

    @property
    def target(self) -> Path:
        """The file that is written last."""
        return self.out / ("manifest.json" if self.command else ".done")


@dataclass(frozen=True, slots=True)
class Folders:
    """Where everything of a pipeline lies."""

    pipeline: PipelineConfig
    root: Path

    @property
    def text(self) -> Path:
        """Where relative paths of text begin: in the fetch step's output, or the working folder without one."""
        return Path() if self.pipeline.data.fetch is None else self.root / "raw"

    @property
    def gold(self) -> Made:
        """What `prepare` makes: all parts of the gold text, and the vocabulary."""
        return _finished(self.root / "gold")

    def kbest(self, name: str) -> Made:
        """K-best lists."""
        return _finished(self.root / "kbest" / name)

    def soft_targets(self, name: str) -> Made:
        """Soft targets."""
        return _finished(self.root / "soft_targets" / name)

    def corpus(self, name: str) -> Made:
        """A training corpus; "gold" is the gold one."""
        if name == "gold":  # its manifest comes before that of the whole of `gold`
            return Made(self.gold.folder / "train", self.gold.file)
        return _finished(self.root / "corpora" / name)

    def model(self, name: str) -> Made:
        """A teacher or a student."""
        if name not in self.pipeline.teacher.names:
            return _finished(self.root / "students" / name)
        path = self.pipeline.teacher.path
        return _finished(self.root / name) if path is None else Made(path, path / "model.safetensors")

    def models(self, names: Sequence[str]) -> list[Made]:
        """Several of them."""
        return [self.model(name) for name in names]

    def reverse(self, made: Round) -> Made:
        """A round's model of the other direction."""
        return _finished(self.root / made.named("reverse"))

    @property
    def monolingual(self) -> Made:
        """The monolingual text, encoded."""
        return _finished(self.root / "monolingual")

    def evaluation(self, name: str) -> Made:
        """What a model is worth."""
        return _finished(self.root / "evaluations" / name)


def _finished(folder: Path) -> Made:
    return Made(folder, folder / "manifest.json")


def distill_stage(
    name: str, part: DistillPart | BackTranslationPart, models: Sequence[Made], corpus: Made, folders: Folders
) -> Stage:
    """The stage that writes the k-best lists `name`, with what `part` says of the search."""
    return Stage(
        name=f"distill.{name}",
        command="distill",
        goal="distill",
        config=DistillConfig(
            models=tuple(model.folder for model in models),
            corpus=corpus.folder,
            search=part.search,
            batch_tokens=part.batch_tokens,
            precision=part.precision,
            workers=part.workers,
        ),
        out=folders.kbest(name).folder,
        needs=(*(model.file for model in models), corpus.file),
    )


def weighted(parts: Sequence[WeightedName], folders: Folders) -> tuple[WeightedPath, ...]:
    """Corpora by path in place of name."""
    return tuple(WeightedPath(path=folders.corpus(part.name).folder, weight=part.weight) for part in parts)


def seeded(training: TrainingConfig, root: int, role: str) -> TrainingConfig:
    """The pipeline's seed, unless the file gives this one its own."""
    if "seed" in training.model_fields_set:
        return training
    # One seed for all students: they differ in what the file says and in nothing else.
    return training.model_copy(update={"seed": seed_of(root, role)})


def seed_of(root: int, purpose: str) -> int:
    """A seed that follows from the pipeline's, one for each purpose."""
    digest = hashlib.sha256(f"{root}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1  # 31 bits: every generator takes it
