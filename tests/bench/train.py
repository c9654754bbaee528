"""Train the same model on the same corpus with seqkd and with fairseq: `python tests/bench/train.py --data DIR`.

The corpus is prepared once by `seqkd prepare`; fairseq reads the same pieces. Both use the same batch budget, optimiser
and schedule, and glibc keeps freed memory for both; fairseq also runs with glibc's defaults. Speed is that of the
second half of the updates, validation left out; of several runs in turn, it is the median. Written are train.json, with
every single run, and train.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
if str(REPOSITORY) not in sys.path:  # run as a script
    sys.path.insert(0, str(REPOSITORY))

from seqkd.corpus.reader import Corpus  # noqa: E402
from seqkd.interop.fairseq_dictionary import dictionary_text  # noqa: E402
from seqkd.text.vocabulary import Vocabulary  # noqa: E402
from tests.bench.run import PIPELINE, machine, say  # noqa: E402
from tests.bench.settings import RAISED_MALLOC  # noqa: E402

DIM, FFN, HEADS, LAYERS = 256, 1024, 4, 3
LEARNING_RATE, WARMUP, SMOOTHING, DROPOUT, CLIP = 1e-3, 400, 0.1, 0.1, 1.0
FAIRSEQ = "import sys; from fairseq_cli.train import cli_main; sys.exit(cli_main())"

PREPARE = """
train = {{ source = "{data}/train.{source}{end}", target = "{data}/train.{target}{end}" }}
valid = {{ source = "{data}/val.{source}{end}", target = "{data}/val.{target}{end}" }}
test = {{ source = "{data}/val.{source}{end}", target = "{data}/val.{target}{end}" }}
[vocabulary]
size = 8000
"""

TRAIN = f"""
prepared = "{{prepared}}"
corpus = "{{prepared}}/train"
[model]
dim = {DIM}
heads = {HEADS}
ffn_dim = {FFN}
encoder_layers = {LAYERS}
decoder_layers = {LAYERS}
dropout = {DROPOUT}
norm = "post"
[objective]
label_smoothing = {SMOOTHING}
[training]
max_updates = {{updates}}
validate_every = {{half}}
batch_tokens = {{batch_tokens}}
learning_rate = {LEARNING_RATE}
warmup_updates = {WARMUP}
clip_norm = {CLIP}
precision = "{{precision}}"
valid_bleu = false
"""


def seqkd(folder: Path, prepared: Path, precision: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train with seqkd; its history has speed and losses of each half."""
    config, out = folder / f"{precision}.toml", folder / f"seqkd-{precision}"
    shutil.rmtree(out, ignore_errors=True)  # of the turn before
    values = {"prepared": prepared, "updates": options.updates, "half": options.updates // 2}
    config.write_text(TRAIN.format(batch_tokens=options.batch_tokens, precision=precision, **values))
    command = [sys.executable, "-m", "seqkd", "train", "--config", str(config), "--out", str(out)]
    _run([*command, "--device", options.device], options.threads, {})
    last = json.loads((out / "history.json").read_text())[-1]
    return {
        "name": f"seqkd {precision}",
        "target_tokens_per_second": last["tokens_per_second"],
        "train_loss": last["train_loss"],
        "valid_nll": last["valid_nll"],
    }


def fairseq(data: Path, malloc: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train with fairseq; its log has the same figures, in bits."""
    command = [sys.executable, "-c", FAIRSEQ, str(data), "--dataset-impl", "raw", "-s", "src", "-t", "tgt"]
    command += ["--arch", "transformer", "--share-all-embeddings", "--dropout", str(DROPOUT)]
    for stack in ("encoder", "decoder"):
        command += [f"--{stack}-embed-dim", str(DIM), f"--{stack}-ffn-embed-dim", str(FFN)]
        command += [f"--{stack}-attention-heads", str(HEADS), f"--{stack}-layers", str(LAYERS)]
    command += ["--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--lr", str(LEARNING_RATE)]
    command += ["--lr-scheduler", "inverse_sqrt", "--warmup-updates", str(WARMUP), "--clip-norm", str(CLIP)]
    command += ["--criterion", "label_smoothed_cross_entropy", "--label-smoothing", str(SMOOTHING)]
    command += ["--max-tokens", str(options.batch_tokens), "--required-batch-size-multiple", "1"]
    command += ["--max-update", str(options.updates), "--log-interval", "10", "--no-progress-bar", "--seed", "1"]
    command += ["--num-workers", "1", "--no-save"]
    command += ["--cpu"] if options.device == "cpu" else ["--fp16"]
    log = _run(command, options.threads, RAISED_MALLOC if malloc == "raised" else {})
    lines = [line for line in log.splitlines() if "train_inner" in line]
    later = [line for line in lines if _number(line, "num_updates") > options.updates // 2]
    valid = [line for line in log.splitlines() if "| valid |" in line]
    return {
        "name": f"fairseq {'float32' if options.device == 'cpu' else 'fp16'}, malloc {malloc}",
        "target_tokens_per_second": statistics.median(_number(line, "wps") for line in later),
        "train_loss": statistics.mean(_number(line, "loss") for line in later) * math.log(2),
        "valid_nll": _number(valid[-1], "nll_loss") * math.log(2),
    }


def fairseq_data(prepared: Path, out: Path) -> Path:
    """The prepared corpora as pieces between spaces, and the dictionaries."""
    out.mkdir()
    vocabulary = Vocabulary.load(prepared / "vocab.model")
    pieces = vocabulary.pieces()
    for side, column in (("src", "source_ids"), ("tgt", "target_ids")):
        (out / f"dict.{side}.txt").write_text(dictionary_text(vocabulary.path), encoding="utf-8")
        for part in ("train", "valid"):
            with (out / f"{part}.src-tgt.{side}").open("w", encoding="utf-8") as file:
                for rows in Corpus.open(prepared / part, "corpus").tables([column]):
                    for ids in rows.column(column).to_pylist():
                        file.write(" ".join(pieces[index] for index in ids) + "\n")
    return out


def markdown(result: dict[str, Any]) -> str:
    """The result as a table."""
    host = result["machine"]
    lines = [
        f"{LAYERS}+{LAYERS} layers of {DIM}, {result['updates']} updates of at most {result['batch_tokens']:,} tokens, "
        f"{host['threads']} threads of {host['cpu']}, device {host['device']}.",
        "",
        "| system | target tokens/s | train loss, nats | validation NLL, nats |",
        "|---|---:|---:|---:|",
    ]
    turns: dict[str, list[dict[str, Any]]] = {}
    for run in result["runs"]:
        turns.setdefault(run["name"], []).append(run)
    for name, runs in turns.items():
        speed = statistics.median(run["target_tokens_per_second"] for run in runs)
        lines.append(f"| {name} | {speed:,.0f} | {runs[0]['train_loss']:.3f} | {runs[0]['valid_nll']:.3f} |")
    return "\n".join(lines) + "\n"


def _number(line: str, name: str) -> float:
    found = re.search(rf"[ ,]{name}[= ]([0-9.e+-]+)", line)
    assert found is not None, f"no {name} in: {line}"
    return float(found[1])


def _run(command: list[str], threads: int, environment: dict[str, str]) -> str:
    variables = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(REPOSITORY)} | environment
    done = subprocess.run(command, env=variables, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"failed: {' '.join(command)}\n{(done.stderr or done.stdout)[-3000:]}")
    return done.stdout + done.stderr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pipeline = Path(os.environ.get("RUNS", "runs"), PIPELINE)
    mirror = os.environ.get("SEQKD_DATA_MIRROR")
    data = Path(mirror, "multi30k") if mirror else pipeline / "raw"
    parser.add_argument("--data", type=Path, default=data, help="Multi30k (default: %(default)s)")
    parser.add_argument("--prepared", type=Path, help="output of `seqkd prepare` to train on instead")
    parser.add_argument("--pair", default="en-de", help="(default: %(default)s)")
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--batch-tokens", type=int, default=2560)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--precisions", default="float32,bf16", help="seqkd's (default: %(default)s)")
    parser.add_argument("--peers", default="seqkd,fairseq")
    parser.add_argument("--repeats", type=int, default=1, help="turns of each (default: %(default)s)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    if options.prepared is None and not options.data.is_dir():
        parser.error(f"no folder {options.data}: give --data DIR, set SEQKD_DATA_MIRROR, or give --prepared DIR")
    runs = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepared = options.prepared or _prepare(folder, options)
        peers = options.peers.split(",")
        data = fairseq_data(prepared, folder / "fairseq") if "fairseq" in peers else folder
        mallocs = ("raised", "default") if options.device == "cpu" else ("default",)
        for _ in range(options.repeats):
            for precision in options.precisions.split(",") if "seqkd" in peers else ():
                say(f"seqkd, {precision}")
                runs.append(seqkd(folder, prepared.resolve(), precision, options))
            for malloc in mallocs if "fairseq" in peers else ():
                say(f"fairseq, malloc {malloc}")
                runs.append(fairseq(data, malloc, options))
    host = machine() | {"device": options.device, "threads": options.threads}
    result = {"machine": host, "updates": options.updates, "batch_tokens": options.batch_tokens, "runs": runs}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "train.json").write_text(json.dumps(result, indent=2) + "\n")
    (options.out / "train.md").write_text(markdown(result))
    print(markdown(result))


def _prepare(folder: Path, options: argparse.Namespace) -> Path:
    source, target = options.pair.split("-")
    data = options.data.resolve()
    end = "" if (data / f"train.{source}").exists() else ".gz"
    (folder / "prepare.toml").write_text(PREPARE.format(data=data, source=source, target=target, end=end))
    out = folder / "prepared"
    command = [sys.executable, "-m", "seqkd", "prepare", "--config", str(folder / "prepare.toml"), "--out", str(out)]
    _run(command, 1, {})
    return out


if __name__ == "__main__":
    main()
