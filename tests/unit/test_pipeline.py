"""Stage files as TOML; how pipeline files are read is in test_plan.py, beside what becomes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.config import NamedPath, ReportConfig, TrainConfig, load_stage
from seqkd.pipeline import to_toml

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
paths = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20).map(Path)


@given(texts, st.lists(st.tuples(texts, texts), max_size=3), st.lists(paths, max_size=3), paths)
def test_toml_reads_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    title: str,
    edges: list[tuple[str, str]],
    folders: list[Path],
    prepared: Path,
) -> None:
    named = tuple(NamedPath(name=f"n{index}", path=folder) for index, folder in enumerate(folders))
    config = ReportConfig(pipeline=title, title=title, prepared=prepared, models=named, edges=tuple(edges))
    file = tmp_path_factory.mktemp("toml") / "report.toml"
    file.write_bytes(to_toml(config).encode())
    assert load_stage(ReportConfig, file) == config


@given(st.floats(1e-12, 1e6), st.tuples(st.floats(0, 1), st.floats(0, 1)), st.booleans(), st.integers(1, 10**9))
def test_numbers_read_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, rate: float, betas: tuple[float, float], flag: bool, updates: int
) -> None:
    values = {
        "prepared": "p",
        "corpus": "c",
        "training": {"max_updates": updates, "learning_rate": rate, "betas": betas, "valid_bleu": flag},
    }
    config = TrainConfig.model_validate(values)
    file = tmp_path_factory.mktemp("toml") / "train.toml"
    file.write_text(to_toml(config))
    assert load_stage(TrainConfig, file) == config
