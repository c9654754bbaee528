"""The last stages of a pipeline: the evaluations of all models of a data set, and its report."""

from __future__ import annotations

from collections.abc import Iterator

from seqkd.config.prepare import OWN_TEST
from seqkd.config.report import (
    ComparedOutputs,
    LanguageText,
    NamedEvaluations,
    NamedPath,
    PseudoPath,
    SeedRuns,
    StartedModel,
    StudentRounds,
    SyntheticPath,
)
from seqkd.config.stages import EvaluateConfig, ReportConfig
from seqkd.pipeline.file import DistillPart, EvaluatePart, StudentPart
from seqkd.pipeline.folders import Plan, Stage, bare_name, evaluation_name, is_asked
from seqkd.pipeline.graph import Node
from seqkd.pipeline.relations import describe_corpora, find_baselines, find_grids, list_edges
from seqkd.pipeline.vocabularies import ENCODED_TEST, encoded_key, find_vocabulary


def plan_evaluation(node: Node, plan: Plan) -> Iterator[Stage]:
    """Plan the evaluations of the models and ensembles of a data set.

    A model that is compared with a baseline is evaluated after it.
    """
    over = dict(find_baselines(plan.graph, _list_students(node, plan)))
    evaluations = _list_evaluated(node, plan)
    ordered = sorted(evaluations, key=lambda name: name in over)
    for test in (None, *plan.graph.follow(node, "tests")):
        for name in ordered:
            baseline = evaluations[over[name]][0] if name in over else None
            yield _plan_one(node, plan, name, evaluations[name], baseline, test)


def _list_evaluated(node: Node, plan: Plan) -> dict[str, list[Node]]:
    """List the models of each evaluation of a data set, by its name in the report: one, or those of an ensemble."""
    models = plan.graph.follow(node, "models")
    found: dict[str, list[Node]] = {}
    for model in models:
        found[model.name] = [model]
        # An ensemble follows its last member.
        for first in (other for other in models if other.whole and other.whole[-1] == model.key):
            found[first.settings.whole] = [plan.graph[key] for key in first.whole]
    return found


def _list_students(node: Node, plan: Plan) -> list[Node]:
    """List the students that are evaluated on a data set."""
    data = plan.data(node)
    return [part for part in plan.graph.of_kind("students") if data in plan.list_tested(part)]


def _name_evaluation(plan: Plan, name: str, model: Node, data: Node, test: Node | None) -> str:
    """Name the evaluation of a model on a test set of a data set, or on its own test text if `test` is None."""
    several = len(plan.list_tested(model)) > 1
    return evaluation_name(name, test, data if several else None)


def _plan_one(node: Node, plan: Plan, name: str, models: list[Node], baseline: Node | None, test: Node | None) -> Stage:
    """Plan the evaluation on a further test set or, if `test` is None, on the data set's own one.

    Speed is measured on the latter. That of a model with several data sets is measured on the first one.
    In all rounds speed-ups are relative to the first round's teacher. The model that rescores is that of the round.
    """
    part: EvaluatePart = node.settings
    model, data = models[0], plan.data(node)
    made, prepared = [plan.output(other) for other in models], plan.prepare_output(data)
    decode = model.settings.decode if isinstance(model.settings, StudentPart) else ()
    timed = _find_timed_teacher(plan, plan.graph[model.origin], data)
    judge = (_find_asked_teacher(plan, model) or timed) if any(way.rescore for way in decode) else None
    measured = test is None and data is plan.data(model)
    over = timed if measured and not (model.kind == "teachers" and len(models) == 1) else None
    vocabulary = find_vocabulary(plan.graph, plan.pipeline, model)
    text = prepared if test is None else plan.output(test)
    corpus = prepared.folder / OWN_TEST if test is None else text.folder
    if vocabulary != data.key:
        key = encoded_key(plan.graph, test or data, vocabulary, ENCODED_TEST)
        text = plan.output(plan.graph[key])
        corpus = text.folder
    rival = None
    if baseline is not None:
        rival = plan.evaluation_folder(_name_evaluation(plan, baseline.name, baseline, data, test))
    corpora = plan.graph.follow(node, "targets") if test is None else []
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
        timed=measured,
        targets=tuple(_named_path(plan, other) for other in corpora),
        target_rows=part.target_rows,
    )
    beside = [plan.output(other).file for other in (over, judge, *corpora) if other is not None]
    if rival is not None:
        beside.append(rival / "manifest.json")
    needs = (*(other.file for other in made), *beside, text.file)
    own_name = _name_evaluation(plan, name, model, data, test)
    return Stage(
        name=f"evaluate.{own_name}",
        kind="evaluate",
        goal="report",
        config=config,
        out=plan.evaluation_folder(own_name),
        needs=tuple(dict.fromkeys(needs)),
    )


