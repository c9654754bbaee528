"""A pipeline's stages and the folders that they write."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel

from seqkd.config.stages import TrainingConfig
from seqkd.pipeline.file import PipelineConfig
from seqkd.pipeline.graph import Graph, Node
from seqkd.stages.registry import STAGES

OF = "@"  # stands in names that seqkd makes of two; the name of a part cannot hold it


@dataclass(frozen=True, slots=True)
class Made:
    """What a stage made: its folder, and the file that says that the folder is whole."""

    folder: Path
    file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One rule.

    Attributes:
        name: The name of its stage file, e.g. `student.seqkd`.
        kind: The name in `STAGES` of the stage that it runs; None for the fetch step, which runs a script.
        goal: The Make goal that asks for it.
        config: The resolved stage file.
        out: Its output folder.
        needs: Files that it is made from, beside its stage file.
    """

    name: str
    kind: str | None
    goal: str
    config: BaseModel
    out: Path
    needs: tuple[Path, ...]

    @property
    def target(self) -> Path:
        """The file that is written last."""
        return self.out / (".done" if self.kind is None else "manifest.json")

    @property
    def words(self) -> tuple[str, ...]:
        """The seqkd command that runs the stage, with the option that chooses it; none for the fetch step."""
        if self.kind is None:
            return ()
        stage = STAGES[self.kind]
        return (stage.command, stage.option) if stage.option else (stage.command,)


@dataclass(frozen=True, slots=True)
class Plan:
    """A pipeline while it is being planned: its graph, and where everything lies.

    Attributes:
        pipeline: The pipeline file.
        graph: All parts that the pipeline makes.
        root: The run folder.
        same: The folder of the equal stage, for each folder of a stage that is left out because there is an equal one.
        done: For each data set, by name, the targets of its stages so far.
    """

    pipeline: PipelineConfig
    graph: Graph
    root: Path
    same: dict[Path, Path] = field(default_factory=dict)
    done: dict[str, dict[Path, Stage]] = field(default_factory=dict)

    def data(self, node: Node) -> Node:
        """The data set that a part belongs to."""
        return data_of(self.graph, node)

    def only(self, node: Node) -> bool:
        """Whether a part is the only one of its kind, of the only ensemble, or of the only one with several seeds."""
        first, *others = self.graph.of(node.kind)
        return all(other.key in first.whole or other.first == first.key for other in others)

    def stage_name(self, node: Node, name: str) -> str:
        """The name of a stage: alone if the part is the only one of its kind, otherwise with the part's name."""
        return name if self.only(node) else f"{name}.{node.name}"

    def folder(self, node: Node) -> Path:
        """The folder that a part's stage writes, or that of the equal stage."""
        if node.part.only and self.only(node):
            first = self.graph.of(node.kind)[0]
            folder = self.root / (node.part.only + node.name.removeprefix(first.name))
        else:
            folder = self.root / node.part.folder / node.name
        return self.shared(folder)

    def shared(self, folder: Path) -> Path:
        """A folder, or that of the equal stage."""
        return self.same.get(folder, folder)

    def made(self, node: Node) -> Made:
        """What a part is to those that name it: a data set is its training corpus."""
        if node.kind == "teachers" and node.settings.path is not None:
            path: Path = node.settings.path
            return Made(path, path / "model.safetensors")
        folder = self.folder(node)
        # The manifest of a training corpus comes before that of the whole data set.
        return Made(folder / "train" if node.kind == "data" else folder, folder / "manifest.json")

    def linked(self, node: Node, name: str) -> list[Made]:
        """What the parts that a field names are to it."""
        return [self.made(other) for other in self.graph.linked(node, name)]

    def needs(self, node: Node, *more: Path) -> tuple[Path, ...]:
        """Files that tell that all that a part is made from is whole, behind `more`."""
        return tuple(dict.fromkeys((*more, *(self.made(self.graph[key]).file for key in node.inputs))))

    def prepared(self, node: Node) -> Made:
        """The output of `prepare` for a part's data set: all its texts, and the vocabulary."""
        folder = self.folder(self.data(node))
        return Made(folder, folder / "manifest.json")

    def raw(self, data: Node) -> Path:
        """The output of a data set's fetch step."""
        return self.shared(self.root / "raw" if self.only(data) else self.root / "raw" / data.name)

    def text(self, data: Node) -> Path:
        """Where relative paths of text begin: in the fetch step's output, or in the working folder without one."""
        return Path() if data.settings.fetch is None else self.raw(data)

    def evaluation(self, name: str, test: Node | None = None) -> Path:
        """The evaluation of a model, on a further test set or on its data set's own one."""
        return self.shared(self.root / "evaluations" / evaluation_name(name, test))


def bare(test: Node) -> str:
    """The name of a further test set in its data set."""
    return test.name.rpartition(OF)[2]


def evaluation_name(model: str, test: Node | None) -> str:
    """The name of an evaluation. That on a further test set is none that a model can have."""
    return model if test is None else f"{model}{OF}{bare(test)}"


def data_of(graph: Graph, node: Node) -> Node:
    """The data set that a part belongs to."""
    return node if node.kind == "data" else next(part for part in graph.upstream(node) if part.kind == "data")


def seeded(training: TrainingConfig, root: int, role: str) -> TrainingConfig:
    """The pipeline's seed, unless the file gives this one its own."""
    if "seed" in training.model_fields_set:
        return training
    # One seed for all students: they differ in what the file says and in nothing else.
    return training.model_copy(update={"seed": seed_of(root, role)})


def reseeded(training: TrainingConfig, number: int) -> TrainingConfig:
    """The training with its n-th seed. Equal first seeds have equal later ones, so that gains can be paired by seed."""
    return training if number == 1 else training.model_copy(update={"seed": seed_of(training.seed, f"seed{number}")})


def seed_of(root: int, purpose: str) -> int:
    """A seed that follows from the pipeline's, one for each purpose."""
    digest = hashlib.sha256(f"{root}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1  # 31 bits: every generator takes it
