"""The stages at a pipeline's end: every model of a data set evaluated, and the report on them."""

from __future__ import annotations

from collections.abc import Iterator

from seqkd.config.prepare import OWN_TEST
from seqkd.config.report import NamedEvaluations, NamedPath, SeedRuns, StudentRounds, SyntheticPath
from seqkd.config.stages import EvaluateConfig, ReportConfig
from seqkd.pipeline.file import DistillPart, EvaluatePart, StudentPart
from seqkd.pipeline.folders import Plan, Stage, bare, evaluation_name
from seqkd.pipeline.graph import Node
from seqkd.pipeline.relations import baselines, edges, trained_on


def evaluated(node: Node, plan: Plan) -> Iterator[Stage]:
    """The evaluations of a data set's models, each ensemble as a whole among them, and the report.

    A model that is compared with a baseline is evaluated behind it.
    """
    models = plan.graph.linked(node, "models")
    over = dict(baselines(plan.graph, _students(node, plan)))
    evaluations: dict[str, list[Node]] = {}
    for model in models:
        evaluations[model.name] = [model]
        # Behind the last member of an ensemble.
        for first in (other for other in models if other.whole and other.whole[-1] == model.key):
            evaluations[first.settings.whole] = [plan.graph[key] for key in first.whole]
    tests = plan.graph.linked(node, "tests")
    ordered = sorted(evaluations, key=lambda name: name in over)
    for test in (None, *tests):
        for name in ordered:
            yield _evaluation(node.settings, plan, name, evaluations[name], over.get(name), test)
    yield _report(node, plan, list(evaluations), tests)


def _students(node: Node, plan: Plan) -> list[Node]:
    """The students of a data set."""
    data = plan.data(node)
    return [part for part in plan.graph.of("students") if plan.data(part) is data]


def _evaluation(
    part: EvaluatePart, plan: Plan, name: str, models: list[Node], baseline: str | None, test: Node | None
) -> Stage:
    """The evaluation on a further test set, or on the data set's own one, where speed is measured, too.

    Speed-ups are over the first round's teacher in all rounds; the model that rescores is the round's own.
    """
    model = models[0]
    made, prepared = [plan.made(other) for other in models], plan.prepared(model)
    decode = model.settings.decode if isinstance(model.settings, StudentPart) else ()
    timed = _teacher(plan, plan.graph[model.origin])
    judge = (_asked(plan, model) or timed) if any(way.rescore for way in decode) else None
    over = None if test is not None or (model.kind == "teachers" and len(models) == 1) else timed
    text = prepared if test is None else plan.made(test)
    rival = None if baseline is None else plan.evaluation(baseline, test)
    config = EvaluateConfig(
        name=name,
        model=made[0].folder,
        ensemble=tuple(other.folder for other in made[1:]),
        role="student" if model.kind == "students" else "teacher",
        corpus=prepared.folder / OWN_TEST if test is None else text.folder,
        trained_on=trained_on(plan.graph, model),
        beams=part.beams,
        search=part.search,
        decode=decode,
        rescore_with=None if judge is None else plan.made(judge).folder,
        speed_against=None if over is None else plan.made(over).folder,
        baseline=rival,
        batch_tokens=part.batch_tokens,
        precision=part.precision,
        threads=part.threads,
        tokenizer=part.tokenizer,
        metrics=part.metrics,
        timed=test is None,
    )
    beside = [plan.made(other).file for other in (over, judge) if other is not None]
    if rival is not None:
        beside.append(rival / "manifest.json")
    needs = (*(other.file for other in made), *beside, text.file)
    return Stage(
        name=f"evaluate.{evaluation_name(name, test)}",
        kind="evaluate",
        goal="report",
        config=config,
        out=plan.evaluation(name, test),
        needs=tuple(dict.fromkeys(needs)),
    )