def _find_timed_teacher(plan: Plan, model: Node, data: Node) -> Node | None:
    """Find the teacher that a model is made from, or the first teacher of its data set."""
    teachers = [node for node in plan.graph.of_kind("teachers") if data in plan.list_data(node) and not is_asked(node)]
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


def plan_report(node: Node, plan: Plan) -> Iterator[Stage]:
    """Plan the report of a data set."""
    pipeline, data = plan.pipeline, plan.data(node)
    evaluation = _find_evaluation(node, plan)
    models = plan.graph.follow(evaluation, "models")
    parts = [part for part in plan.graph if data in plan.list_data(part)]
    students = _list_students(node, plan)
    further = tuple(_list_tests(node, plan))
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
        corpora=tuple(_named_path(plan, part) for part in parts if part.kind in ("samples", "select")),
        distill=tuple(_named_path(plan, part) for part in parts if isinstance(part.settings, DistillPart)),
        soft_targets=tuple(_named_path(plan, part) for part in parts if part.kind == "soft_targets"),
        models=tuple(_named_path(plan, part) for part in models),
        evaluations=_list_evaluations(evaluation, plan, None),
        tests=further,
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
        selftraining=tuple(_pseudo_path(plan, part) for part in parts if part.kind == "selftraining"),
        seeds=tuple(_list_seed_runs(models)),
        starts=tuple(_list_starts(node, plan, students)) if further else (),
        grids=tuple(find_grids(students)) if further else (),
        baselines=tuple(find_baselines(plan.graph, students)),
        edges=tuple(list_edges(plan.graph, parts, data)),
        shared=tuple(_named_path(plan, part) for part in _list_shared(plan, data)),
        agreement=next(
            (_plan_agreement(plan, each, data) for each in plan.graph.follow(evaluation, "agreement")), None
        ),
        languages=tuple(_list_languages(plan, data)),
    )
    out = plan.root / "report" if plan.only(data) else plan.root / "report" / data.name
    shared = (plan.output(part).file for part in _list_shared(plan, data))
    done = (target for target, stage in plan.done[data.name].items() if stage.kind not in (None, "export"))
    joined = (named.path / "manifest.json" for test in further for named in test.evaluations)
    compared = [] if config.agreement is None else [config.agreement.path / "manifest.json"]
    # A fetch step also writes the texts of languages. Missing texts are not named to Make.
    files = (path for each in config.languages for path in (each.text, each.test) if path is not None)
    texts = (path for path in files if data.settings.fetch is None and path.exists())
    needs = tuple(dict.fromkeys((*done, *joined, *shared, *compared, *texts)))
    yield Stage(name=plan.stage_name(data, "report"), kind="report", goal="report", config=config, out=out, needs=needs)


def _plan_agreement(plan: Plan, model: Node, data: Node) -> ComparedOutputs:
    """Return the evaluation of a model, which may belong to other data sets than `data`, and its test corpus."""
    of_model = plan.list_data(model)
    own = data if data in of_model else of_model[0]
    name = _name_evaluation(plan, model.name, model, own, None)
    corpus = plan.prepare_output(own).folder / OWN_TEST
    return ComparedOutputs(name=model.name, path=plan.evaluation_folder(name), corpus=corpus)


