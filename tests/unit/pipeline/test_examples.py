"""The pipeline files in the README and in docs/pipeline-file.md are accepted, each example with the ones before it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from seqkd.config.toml import read_toml
from seqkd.errors import ConfigError
from seqkd.pipeline.file import PipelineConfig
from seqkd.pipeline.reading import read_pipeline
from tests.snippets import blocks

STEPS = 5  # examples that continue each other; each later one continues the last of these


def examples(page: str) -> list[str]:
    return [block.text for block in blocks() if block.place.startswith(f"{page}:") and block.language == "toml"]


def values(text: str, folder: Path) -> dict[str, Any]:
    path = folder / "example.toml"
    path.write_text(text)
    return read_toml(path)


def continued(first: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """A file with an example appended; tables and parts of the same name take the place of earlier ones."""
    merged = dict(first)
    for key, value in more.items():
        if isinstance(value, list) and isinstance(merged.get(key), list):
            names = {part["name"] for part in value}
            value = [*(part for part in merged[key] if part["name"] not in names), *value]
        merged[key] = value
    return merged


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {toml(inner)}' for key, inner in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value)


def read(file: Mapping[str, Any], folder: Path) -> PipelineConfig:
    path = folder / f"{file['name']}.toml"
    path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in file.items()))
    return read_pipeline(path)


def files(folder: Path) -> Iterator[dict[str, Any]]:
    """The file of each example of docs/pipeline-file.md."""
    grown: dict[str, Any] = {}
    for number, text in enumerate(examples("docs/pipeline-file.md")):
        found = values(text, folder)
        file = found if "name" in found else continued(grown, found)
        if number < STEPS:
            grown = file
        yield file


def test_the_readme_has_a_whole_file(tmp_path: Path) -> None:
    (text,) = (text for text in examples("README.md") if "[data]" in text)
    read(values(text, tmp_path), tmp_path)


def test_every_example_of_the_page_is_accepted(tmp_path: Path) -> None:
    found = [read(file, tmp_path) for file in files(tmp_path)]
    assert len(found) > STEPS + 4
    assert [student.name for student in found[STEPS - 1].students] == ["gold", "seqkd", "lstm-seqkd"]
    assert len(found[0].students) == 0


def test_a_name_that_nothing_has_would_be_found(tmp_path: Path) -> None:
    file = [*files(tmp_path)][STEPS - 1]
    with pytest.raises(ConfigError, match="seqkdd"):
        read(continued(file, {"students": [{"name": "other", "corpus": "seqkdd"}]}), tmp_path)
