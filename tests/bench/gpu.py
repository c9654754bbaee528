"""What each technique of the GPU engine brings: `python tests/bench/gpu.py --out gpu.json` on a machine with a GPU.

Needs this source tree, torch, triton and rich, and transformers and ctranslate2 for the peers. The model has the size
of a real teacher and random weights; a constant added to the logit of the end of sentence (found by trying) makes
outputs as long as sources on average. What is decoded means nothing; the work is that of a real run.

Every variant decodes the same sentences: plain torch a step at a time, the engine, and the engine with one technique
taken out, or with a host that waits. Beside them stand the floor that arithmetic and memory set (counted, over rates
measured here), the time of each part of a step, Hugging Face's Marian of the same size, and CTranslate2 with the same
weights. `large` are 8-best lists and sampling with a teacher of NLLB-1.3B's shape, beside CTranslate2. `--variants`
names what is measured beside the engine, for a machine that is there for minutes. `--smoke` runs it all on a toy, on
any machine.

The engine's logits are float32 in every precision. Those of plain torch, Marian and CTranslate2 have the precision of
the weights, which stands beside their figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).resolve().parents[2]
if str(REPOSITORY) not in sys.path:  # run as a script
    sys.path.insert(0, str(REPOSITORY))

from tests import triton_interpreter  # noqa: E402
from tests.bench.gpu_marian import hugging_face  # noqa: E402

triton_interpreter.choose()
triton_interpreter.repair()

from seqkd.models.functional import leave_out_cudnn_attention  # noqa: E402
from seqkd.models.settings import StackSettings  # noqa: E402
from seqkd.models.transformer import Transformer  # noqa: E402
from seqkd.search import BeamSearch, BeamSettings, Hypothesis, SearchModel  # noqa: E402
from seqkd.search.choosing import TORCH  # noqa: E402
from seqkd.search.gpu.engine import GraphTransformer  # noqa: E402
from seqkd.search.gpu.kernels import TRITON  # noqa: E402
from seqkd.search.gpu.operations import PLAIN, Operations  # noqa: E402
from seqkd.search.gpu.output import fused_output  # noqa: E402
from seqkd.search.gpu.shapes import LADDER, Ladder  # noqa: E402
from seqkd.search.pace import Pace  # noqa: E402
from seqkd.search.plain.transformer import IncrementalTransformer  # noqa: E402
from tests.bench.gpu_ctranslate2 import ctranslate2  # noqa: E402
from tests.bench.gpu_large import large, shape  # noqa: E402
from tests.bench.gpu_parts import parts, seconds  # noqa: E402
from tests.bench.gpu_without import OTHER_PACES, Apart  # noqa: E402

WMT14_SENTENCES = 4_500_000
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}
Sources = list[tuple[int, list[int]]]
BIAS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Sizes of a run; lengths are log-normal around `exp(middle)` tokens."""

    dim: int = 512
    heads: int = 8
    ffn_dim: int = 2048
    layers: int = 6
    vocab: int = 32_000
    sentences: int = 16_384
    middle: float = 3.15
    longest: int = 90
    extra: int = 10
    beam: int = 5
    repeats: int = 3
    tries: int = 8
    groups: int = 1024
    ladder: Ladder = LADDER


SMOKE = Scale(
    dim=16, heads=1, ffn_dim=16, layers=1, vocab=40, sentences=2, middle=0.7, longest=3, extra=1, beam=2, repeats=1,
    tries=1, groups=2, ladder=Ladder(slots=1, width=8),
)  # fmt: skip


def draw_sources(scale: Scale, count: int, seed: int) -> Sources:
    """Rows of even random ids."""
    rng = random.Random(seed)
    lengths = [min(scale.longest, max(2, round(rng.lognormvariate(scale.middle, 0.55)))) for _ in range(count)]
    return [(row, [rng.randrange(4, scale.vocab) for _ in range(length)]) for row, length in enumerate(lengths)]


