"""A small pipeline file for the tests of what reads it, and students taught word by word to put behind it."""

from __future__ import annotations

from pathlib import Path

PIPELINE = """
name = "small"
seed = 3

[data]
train = { source = "a.src", target = "a.tgt" }
valid = { source = "b.src", target = "b.tgt" }
test = { source = "c.tsv" }

[teacher.training]
max_updates = 10

[[distill]]
name = "beam5"

[[select]]
name = "kd"
kbest = "beam5"
rule = "seqkd"

[student.model]
dim = 32
heads = 2

[student.training]
max_updates = 20

[[students]]
name = "gold"
corpus = "gold"

[[students]]
name = "kd"
corpus = "kd"
training = { learning_rate = 0.01 }

[[students]]
name = "tuned"
corpus = "kd"
init_from = "kd"
"""


WORD_KD = """
[[soft_targets]]
name = "kd16"
corpus = "kd"
temperature = 2.0

[[students]]
name = "live"
corpus = "kd"
objective = { type = "word_kd", alpha = 0.7 }

[[students]]
name = "written"
corpus = "kd"
objective = { type = "word_kd", soft_targets = "kd16", temperature = 2.0 }
"""


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
