"""How fast imported models of Hugging Face decode beside CTranslate2: `python tests/bench/foreign.py`.

transformers makes folders of the shapes of MarianMT and NLLB with random weights. `seqkd import` reads them, and
`seqkd export` writes the same weights for CTranslate2. Both decode the same ids with a beam of 4 in float32, in turn,
in one process on one thread, up to the same length, because random weights seldom end an output. The time is that of
the processor, and the least of all repeats counts. Models have rows without pieces, because a tokenizer of many pieces
would need much text. `--smoke` runs it all on tiny models.

At the longest length seqkd ends each hypothesis and counts the probability of the end, and CTranslate2 counts no end.
The four hypotheses of a source are therefore compared without their order, and the best ones are compared besides.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
if str(REPOSITORY) not in sys.path:  # run as a script
    sys.path.insert(0, str(REPOSITORY))

import torch  # noqa: E402

from seqkd.interop.formats import FORMATS  # noqa: E402
from seqkd.interop.huggingface import import_model  # noqa: E402
from seqkd.interop.huggingface_files import HuggingfaceFiles  # noqa: E402
from seqkd.search import BeamSearch, BeamSettings  # noqa: E402
from seqkd.search.loading import load_team  # noqa: E402
from seqkd.text.vocabulary import EOS_ID  # noqa: E402
from tests.bench.run import machine  # noqa: E402
from tests.unit.interop import huggingface_support as support  # noqa: E402

BEAM = 4
Sources = list[list[int]]
Lists = list[list[tuple[int, ...]]]  # the hypotheses of each source, best first


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The sizes of the models and of the text.

    Attributes:
        marian: Width, layers of each side and pieces of the MarianMT model.
        nllb: The same of the model of NLLB's shape.
        sentences: The number of sources, of 5 to 30 pieces.
        longest: The longest output in pieces.
        repeats: How often each peer decodes them.
    """

    marian: tuple[int, int, int] = (512, 6, 32_000)
    nllb: tuple[int, int, int] = (512, 6, 64_000)
    sentences: int = 32
    longest: int = 40
    repeats: int = 3


SMOKE = Scale(marian=(32, 2, 300), nllb=(32, 2, 300), sentences=6, longest=12, repeats=1)


def make_marian(folder: Path, sizes: tuple[int, int, int]) -> None:
    """Make a MarianMT folder, whose table has rows without pieces."""
    torch.manual_seed(3)
    special: dict[str, Any] = {"eos_id": 0, "unk_id": 1, "bos_id": -1, "pad_id": -1}
    own = [support.train_pieces(folder / name, **special) for name in ("source.spm", "target.spm")]
    rows = sizes[2]
    table = {piece: index for index, piece in enumerate(dict.fromkeys([*own[0], *own[1]]))} | {"<pad>": rows - 1}
    (folder / "vocab.json").write_text(json.dumps(table))
    config = support.transformers.MarianConfig(
        **_shape(sizes),
        vocab_size=rows,
        pad_token_id=rows - 1,
        eos_token_id=0,
        decoder_start_token_id=rows - 1,
        forced_eos_token_id=None,
        scale_embedding=True,
        activation_function="swish",
    )
    model = support.randomise(support.transformers.MarianMTModel(config))
    model.final_logits_bias[0, -1] = -100.0  # padding is never an output
    model.save_pretrained(folder)


def make_nllb(folder: Path, sizes: tuple[int, int, int]) -> None:
    """Make a folder as NLLB's, whose table has rows without pieces."""
    torch.manual_seed(3)
    support.train_pieces(folder / "sentencepiece.bpe.model", kind="bpe", unk_id=0, bos_id=1, eos_id=2)
    codes = ["eng_Latn", "deu_Latn"]
    tokenizer = support.transformers.NllbTokenizer.from_pretrained(str(folder), extra_special_tokens=codes)
    tokenizer.save_pretrained(folder)
    config = support.transformers.M2M100Config(
        **_shape(sizes), vocab_size=sizes[2], scale_embedding=True, activation_function="relu"
    )
    support.randomise(support.transformers.M2M100ForConditionalGeneration(config)).save_pretrained(folder)


