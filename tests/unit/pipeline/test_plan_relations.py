"""Which student a gain is over."""

from __future__ import annotations

from pathlib import Path

from seqkd.pipeline.expansion import build_graph
from seqkd.pipeline.reading import read_pipeline
from seqkd.pipeline.relations import find_baselines

STUDENTS = """
[[students]]
name = "word"
corpus = "gold"
objective = { type = "word_kd" }

[[students]]
name = "small"
corpus = "kd"
model = { dim = 16 }

[[students]]
name = "small-tuned"
corpus = "gold"
init_from = "small"
model = { dim = 16 }

[[students]]
name = "small-mix"
corpus = [{ name = "gold" }, { name = "kd" }]
model = { dim = 16 }

[[students]]
name = "small-gold"
corpus = "gold"
model = { dim = 16 }
training = { max_updates = 7 }

[[students]]
name = "ctc-kd"
corpus = "kd"
model = { arch = "ctc" }

[[students]]
name = "ctc-glancing"
corpus = "kd"
model = { arch = "ctc" }
objective = { glancing = [0.5, 0.3] }

[[students]]
name = "ctc-gold"
corpus = "gold"
model = { arch = "ctc" }

[[students]]
name = "alone"
corpus = "kd"
model = { arch = "lstm" }
"""


def test_a_baseline_has_the_same_model_and_gold_text_alone(pipeline: Path) -> None:
    pipeline.write_text(pipeline.read_text() + STUDENTS)
    graph = build_graph(read_pipeline(pipeline))
    assert dict(find_baselines(graph, graph.of_kind("students"))) == {
        "kd": "gold",
        "tuned": "gold",
        "word": "gold",
        "small": "small-gold",
        "small-tuned": "small-gold",
        "small-mix": "small-gold",
        "ctc-kd": "ctc-gold",
        "ctc-glancing": "ctc-gold",
    }
