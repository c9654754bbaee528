from __future__ import annotations

from pathlib import Path

import pytest

from seqkd.models.registry import ARCHITECTURES, Architecture
from seqkd.stages.prepare import prepare
from tests.unit.stages.select_folders import write_gold, write_kbest, write_prepared
from tests.unit.stages.support import few_config, prepare_config


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `prepare` makes of a small text."""
    folder = tmp_path_factory.mktemp("text")
    prepare.run(prepare_config(folder), folder / "prepared")
    return folder / "prepared"


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences that a small model learns by heart, prepared; see `few_config`."""
    folder = tmp_path_factory.mktemp("few")
    prepare.run(few_config(folder), folder / "prepared")
    return folder / "prepared"


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets model folders name the architecture `echo`."""
    record = Architecture(
        name="echo",
        help="Writes its source",
        settings="tests.unit.stages.support:EchoSettings",
        build="tests.unit.stages.support:Echo",
        decodes="all positions at once",
        objective="nat",
    )
    monkeypatch.setitem(ARCHITECTURES.own, record.name, record)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """What `select` reads: a prepared folder with its training text, and k-best lists."""
    write_prepared(tmp_path / "prepared")
    write_gold(tmp_path / "prepared" / "train")
    write_kbest(tmp_path / "kbest")
    return tmp_path
