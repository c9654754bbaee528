"""Which stages a pipeline has: the resolved stage file of each, its folder, and what it is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from seqkd.config.models import ObjectiveConfig
from seqkd.config.report import NamedPath, StudentRounds, SyntheticPath
from seqkd.config.stages import (
    BitextConfig,
    EvaluateConfig,
    PrepareConfig,
    ReportConfig,
    SelectConfig,
    SoftTargetsConfig,
    TrainConfig,
)
from seqkd.pipeline.backtranslation import back_translated, monolingual, with_tag
from seqkd.pipeline.file import BACK_TRANSLATION, TEACHERS, PipelineConfig, SelectPart, StudentPart
from seqkd.pipeline.folders import Folders, Stage, distill_stage, seed_of, seeded, weighted
from seqkd.pipeline.relations import baselines, edges
from seqkd.pipeline.rounds import Round, rounds_of, taught


def plan_stages(pipeline: PipelineConfig, runs: Path) -> list[Stage]:
    """All stages of a pipeline, each after those that it needs."""
    folders, rounds = Folders(pipeline, runs / pipeline.name), rounds_of(pipeline)
    stages = [*_data(pipeline, folders), *monolingual(pipeline, folders), *_teacher(pipeline, folders)]
    for made in rounds:
        stages += [
            *_distilled(made, folders),
            *back_translated(pipeline, made, folders),
            *_soft_targets(pipeline, made, folders),
            *(_student(pipeline, made, folders, part) for part in made.students),
        ]
    stages += _evaluations(pipeline, rounds, folders)
    return [*stages, _report(pipeline, rounds, folders, stages)]


def _data(pipeline: PipelineConfig, folders: Folders) -> list[Stage]:
    data, raw = pipeline.data, folders.root / "raw"
    stages: list[Stage] = []
    needs: tuple[Path, ...]
    if data.fetch is not None:
        needs = tuple(sorted(data.fetch.script.parent.glob("*.py")))  # the script and what it may import
        stages.append(Stage(name="fetch", command="", goal="prepare", config=data.fetch, out=raw, needs=needs))
    base = folders.text

    def found(text: BitextConfig) -> BitextConfig:
        sides = {side: getattr(text, side) for side in ("source", "target", "accepted")}
        return BitextConfig(**{side: None if path is None else base / path for side, path in sides.items()})

    texts = [found(text) for text in (data.train, data.valid, data.test)]
    config = PrepareConfig(
        train=texts[0],
        valid=texts[1],
        test=texts[2],
        vocabulary=with_tag(pipeline),
        vocabulary_from=pipeline.teacher.path,
        cleaning=pipeline.prepare.cleaning,
        shard_rows=pipeline.prepare.shard_rows,
        seed=seed_of(pipeline.seed, "prepare"),
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


def _teacher(pipeline: PipelineConfig, folders: Folders) -> list[Stage]:
    part = pipeline.teacher
    if part.training is None:
        return []
    stages = []
    for number, name in enumerate(part.names, start=1):
        training = seeded(part.training, pipeline.seed, "teacher")
        if number > 1:  # they differ in nothing else (Freitag et al. 2017)
            training = training.model_copy(update={"seed": seed_of(training.seed, name)})
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


def _distilled(made: Round, folders: Folders) -> list[Stage]:
    gold, teachers = folders.corpus("gold"), folders.models(made.teachers)
    stages = [distill_stage(part.name, part, teachers, gold, folders) for part in made.distill]
    for chosen in made.select:
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
                needs=(kbest.file, gold.file, *_judges(chosen)),
            )
        )
    return stages


def _judges(part: SelectPart) -> list[Path]:
    """What tells that a model which reranks has changed; `seqkd select` says it better than Make if it is missing."""
    models = [] if part.rerank is None else [part.rerank.forward, part.rerank.reverse]
    files = [folder / "model.safetensors" for folder in models if folder is not None]
    return [file for file in files if file.exists()]


def _soft_targets(pipeline: PipelineConfig, made: Round, folders: Folders) -> list[Stage]:
    teachers, stages = folders.models(made.teachers), []
    for part in made.soft_targets:
        corpus = folders.corpus(part.corpus)
        config = SoftTargetsConfig(
            models=tuple(teacher.folder for teacher in teachers),
            corpus=corpus.folder,
            top_k=part.top_k,
            samples=part.samples,
            temperature=part.temperature,
            batch_tokens=part.batch_tokens,
            precision=part.precision,
            workers=part.workers,
            seed=seed_of(pipeline.seed, "soft_targets"),
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


def _student(pipeline: PipelineConfig, made: Round, folders: Folders, part: StudentPart) -> Stage:
    corpora = [folders.corpus(share.name) for share in part.corpora]
    first = None if part.init_from is None else folders.model(part.init_from.model)
    objective, taught_by = _taught(part.objective, made, folders)
    config = TrainConfig(
        role="student",
        prepared=folders.gold.folder,
        corpus=corpora[0].folder if isinstance(part.corpus, str) else weighted(part.corpus, folders),
        model=part.model,
        objective=objective,
        training=seeded(part.training, pipeline.seed, "student"),
        init_from=None if first is None or part.init_from is None else replace(part.init_from, model=str(first.folder)),
        hooks=part.hooks,
    )
    needs = (
        folders.gold.file,
        *(corpus.file for corpus in corpora),
        *(() if first is None else (first.file,)),
        *taught_by,
    )
    return Stage(
        name=f"student.{part.name}",
        command="train",
        goal="students",
        config=config,
        out=folders.model(part.name).folder,
        needs=tuple(dict.fromkeys(needs)),
    )


def _taught(objective: ObjectiveConfig, made: Round, folders: Folders) -> tuple[ObjectiveConfig, tuple[Path, ...]]:
    """The objective with the folders that it asks in place of names, and the files that tell they are whole."""
    if not objective.asking:
        return objective, ()
    written = None if objective.soft_targets is None else folders.soft_targets(str(objective.soft_targets))
    teachers = folders.models(made.teachers) if objective.live else []
    placed = objective.taught_by(
        teachers=tuple(teacher.folder for teacher in teachers),
        soft_targets=None if written is None else written.folder,
    )
    return placed, (*([] if written is None else [written.file]), *(teacher.file for teacher in teachers))


def _evaluations(pipeline: PipelineConfig, rounds: Sequence[Round], folders: Folders) -> list[Stage]:
    first, *_ = rounds
    return [
        *(_evaluation(pipeline, first, folders, name) for name in pipeline.teacher.evaluated),
        *(_evaluation(pipeline, made, folders, part.name, part) for made in rounds for part in made.students),
    ]


def _evaluation(
    pipeline: PipelineConfig, made: Round, folders: Folders, name: str, student: StudentPart | None = None
) -> Stage:
    """Speed-ups are over the first round's teacher in all rounds; what rescores is the round's own."""
    part, teacher = pipeline.evaluate, folders.model("teacher")
    models = folders.models(made.teachers) if name == TEACHERS else [folders.model(name)]
    decode = () if student is None else student.decode
    judge = folders.model(made.teachers[0]) if any(way.rescore for way in decode) else None
    over = None if name in pipeline.teacher.names else teacher
    config = EvaluateConfig(
        name=name,
        model=models[0].folder,
        ensemble=tuple(model.folder for model in models[1:]),
        role="teacher" if student is None else "student",
        corpus=folders.gold.folder / "test",
        trained_on="gold" if student is None else student.trained_on,
        beams=part.beams,
        search=part.search,
        decode=decode,
        rescore_with=None if judge is None else judge.folder,
        speed_against=None if over is None else over.folder,
        batch_tokens=part.batch_tokens,
        precision=part.precision,
        threads=part.threads,
    )
    beside = [model.file for model in (over, judge) if model is not None]
    return Stage(
        name=f"evaluate.{name}",
        command="evaluate",
        goal="report",
        config=config,
        out=folders.evaluation(name).folder,
        needs=tuple(dict.fromkeys((*(model.file for model in models), *beside, folders.gold.file))),
    )


def _report(pipeline: PipelineConfig, rounds: Sequence[Round], folders: Folders, stages: Sequence[Stage]) -> Stage:
    students = [part for made in rounds for part in made.students]
    again = taught(pipeline)[1] if len(rounds) > 1 else set()
    reverse = [made for made in rounds if made.backtranslation is not None]
    names = [part.name for part in students]
    config = ReportConfig(
        pipeline=pipeline.name,
        title=pipeline.title,
        prepared=folders.gold.folder,
        corpora=tuple(
            NamedPath(name=part.name, path=folders.corpus(part.name).folder) for made in rounds for part in made.select
        ),
        distill=tuple(
            NamedPath(name=part.name, path=folders.kbest(part.name).folder) for made in rounds for part in made.distill
        ),
        models=tuple(
            NamedPath(name=name, path=folders.model(name).folder) for name in (*pipeline.teacher.names, *names)
        ),
        evaluations=tuple(
            NamedPath(name=name, path=folders.evaluation(name).folder) for name in (*pipeline.teacher.evaluated, *names)
        ),
        teachers=(pipeline.teacher.evaluated[-1], *(made.teachers[0] for made in rounds[1:])) if again else (),
        rounds=tuple(
            StudentRounds(name=part.name, evaluations=tuple(made.named(part.name) for made in rounds))
            for part in pipeline.students
            if part.name in again
        ),
        backtranslation=tuple(
            SyntheticPath(
                name=made.named(BACK_TRANSLATION),
                path=folders.corpus(made.named(BACK_TRANSLATION)).folder,
                model=folders.reverse(made).folder,
            )
            for made in reverse
        ),
        baselines=tuple(baselines(students)),
        edges=tuple(edges(pipeline, rounds)),
    )
    needs = tuple(stage.target for stage in stages if stage.command)
    return Stage(
        name="report", command="report", goal="report", config=config, out=folders.root / "report", needs=needs
    )
