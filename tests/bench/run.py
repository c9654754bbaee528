"""Decode the same sentences with the same weights, side by side: `python tests/bench/run.py --model DIR --data DIR`.

Every peer reads source ids of one list and weights of one model folder, converted to its own format. First each peer's
best settings are looked for on a part of the sentences; then the chosen ones decode all of them, in turn and several
times. Written are bench.json, with every single run, and bench.md, a table.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
if str(REPOSITORY) not in sys.path:  # run as a script
    sys.path.insert(0, str(REPOSITORY))

from tests.bench import big, table, work  # noqa: E402
from tests.bench.settings import Peer, Settings, peers, varied  # noqa: E402

TIMEOUT = 3600
PIPELINE = "multi30k-en-de"


@dataclass(slots=True)
class Entry:
    """A line of the result: one peer with settings that are measured in full."""

    name: str
    peer: str
    settings: Settings
    runs: list[dict[str, Any]]


class Bench:
    """Runs peers in processes of their own over one work folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tried: list[dict[str, Any]] = []
        self.failures: list[str] = []

    def once(self, name: str, peer: Peer, settings: Settings) -> dict[str, Any] | None:
        """One run; None if the peer cannot do this, which is noted."""
        number = len(list(self.folder.glob("settings-*.json")))
        described = self.folder / f"settings-{number}.json"
        described.write_text(json.dumps(dataclasses.asdict(settings)))
        outputs = self.folder / f"outputs-{number}.json"
        command = [sys.executable, "-m", f"tests.bench.peers.{peer.module}"]
        command += [str(path) for path in (self.folder, described, outputs)]
        say(f"{name}: {settings.label()}, beam {settings.beam}")
        done = subprocess.run(
            command, cwd=REPOSITORY, env=settings.environment(), capture_output=True, text=True, timeout=TIMEOUT
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["(no message)"]
            self.failures.append(f"{name}, {settings.label()}: {lines[-1]}")
            say(f"  cannot: {lines[-1]}")
            return None
        run: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        run["sentences_per_second"] = run["sentences"] / run["seconds"]
        say(f"  {run['sentences_per_second']:.1f} sentences/s")
        return run

    def best(self, name: str, peer: Peer, start: Settings) -> tuple[Settings, float] | None:
        """Try the peer's choices one after the other, each time keeping the best."""
        best, speed = start, self._try(name, peer, start)
        if speed is None:
            return None
        for axis, values in peer.axes.items():
            for value in values:
                candidate = varied(best, axis, value)
                found = self._try(name, peer, candidate)
                if found is not None and found > speed:
                    best, speed = candidate, found
        return best, speed

    def _try(self, name: str, peer: Peer, settings: Settings) -> float | None:
        for seen in self.tried:
            if (seen["peer"], seen["settings"]) == (name, dataclasses.asdict(settings)):
                return float(seen["sentences_per_second"])
        run = self.once(name, peer, settings)
        if run is None:
            return None
        Path(run["outputs"]).unlink()
        speed = float(run["sentences_per_second"])
        values = dataclasses.asdict(settings)
        self.tried.append({"peer": name, "label": settings.label(), "settings": values, "sentences_per_second": speed})
        return speed


def chosen(bench: Bench, name: str, peer: Peer, base: Settings) -> list[Entry]:
    """The peer's best in float32, and its best in any number format where that is faster; of ours all formats."""
    found = bench.best(name, peer, base)
    if found is None:
        return []
    plain, speed = found
    entries = [Entry(f"{name} float32", name, plain, [])]
    others: list[tuple[Settings, float]] = []
    for precision in peer.precisions:
        other = bench.best(name, peer, replace(plain, precision=precision))
        if other is not None and (other[1] > speed or name == table.OURS):
            others.append(other)
    if name != table.OURS:
        others = sorted(others, key=lambda other: other[1])[-1:]
    return entries + [Entry(f"{name} {settings.precision}", name, settings, []) for settings, _ in others]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pipeline = Path(os.environ.get("RUNS", "runs"), PIPELINE)
    mirror = os.environ.get("SEQKD_DATA_MIRROR")
    data = Path(mirror, "multi30k") if mirror else pipeline / "raw"
    parser.add_argument(
        "--model", type=Path, default=pipeline / "teacher", help="post-norm, for all peers (default: %(default)s)"
    )
    parser.add_argument("--size", choices=("given", "big"), default="given", help="big: 512x6+6, 32k, random weights")
    parser.add_argument("--source", type=Path, help="a file of source ids, a sentence a line")
    parser.add_argument("--data", type=Path, default=data, help="Multi30k (default: %(default)s)")
    parser.add_argument("--pair", default="en-de", help="its languages (default: %(default)s)")
    parser.add_argument("--sentences", type=int, default=2000)
    parser.add_argument("--tune-sentences", type=int, default=400, help="0: no search for the best settings")
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--nbest", type=int, default=5)
    parser.add_argument("--max-length", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--beams", default="", help="e.g. 1,4,5,16,32: also one run at each, on a part of the sentences"
    )
    parser.add_argument("--beam-sentences", type=int, default=400, help="that part (default: %(default)s)")
    parser.add_argument("--peers", default="seqkd,fairseq,ctranslate2,marian")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    if options.size == "given" and not (options.model / "config.json").exists():
        parser.error(f"no model in {options.model}: `make PIPELINE={PIPELINE} teacher` trains one; or give --model DIR")
    if options.size == "given" and options.source is None and not options.data.is_dir():
        parser.error(f"no folder {options.data}: give --data DIR, set SEQKD_DATA_MIRROR, or give --source FILE")
    return options


def main() -> None:
    options = arguments()
    everyone = peers(options.device)
    names = options.peers.split(",")
    if unknown := [name for name in names if name not in everyone]:
        raise SystemExit(f"no such peer: {', '.join(unknown)}; there are {', '.join(everyone)}")
    missing = [name for name in names if importlib.util.find_spec(everyone[name].needs) is None]
    for name in missing:
        say(f"{name}: left out, {everyone[name].needs} is not installed")
    names = [name for name in names if name not in missing]
    with tempfile.TemporaryDirectory() as temporary:
        result = measure(options, Path(temporary), {name: everyone[name] for name in names})
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "bench.json").write_text(json.dumps(result, indent=2) + "\n")
    text = table.markdown(result)
    (options.out / "bench.md").write_text(text)
    print(text)


