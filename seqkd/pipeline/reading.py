"""The reader of pipeline files. One message lists all problems of a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from seqkd.config.toml import join_place, list_problems, merge_problems, read_toml
from seqkd.errors import InputError
from seqkd.metrics.sacrebleu_sets import sacrebleu_files
from seqkd.models.registry import ARCHITECTURES, setting_names
from seqkd.objectives.registry import OBJECTIVES
from seqkd.pipeline.checks import find_data_problems, find_model_problems, find_reference_problems
from seqkd.pipeline.contradictions import find_setting_problems
from seqkd.pipeline.file import ModelPart, PipelineConfig, put_in_lists
from seqkd.pipeline.folders import MAKE_SAFE
from seqkd.pipeline.graph import resolve
from seqkd.pipeline.parts import PARTS
from seqkd.selection.registry import DEFAULT_SCORER, SCORERS

_MONOLINGUAL = ("backtranslation", "selftraining")  # the tables with monolingual text


def read_pipeline(file: str | Path) -> PipelineConfig:
    """Read a pipeline file. Each of `[[students]]` starts from the settings of `[student]`.

    Raises:
        ConfigError: The file cannot be read, or has unknown keys, wrong values or unknown names; one message lists all.
    """
    file = Path(file)
    values = put_in_lists(read_toml(file))
    shared = values.pop("student", {})
    lines: list[str] = []
    own: list[Any] = []
    if not isinstance(shared, dict):
        lines.append("student: the shared settings of the students must be one table, [student]")
        shared = {}
    if isinstance(values.get("students"), list):
        own = values["students"]
        values["students"] = [_merge_student(shared, table) if isinstance(table, dict) else table for table in own]
    elif shared:
        lines.append("student: there are no [[students]] that could share it")
    reverse, teachers = values.get("backtranslation"), values.get("teachers")
    teacher = teachers[0] if isinstance(teachers, list) and len(teachers) == 1 else None
    if isinstance(reverse, dict) and isinstance(teacher, dict):
        like = {key: value for key, value in teacher.items() if key in ModelPart.model_fields}
        values["backtranslation"] = _merge_student(like, reverse)
    pipeline = None
    try:
        pipeline = PipelineConfig.model_validate(values)
    except ValidationError as error:
        # A problem of [student] appears in every student, and one of [teacher] in the reverse model. Report it once.
        places = [(_find_place(loc, values, own, shared), text) for loc, text in list_problems(error)]
        if isinstance(reverse, dict) and isinstance(teacher, dict):
            places = [(_place_in_teacher(place, reverse, teacher), text) for place, text in places]
        lines.extend(dict.fromkeys(f"{place}: {text}" for place, text in places))
    graph, wrong = resolve(values, PARTS)
    lines += [*_find_file_problems(values, file), *wrong, *find_reference_problems(graph)]
    if not wrong:
        lines += find_data_problems(graph, values)
    if pipeline is not None and not lines:
        lines += find_model_problems(pipeline, graph)
        lines += find_setting_problems(pipeline, graph)
    if pipeline is None or lines:
        raise merge_problems(
            list(dict.fromkeys(lines)), str(file)
        )  # problems that several seeds share are reported once
    return pipeline


def _merge_student(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Merge one of `[[students]]` with `[student]`. Another architecture takes only the settings that it also has."""
    model, below = own.get("model"), dict(shared)
    objectives = [table.get("objective") for table in (below, own)]
    if all(isinstance(each, dict) for each in objectives) and any("terms" in each for each in objectives if each):
        below.pop("objective")  # a sum shares no settings with another objective
    for key, other in (("corpus", "alternate"), ("alternate", "corpus")):
        if key in own:
            below.pop(other, None)  # each takes the place of the other
    if not isinstance(model, dict) or "arch" not in model:
        return _merge_tables(below, own)
    architecture = ARCHITECTURES.find(str(model["arch"]))
    objective = own.get("objective")
    named = objective.get("type") if isinstance(objective, dict) else None
    loss = OBJECTIVES.find(str(named or (architecture.objective if architecture else "")))
    for key, name, record in (("model", "arch", architecture), ("objective", "type", loss)):
        table = below.get(key)
        if isinstance(table, dict):
            taken = table if record is None else setting_names(record.settings)
            below[key] = {setting: table[setting] for setting in table if setting in taken and setting != name}
    if architecture is None or architecture.left_to_right:
        below.pop("decode", None)
    return _merge_tables(below, own)


