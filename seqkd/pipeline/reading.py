"""Pipeline files read, with all that is wrong in one message, and stage files written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from seqkd.config.stages import dotted, listed, problems, read_toml
from seqkd.errors import ModelError
from seqkd.models.registry import ARCHITECTURES, setting_names
from seqkd.objectives.registry import OBJECTIVES
from seqkd.pipeline.file import (
    BACK_TRANSLATION,
    TEACHERS,
    BackTranslationPart,
    ModelPart,
    PipelineConfig,
    teacher_names,
)
from seqkd.pipeline.rounds import round_problems
from seqkd.text.vocabularies import SOURCE_VOCABULARY, VOCABULARY
from seqkd.text.vocabulary import Vocabulary

MAKE_SAFE = re.compile(r"^[A-Za-z0-9_./,+@=-]+$")  # what a Make target can hold without escaping

_LISTS = ("distill", "select", "soft_targets", "students")  # arrays of tables whose members have names


def read_pipeline(file: str | Path) -> PipelineConfig:
    """Read a pipeline file; `[student]` is laid under each of `[[students]]`.

    Raises:
        ConfigError: Unreadable, or with unknown keys, wrong values or names that fit nothing: all in one message.
    """
    file = Path(file)
    values = read_toml(file)
    shared = values.pop("student", {})
    lines: list[str] = []
    own: list[Any] = []
    if not isinstance(shared, dict):
        lines.append("student: what all students share must be one table, [student]")
        shared = {}
    if isinstance(values.get("students"), list):
        own = values["students"]
        values["students"] = [_student(shared, table) if isinstance(table, dict) else table for table in own]
    elif shared:
        lines.append("student: there are no [[students]] to share it")
    reverse, teacher = values.get("backtranslation"), values.get("teacher")
    if isinstance(reverse, dict) and isinstance(teacher, dict):
        like = {key: value for key, value in teacher.items() if key in ModelPart.model_fields}
        values["backtranslation"] = _student(like, reverse)
    pipeline = None
    try:
        pipeline = PipelineConfig.model_validate(values)
    except ValidationError as error:
        # A mistake in [student] is every student's mistake, one in [teacher] the reverse model's, too: said once.
        places = [(_place(loc, values, own, shared), text) for loc, text in problems(error)]
        if isinstance(reverse, dict) and isinstance(teacher, dict):
            places = [(_of_teacher(place, reverse, teacher), text) for place, text in places]
        lines.extend(dict.fromkeys(f"{place}: {text}" for place, text in places))
    lines.extend(_name_problems(values, file))
    if pipeline is not None and not lines:
        lines.extend(round_problems(pipeline))
    if pipeline is None or lines:
        raise listed(lines, str(file))
    return pipeline


def to_toml(config: BaseModel) -> str:
    """Write a stage file's values as TOML; reading it back gives an equal `config`."""
    values = config.model_dump(mode="json", exclude_none=True)
    return "\n".join(_table(values, ())).lstrip("\n") + "\n"


