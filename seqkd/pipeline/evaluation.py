"""The last stages of a pipeline: the evaluations of all models of a data set, and the report."""

from __future__ import annotations

from collections.abc import Iterator

from seqkd.config.prepare import OWN_TEST
from seqkd.config.report import NamedEvaluations, NamedPath, SeedRuns, StudentRounds, SyntheticPath
from seqkd.config.stages import EvaluateConfig, ReportConfig
from seqkd.pipeline.file import DistillPart, EvaluatePart, StudentPart
from seqkd.pipeline.folders import Plan, Stage, bare_name, evaluation_name, is_asked
from seqkd.pipeline.graph import Node
from seqkd.pipeline.relations import describe_corpora, find_baselines, list_edges
from seqkd.pipeline.vocabularies import ENCODED_TEST, encoded_key, find_vocabulary


def plan_evaluation(node: Node, plan: Plan) -> Iterator[Stage]:
    """Plan the evaluations of the models and ensembles of a data set, and the report.

    A model that is compared with a baseline is evaluated after it.
    """
    models = plan.graph.follow(node, "models")
    over = dict(find_baselines(plan.graph, _list_students(node, plan)))
    evaluations: dict[str, list[Node]] = {}
    for model in models:
        evaluations[model.name] = [model]
        # An ensemble follows its last member.
        for first in (other for other in models if other.whole and other.whole[-1] == model.key):
            evaluations[first.settings.whole] = [plan.graph[key] for key in first.whole]
    tests = plan.graph.follow(node, "tests")
    ordered = sorted(evaluations, key=lambda name: name in over)
    for test in (None, *tests):
        for name in ordered:
            yield _plan_one(node.settings, plan, name, evaluations[name], over.get(name), test)
    yield _plan_report(node, plan, list(evaluations), tests)


def _list_students(node: Node, plan: Plan) -> list[Node]:
    """List the students of a data set."""
    data = plan.data(node)
    return [part for part in plan.graph.of_kind("students") if plan.data(part) is data]


def _plan_one(
    part: EvaluatePart, plan: Plan, name: str, models: list[Node], baseline: str | None, test: Node | None
) -> Stage:
    """Plan the evaluation on a further test set or, if `test` is None, on the data set's own one, with speed.

    In all rounds speed-ups are relative to the first round's teacher. The model that rescores is that of the round.
    """
    model = models[0]
    made, prepared = [plan.output(other) for other in models], plan.prepare_output(model)
    decode = model.settings.decode if isinstance(model.settings, StudentPart) else ()
    timed = _find_timed_teacher(plan, plan.graph[model.origin])
    judge = (_find_asked_teacher(plan, model) or timed) if any(way.rescore for way in decode) else None
    over = None if test is not None or (model.kind == "teachers" and len(models) == 1) else timed
    vocabulary = find_vocabulary(plan.graph, plan.pipeline, model)
    text = prepared if test is None else plan.output(test)
    corpus = prepared.folder / OWN_TEST if test is None else text.folder
    if vocabulary != plan.data(model).key:
        key = encoded_key(plan.graph, test or plan.data(model), vocabulary, ENCODED_TEST)
        text = plan.output(plan.graph[key])
        corpus = text.folder
    rival = None if baseline is None else plan.evaluation_folder(baseline, test)
    config = EvaluateConfig(
        name=name,
        model=made[0].folder,
        ensemble=tuple(other.folder for other in made[1:]),
        role="student" if model.kind == "students" else "teacher",
        corpus=corpus,
        trained_on=describe_corpora(plan.graph, model),
        beams=part.beams,
        search=part.search,
        decode=decode,
        rescore_with=None if judge is None else plan.output(judge).folder,
        speed_against=None if over is None else plan.output(over).folder,
        baseline=rival,
        batch_tokens=part.batch_tokens,
        precision=part.precision,
        threads=part.threads,
        tokenizer=part.tokenizer,
        metrics=part.metrics,
        timed=test is None,
    )
    beside = [plan.output(other).file for other in (over, judge) if other is not None]
    if rival is not None:
        beside.append(rival / "manifest.json")
    needs = (*(other.file for other in made), *beside, text.file)
    return Stage(
        name=f"evaluate.{evaluation_name(name, test)}",
        kind="evaluate",
        goal="report",
        config=config,
        out=plan.evaluation_folder(name, test),
        needs=tuple(dict.fromkeys(needs)),
    )