def _list_evaluations(node: Node, plan: Plan, test: Node | None, shown: Node | None = None) -> tuple[NamedPath, ...]:
    """List the evaluations on a test set of a data set, or on its own test text if `test` is None.

    Models that are not among those of `shown`, another evaluation, are listed with their first seed only.
    """
    data, evaluated = plan.data(node), _list_evaluated(node, plan)
    own = evaluated if shown is None else _list_evaluated(shown, plan)
    return tuple(
        NamedPath(name=name, path=plan.evaluation_folder(_name_evaluation(plan, name, models[0], data, test)))
        for name, models in evaluated.items()
        if name in own or models[0].seed == 1
    )


def _list_tests(node: Node, plan: Plan) -> Iterator[NamedEvaluations]:
    """List the further test sets of a data set, and the test texts of the data sets that models join to it."""
    own = _find_evaluation(node, plan)
    for test in plan.graph.follow(own, "tests"):
        found = _list_evaluations(own, plan, test)
        yield NamedEvaluations(name=bare_name(test), path=plan.output(test).folder, evaluations=found)
    for evaluation in plan.graph.follow(node, "evaluations"):
        if evaluation is not own:
            other = plan.data(evaluation)
            yield NamedEvaluations(
                name=other.name,
                path=plan.prepare_output(other).folder / OWN_TEST,
                evaluations=_list_evaluations(evaluation, plan, None, own),
            )


def _find_evaluation(node: Node, plan: Plan) -> Node:
    """Find the evaluation of the data set of a report."""
    data = plan.data(node)
    return next(each for each in plan.graph.follow(node, "evaluations") if plan.data(each) is data)


def _list_languages(plan: Plan, data: Node) -> Iterator[LanguageText]:
    """List the languages of targets, with paths as for the texts of a data set."""
    base = plan.text_folder(data)
    for name, part in plan.pipeline.report.languages.items():
        yield LanguageText(name=name, text=base / part.text, test=None if part.test is None else base / part.test)


def _list_starts(node: Node, plan: Plan, students: list[Node]) -> Iterator[StartedModel]:
    """List the students that start from another model, with the test sets of the data sets that it was trained on."""
    data = plan.data(node)
    for student in students:
        for start in plan.graph.follow(student, "init_from"):
            known = plan.list_data(start)
            names = [other.name for other in known if other is not data]
            if data in known:
                own = (test for test in plan.graph.of_kind("tests") if plan.data(test) is data)
                names = [OWN_TEST, *map(bare_name, own), *names]
            yield StartedModel(name=student.name, start=start.name, known=tuple(names))


def _list_shared(plan: Plan, data: Node) -> list[Node]:
    """List the training corpora of the data sets that share the sources of a data set, each one's gold text first."""
    sharing = [other for other in plan.graph.of_kind("data") if data.key in other.links.get("shares_sources", ())]
    distilled = plan.graph.of_kind("select")
    return [part for other in sharing for part in (other, *(each for each in distilled if plan.data(each) is other))]


def _list_seed_runs(models: list[Node]) -> Iterator[SeedRuns]:
    """List the models that are trained with several seeds."""
    for first in (model for model in models if model.seed == 1):
        runs = [model.name for model in models if model.first == first.key]
        if len(runs) > 1:
            yield SeedRuns(name=first.name, evaluations=tuple(runs))


def _pseudo_path(plan: Plan, part: Node) -> PseudoPath:
    """Return the corpus of a [selftraining] with the model that wrote its targets, if it is a single one."""
    (lists,) = plan.graph.follow(part, "kbest")
    models = plan.linked_outputs(lists, "teacher")
    return PseudoPath(
        name=part.name, path=plan.output(part).folder, model=models[0].folder if len(models) == 1 else None
    )


def _named_path(plan: Plan, part: Node) -> NamedPath:
    return NamedPath(name=part.name, path=plan.output(part).folder)


def _list_round_teachers(plan: Plan) -> tuple[str, ...]:
    """List the teacher of each round, by the name of its evaluation."""
    successor = plan.pipeline.successor
    assert successor is not None
    made = [part.name for part in plan.graph.of_kind("students") if part.origin == ("students", successor.name)]
    return (plan.pipeline.teachers[0].whole, *made[:-1])
