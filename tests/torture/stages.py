"""Tiny inputs for each stage, as files that the command line takes."""

from __future__ import annotations

import random
import re
from pathlib import Path

import torch

from seqkd.cli.main import main
from seqkd.models.checkpoint import save_model
from seqkd.models.registry import build
from seqkd.text.vocabulary import Vocabulary
from tests.manifests import comparable

STAGES = ("prepare", "distill", "select", "train")
SHARDS = 12
ROWS = 25  # of a shard
UPDATES, VALIDATE_EVERY = 60, 6
WORDS = ["der", "hund", "katze", "schläft", "jagt", "heute", "rot", "alle", "vogel", "singt"]

# What differs from run to run: speeds, times.
_OWN = re.compile(r"^(speed\.json|history\.json|tensorboard/.*|state/.*)$")

_FILES = {
    "gold": """
        vocabulary = {{ size = 60, byte_fallback = false }}
        shard_rows = {rows}
        train = {{ source = "{folder}/train.s", target = "{folder}/train.t" }}
        valid = {{ source = "{folder}/valid.s", target = "{folder}/valid.t" }}
        test = {{ source = "{folder}/test.s", target = "{folder}/test.t" }}
    """,
    "prepare": """
        vocabulary = {{ size = 60, byte_fallback = false }}
        shard_rows = 500
        train = {{ source = "{folder}/long.s", target = "{folder}/long.t" }}
        valid = {{ source = "{folder}/valid.s", target = "{folder}/valid.t" }}
        test = {{ source = "{folder}/test.s", target = "{folder}/test.t" }}
    """,
    "distill": """
        models = ["{folder}/teacher"]
        corpus = "{folder}/gold/train"
        search = {{ beam = 2, nbest = 2, max_length_ratio = 1.0 }}
        batch_tokens = 200
        workers = {workers}
    """,
    "select": """
        kbest = "{folder}/kbest"
        gold = "{folder}/gold/train"
        prepared = "{folder}/gold"
        rule = "mbr-bleu"
        rejected = "next"
        workers = 1
        filters = {{ copies = true, worst_percent = 10.0 }}
    """,
    "train": """
        prepared = "{folder}/gold"
        corpus = "{folder}/gold/train"
        [model]
        arch = "transformer"
        dim = 32
        heads = 2
        ffn_dim = 64
        encoder_layers = 1
        decoder_layers = 1
        max_positions = 64
        [training]
        batch_tokens = 300
        max_updates = {updates}
        validate_every = {validate_every}
        average = 3
        precision = "float32"
        valid_bleu = false
    """,
}


def build_inputs(folder: Path, *, workers: int = 1) -> int:
    """Write stage files, text, a gold corpus, a teacher and k-best lists into `folder`."""
    folder.mkdir(parents=True)
    draw = random.Random(7)
    for name, rows in (("train", SHARDS * ROWS), ("long", SHARDS * 500), ("valid", 20), ("test", 5)):
        lines = [f"{' '.join(draw.choices(WORDS, k=draw.randint(2, 9)))} {row}" for row in range(rows)]
        (folder / f"{name}.s").write_text("".join(f"{line}\n" for line in lines))
        (folder / f"{name}.t").write_text("".join(f"{line[::-1]}\n" for line in lines))
    for stage, text in _FILES.items():
        filled = text.format(folder=folder, rows=ROWS, workers=workers, updates=UPDATES, validate_every=VALIDATE_EVERY)
        (folder / f"{stage}.toml").write_text(filled)
    assert main(["prepare", "--config", str(folder / "gold.toml"), "--out", str(folder / "gold")]) == 0
    torch.manual_seed(1)
    settings = {"dim": 32, "heads": 2, "ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1, "max_positions": 64}
    size = Vocabulary.load(folder / "gold" / "vocab.model").size
    model = build("transformer", settings, source_vocab=size, target_vocab=size)
    (folder / "teacher").mkdir()
    save_model(folder / "teacher", model, arch="transformer", settings=settings, vocab=folder / "gold" / "vocab.model")
    return run("distill", folder, folder / "kbest")


def run(stage: str, folder: Path, out: Path, *more: str) -> int:
    """Run a stage in this process as the command line does."""
    device = () if stage == "prepare" else ("--device", "cpu")
    return main([stage, "--config", str(folder / f"{stage}.toml"), "--out", str(out), *device, *more])


def contents(out: Path) -> dict[str, bytes]:
    """By relative path, the bytes that must not depend on what happened on the way: all but speeds and times."""
    found = {str(path.relative_to(out)): comparable(path) for path in out.rglob("*") if path.is_file()}
    return {name: data for name, data in sorted(found.items()) if not _OWN.match(name)}


def shards(out: Path) -> dict[str, tuple[int, int]]:
    """Shards that are there; who writes one again gives it another inode and time."""
    found = {}
    for path in out.rglob("shard-*.arrow"):
        status = path.stat()
        found[str(path.relative_to(out))] = (status.st_ino, status.st_mtime_ns)
    return found
