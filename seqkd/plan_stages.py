"""Which stages a pipeline has: the resolved stage file of each, its folder, and what it is made from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from seqkd.config import (
    BitextConfig,
    DistillConfig,
    EvaluateConfig,
    NamedPath,
    PrepareConfig,
    ReportConfig,
    SelectConfig,
    SoftTargetsConfig,
    TrainConfig,
    TrainingConfig,
    WeightedPath,
)
from seqkd.config_models import ObjectiveConfig, WordKdConfig
from seqkd.config_pipeline import TEACHERS, PipelineConfig, StudentPart
from seqkd.config_search import ParallelConfig
from seqkd.plan_relations import baselines, edges


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


def plan_stages(pipeline: PipelineConfig, runs: Path) -> list[Stage]:
    """All stages of a pipeline, each after those that it needs."""
    folders = _Folders(pipeline, runs / pipeline.name)
    stages = [
        *_data(pipeline, folders),
        *_teacher(pipeline, folders),
        *_distilled(pipeline, folders),
        *_soft_targets(pipeline, folders),
        *_students(pipeline, folders),
        *_evaluations(pipeline, folders),
    ]
    return [*stages, _report(pipeline, folders, stages)]


@dataclass(frozen=True, slots=True)
class _Folders:
    """Where everything of a pipeline lies."""

    pipeline: PipelineConfig
    root: Path

    @property
    def gold(self) -> Made:
        return _finished(self.root / "gold")

    def kbest(self, name: str) -> Made:
        return _finished(self.root / "kbest" / name)

    def soft_targets(self, name: str) -> Made:
        return _finished(self.root / "soft_targets" / name)

    def corpus(self, name: str) -> Made:
        if name == "gold":  # its manifest comes before that of the whole of `gold`
            return Made(self.gold.folder / "train", self.gold.file)
        return _finished(self.root / "corpora" / name)

    def model(self, name: str) -> Made:
        if name not in self.pipeline.teacher.names:
            return _finished(self.root / "students" / name)
        path = self.pipeline.teacher.path
        return _finished(self.root / name) if path is None else Made(path, path / "model.safetensors")

    @property
    def teachers(self) -> list[Made]:
        return [self.model(name) for name in self.pipeline.teacher.names]

    def evaluation(self, name: str) -> Made:
        return _finished(self.root / "evaluations" / name)


def _finished(folder: Path) -> Made:
    return Made(folder, folder / "manifest.json")


def _data(pipeline: PipelineConfig, folders: _Folders) -> list[Stage]:
    data, raw = pipeline.data, folders.root / "raw"
    stages: list[Stage] = []
    needs: tuple[Path, ...]
    if data.fetch is not None:
        needs = tuple(sorted(data.fetch.script.parent.glob("*.py")))  # the script and what it may import
        stages.append(Stage(name="fetch", command="", goal="prepare", config=data.fetch, out=raw, needs=needs))
    base = Path() if data.fetch is None else raw

    def found(text: BitextConfig) -> BitextConfig:
        sides = {side: getattr(text, side) for side in ("source", "target", "accepted")}
        return BitextConfig(**{side: None if path is None else base / path for side, path in sides.items()})

    texts = [found(text) for text in (data.train, data.valid, data.test)]
    config = PrepareConfig(
        train=texts[0],
        valid=texts[1],
        test=texts[2],
        vocabulary=pipeline.prepare.vocabulary,
        vocabulary_from=pipeline.teacher.path,
        cleaning=pipeline.prepare.cleaning,
        shard_rows=pipeline.prepare.shard_rows,
        seed=_seed(pipeline.seed, "prepare"),
    )
    if stages:
        needs = (stages[0].target,)
    else:  # a text that is missing is not named to Make: `seqkd prepare` says it better
        files = [path for text in texts for path in (text.source, text.target, text.accepted) if path is not None]
        needs = tuple(dict.fromkeys(path for path in files if path.exists()))
    if pipeline.teacher.path is not None:
        needs = (*needs, folders.model("teacher").file)
    gold = folders.gold.folder
    return [*stages, Stage(name="prepare", command="prepare", goal="prepare", config=config, out=gold, needs=needs)]


def _teacher(pipeline: PipelineConfig, folders: _Folders) -> list[Stage]:
    part = pipeline.teacher
    if part.training is None:
        return []
    stages = []
    for number, name in enumerate(part.names, start=1):
        training = _seeded(part.training, pipeline.seed, "teacher")
        if number > 1:  # they differ in nothing else (Freitag et al. 2017)
            training = training.model_copy(update={"seed": _seed(training.seed, name)})
        config = TrainConfig(
            role="teacher",
            prepared=folders.gold.folder,
            corpus=folders.corpus("gold").folder,
            model=part.model,
            objective=part.objective,
            training=training,
        )
        out = folders.model(name).folder
        needs = (folders.gold.file,)
        stages.append(Stage(name=name, command="train", goal="teacher", config=config, out=out, needs=needs))
    return stages


def _distilled(pipeline: PipelineConfig, folders: _Folders) -> list[Stage]:
    gold, teachers = folders.corpus("gold"), folders.teachers
    stages = []
    for part in pipeline.distill:
        config = DistillConfig(
            models=tuple(teacher.folder for teacher in teachers),
            corpus=gold.folder,
            search=part.search,
            batch_tokens=part.batch_tokens,
            precision=part.precision,
            workers=part.workers,
        )
        stages.append(
            Stage(
                name=f"distill.{part.name}",
                command="distill",
                goal="distill",
                config=config,
                out=folders.kbest(part.name).folder,
                needs=(*(teacher.file for teacher in teachers), gold.file),
            )
        )
    for chosen in pipeline.select:
        kbest = folders.kbest(chosen.kbest)
        stages.append(
            Stage(
                name=f"select.{chosen.name}",
                command="select",
                goal="distill",
                config=SelectConfig(
                    kbest=kbest.folder,
                    gold=gold.folder,
                    prepared=folders.gold.folder,
                    **chosen.model_dump(exclude={"name", "kbest"}),
                ),
                out=folders.corpus(chosen.name).folder,
                needs=(kbest.file, gold.file),
            )
        )
    return stages


def _soft_targets(pipeline: PipelineConfig, folders: _Folders) -> list[Stage]:
    teachers, stages = folders.teachers, []
    for part in pipeline.soft_targets:
        corpus = folders.corpus(part.corpus)
        config = SoftTargetsConfig(
            models=tuple(teacher.folder for teacher in teachers),
            corpus=corpus.folder,
            top_k=part.top_k,
            samples=part.samples,
            temperature=part.temperature,
            batch_tokens=part.batch_tokens,
            precision=part.precision,
            seed=_seed(pipeline.seed, "soft_targets"),
        )
        stages.append(
            Stage(
                name=f"soft_targets.{part.name}",
                command="distill",
                goal="distill",
                config=config,
                out=folders.soft_targets(part.name).folder,
                needs=(*(teacher.file for teacher in teachers), corpus.file),
                options=("--soft-targets",),
            )
        )
    return stages


def _students(pipeline: PipelineConfig, folders: _Folders) -> list[Stage]:
    return [_student(pipeline, folders, part) for part in pipeline.students]


def _student(pipeline: PipelineConfig, folders: _Folders, part: StudentPart) -> Stage:
    corpora = [folders.corpus(share.name) for share in part.corpora]
    weighted = tuple(
        WeightedPath(path=made.folder, weight=share.weight) for made, share in zip(corpora, part.corpora, strict=True)
    )
    first = None if part.init_from is None else folders.model(part.init_from)
    objective, taught_by = _taught(part.objective, folders)
    config = TrainConfig(
        role="student",
        prepared=folders.gold.folder,
        corpus=corpora[0].folder if isinstance(part.corpus, str) else weighted,
        model=part.model,
        objective=objective,
        training=_seeded(part.training, pipeline.seed, "student"),
        init_from=None if first is None else first.folder,
    )
    needs = (folders.gold.file, *(made.file for made in corpora), *(() if first is None else (first.file,)), *taught_by)
    return Stage(
        name=f"student.{part.name}",
        command="train",
        goal="students",
        config=config,
        out=folders.model(part.name).folder,
        needs=tuple(dict.fromkeys(needs)),
    )


def _taught(objective: ObjectiveConfig, folders: _Folders) -> tuple[ObjectiveConfig, tuple[Path, ...]]:
    """The objective with the folders that it asks in place of names, and the files that tell they are whole."""
    if not isinstance(objective, WordKdConfig):
        return objective, ()
    if objective.soft_targets is not None:
        soft = folders.soft_targets(str(objective.soft_targets))
        return objective.model_copy(update={"soft_targets": soft.folder}), (soft.file,)
    folders_of = tuple(teacher.folder for teacher in folders.teachers)
    return objective.model_copy(update={"teachers": folders_of}), tuple(teacher.file for teacher in folders.teachers)


def _evaluations(pipeline: PipelineConfig, folders: _Folders) -> list[Stage]:
    return [
        *(_evaluation(pipeline, folders, name, "gold", ()) for name in pipeline.teacher.evaluated),
        *(_evaluation(pipeline, folders, part.name, part.trained_on, part.decode) for part in pipeline.students),
    ]


def _evaluation(
    pipeline: PipelineConfig, folders: _Folders, name: str, trained_on: str, decode: tuple[ParallelConfig, ...]
) -> Stage:
    part, teacher = pipeline.evaluate, folders.model("teacher")
    models = folders.teachers if name == TEACHERS else [folders.model(name)]
    student, alone = name not in pipeline.teacher.evaluated, name in pipeline.teacher.names
    config = EvaluateConfig(
        name=name,
        model=models[0].folder,
        ensemble=tuple(model.folder for model in models[1:]),
        role="student" if student else "teacher",
        corpus=folders.gold.folder / "test",
        trained_on=trained_on,
        beams=part.beams,
        search=part.search,
        decode=decode,
        rescore_with=teacher.folder if any(way.rescore for way in decode) else None,
        speed_against=None if alone else teacher.folder,
        batch_tokens=part.batch_tokens,
        precision=part.precision,
    )
    return Stage(
        name=f"evaluate.{name}",
        command="evaluate",
        goal="report",
        config=config,
        out=folders.evaluation(name).folder,
        needs=tuple(
            dict.fromkeys((*(model.file for model in models), *(() if alone else (teacher.file,)), folders.gold.file))
        ),
    )


def _report(pipeline: PipelineConfig, folders: _Folders, stages: Sequence[Stage]) -> Stage:
    models = [*pipeline.teacher.names, *(part.name for part in pipeline.students)]
    config = ReportConfig(
        pipeline=pipeline.name,
        title=pipeline.title,
        prepared=folders.gold.folder,
        corpora=tuple(NamedPath(name=part.name, path=folders.corpus(part.name).folder) for part in pipeline.select),
        distill=tuple(NamedPath(name=part.name, path=folders.kbest(part.name).folder) for part in pipeline.distill),
        models=tuple(NamedPath(name=name, path=folders.model(name).folder) for name in models),
        evaluations=tuple(
            NamedPath(name=name, path=folders.evaluation(name).folder)
            for name in (*pipeline.teacher.evaluated, *(part.name for part in pipeline.students))
        ),
        baselines=tuple(baselines(pipeline.students)),
        edges=tuple(edges(pipeline)),
    )
    needs = tuple(stage.target for stage in stages if stage.command)
    return Stage(
        name="report", command="report", goal="report", config=config, out=folders.root / "report", needs=needs
    )


def _seeded(training: TrainingConfig, root: int, role: str) -> TrainingConfig:
    """The pipeline's seed, unless the file gives this one its own."""
    if "seed" in training.model_fields_set:
        return training
    # One seed for all students: they differ in what the file says and in nothing else.
    return training.model_copy(update={"seed": _seed(root, role)})


def _seed(root: int, purpose: str) -> int:
    digest = hashlib.sha256(f"{root}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1  # 31 bits: every generator takes it
