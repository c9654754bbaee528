"""How a peer is run, and which settings its best is looked for among."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

# glibc gives big blocks back to the system after each use and has to map and clear them again for the next one.
RAISED_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One way to run one peer.

    Attributes:
        precision: Of the products: float32, bf16, fp16, int8, int16; seqkd's bf16x3 is as exact as float32.
        processes: Workers side by side.
        threads: Of each worker.
        batch: Size of a batch in `unit`.
        unit: sentences, or source tokens.
        malloc: default, or raised: glibc keeps big blocks.
        engine: seqkd only: auto, or torch for the plain path.
        beam: Beam; as many hypotheses are returned as `nbest`.
        nbest: See `beam`.
        max_length: Longest output in tokens; the same for every sentence, because fairseq's limit by source length
            counts the batch's padding.
        device: cpu or cuda.
    """

    precision: str = "float32"
    processes: int = 1
    threads: int = 1
    batch: int = 32
    unit: str = "sentences"
    malloc: str = "default"
    engine: str = "auto"
    beam: int = 5
    nbest: int = 5
    max_length: int = 100
    device: str = "cpu"

    def label(self) -> str:
        """The settings as a table shows them."""
        shape = f"{self.processes} x {self.threads} thread{'s' * (self.threads > 1)}"
        extra = "".join(f", {part}" for part in (f"malloc {self.malloc}", self.engine) if "default" not in part)
        return f"{self.precision}, {shape}, batch {self.batch} {self.unit}{extra.removesuffix(', auto')}"

    def environment(self) -> dict[str, str]:
        """Of the peer's process."""
        values = os.environ | {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        return values | (RAISED_MALLOC if self.malloc == "raised" else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A system in the comparison.

    Attributes:
        module: What runs it, under `tests.bench.peers`.
        needs: The module that must be installed.
        start: Where the search for the best settings starts.
        axes: Values tried for each setting, one setting after the other, the best kept.
        precisions: Faster number formats; the best of them is reported beside float32.
    """

    module: str
    needs: str
    start: Settings
    axes: Mapping[str, tuple[Any, ...]]
    precisions: tuple[str, ...] = field(default=())


def peers(device: str) -> dict[str, Peer]:
    """All peers by name, with what there is to choose on this machine."""
    if device != "cpu":
        return _on_gpu(device)
    cores = len(os.sched_getaffinity(0))
    shapes = ((cores, 1), (1, cores)) if cores > 1 else ((1, 1),)
    many = Settings(processes=cores, threads=1)
    return {
        "seqkd": Peer(
            module="seqkd_search",
            needs="seqkd",
            start=replace(many, batch=1000, unit="tokens"),
            axes={"shape": shapes, "batch": (250, 500, 2000), "malloc": ("raised",)},
            precisions=("bf16x3", "bf16", "int8"),
        ),
        "fairseq": Peer(
            module="fairseq_generate",
            needs="fairseq",
            start=replace(many, batch=64),
            axes={"shape": shapes, "malloc": ("raised",), "batch": (16, 32, 128)},
        ),
        "ctranslate2": Peer(
            module="ctranslate2_translate",
            needs="ctranslate2",
            start=replace(many, batch=32),
            axes={
                "shape": shapes,
                "batch": (8, 16, 64),
                "malloc": ("raised",),
                "tokens": (256, 512, 1024),
            },
            precisions=("int8", "int16", "bf16"),
        ),
        "marian": Peer(
            module="marian_generate",
            needs="transformers",
            start=replace(many, batch=32),
            axes={"shape": shapes, "malloc": ("raised",), "batch": (16, 64)},
            precisions=("bf16",),
        ),
    }


def _on_gpu(device: str) -> dict[str, Peer]:
    one = Settings(threads=len(os.sched_getaffinity(0)), device=device)
    sentences = (64, 128, 512)
    return {
        "seqkd": Peer(
            module="seqkd_search",
            needs="seqkd",
            start=replace(one, batch=16_000, unit="tokens"),
            axes={"batch": (8_000, 32_000, 64_000)},
            precisions=("bf16", "fp16"),
        ),
        "fairseq": Peer(
            module="fairseq_generate",
            needs="fairseq",
            start=replace(one, batch=256),
            axes={"batch": sentences},
            precisions=("fp16",),
        ),
        "ctranslate2": Peer(
            module="ctranslate2_translate",
            needs="ctranslate2",
            start=replace(one, batch=256),
            axes={"batch": sentences},
            precisions=("fp16", "bf16", "int8"),
        ),
        "marian": Peer(
            module="marian_generate",
            needs="transformers",
            start=replace(one, batch=256),
            axes={"batch": sentences},
            precisions=("fp16", "bf16"),
        ),
    }


def varied(settings: Settings, axis: str, value: Any) -> Settings:
    """The settings with one choice changed."""
    if axis == "shape":
        return replace(settings, processes=value[0], threads=value[1])
    if axis == "tokens":
        return replace(settings, batch=value, unit="tokens")
    return replace(settings, **{axis: value})