def _find_timed_teacher(plan: Plan, model: Node) -> Node | None:
    """Find the teacher that a model is made from, or the first teacher of its data set."""
    data = plan.data(model)
    teachers = [node for node in plan.graph.of_kind("teachers") if plan.data(node) is data and not is_asked(node)]
    above = (node for node in (model, *plan.graph.upstream(model)) if node.kind == "teachers" and not is_asked(node))
    found = next(above, None)
    return next((node for node in teachers if found is None or found.key in (node.key, *node.whole)), found)


def _find_asked_teacher(plan: Plan, model: Node) -> Node | None:
    """Find the model that taught a student, directly or through its training text."""
    for node in (model, *plan.graph.upstream(model)):
        for teacher in plan.graph.follow(node, "teacher"):
            if teacher.kind in ("teachers", "students") and not is_asked(teacher):
                return teacher
    return None


def _plan_report(node: Node, plan: Plan, names: list[str], tests: list[Node]) -> Stage:
    pipeline, data = plan.pipeline, plan.data(node)
    parts = [part for part in plan.graph if plan.data(part) is data]
    students = _list_students(node, plan)
    firsts = [part for part in students if part.seed == 1]  # tables show their mean with the later seeds
    later = {part.origin for part in firsts if part.round > 1}
    again = {
        key: [part for part in firsts if part.origin == key]
        for key in dict.fromkeys(part.origin for part in firsts)
        if key in later
    }
    config = ReportConfig(
        pipeline=pipeline.name,
        title=pipeline.title,
        prepared=plan.prepare_output(node).folder,
        corpora=tuple(_named_path(plan, part) for part in parts if part.kind == "select"),
        distill=tuple(_named_path(plan, part) for part in parts if isinstance(part.settings, DistillPart)),
        soft_targets=tuple(_named_path(plan, part) for part in parts if part.kind == "soft_targets"),
        models=tuple(_named_path(plan, part) for part in plan.graph.follow(node, "models")),
        evaluations=tuple(NamedPath(name=name, path=plan.evaluation_folder(name)) for name in names),
        tests=tuple(
            NamedEvaluations(
                name=bare_name(test),
                path=plan.output(test).folder,
                evaluations=tuple(NamedPath(name=name, path=plan.evaluation_folder(name, test)) for name in names),
            )
            for test in tests
        ),
        teachers=_list_round_teachers(plan) if again else (),
        rounds=tuple(
            StudentRounds(name=name, evaluations=tuple(part.name for part in made)) for (_, name), made in again.items()
        ),
        backtranslation=tuple(
            SyntheticPath(
                name=part.name,
                path=plan.output(part).folder,
                model=next(plan.folder(other) for other in plan.graph.upstream(part) if other.kind == "reverse"),
            )
            for part in parts
            if part.kind == "backtranslation"
        ),
        seeds=tuple(_list_seed_runs(plan.graph.follow(node, "models"))),
        baselines=tuple(find_baselines(plan.graph, students)),
        edges=tuple(list_edges(plan.graph, parts)),
    )
    out = plan.root / "report" if plan.only(data) else plan.root / "report" / data.name
    needs = tuple(target for target, stage in plan.done[data.name].items() if stage.kind not in (None, "export"))
    return Stage(
        name=plan.stage_name(data, "report"), kind="report", goal="report", config=config, out=out, needs=needs
    )


def _list_seed_runs(models: list[Node]) -> Iterator[SeedRuns]:
    """List the models that are trained with several seeds."""
    for first in (model for model in models if model.seed == 1):
        runs = [model.name for model in models if model.first == first.key]
        if len(runs) > 1:
            yield SeedRuns(name=first.name, evaluations=tuple(runs))


def _named_path(plan: Plan, part: Node) -> NamedPath:
    return NamedPath(name=part.name, path=plan.output(part).folder)


def _list_round_teachers(plan: Plan) -> tuple[str, ...]:
    """List the teacher of each round, by the name of its evaluation."""
    successor = plan.pipeline.successor
    assert successor is not None
    made = [part.name for part in plan.graph.of_kind("students") if part.origin == ("students", successor.name)]
    return (plan.pipeline.teachers[0].whole, *made[:-1])
