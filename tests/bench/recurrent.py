"""How fast recurrent models decode by the CPU engine and in plain torch: `python tests/bench/recurrent.py`.

Models have random weights; every hypothesis is about as long as its source. One thread; CPU time, in turn, best of a
few. A Transformer of the small student's size stands beside them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).resolve().parents[2]
if str(REPOSITORY) not in sys.path:  # run as a script
    sys.path.insert(0, str(REPOSITORY))

from seqkd.models.lstm import Lstm, LstmSettings  # noqa: E402
from seqkd.models.settings import StackSettings  # noqa: E402
from seqkd.models.sru import Sru, SruSettings  # noqa: E402
from seqkd.models.transformer import Transformer  # noqa: E402
from seqkd.search import BeamSearch, BeamSettings, SearchModel  # noqa: E402
from seqkd.search.cpu.engine import NativeModel  # noqa: E402
from seqkd.search.cpu.weights import ARITHMETIC, Steppable, available  # noqa: E402
from seqkd.search.plain.lstm import IncrementalLstm  # noqa: E402
from seqkd.search.plain.sru import IncrementalSru  # noqa: E402
from seqkd.search.plain.transformer import IncrementalTransformer  # noqa: E402
from tests.bench.students import draw_sources  # noqa: E402

VOCABS = {"source_vocab": 8000, "target_vocab": 8000}
SIZES: dict[str, Any] = {"max_positions": 256}
BLOCKS: dict[str, Any] = {"dim": 128, "heads": 4, "ffn_dim": 512, "encoder_layers": 2, "decoder_layers": 1}
MODELS: dict[str, Callable[[], Steppable]] = {
    "LSTM, 384 x 2+2": lambda: Lstm(LstmSettings(**SIZES, dim=384, encoder_layers=2, decoder_layers=2), **VOCABS),
    "LSTM, 256 x 1+1": lambda: Lstm(LstmSettings(**SIZES, dim=256, encoder_layers=1, decoder_layers=1), **VOCABS),
    "LSTM, 192 x 1+1": lambda: Lstm(LstmSettings(**SIZES, dim=192, encoder_layers=1, decoder_layers=1), **VOCABS),
    "SSRU, 128 x 2+1": lambda: Sru(SruSettings(**SIZES, **BLOCKS), **VOCABS),
    "Transformer, 128 x 2+1": lambda: Transformer(StackSettings(**SIZES, **BLOCKS, norm="pre"), **VOCABS),
}


def in_torch(model: Steppable) -> SearchModel:
    if isinstance(model, Lstm):
        return IncrementalLstm(model)
    return IncrementalSru(model) if isinstance(model, Sru) else IncrementalTransformer(model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sources = draw_sources(options.sentences, seed=1)
    print("sentences/s")
    for name, make in MODELS.items():
        torch.manual_seed(1)
        model = make().eval().requires_grad_(False)
        engines = {"plain torch": in_torch(model)}
        engines |= {arithmetic: NativeModel(model, arithmetic) for arithmetic in ARITHMETIC if available(arithmetic)}
        for beam in (1, 5):
            settings = BeamSettings(beam=beam, max_length_ratio=1.0, max_length_extra=1, min_length_ratio=1.0)
            searches = {label: BeamSearch([engine], settings) for label, engine in engines.items()}
            seconds: dict[str, list[float]] = {label: [] for label in searches}
            for _ in range(options.repeats + 1):  # the first one warms up
                for label, search in searches.items():
                    started = time.process_time()
                    list(search.decode(sources, batch_tokens=4000))
                    seconds[label].append(time.process_time() - started)
            speeds = {label: len(sources) / min(found[1:]) for label, found in seconds.items()}
            print(f"{name}, beam {beam}: " + ", ".join(f"{label} {speed:,.0f}" for label, speed in speeds.items()))


if __name__ == "__main__":
    main()
