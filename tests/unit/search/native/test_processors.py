"""The kernels as other processors have them: what they are compiled for decides how wide vectors are, and more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from seqkd.models.native.build import processor
from seqkd.search.native import build
from tests.unit.search.native.support import AMX, ANY, AVX2, BF16, Target

HERE = Path(__file__).parent
MODELS = HERE.parents[1] / "models" / "native"
# This processor's own are tested elsewhere, and those for AVX2 are the same as its own where it has no wider vectors.
TARGETS = [*ANY, *(AVX2 if "avx512f" in processor() else []), *BF16, *AMX]
SUITES = (HERE / "test_engine.py", HERE / "test_scoring.py", MODELS / "test_attention.py", MODELS / "test_training.py")
SLOW = "not wide and not large_beams and not sru"  # nothing of theirs is any processor's own
RUN = """
import sys, pytest
from seqkd.models.native import build
build.FLAGS = tuple(sys.argv[1].split("\\n"))
build.processor = lambda: sys.argv[2]
sys.exit(pytest.main(["-x", "-rs", "-p", "no:cacheprovider", *sys.argv[3:]]))
"""


@pytest.mark.slow
@pytest.mark.skipif(build.kernels() is None, reason="no C++ compiler here")
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_the_kernels_are_the_same_for_other_processors(target: Target, tmp_path: Path) -> None:
    trains = target in (*BF16, *AMX)
    command = [sys.executable, "-c", RUN, "\n".join(target.all_flags()), "avx512_bf16" if trains else ""]
    done = subprocess.run(
        [*command, "-k", SLOW, *map(str, SUITES)],
        cwd=HERE.parents[3],
        # Kernels of this processor are kept apart, and pytest's own workers are none of its business.
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        | {"XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[100%]" in done.stdout
    assert trains != ("needs a CPU with a bf16 matrix unit" in done.stdout)
    assert list(tmp_path.glob("seqkd/kernels-*.so"))
