"""The kernels as other processors have them: what they are compiled for decides how wide vectors are, and more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from seqkd.kernels import decoding as build
from seqkd.kernels.build import processor
from tests.unit.kernels.support import AMX, ANY, AVX2, BF16, OTHERS, Target

HERE = Path(__file__).parent
UNIT = HERE.parent
# This processor's own are tested elsewhere, and those for AVX2 are the same as its own where it has no wider vectors.
CHOSEN = (ANY, AVX2, BF16, AMX) if "avx512f" in processor() else (ANY, BF16, AMX)
SUITES = (
    *(UNIT / "search" / "cpu" / name for name in ("test_engine.py", "test_rounded.py", "test_scoring.py")),
    *(HERE / name for name in ("test_attention.py", "test_training.py")),
    UNIT / "objectives" / "test_native_kd.py",
)
# Emulated processors are slow, and what these add is none's own.
QUICK = "not wide and not large_beams and not sru"
RUN = """
import sys, pytest
from seqkd.kernels import build
build.FLAGS = tuple(sys.argv[1].split("\\n"))
build.processor = lambda: sys.argv[2]
sys.exit(pytest.main(["-x", "-rs", "-p", "no:cacheprovider", *sys.argv[3:]]))
"""


@pytest.mark.slow
@pytest.mark.skipif(build.kernels() is None, reason="no C++ compiler here")
@pytest.mark.parametrize("target", [target for target in OTHERS if target in CHOSEN], ids=lambda target: target.name)
def test_the_kernels_are_the_same_for_other_processors(target: Target, tmp_path: Path) -> None:
    emulated = target in (BF16, AMX)  # which train in bf16, too
    command = [sys.executable, "-c", RUN, "\n".join(target.all_flags()), "avx512_bf16" if emulated else ""]
    done = subprocess.run(
        [*command, "-k", QUICK if emulated else "", *map(str, SUITES)],
        cwd=HERE.parents[3],
        # Kernels of this processor are kept apart, and pytest's own workers are none of its business.
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        | {"XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[100%]" in done.stdout
    assert emulated != ("needs a CPU with" in done.stdout)
    assert list(tmp_path.glob("seqkd/kernels-*.so"))
