"""The engine as other processors have it: what it is compiled for decides how wide its vectors are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from seqkd.models.native.build import processor
from seqkd.search.native import build
from tests.unit.search.native.support import OTHERS, flags_for

HERE = Path(__file__).parent
# This processor's own are tested elsewhere, and those for AVX2 are the same as its own where it has no wider vectors.
TARGETS = [target for target in OTHERS if "avx512f" in processor() or not target.endswith("v3")]
SUITES = ("test_engine.py", "test_scoring.py", "../../models/native/test_attention.py")
RUN = """
import sys, pytest
from seqkd.models.native import build
build.FLAGS = tuple(sys.argv[1].split())
sys.exit(pytest.main(["-x", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""


@pytest.mark.slow
@pytest.mark.skipif(build.kernels() is None, reason="no C++ compiler here")
@pytest.mark.parametrize("target", TARGETS)
def test_the_engine_is_the_same_for_other_processors(target: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN, " ".join(flags_for(target)), *(str(HERE / suite) for suite in SUITES)]
    done = subprocess.run(
        command,
        cwd=HERE.parents[3],
        # Kernels of this processor are kept apart, and pytest's own workers are none of its business.
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        | {"XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[100%]" in done.stdout
    assert list(tmp_path.glob("seqkd/kernels-*.so"))