def _teacher(plan: Plan, model: Node) -> Node | None:
    """The teacher that a model comes from, or if it comes from none the first of its data set."""
    data = plan.data(model)
    teachers = [node for node in plan.graph.of("teachers") if plan.data(node) is data]
    found = next((node for node in (model, *plan.graph.upstream(model)) if node.kind == "teachers"), None)
    return next((node for node in teachers if found is None or found.key in (node.key, *node.whole)), found)


def _asked(plan: Plan, model: Node) -> Node | None:
    """The model that taught a student, directly or by the text that it learns from."""
    for node in (model, *plan.graph.upstream(model)):
        for teacher in plan.graph.linked(node, "teacher"):
            if teacher.kind in ("teachers", "students"):
                return teacher
    return None


def _report(node: Node, plan: Plan, names: list[str], tests: list[Node]) -> Stage:
    pipeline, data = plan.pipeline, plan.data(node)
    parts = [part for part in plan.graph if plan.data(part) is data]
    students = _students(node, plan)
    firsts = [part for part in students if part.seed == 1]  # tables show the mean of the others with them
    later = {part.origin for part in firsts if part.round > 1}
    again = {
        key: [part for part in firsts if part.origin == key]
        for key in dict.fromkeys(part.origin for part in firsts)
        if key in later
    }
    config = ReportConfig(
        pipeline=pipeline.name,
        title=pipeline.title,
        prepared=plan.prepared(node).folder,
        corpora=tuple(_named(plan, part) for part in parts if part.kind == "select"),
        distill=tuple(_named(plan, part) for part in parts if isinstance(part.settings, DistillPart)),
        soft_targets=tuple(_named(plan, part) for part in parts if part.kind == "soft_targets"),
        models=tuple(_named(plan, part) for part in plan.graph.linked(node, "models")),
        evaluations=tuple(NamedPath(name=name, path=plan.evaluation(name)) for name in names),
        tests=tuple(
            NamedEvaluations(
                name=bare(test),
                path=plan.made(test).folder,
                evaluations=tuple(NamedPath(name=name, path=plan.evaluation(name, test)) for name in names),
            )
            for test in tests
        ),
        teachers=_round_teachers(plan) if again else (),
        rounds=tuple(
            StudentRounds(name=name, evaluations=tuple(part.name for part in made)) for (_, name), made in again.items()
        ),
        backtranslation=tuple(
            SyntheticPath(
                name=part.name,
                path=plan.made(part).folder,
                model=next(plan.folder(other) for other in plan.graph.upstream(part) if other.kind == "reverse"),
            )
            for part in parts
            if part.kind == "backtranslation"
        ),
        seeds=tuple(_seeds(plan.graph.linked(node, "models"))),
        baselines=tuple(baselines(plan.graph, students)),
        edges=tuple(edges(plan.graph, parts)),
    )
    out = plan.root / "report" if plan.only(data) else plan.root / "report" / data.name
    needs = tuple(target for target, stage in plan.done[data.name].items() if stage.kind is not None)
    return Stage(
        name=plan.stage_name(data, "report"), kind="report", goal="report", config=config, out=out, needs=needs
    )


def _seeds(models: list[Node]) -> Iterator[SeedRuns]:
    """Models that are trained with several seeds."""
    for first in (model for model in models if model.seed == 1):
        runs = [model.name for model in models if model.first == first.key]
        if len(runs) > 1:
            yield SeedRuns(name=first.name, evaluations=tuple(runs))


def _named(plan: Plan, part: Node) -> NamedPath:
    return NamedPath(name=part.name, path=plan.made(part).folder)


def _round_teachers(plan: Plan) -> tuple[str, ...]:
    """Who teaches in each round, by evaluation."""
    successor = plan.pipeline.successor
    assert successor is not None
    made = [part.name for part in plan.graph.of("students") if part.origin == ("students", successor.name)]
    return (plan.pipeline.teachers[0].whole, *made[:-1])
