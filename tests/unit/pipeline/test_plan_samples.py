from __future__ import annotations

from pathlib import Path

import pytest

from seqkd.config.stages import DistillConfig, SampleConfig, TrainConfig
from seqkd.errors import ConfigError
from seqkd.pipeline.folders import derive_seed
from seqkd.pipeline.reading import read_pipeline
from seqkd.pipeline.stages import plan_stages
from tests.unit.pipeline.pipeline_files import PIPELINE

RUN = Path("runs/small")
SAMPLE = """
[[samples]]
name = "one"

[[students]]
name = "control"
corpus = "one"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "small.toml"
    path.write_text(text)
    return path


def test_a_sample_is_a_corpus_that_students_learn_from_and_teachers_decode(tmp_path: Path) -> None:
    several = PIPELINE.replace('target = "a.tgt"', 'target = ["a.de", "a.fr"]', 1)
    decoded = several.replace('name = "beam5"', 'name = "beam5"\ncorpus = "one"', 1)
    stages = {
        stage.name: stage for stage in plan_stages(read_pipeline(write(tmp_path, decoded + SAMPLE)), Path("runs"))
    }
    sample, lists, student = (stages[name] for name in ("sample.one", "distill.beam5", "student.control"))
    assert sample.config == SampleConfig(corpus=RUN / "gold/train", seed=derive_seed(3, "sample"))
    assert (sample.out, sample.words) == (RUN / "corpora/one", ("prepare", "--sample"))
    assert isinstance(lists.config, DistillConfig)
    assert isinstance(student.config, TrainConfig)
    assert lists.config.corpus == student.config.corpus == RUN / "corpora/one"
    assert sample.target in lists.needs


def test_a_sample_needs_several_targets(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"samples\.one\.corpus: the data set 'gold' has one target for each source"):
        read_pipeline(write(tmp_path, PIPELINE + SAMPLE))