def _student(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """One of `[[students]]` over `[student]`; with another architecture it takes of that what its own one has too."""
    model, below = own.get("model"), dict(shared)
    objectives = [table.get("objective") for table in (below, own)]
    if all(isinstance(each, dict) for each in objectives) and any("terms" in each for each in objectives if each):
        below.pop("objective")  # a sum has nothing in common with another objective
    if not isinstance(model, dict) or "arch" not in model:
        return _laid_over(below, own)
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
    return _laid_over(below, own)


def _laid_over(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(shared)
    for key, value in own.items():
        below = merged.get(key)
        merged[key] = _laid_over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _place(loc: tuple[str | int, ...], values: Mapping[str, Any], own: list[Any], shared: Mapping[str, Any]) -> str:
    """Where in the file a problem stands: members of lists by name, what comes from [student] under `student`."""
    if len(loc) < 2 or loc[0] not in _LISTS or not isinstance(loc[1], int):
        return dotted(loc)
    list_name, index, inside = str(loc[0]), loc[1], loc[2:]
    if list_name == "students" and not _has(own[index], inside) and _has(shared, inside):
        return dotted(("student", *inside))
    member = values[list_name][index]
    name = member.get("name") if isinstance(member, dict) else None
    return dotted((list_name, name if isinstance(name, str) else index, *inside))


def _of_teacher(place: str, reverse: Mapping[str, Any], teacher: Mapping[str, Any]) -> str:
    """Where a problem of the reverse model stands: in [teacher], if that is where it has the value from."""
    first, *inside = place.split(".")
    if first == "backtranslation" and inside and not _has(reverse, tuple(inside)) and _has(teacher, tuple(inside)):
        return dotted(("teacher", *inside))
    return place


def _has(table: Any, loc: tuple[str | int, ...]) -> bool:
    if not loc:
        return True
    return isinstance(table, dict) and loc[0] in table and (len(loc) == 1 or _has(table[loc[0]], loc[1:]))


def _name_problems(values: Mapping[str, Any], file: Path) -> list[str]:
    """Names that stand twice or fit nothing, from the plain values: the file may have other problems too."""
    lines = []
    name = values.get("name")
    if isinstance(name, str) and name != file.stem:
        lines.append(f"name: {name!r} differs from the file's name, {file.name}: two files must not share a run folder")
    for path, value in _paths(values):
        if not MAKE_SAFE.match(value):
            lines.append(f"{path}: {value!r} cannot be a Make target; use letters, digits and _ . / , + @ = -")
    brought = isinstance(values.get("teacher"), dict) and "path" in values["teacher"]
    if brought and isinstance(values.get("prepare"), dict) and "vocabulary" in values["prepare"]:
        lines.append("prepare.vocabulary: the teacher that is brought along has its own, which all models share")
    script = dict(_paths(values)).get("data.fetch.script")
    if script is not None and not Path(script).is_file():
        lines.append(f"data.fetch.script: no such file in {Path.cwd()}: {script}")
    names = {list_name: _names(values.get(list_name)) for list_name in _LISTS}
    for list_name in _LISTS:
        seen: set[str] = set()
        for name in names[list_name]:
            if name in seen:
                lines.append(f"{list_name}.{name}: the name is taken by another of [[{list_name}]]")
            seen.add(name)
    known = ["gold", *names["select"]]
    for table in _tables([values.get("backtranslation")]):
        lines += _backtranslation_problems(values, table)
        for name in [table.get("corpus"), *_names(table.get("corpus"))]:
            if isinstance(name, str) and name not in known:
                there = ", ".join(known)
                lines.append(f"backtranslation.corpus: no [[select]] is named {name!r}; there is {there}")
        known.append(BACK_TRANSLATION)
        for list_name in ("distill", "select"):
            if BACK_TRANSLATION in names[list_name]:
                lines.append(f"{list_name}.{BACK_TRANSLATION}: the name is taken by [backtranslation]")
    if "gold" in names["select"]:
        lines.append("select.gold: the name is taken by the prepared corpus")
    teachers = _teachers(values.get("teacher"))
    for name in (*teachers, *([TEACHERS] if len(teachers) > 1 else [])):
        if name in names["students"]:
            lines.append(f"students.{name}: the name is taken by the teacher")
    for table in _tables(values.get("select")):
        lines += _unknown(table, "select", "kbest", names["distill"], "[[distill]]")
    for table in _tables(values.get("soft_targets")):
        lines += _unknown(table, "soft_targets", "corpus", ["gold", *names["select"]], "[[select]]")
    lines += _soft_problems(values, names["soft_targets"])
    parents: dict[str, str] = {}
    for table in _tables(values.get("students")):
        for name in [table.get("corpus"), *_names(table.get("corpus"))]:
            one = {"name": table.get("name", "?"), "corpus": name}
            lines += _unknown(one, "students", "corpus", known, "[[select]]")
        first = table.get("init_from")
        first = first.get("model") if isinstance(first, dict) else first
        one = {"name": table.get("name", "?"), "init_from": first}
        lines += _unknown(one, "students", "init_from", [*teachers, *names["students"]], "[[students]]")
        if isinstance(first, str) and isinstance(table.get("name"), str):
            parents[table["name"]] = first
    reported: set[str] = set()
    for start in parents:
        way = [start]
        while way[-1] in parents and parents[way[-1]] not in way:
            way.append(parents[way[-1]])
        if parents.get(way[-1]) == start and start not in reported:
            lines.append(f"students.{start}.init_from: goes in a circle: {' <- '.join([*way, start])}")
            reported.update(way)
    return lines


def _backtranslation_problems(values: Mapping[str, Any], table: Mapping[str, Any]) -> list[str]:
    lines = []
    used = [table.get("corpus") for table in _tables(values.get("students"))]
    if not any(corpus == BACK_TRANSLATION or BACK_TRANSLATION in _names(corpus) for corpus in used):
        lines.append(
            f'backtranslation: none of [[students]] has the corpus "{BACK_TRANSLATION}", by itself or among others'
        )
    texts, data = table.get("text"), values.get("data")
    if isinstance(texts, list) and isinstance(data, dict) and "fetch" not in data:
        missing = [text for text in texts if isinstance(text, str) and not Path(text).is_file()]
        lines += [f"backtranslation.text: no such file in {Path.cwd()}: {text}" for text in missing]
    teacher, mark = values.get("teacher"), table.get("tag", BackTranslationPart.model_fields["tag"].default)
    path = teacher.get("path") if isinstance(teacher, dict) else None
    if isinstance(path, str) and isinstance(mark, str) and mark:
        files = [Path(path) / name for name in (SOURCE_VOCABULARY, VOCABULARY)]
        try:
            vocabulary = next((Vocabulary.load(file) for file in files if file.exists()), None)
        except ModelError:  # `seqkd prepare` says it better
            vocabulary = None
        if vocabulary is not None and vocabulary.id_of(mark) is None:
            lines.append(
                f"backtranslation.tag: the vocabulary of the teacher that is brought along has no piece {mark!r}; "
                'name one that it has, or tag = "" for none'
            )
    return lines


def _teachers(table: Any) -> tuple[str, ...]:
    count = table.get("ensemble") if isinstance(table, dict) else None
    return teacher_names(count if isinstance(count, int) else 1)


def _soft_problems(values: Mapping[str, Any], known: Sequence[str]) -> list[str]:
    """Students whose soft targets are not there, or are not of the corpus that they are trained on."""
    lines = []
    corpora = {table.get("name"): table.get("corpus", "gold") for table in _tables(values.get("soft_targets"))}
    for table in _tables(values.get("students")):
        objective = table.get("objective")
        terms = [objective, *_tables(objective.get("terms"))] if isinstance(objective, dict) else []
        wanted = next((term["soft_targets"] for term in terms if isinstance(term.get("soft_targets"), str)), None)
        if wanted is None:
            continue
        place = f"students.{table.get('name', '?')}.objective.soft_targets"
        if wanted not in known:
            lines.append(f"{place}: no [[soft_targets]] is named {wanted!r}; there is {', '.join(known) or 'nothing'}")
        elif isinstance(table.get("corpus"), str) and corpora[wanted] != table["corpus"]:
            lines.append(
                f"{place}: {wanted!r} is of the corpus {corpora[wanted]!r}, the student of {table.get('corpus')!r}"
            )
    return lines


def _tables(value: Any) -> list[dict[str, Any]]:
    return [table for table in value if isinstance(table, dict)] if isinstance(value, list) else []


def _names(value: Any) -> list[str]:
    return [table["name"] for table in _tables(value) if isinstance(table.get("name"), str)]


def _unknown(table: Mapping[str, Any], list_name: str, key: str, known: Sequence[str], kind: str) -> list[str]:
    value = table.get(key)
    if not isinstance(value, str) or value in known:
        return []
    there = ", ".join(dict.fromkeys(known)) or "nothing"
    return [f"{list_name}.{table.get('name', '?')}.{key}: no {kind} is named {value!r}; there is {there}"]


def _paths(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Paths that become Make targets or prerequisites, with their places in the file."""
    keys = [("data", split, side) for split in ("train", "valid", "test") for side in ("source", "target", "accepted")]
    found = []
    for table in _tables([values.get("backtranslation")]):
        texts = table.get("text")
        found += [
            ("backtranslation.text", text)
            for text in (texts if isinstance(texts, list) else [])
            if isinstance(text, str)
        ]
    for table in _tables(values.get("select")):
        judges = table.get("rerank")
        if isinstance(judges, dict):
            models = [(side, judges.get(side)) for side in ("forward", "reverse")]
            found += [(f"select.rerank.{side}", path) for side, path in models if isinstance(path, str)]
    for loc in [*keys, ("data", "fetch", "script"), ("teacher", "path")]:
        value: Any = values
        for part in loc:
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, str):
            found.append((dotted(loc), value))
    return found


def _table(values: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """Lines of a table: its plain values first, since what follows a header belongs to that header."""
    lines = [f"{key} = {_value(value)}" for key, value in values.items() if not isinstance(value, dict)]
    if path:
        lines = ["", f"[{'.'.join(path)}]", *lines]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += _table(value, (*path, key))
    return lines


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    return f"{{ {', '.join(f'{key} = {_value(item)}' for key, item in value.items())} }}"
