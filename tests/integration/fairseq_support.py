"""What the tests against fairseq share: train a small model with it, decode with it."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seqkd.interop.fairseq_dictionary import dictionary_text
from seqkd.text.vocabulary import Vocabulary

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Scored:
    """One hypothesis of fairseq: ids without end of sentence, and its length-normalised score."""

    ids: list[int]
    score: float


def toy_corpus(folder: Path, rows: int) -> Path:
    """Write the toy corpus to `folder`: {train,valid,test}.{src,tgt}."""
    script = REPOSITORY / "data" / "toy" / "generate.py"
    subprocess.run([sys.executable, script, "--out", folder, "--rows", str(rows)], check=True, capture_output=True)
    return folder


def toy_vocabulary(corpus: Path, out: Path, size: int) -> Vocabulary:
    """A joint vocabulary of the toy corpus."""
    sentences = [line for side in ("src", "tgt") for line in (corpus / f"train.{side}").read_text().splitlines()]
    return Vocabulary.train(
        sentences, out, size=size, type="unigram", byte_fallback=False, character_coverage=1.0, symbols=(), seed=1
    )


def train(corpus: Path, vocabulary: Vocabulary, folder: Path, *options: str, updates: int) -> Path:
    """Train a Transformer with fairseq on one thread and return its checkpoint; dictionaries lie in `folder`."""
    folder.mkdir(parents=True)
    for side in ("src", "tgt"):
        (folder / f"dict.{side}.txt").write_text(dictionary_text(vocabulary.path), encoding="utf-8")
        for part in ("train", "valid"):
            lines = (corpus / f"{part}.{side}").read_text().splitlines()
            pieces = [" ".join(vocabulary.piece(index) for index in row) for row in vocabulary.encode(lines)]
            (folder / f"{part}.src-tgt.{side}").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    command = [
        *(sys.executable, "-c", "import sys; from fairseq_cli.train import cli_main; sys.exit(cli_main())"),
        *(str(folder), "--dataset-impl", "raw", "--source-lang", "src", "--target-lang", "tgt"),
        *("--arch", "transformer", "--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--lr", "3e-3"),
        *("--lr-scheduler", "inverse_sqrt", "--warmup-updates", "100", "--dropout", "0.1"),
        *("--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1"),
        *("--max-tokens", "2000", "--max-update", str(updates), "--save-dir", str(folder)),
        *("--disable-validation", "--no-epoch-checkpoints", "--no-save-optimizer-state"),
        *("--cpu", "--num-workers", "0", "--no-progress-bar", "--seed", "1", *options),
    ]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "checkpoint_last.pt"


def load(checkpoint: Path, dictionaries: Path) -> tuple[list[Any], Any]:
    """fairseq's models and task; its pickles are safe here, we wrote them."""
    from fairseq import checkpoint_utils

    with torch.serialization.safe_globals([argparse.Namespace]):
        models, _, task = checkpoint_utils.load_model_ensemble_and_task(
            [str(checkpoint)], arg_overrides={"data": str(dictionaries)}
        )
    return models, task


def left_padded(sources: Sequence[Sequence[int]], eos: int = 2, pad: int = 1) -> dict[str, torch.Tensor]:
    """fairseq's input for source ids without end of sentence: it pads on the left."""
    lengths = torch.tensor([len(source) + 1 for source in sources])
    tokens = torch.full((len(sources), int(lengths.max())), pad)
    for row, source in enumerate(sources):
        tokens[row, tokens.size(1) - len(source) - 1 :] = torch.tensor([*source, eos])
    return {"src_tokens": tokens, "src_lengths": lengths}


def decode(
    models: list[Any], task: Any, sources: Sequence[list[int]], *, beam: int, length_penalty: float, max_length: int
) -> list[list[Scored]]:
    """Decode with fairseq's SequenceGenerator: for each source its `beam` hypotheses, best first."""
    from fairseq.sequence_generator import SequenceGenerator

    generator = SequenceGenerator(
        models,
        task.target_dictionary,
        beam_size=beam,
        max_len_a=0,  # with another value the limit would depend on the batch's padding
        max_len_b=max_length,
        len_penalty=length_penalty,
    )
    order = sorted(range(len(sources)), key=lambda row: -len(sources[row]))
    found: dict[int, list[Scored]] = {}
    for start in range(0, len(order), 50):
        rows = order[start : start + 50]
        batch = generator.generate(models, {"net_input": left_padded([sources[row] for row in rows])})
        for row, hypotheses in zip(rows, batch, strict=True):
            found[row] = [Scored(h["tokens"].tolist()[:-1], float(h["score"])) for h in hypotheses]
    return [found[row] for row in range(len(sources))]