def settings(scale: Scale) -> BeamSettings:
    """All hypotheses are asked for: the longest says how many steps a sentence took."""
    ratio = 2.0 if scale.extra > 1 else 0.5
    return BeamSettings(beam=scale.beam, nbest=scale.beam, max_length_ratio=ratio, max_length_extra=scale.extra)


def build(scale: Scale, device: torch.device) -> Transformer:
    """Random weights, whose outputs are as long as their sources on average."""
    torch.manual_seed(1)
    model = Transformer(
        StackSettings(
            dim=scale.dim,
            heads=scale.heads,
            ffn_dim=scale.ffn_dim,
            encoder_layers=scale.layers,
            decoder_layers=scale.layers,
            norm="post",
            max_positions=256,
        ),
        source_vocab=scale.vocab,
        target_vocab=scale.vocab,
    )
    model = model.eval().requires_grad_(False).to(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    direction = torch.full((scale.dim,), BIAS, device=device)
    direction[::2] *= -1
    last = model.decoder[-1].ffn_norm
    assert isinstance(last, torch.nn.LayerNorm)
    last.bias.copy_(direction)
    # Its own copy: the embedding that is read must not change with the logit.
    model.output_weight = torch.nn.Parameter(model.output_weight.clone(), requires_grad=False)
    end = model.output_weight[model.eos_id].clone()
    sources = draw_sources(scale, min(scale.sentences, 512), seed=2)
    wanted = statistics.mean(len(source) for _, source in sources)
    low, high = 0.0, 40.0
    for _ in range(scale.tries):
        middle = (low + high) / 2
        model.output_weight[model.eos_id] = end + middle / (BIAS**2 * scale.dim) * direction.to(end.dtype)
        found = decode(IncrementalTransformer(model), scale, sources, 16_384)
        length = statistics.mean(len(kbest[0].ids) for kbest in found.values())
        low, high = (middle, high) if length > wanted else (low, middle)
    return model


def decode(
    engine: SearchModel, scale: Scale, sources: Sources, batch_tokens: int, pace: Pace | None = None
) -> dict[int, list[Hypothesis]]:
    """K-best lists of all sources."""
    # The engine takes the step itself; the others are weighed with torch's step.
    search = BeamSearch([engine], settings(scale), pace=pace, choosing=TORCH)
    return dict(search.decode(sources, batch_tokens=batch_tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to decode.

    Attributes:
        label: What it is, for the table.
        make: Makes its engine.
        pace: When the host asks which sentences are done, if not as the engine's own way is.
    """

    label: str
    make: Callable[[], SearchModel]
    pace: Pace | None = None


OPERATIONS = ("follow", "self_attention", "cross_attention", "add_norm", "output", "advance")
# By name, what `--variants` takes; the engine itself is always measured.
NAMES = (
    "plain",
    "without-graphs",
    "without-kernels",
    *(f"without-{part}" for part in OPERATIONS),
    "search-apart",
    "fused-output",
    *OTHER_PACES,
)
PEERS = ("marian", "ctranslate2")
LARGE = "large"
CHOICES = (*NAMES, *PEERS, LARGE)


def variants(model: Transformer, ladder: Ladder) -> dict[str, Variant]:
    """What is compared. Parts in plain torch copy the caches that they read, which is part of what the kernels save."""

    def engine(
        label: str, operations: Operations = TRITON, *, graphs: bool = True, pace: Pace | None = None
    ) -> Variant:
        return Variant(
            label=label,
            make=lambda: GraphTransformer(model, operations=operations, graphs=graphs, ladder=ladder),
            pace=pace,
        )

    found = {
        "engine": engine("engine"),
        "plain": Variant(
            label=f"plain torch (IncrementalTransformer), {name_of(model.output_weight.dtype)} logits",
            make=lambda: IncrementalTransformer(model),
        ),
        "without-graphs": engine("engine without graphs", graphs=False),
        "without-kernels": engine("engine without any kernel", PLAIN),
        "search-apart": Variant(
            label="engine with the search's step outside its graph",
            make=lambda: Apart(GraphTransformer(model, ladder=ladder)),
        ),
        "fused-output": engine("engine with the fused output kernel", dataclasses.replace(TRITON, output=fused_output)),
    }
    for part in OPERATIONS:
        without = dataclasses.replace(TRITON, **{part: getattr(PLAIN, part)})
        found[f"without-{part}"] = engine(f"engine without the {part} kernel", without)
    for name, (label, pace) in OTHER_PACES.items():
        found[name] = engine(label, pace=pace)
    return found


def name_of(dtype: torch.dtype) -> str:
    """As torch writes it, without `torch.`."""
    return str(dtype).removeprefix("torch.")


def measure(
    variant: Variant, scale: Scale, sources: Sources, batch_tokens: int, device: torch.device
) -> dict[str, Any]:
    """Speed of one variant; a first decode of everything compiles kernels and captures most graphs."""
    engine = variant.make()
    found: dict[int, list[Hypothesis]] = {}

    def once() -> None:
        found.update(decode(engine, scale, sources, batch_tokens, variant.pace))

    first = seconds(once, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = [seconds(once, device) for _ in range(scale.repeats)]
    middle = statistics.median(times)
    return {
        "label": variant.label,
        "batch_tokens": batch_tokens,
        "first_seconds": first,
        "seconds": times,
        "sentences_per_second": len(sources) / middle,
        "tokens_per_second": sum(len(kbest[0].ids) + 1 for kbest in found.values()) / middle,
        "peak_gb": torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None,
    }


def work(scale: Scale, sources: Sources, found: dict[int, list[Hypothesis]], batch_tokens: int) -> dict[str, float]:
    """Least arithmetic and memory traffic of a decode, by counting.

    FLOPs: two a multiply-add, of every live hypothesis until its sentence is done, and of encoding without padding.
    Bytes, for two-byte weights: all decoder weights once a step of a full batch; each cache entry written once and read
    once a step a sentence, as if all hypotheses shared their ancestors; logits, in float32, written and read once.
    """
    dim, inner, layers, vocab, beam = scale.dim, scale.ffn_dim, scale.layers, scale.vocab, scale.beam
    decoder = layers * (3 * dim * dim + dim * dim + 2 * dim * dim + 2 * dim * inner)
    encoder = layers * (4 * dim * dim + 2 * dim * inner + 2 * dim * dim)
    flops = total_bytes = total_steps = 0.0
    for row, source in sources:
        read = len(source) + 1
        steps = max(len(hypothesis.ids) for hypothesis in found[row]) + 1
        total_steps += steps
        seen = steps * (steps + 1) / 2 + steps * read  # positions attended over, by one hypothesis
        flops += 2 * read * encoder + 4 * layers * dim * read * read
        flops += beam * (2 * steps * (decoder + dim * vocab) + 4 * layers * dim * seen)
        total_bytes += 4 * layers * dim * (seen + steps * beam + read) + 8 * steps * beam * vocab
    groups = batch_tokens / statistics.mean(len(source) + 1 for _, source in sources)
    total_bytes += 2 * (decoder + dim * vocab) * total_steps / groups
    return {"flops": flops, "bytes": total_bytes, "steps_a_sentence": total_steps / len(sources)}


def ceilings(device: torch.device) -> dict[str, float] | None:
    """Rates of a large copy and a large bf16 product on random numbers."""
    if device.type != "cuda":
        return None
    block = torch.randint(0, 255, (4 << 30,), dtype=torch.uint8, device=device)
    other = torch.empty_like(block)
    left, right = torch.randn(2, 8192, 8192, device=device).bfloat16().unbind()
    rates = {}
    for name, function, amount in (
        ("bytes_per_second", lambda: other.copy_(block), 2.0 * block.numel()),
        ("flops_per_second", lambda: left @ right, 2.0 * 8192**3),
    ):
        times = [seconds(function, device) for _ in range(12)]
        rates[name] = amount / statistics.median(times[2:])
    return rates


def same_share(model: Transformer, scale: Scale, sources: Sources) -> float:
    """Sentences whose k-best lists are those of plain torch in float32, over all."""
    exact = model.to(torch.float32)
    lists = [
        decode(engine, scale, sources, 4096)
        for engine in (IncrementalTransformer(exact), GraphTransformer(exact, ladder=scale.ladder))
    ]
    same = [[h.ids for h in lists[0][row]] == [h.ids for h in lists[1][row]] for row, _ in sources]
    return sum(same) / len(same)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--smoke", action="store_true", help="a toy size, to see that it all runs")
    parser.add_argument("--precision", choices=DTYPES, default="bf16")
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[8192, 16_384, 32_768, 65_536])
    parser.add_argument("--sentences", type=int, default=Scale().sentences)
    parser.add_argument(
        "--variants", nargs="*", choices=CHOICES, default=CHOICES, help="beside the engine (default: all)"
    )
    asked = parser.parse_args(arguments)
    scale = SMOKE if asked.smoke else Scale(sentences=asked.sentences)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    leave_out_cudnn_attention(device)  # for plain torch and the peer, too
    budgets = [16] if asked.smoke else asked.batch_tokens
    dtype = DTYPES["float32" if device.type == "cpu" else asked.precision]
    model = build(scale, device).to(dtype)
    sources = draw_sources(scale, scale.sentences, seed=3)
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu, Triton's interpreter",
        "torch": torch.__version__,
        "precision": name_of(dtype),
        "scale": dataclasses.asdict(scale),
        "variants": {},
    }

    def keep() -> None:  # what is known so far: a machine that is lent for minutes may be gone before the end
        asked.out.write_text(json.dumps(result, indent=1) + "\n")

    makers = variants(model, scale.ladder)
    sweep = result["batch_tokens"] = []
    for budget in budgets:
        sweep.append(measure(makers["engine"], scale, sources, budget, device))
        keep()
    best = max(sweep, key=lambda row: float(row["sentences_per_second"]))
    result["variants"]["engine"] = best
    found = decode(makers["engine"].make(), scale, sources, best["batch_tokens"])
    lengths = [len(found[row][0].ids) for row, _ in sources]
    result["mean_length"] = {"source": statistics.mean(len(s) for _, s in sources), "target": statistics.mean(lengths)}
    result["work"] = counted = work(scale, sources, found, best["batch_tokens"])
    result["ceilings"] = rates = ceilings(device)
    if rates is not None:
        floors = counted["flops"] / rates["flops_per_second"], counted["bytes"] / rates["bytes_per_second"]
        result["floor_seconds"] = {"arithmetic": floors[0], "memory": floors[1]}
        result["share_of_roofline"] = max(floors) / statistics.median(best["seconds"])
        result["wmt14_minutes"] = WMT14_SENTENCES / best["sentences_per_second"] / 60
    keep()
    few, few_lengths = sources[:2048], lengths[:2048]
    for name in asked.variants:
        if name == "marian":
            result["hugging_face"] = hugging_face(scale, few, few_lengths, dtype, device)
        elif name == "ctranslate2":
            result["ctranslate2"] = ctranslate2(model, scale, few, few_lengths, device, nbest=scale.beam)
        elif name != LARGE:
            result["variants"][name] = measure(makers[name], scale, sources, best["batch_tokens"], device)
        keep()
    result["microseconds"] = parts(model, scale, settings(scale), device)
    result["same_lists_float32"] = same_share(model, scale, sources[:256])
    keep()
    show(sorted([*result["variants"].values(), *others(result)], key=lambda row: -row["sentences_per_second"]))
    if LARGE in asked.variants:
        del model, makers  # their memory
        size = shape(scale)
        budgets = [64] if asked.smoke else [2048, 8192]
        result["large"] = large(size, draw_sources(size, size.sentences, seed=4), budgets, dtype, device)
        keep()
        show(result["large"]["rows"])
    print(
        json.dumps({key: value for key, value in result.items() if key not in ("variants", "batch_tokens")}, indent=1)
    )


def others(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What the peers did that are installed and were asked for."""
    return [result[name] for name in ("hugging_face", "ctranslate2") if result.get(name)]


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print a line for each row."""
    for row in rows:
        print(f"{row['sentences_per_second']:12,.1f} sentences/s  {row['label']}")


if __name__ == "__main__":
    main()