def measure(options: argparse.Namespace, temporary: Path, chosen_peers: dict[str, Peer]) -> dict[str, Any]:
    """All runs, and what to say about them."""
    model, note, sentences = _material(options, temporary)
    folder = temporary / "work"
    problems = work.prepare(folder, model, sentences, list(chosen_peers))
    bench = Bench(folder)
    bench.failures += [f"{name}: {problem}" for name, problem in problems.items()]
    chosen_peers = {name: peer for name, peer in chosen_peers.items() if name not in problems}
    entries: list[Entry] = []
    if options.tune_sentences:
        work.write_sources(folder, _part(sentences.ids, options.tune_sentences))
    for name, peer in chosen_peers.items():
        base = replace(
            peer.start, beam=options.beam, nbest=min(options.nbest, options.beam), max_length=options.max_length
        )
        entries += (
            chosen(bench, name, peer, base)
            if options.tune_sentences
            else [Entry(f"{name} {base.precision}", name, base, [])]
        )
    work.write_sources(folder, sentences.ids)
    for _ in range(options.repeats):
        for entry in entries:
            run = bench.once(entry.name, chosen_peers[entry.peer], entry.settings)
            if run is not None:
                entry.runs.append(run)
    quality = table.quality({entry.name: entry.runs for entry in entries}, sentences.references, model)
    growth = _beam_growth(bench, entries, chosen_peers, options, sentences.ids)
    return {
        "machine": machine() | {"device": options.device},
        "model": note or str(options.model),
        "sentences": len(sentences.ids),
        "beam": options.beam,
        "nbest": options.nbest,
        "max_length": options.max_length,
        "peers": [
            {
                "name": entry.name,
                "settings": dataclasses.asdict(entry.settings),
                "label": entry.settings.label(),
                "runs": [{key: value for key, value in run.items() if key != "outputs"} for run in entry.runs],
                **table.summary(entry.runs),
                **quality.get(entry.name, {}),
            }
            for entry in entries
            if entry.runs
        ],
        "beams": growth,
        "tuning": bench.tried,
        "failures": bench.failures,
    }


def _beam_growth(
    bench: Bench, entries: list[Entry], chosen_peers: dict[str, Peer], options: argparse.Namespace, ids: list[list[int]]
) -> list[dict[str, Any]]:
    beams = [int(beam) for beam in options.beams.split(",") if beam]
    if not beams:
        return []
    work.write_sources(bench.folder, _part(ids, options.beam_sentences))
    rows = []
    for entry in entries:
        speeds: dict[str, float] = {}
        for beam in beams:
            settings = replace(entry.settings, beam=beam, nbest=min(options.nbest, beam))
            run = bench.once(entry.name, chosen_peers[entry.peer], settings)
            if run is not None:
                speeds[str(beam)] = run["sentences_per_second"]
        rows.append({"name": entry.name, "sentences_per_second": speeds})
    return rows


def _material(options: argparse.Namespace, temporary: Path) -> tuple[Path, str, work.Sentences]:
    if options.size == "big":
        say("making a 512x6+6 model with random weights")
        note = big.write_model(temporary / "model", max_length=options.max_length)
        return temporary / "model", note, big.random_sentences(options.sentences, big.VOCABULARY)
    if options.source is not None:
        return options.model, "", work.ids_file(options.source, options.sentences)
    from seqkd.models.checkpoint import load_model

    source, target = options.pair.split("-")
    return (
        options.model,
        "",
        work.multi30k(options.data, load_model(options.model), (source, target), options.sentences),
    )


def _part(ids: list[list[int]], count: int) -> list[list[int]]:
    """Every n-th sentence, so that the part is like the whole."""
    return ids[:: max(1, len(ids) // count)][:count]


if __name__ == "__main__":
    main()