def _merge_tables(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(shared)
    for key, value in own.items():
        below = merged.get(key)
        merged[key] = _merge_tables(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _find_place(
    loc: tuple[str | int, ...], values: Mapping[str, Any], own: list[Any], shared: Mapping[str, Any]
) -> str:
    """Find the place of a problem in the file. Members of lists have their names; shared settings are in `student`."""
    if loc == ("teachers",) and "teachers" not in values:
        return "teacher"
    if len(loc) < 2 or not isinstance(loc[1], int):
        return join_place(loc)
    list_name, index, inside = str(loc[0]), loc[1], loc[2:]
    if list_name == "students" and not _has(own[index], inside) and _has(shared, inside):
        return join_place(("student", *inside))
    return _place_in_list(list_name, index, values[list_name][index], inside)


def _place_in_list(list_name: str, index: int, member: Any, inside: tuple[str | int, ...]) -> str:
    """Return a place in a member of a list, by its name. A single data set or teacher needs no name."""
    alone = PARTS[list_name].alone
    if alone and not (isinstance(member, dict) and "name" in member):
        return join_place((alone, *inside))
    name = member.get("name") if isinstance(member, dict) else None
    return join_place((list_name, name if isinstance(name, str) else index, *inside))


def _place_in_teacher(place: str, reverse: Mapping[str, Any], teacher: Mapping[str, Any]) -> str:
    """Return the place of a problem of the reverse model: in [teacher] if the value comes from there."""
    first, *inside = place.split(".")
    if first == "backtranslation" and inside and not _has(reverse, tuple(inside)) and _has(teacher, tuple(inside)):
        return _place_in_list("teachers", 0, teacher, tuple(inside))
    return place


def _has(table: Any, loc: tuple[str | int, ...]) -> bool:
    if not loc:
        return True
    return isinstance(table, dict) and loc[0] in table and (len(loc) == 1 or _has(table[loc[0]], loc[1:]))


def _find_file_problems(values: Mapping[str, Any], file: Path) -> Iterator[str]:
    """Find names and paths in the plain values that the file system or Make does not accept."""
    name = values.get("name")
    if isinstance(name, str) and name != file.stem:
        yield f"name: {name!r} differs from the file's name, {file.name}; both must be equal, so that "
        "no two files share a run folder"
    for path, value in _list_paths(values):
        if not MAKE_SAFE.match(value):
            yield f"{path}: {value!r} cannot be a Make target; use letters, digits and _ . / , + @ = -"
        if path.endswith(".fetch.script") and not Path(value).is_file():
            yield f"{path}: no such file in {Path.cwd()}: {value}"
    yield from _find_sacrebleu_problems(values)
    if not any("fetch" in table for table in _list_tables(values.get("data"))):
        places = [f"{kind}.text" for kind in _MONOLINGUAL]
        texts = [(path, value) for path, value in _list_paths(values) if path in places]
        yield from (f"{path}: no such file in {Path.cwd()}: {text}" for path, text in texts if not Path(text).is_file())


def _list_tables(value: Any) -> list[dict[str, Any]]:
    return [table for table in value if isinstance(table, dict)] if isinstance(value, list) else []


def _list_paths(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List the paths that become Make targets or prerequisites, with their places in the file."""
    found = []
    for kind in _MONOLINGUAL:
        for table in _list_tables([values.get(kind)]):
            texts = table.get("text")
            found += [
                (f"{kind}.text", text) for text in (texts if isinstance(texts, list) else []) if isinstance(text, str)
            ]
    for table in _list_tables([values.get("report")]):
        languages = table.get("languages")
        for name, texts in (languages if isinstance(languages, dict) else {}).items():
            given = texts if isinstance(texts, dict) else {}
            found += [(f"report.languages.{name}.{key}", path) for key, path in given.items() if isinstance(path, str)]
    for table in _list_tables([*_list_tables(values.get("select")), values.get("selftraining")]):
        for name in ("rerank", "scorer"):
            judges = table.get(name)
            if isinstance(judges, dict):
                scorer = SCORERS.find(str(judges.get("type", DEFAULT_SCORER)))
                models = [(side, judges.get(side)) for side in (scorer.folders if scorer else ())]
                found += [(f"select.{name}.{side}", path) for side, path in models if isinstance(path, str)]
    sides = ("source", "target", "accepted")
    texts = [(split, side) for split in ("train", "valid", "test") for side in sides]
    for kind, keys in (
        ("data", [*texts, ("fetch", "script")]),
        ("teachers", [("path",), ("fetch", "script"), ("source", "model")]),
        ("distill", [("source", "model")]),
    ):
        for index, table in enumerate(_list_tables(values.get(kind))):
            named = (
                [("tests", name, side) for name in _get_test_sets(table) for side in sides] if kind == "data" else []
            )
            for key in (*keys, *named):
                value: Any = table
                for part in key:
                    value = value.get(part) if isinstance(value, dict) else None
                several = value if isinstance(value, list) else [value]  # references
                place = _place_in_list(kind, index, table, key)
                found += [(place, path) for path in several if isinstance(path, str)]
    return found


def _get_test_sets(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the further test sets of a data set by name."""
    tests = data.get("tests")
    return tests if isinstance(tests, dict) else {}


def _find_sacrebleu_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Find test sets that sacrebleu does not know or that are not on this machine."""
    for index, table in enumerate(_list_tables(values.get("data"))):
        for name, text in _get_test_sets(table).items():
            known = text if isinstance(text, dict) else {}
            test, langpair = known.get("sacrebleu"), known.get("langpair")
            if isinstance(test, str) and isinstance(langpair, str):
                try:
                    sacrebleu_files(test, langpair)
                except InputError as error:
                    place = _place_in_list("data", index, table, ("tests", name))
                    hint = f"; {error.hint}" if error.hint else ""
                    yield f"{place}: {error.what}; expected: {error.expected}{hint}"
