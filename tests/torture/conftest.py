"""What the stages that are killed work on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture import stages


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stages work on here; see `stages.build_inputs`."""
    folder = tmp_path_factory.mktemp("torture") / "inputs"
    assert stages.build_inputs(folder) == 0
    return folder
