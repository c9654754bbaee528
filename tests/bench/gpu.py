"""What each technique of the GPU engine brings: `python tests/bench/gpu.py --out gpu.json` on a machine with a GPU.

Needs this source tree, torch, triton and rich, and transformers for the peer. The model has the size of a real teacher
and random weights; a constant added to the logit of the end of sentence (found by trying) makes outputs as long as
sources on average. What is decoded means nothing; the work is that of a real run.

Every variant decodes the same sentences: plain torch a step at a time, the engine, and the engine with one technique
taken out, or with a host that waits. Beside them stand the floor that arithmetic and memory set (counted, over rates
measured here), the time of each part of a step, and Hugging Face's Marian of the same size. `--smoke` runs it all on a
toy, on any machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
from seqkd.search.candidates import RowCandidates, top_candidates  # noqa: E402
from seqkd.search.frontier import Frontier  # noqa: E402
from seqkd.search.gpu.engine import Buffers, GraphTransformer  # noqa: E402
from seqkd.search.gpu.graphs import Recorder  # noqa: E402
from seqkd.search.gpu.kernels import TRITON  # noqa: E402
from seqkd.search.gpu.operations import PLAIN, Operations  # noqa: E402
from seqkd.search.gpu.output import fused_output  # noqa: E402
from seqkd.search.plain.transformer import IncrementalTransformer  # noqa: E402
from tests.bench.gpu_without import OTHER_PACES, Apart, paced  # noqa: E402

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


SMOKE = Scale(
    dim=16, heads=1, ffn_dim=16, layers=1, vocab=40, sentences=2, middle=0.7, longest=3, extra=1, beam=2, repeats=1,
    tries=1, groups=2,
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


def decode(engine: SearchModel, scale: Scale, sources: Sources, batch_tokens: int) -> dict[int, list[Hypothesis]]:
    """K-best lists of all sources."""
    return dict(BeamSearch([engine], settings(scale)).decode(sources, batch_tokens=batch_tokens))


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Of one run, until the device has done all of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def variants(model: Transformer) -> dict[str, Callable[[], SearchModel]]:
    """What is compared. Parts in plain torch copy the caches that they read, which is part of what the kernels save."""

    def engine(operations: Operations = TRITON, *, graphs: bool = True) -> Callable[[], SearchModel]:
        return lambda: GraphTransformer(model, operations=operations, graphs=graphs)

    found: dict[str, Callable[[], SearchModel]] = {
        "plain torch (IncrementalTransformer)": lambda: IncrementalTransformer(model),
        "engine": engine(),
        "engine without graphs": engine(graphs=False),
        "engine without any kernel": engine(PLAIN),
    }
    for part in ("follow", "self_attention", "cross_attention", "add_norm", "output", "advance"):
        without = dataclasses.replace(TRITON, **{part: getattr(PLAIN, part)})
        found[f"engine without the {part} kernel"] = engine(without)
    found["engine with the search's step outside its graph"] = lambda: Apart(GraphTransformer(model))
    found["engine with the fused output kernel"] = engine(dataclasses.replace(TRITON, output=fused_output))
    return found


def measure(
    make: Callable[[], SearchModel], scale: Scale, sources: Sources, batch_tokens: int, device: torch.device
) -> dict[str, Any]:
    """Speed of one variant; a first decode of everything compiles kernels and captures graphs."""
    engine = make()
    found: dict[int, list[Hypothesis]] = {}
    first = seconds(lambda: found.update(decode(engine, scale, sources, batch_tokens)), device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = [seconds(lambda: decode(engine, scale, sources, batch_tokens), device) for _ in range(scale.repeats)]
    middle = statistics.median(times)
    return {
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


def parts(model: Transformer, scale: Scale, device: torch.device) -> dict[str, float]:
    """Microseconds of each part of one step, replayed as a graph, at half of an average target's length."""
    beam, groups, dim = scale.beam, scale.groups, scale.dim
    rows, dtype = groups * beam, model.output_weight.dtype
    engine = GraphTransformer(model)
    width = round(2.718 ** (scale.middle + 0.15))
    with torch.inference_mode():
        state = engine.new_state(groups, beam, width + 1, 2 * width + 2)
        buffers = state.buffers
        sources = torch.randint(4, scale.vocab, (groups, width), device=device)
        engine.admit(state, torch.arange(groups, device=device), sources)
        frontier = engine.frontier(state, settings(scale))
        everywhere = torch.zeros(groups, dtype=torch.long, device=device)
        frontier.admit(
            torch.arange(groups, device=device), minimums=everywhere, limits=everywhere + 2 * width, rows=range(groups)
        )
        # Ancestors meet in one hypothesis a few positions back, as those of a beam do.
        buffers.ancestors[..., -4:].random_(0, beam)
        x = torch.randn(rows, dim, device=device, dtype=dtype)
        qkv = torch.randn(rows, 3 * dim, device=device, dtype=dtype)
        wide = torch.randn(rows, scale.ffn_dim, device=device, dtype=dtype)
        layer: Any = model.decoder[0]
        weight, count = model.output_weight, 2 * beam + 2

        def at_half(function: Callable[[], object]) -> Callable[[], object]:
            def run() -> object:
                buffers.positions.fill_(width // 2)
                frontier.clock.positions.fill_(width // 2)
                # Every hypothesis lives, and none has ended.
                frontier.live.fill_(-1.0)
                frontier.count.zero_()
                frontier.done.zero_()
                return function()

            return run

        functions: dict[str, Callable[[], object]] = {
            "whole step": at_half(lambda: engine._advance(buffers, state.rows, frontier)),
            "whole step without the search's": at_half(lambda: engine._candidates(buffers, state.rows, count)),
            "encode and admit": lambda: engine.admit(state, torch.arange(groups, device=device), sources),
            "product qkv (x layers)": lambda: layer.attention.qkv(x),
            "product dim x dim (x 3 layers)": lambda: layer.attention.out(x),
            "product ffn in (x layers)": lambda: layer.ffn.inner(x),
            "product ffn out (x layers)": lambda: layer.ffn.out(wide),
        }
        for name, do in (("kernel", TRITON), ("torch", PLAIN)):
            functions |= operation_parts(name, do, buffers, x, qkv, layer.ffn_norm, weight, count, scale.heads, at_half)
            functions[f"the search's step, {name}"] = at_half(step_of(do, frontier, buffers, scale.vocab))
        functions["output, fused kernel"] = lambda: fused_output(x, weight, count, 2)
        return {name: microseconds(name, function, device) for name, function in functions.items()}


def step_of(do: Operations, frontier: Frontier, buffers: Buffers, vocab: int) -> Callable[[], object]:
    """Ranking, finishing and continuing random candidates of every slot."""
    rows, device = frontier.live.shape, frontier.live.device
    found: RowCandidates = top_candidates(
        torch.randn(*rows, vocab, device=device), min(frontier.count_needed, vocab), frontier.eos_id
    )
    return lambda: do.advance(frontier, found, buffers.parents[: rows[0]])


def operation_parts(
    name: str,
    do: Operations,
    buffers: Buffers,
    x: Tensor,
    qkv: Tensor,
    norm: torch.nn.LayerNorm,
    weight: Tensor,
    count: int,
    heads: int,
    at_half: Callable[[Callable[[], object]], Callable[[], object]],
) -> dict[str, Callable[[], object]]:
    """Each operation on its own."""
    places, positions, ancestors = buffers.places, buffers.positions, buffers.ancestors
    cache, cross, lengths = buffers.caches[0], buffers.cross[0], buffers.lengths
    return {
        f"follow, {name}": at_half(lambda: do.follow(ancestors, buffers.parents, positions, places)),
        f"self-attention, {name} (x layers)": at_half(
            lambda: do.self_attention(qkv, cache, ancestors, positions, places, heads)
        ),
        f"cross-attention, {name} (x layers)": lambda: do.cross_attention(x, cross, lengths, places, heads),
        f"residual and norm, {name} (x 3 layers)": lambda: do.add_norm(x, x, norm),
        f"output, {name}": lambda: do.output(x, weight, count, 2),
    }


def microseconds(name: str, function: Callable[[], object], device: torch.device) -> float:
    """Median of replays; encoding has work outside its graph and is run as it is."""
    recorder = Recorder(device, enabled=name != "encode and admit")
    times = [seconds(lambda: recorder.run(name, function), device) for _ in range(23 if device.type == "cuda" else 1)]
    return 1e6 * statistics.median(times[3:] or times)


def same_share(model: Transformer, scale: Scale, sources: Sources) -> float:
    """Sentences whose k-best lists are those of plain torch in float32, over all."""
    exact = model.to(torch.float32)
    lists = [
        decode(engine, scale, sources, 4096) for engine in (IncrementalTransformer(exact), GraphTransformer(exact))
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
        "precision": str(dtype).removeprefix("torch."),
        "scale": dataclasses.asdict(scale),
        "variants": {},
    }

    def keep() -> None:  # what is known so far: a machine that is lent for minutes may be gone before the end
        asked.out.write_text(json.dumps(result, indent=1) + "\n")

    makers = variants(model)
    sweep = result["batch_tokens"] = []
    for budget in budgets:
        sweep.append(measure(makers["engine"], scale, sources, budget, device))
        keep()
    best = max(sweep, key=lambda row: float(row["sentences_per_second"]))
    result["variants"]["engine"] = best
    found = decode(makers["engine"](), scale, sources, best["batch_tokens"])
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
    result["hugging_face"] = hugging_face(scale, sources[:2048], lengths[:2048], dtype, device)
    keep()
    for name, make in makers.items():
        if name != "engine":
            result["variants"][name] = measure(make, scale, sources, best["batch_tokens"], device)
            keep()
    for name, chosen in OTHER_PACES.items():
        with paced(chosen):
            result["variants"][name] = measure(makers["engine"], scale, sources, best["batch_tokens"], device)
    result["microseconds"] = parts(model, scale, device)
    result["same_lists_float32"] = same_share(model, scale, sources[:256])
    keep()
    for name, row in sorted(result["variants"].items(), key=lambda item: -item[1]["sentences_per_second"]):
        print(f"{row['sentences_per_second']:12,.1f} sentences/s  {name}")
    print(
        json.dumps({key: value for key, value in result.items() if key not in ("variants", "batch_tokens")}, indent=1)
    )


if __name__ == "__main__":
    main()
