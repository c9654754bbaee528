"""The stages of a pipeline and the folders that they write."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel

from seqkd.config.stages import TrainingConfig
from seqkd.pipeline.file import PipelineConfig
from seqkd.pipeline.graph import Graph, Node
from seqkd.stages.registry import STAGES

MAKE_SAFE = re.compile(r"^[A-Za-z0-9_./,+@=-]+$")  # characters that a Make target can hold without escaping
_TEXT = ("data", "corpus", "kbest", "model")  # the fields by which a part names its text, or a model of it
OF = "@"  # joins two names into one; the name of a part cannot contain it


@dataclass(frozen=True, slots=True)
class Output:
    """The output of a stage: its folder, and the file that marks the folder as complete."""

    folder: Path
    file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage of the plan, which becomes one Make rule.

    Attributes:
        name: The name of the stage file, e.g. `student.seqkd`.
        kind: The name of the stage in `STAGES`; None for the fetch step, which runs a script.
        goal: The Make goal that the stage belongs to.
        config: The resolved stage file.
        out: The output folder.
        needs: Input files besides the stage file.
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
        """The seqkd command that runs the stage, with the option that chooses it; empty for the fetch step."""
        if self.kind is None:
            return ()
        stage = STAGES[self.kind]
        return (stage.command, stage.option) if stage.option else (stage.command,)


@dataclass(frozen=True, slots=True)
class Plan:
    """A pipeline that is being planned: its graph and its folders.

    Attributes:
        pipeline: The pipeline file.
        graph: All parts that the pipeline makes.
        root: The run folder.
        same: For the folder of each stage that is left out because an equal one exists, the folder of the equal one.
        done: The targets of the stages planned so far, by the name of the data set.
    """

    pipeline: PipelineConfig
    graph: Graph
    root: Path
    same: dict[Path, Path] = field(default_factory=dict)
    done: dict[str, dict[Path, Stage]] = field(default_factory=dict)

    def data(self, node: Node) -> Node:
        """Return the data set that a part belongs to; of several, the first one."""
        return find_data(self.graph, node)

    def list_data(self, node: Node) -> list[Node]:
        """List the data sets that a part belongs to."""
        return list_data(self.graph, node)

    def list_tested(self, model: Node) -> list[Node]:
        """List the data sets on whose test text a model is evaluated, its own ones first."""
        return list_tested(self.graph, model)

    def only(self, node: Node) -> bool:
        """Whether a part is the only one of its kind. Members of an ensemble, and seeds of a model, count as one."""
        first, *others = self.graph.of_kind(node.kind)
        return all(other.key in first.whole or other.first == first.key for other in others)

    def stage_name(self, node: Node, name: str) -> str:
        """Return the name of a stage, followed by the name of the part unless the part is the only one of its kind."""
        return name if self.only(node) else f"{name}.{node.name}"

    def folder(self, node: Node) -> Path:
        """Return the folder that the stage of a part writes, or that of the equal stage."""
        if node.part.only and self.only(node):
            first = self.graph.of_kind(node.kind)[0]
            folder = self.root / (node.part.only + node.name.removeprefix(first.name))
        else:
            folder = self.root / node.part.folder / node.name
        return self.actual_folder(folder)

    def actual_folder(self, folder: Path) -> Path:
        """Return a folder, or that of the equal stage."""
        return self.same.get(folder, folder)

    def output(self, node: Node) -> Output:
        """Return the output of a part for parts that name it. That of a data set is its training corpus."""
        path: Path | None = node.settings.find_folder(node.name) if node.kind == "teachers" else None
        if path is not None:
            return Output(path, path / "model.safetensors")
        folder = self.folder(node)
        # The manifest of the training corpus is written before that of the whole data set.
        return Output(folder / "train" if node.kind == "data" else folder, folder / "manifest.json")

    def linked_outputs(self, node: Node, name: str) -> list[Output]:
        """Return the outputs of the parts that a field of a part names."""
        return [self.output(other) for other in self.graph.follow(node, name) if not is_asked(other)]

    def needs(self, node: Node, *more: Path) -> tuple[Path, ...]:
        """List the files that mark the inputs of a part as complete, after `more`."""
        inputs = [self.graph[key] for key in node.inputs]
        return tuple(dict.fromkeys((*more, *(self.output(other).file for other in inputs if not is_asked(other)))))

    def prepare_output(self, node: Node) -> Output:
        """Return the output of `prepare` for the data set of a part: all texts and the vocabulary."""
        folder = self.folder(self.data(node))
        return Output(folder, folder / "manifest.json")

    def raw_folder(self, data: Node) -> Path:
        """Return the output folder of the fetch step of a data set."""
        return self.actual_folder(self.root / "raw" if self.only(data) else self.root / "raw" / data.name)

    def text_folder(self, data: Node) -> Path:
        """Return the folder of relative text paths: the output of the fetch step or, if none, the working folder."""
        return Path() if data.settings.fetch is None else self.raw_folder(data)

    def evaluation_folder(self, name: str) -> Path:
        """Return the folder of the evaluation with this name, which `evaluation_name` gives."""
        return self.actual_folder(self.root / "evaluations" / name)


def bare_name(test: Node) -> str:
    """Return the name of a further test set within its data set."""
    return test.name.rpartition(OF)[2]


def evaluation_name(model: str, test: Node | None, data: Node | None = None) -> str:
    """Return the name of an evaluation. No model can have the name of one on a further test set.

    Args:
        model: The name of the model.
        test: The further test set; None for the data set's own test text.
        data: The data set, if the model has several.
    """
    of_data = model if data is None else f"{model}{OF}{data.name}"
    return of_data if test is None else f"{of_data}{OF}{bare_name(test)}"


def is_asked(node: Node) -> bool:
    """Whether a part is a teacher that is a source of k-best lists. It has no folder."""
    return node.kind == "teachers" and node.settings.source is not None


def list_data(graph: Graph, node: Node) -> list[Node]:
    """List the data sets that a part belongs to: those of the text that it is made from.

    The models that it is made from may belong to others.
    """
    if node.kind == "data":
        return [node]
    field = next((field for field in _TEXT if node.links.get(field)), None)
    parts = [] if field is None else graph.follow(node, field)
    return list({data.key: data for part in parts for data in list_data(graph, part)}.values())


def find_data(graph: Graph, node: Node) -> Node:
    """Return the data set that a part belongs to; of several, the first one."""
    return list_data(graph, node)[0]


def list_tested(graph: Graph, model: Node) -> list[Node]:
    """List the data sets on whose test text a model is evaluated, its own ones first.

    Models that start from one another (`init_from`), directly or through others, are evaluated on the data sets of all
    of them. The results show what a model has gained on one data set and forgotten on another.
    """
    starts = [(node.key, key) for node in graph.of_kind("students") for key in node.links.get("init_from", ())]
    family = {model.key}
    while new := {key for pair in starts if family.intersection(pair) for key in pair} - family:
        family |= new
    own = list_data(graph, model)
    related = {data.key for key in family for data in list_data(graph, graph[key])}
    return [*own, *(data for data in graph.of_kind("data") if data.key in related and data not in own)]


def set_seed(training: TrainingConfig, root: int, role: str) -> TrainingConfig:
    """Derive the seed from the pipeline's, unless the file gives one."""
    if "seed" in training.model_fields_set:
        return training
    # All students have the same seed, so that they differ only in their settings.
    return training.model_copy(update={"seed": derive_seed(root, role)})


def set_later_seed(training: TrainingConfig, number: int) -> TrainingConfig:
    """Set the n-th seed. Equal first seeds give equal later ones, so that gains can be paired by seed."""
    return (
        training if number == 1 else training.model_copy(update={"seed": derive_seed(training.seed, f"seed{number}")})
    )


def derive_seed(root: int, purpose: str) -> int:
    """Derive a seed for a purpose from another seed."""
    digest = hashlib.sha256(f"{root}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1  # 31 bits, which every generator accepts