def _shape(sizes: tuple[int, int, int]) -> dict[str, Any]:
    dim, layers, _ = sizes
    both = {"layers": layers, "attention_heads": max(2, dim // 64), "ffn_dim": 4 * dim}
    sides = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in both.items()}
    return sides | {"d_model": dim, "max_position_embeddings": 128, "dropout": 0.1}


def our_search(folder: Path, longest: int) -> Callable[[Sources], Lists]:
    """The beam search of the imported model."""
    team = load_team([folder], device="cpu", precision="float32")
    settings = BeamSettings(beam=BEAM, nbest=BEAM, max_length_ratio=0.0, max_length_extra=longest)
    search = BeamSearch(team.engines, settings)

    def decode(sources: Sources) -> Lists:
        lists = dict(search.decode(list(enumerate(sources)), batch_tokens=1000))
        found = [[hypothesis.ids for hypothesis in lists[row]] for row in range(len(sources))]
        return [[tuple(index for index in ids if index != EOS_ID) for ids in kbest] for kbest in found]

    return decode


def their_search(folder: Path, pieces: Sequence[str], longest: int) -> Callable[[Sources], Lists]:
    """The same by CTranslate2, with the settings that its search has in common with ours."""
    import ctranslate2

    translator = ctranslate2.Translator(str(folder), device="cpu", compute_type="float32", intra_threads=1)
    ids = {piece: index for index, piece in enumerate(pieces)}

    def decode(sources: Sources) -> Lists:
        results = translator.translate_batch(
            [[pieces[index] for index in source] for source in sources],
            beam_size=BEAM,
            num_hypotheses=BEAM,
            length_penalty=1.0,
            min_decoding_length=0,
            max_decoding_length=longest,
            max_batch_size=32,
        )
        return [[tuple(ids[piece] for piece in found) for found in result.hypotheses] for result in results]

    return decode


def compare(make: Callable[[Path], None], settings: HuggingfaceFiles, scale: Scale) -> dict[str, Any]:
    """Make a folder, and decode with the imported model and with CTranslate2."""
    with tempfile.TemporaryDirectory() as scratch:
        theirs, ours, exported = (Path(scratch) / name for name in ("huggingface", "model", "ctranslate2"))
        theirs.mkdir()
        make(theirs)
        import_model(theirs, ours, settings)
        record = FORMATS.get("ctranslate2")
        _export(record, ours, exported)
        team = load_team([ours], device="cpu", precision="float32")
        pieces = team.loaded[0].vocabularies.target.pieces()
        rng = random.Random(7)
        sources = [[rng.randrange(4, 80) for _ in range(rng.randint(5, 30))] for _ in range(scale.sentences)]
        peers = {"seqkd": our_search(ours, scale.longest), "ctranslate2": their_search(exported, pieces, scale.longest)}
        times: dict[str, list[float]] = {name: [] for name in peers}
        lists = {name: decode(sources) for name, decode in peers.items()}  # also a warm-up
        for _ in range(scale.repeats):
            for name, decode in peers.items():
                start = time.process_time()
                decode(sources)
                times[name].append(time.process_time() - start)
    best = {name: min(taken) for name, taken in times.items()}
    pairs = list(zip(*lists.values(), strict=True))
    return {
        "seconds": times,
        "ratio": best["ctranslate2"] / best["seqkd"],
        "same_hypotheses": sum(set(one) == set(other) for one, other in pairs) / len(pairs),
        "same_best": sum(one[0] == other[0] for one, other in pairs) / len(pairs),
        "output_tokens": sum(len(kbest[0]) for kbest in lists["seqkd"]) / len(pairs),
    }


def _export(record: Any, model: Path, out: Path) -> None:
    from seqkd.config.formats import ExportFormat
    from seqkd.stages.interop import export_folder

    export_folder(record, model, out, ExportFormat.model_validate(record.name).settings, overwrite=False)


def run(scale: Scale) -> dict[str, dict[str, Any]]:
    """Compare the models of both shapes."""
    languages = HuggingfaceFiles(source_language="eng_Latn", target_language="deu_Latn")
    return {
        "MarianMT": compare(lambda folder: make_marian(folder, scale.marian), HuggingfaceFiles(), scale),
        "NLLB": compare(lambda folder: make_nllb(folder, scale.nllb), languages, scale),
    }


def main() -> None:
    """Measure and print JSON and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny models, to see that it all runs")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    scale = SMOKE if asked.smoke else Scale()
    found = run(scale)
    print(json.dumps({"machine": machine(), "scale": str(scale), "models": found}))
    for name, result in found.items():
        seconds = {peer: f"{min(taken):.2f} s" for peer, taken in result["seconds"].items()}
        print(
            f"{name}: {result['ratio']:.2f} times CTranslate2 ({seconds}), {result['same_hypotheses']:.0%} of sources "
            f"with the same hypotheses, {result['same_best']:.0%} with the same best one"
        )


if __name__ == "__main__":
    main()
