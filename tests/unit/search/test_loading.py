"""From folders to engines: each architecture has its own, and the precision is told as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from seqkd.errors import InputError, ModelError
from seqkd.kernels.decoding import kernels
from seqkd.models.checkpoint import CONFIG, LoadedModel, load_model, save_model
from seqkd.models.registry import build
from seqkd.search.cpu.engine import NativeModel
from seqkd.search.cpu.scoring import NativeScorer
from seqkd.search.cpu.stack import NativeParallel
from seqkd.search.cpu.weights import available
from seqkd.search.loading import (
    SearchTeam,
    build_engine,
    load_team,
    resolve_batch_tokens,
    resolve_device,
    team_precision,
)
from seqkd.search.parallel import ParallelSearch
from seqkd.search.plain.lstm import IncrementalLstm
from seqkd.search.plain.sru import IncrementalSru
from seqkd.search.quick import KeptDecoder, quick_decoder
from seqkd.text.vocabulary import Vocabulary

CPU = torch.device("cpu")
WIDTHS = {"dim": 32, "encoder_layers": 1, "decoder_layers": 1, "max_positions": 64}
SETTINGS: dict[str, dict[str, Any]] = {
    "transformer": {**WIDTHS, "heads": 2, "ffn_dim": 32},
    "narrow": {**WIDTHS, "heads": 4, "ffn_dim": 32},
    "lstm": WIDTHS,
    "lstm narrow": {**WIDTHS, "dim": 16},
    "sru": {**WIDTHS, "heads": 2, "ffn_dim": 32},
    "sru narrow": {**WIDTHS, "heads": 4, "ffn_dim": 32},
    "ctc": {**WIDTHS, "heads": 2, "ffn_dim": 32},
    "ctc narrow": {**WIDTHS, "heads": 4, "ffn_dim": 32},
    "nat": {**WIDTHS, "heads": 2, "ffn_dim": 32},
    "cmlm": {**WIDTHS, "heads": 2, "ffn_dim": 32},
    "dag": {**WIDTHS, "heads": 2, "ffn_dim": 32},
}
PAIR = torch.tensor([[5, 6, 7, 2]]), torch.tensor([[2, 7, 8]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model folder for each of `SETTINGS`."""
    top = tmp_path_factory.mktemp("models")
    vocab = top / "vocab.model"
    Vocabulary.train(
        iter(["der hund schläft heute nicht", "die katze jagt den hund", "alle vögel singen morgens laut"] * 4),
        vocab,
        size=290,
        type="unigram",
        byte_fallback=True,
        character_coverage=1.0,
        symbols=(),
        seed=1,
    )
    for name, settings in SETTINGS.items():
        arch = "transformer" if name == "narrow" else name.removesuffix(" narrow")
        torch.manual_seed(3)
        model = build(arch, settings, source_vocab=290, target_vocab=290)
        (top / name).mkdir()
        save_model(top / name, model, arch=arch, settings=settings, vocab=vocab)
    return {name: top / name for name in SETTINGS}


def every_arithmetic(_: str) -> bool:
    return True


@pytest.mark.parametrize(("device", "left"), [("cpu", True), ("cuda", False), ("cuda:1", False)])
def test_a_cuda_device_computes_no_attention_with_cudnn(device: str, left: bool) -> None:
    backends: Any = torch.backends.cuda
    before = backends.cudnn_sdp_enabled()
    asked: list[torch.device] = []
    try:
        backends.enable_cudnn_sdp(True)
        assert resolve_device(device, allocate=asked.append, count=lambda: 2) == torch.device(device)
        assert backends.cudnn_sdp_enabled() is left
        assert backends.mem_efficient_sdp_enabled()
    finally:
        backends.enable_cudnn_sdp(before)
    assert asked == [torch.device(device)]


@pytest.mark.parametrize(
    ("device", "there", "why", "instead"),
    [
        (
            "cuda:7",
            2,
            "there is no device 'cuda:7': this machine has 2 CUDA devices",
            "auto, cpu, cuda, or cuda:0 to cuda:1",
        ),
        ("cuda:1", 1, "there is no device 'cuda:1': this machine has 1 CUDA device", "auto, cpu, cuda, or cuda:0"),
        ("cuda", 0, "there is no device 'cuda': this machine has no CUDA device", "auto or cpu"),
        ("gpu", 1, "there is no device 'gpu'", "auto, cpu, cuda or cuda:N"),
    ],
)
def test_a_device_that_is_not_there_is_one_clear_error(device: str, there: int, why: str, instead: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve_device(device, count=lambda: there)
    assert str(caught.value).startswith(why)
    assert instead in str(caught.value)


def test_a_device_that_fails_gives_the_first_line_of_the_reason() -> None:
    def fail(_: torch.device) -> None:
        raise RuntimeError("CUDA error: busy\nCUDA kernel errors might be asynchronously reported")

    with pytest.raises(InputError, match="device 'cuda:0' cannot be used here: CUDA error: busy") as caught:
        resolve_device("cuda:0", allocate=fail, count=lambda: 1)
    assert "asynchronously" not in str(caught.value)


@pytest.mark.parametrize("arch", ["transformer", "lstm", "ctc"])
def test_a_decoder_is_kept_between_validations_and_follows_the_weights(folders: dict[str, Path], arch: str) -> None:
    first, second = (load_model(folders[arch]) for _ in range(2))
    with torch.no_grad():
        for parameter in second.model.parameters():
            parameter.mul_(1.7)
    rows = [(row, [5 + row, 6, 7, 9]) for row in range(4)]
    kept = KeptDecoder(first, "fp16")
    for changed in (first, second, first):
        expected = dict(KeptDecoder(changed, "fp16").with_weights_of(changed.model).decode(rows, batch_tokens=20))
        decoder = kept.with_weights_of(changed.model)
        assert decoder is kept.with_weights_of(changed.model)
        assert dict(decoder.decode(rows, batch_tokens=20)) == expected
    assert {parameter.dtype for parameter in first.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(("device", "auto"), [("cpu", 4_000), ("cuda", 65_536), ("cuda:1", 65_536), ("meta", 4_000)])
def test_batch_tokens_are_those_of_the_device_only_if_auto(device: str, auto: int) -> None:
    assert resolve_batch_tokens("auto", torch.device(device)) == auto
    assert resolve_batch_tokens(120, torch.device(device)) == 120


@pytest.mark.parametrize("arch", ["lstm", "sru"])
def test_a_recurrent_model_comes_back_from_its_folder(folders: dict[str, Path], arch: str) -> None:
    torch.manual_seed(3)
    expected = build(arch, SETTINGS[arch], source_vocab=290, target_vocab=290).eval()
    model = load_model(folders[arch]).model
    with torch.no_grad():
        assert torch.equal(model(*PAIR), expected(*PAIR))


def test_the_precision_is_the_kernels_only_where_they_fit(folders: dict[str, Path]) -> None:
    def chosen(*names: str, asked: Any = "auto") -> str:
        return team_precision([folders[name] for name in names], asked, CPU, available=every_arithmetic)

    assert chosen("transformer") == chosen("transformer", "transformer") == "bf16x3"
    assert chosen("nat") == chosen("cmlm") == chosen("ctc") == chosen("dag") == "bf16x3"
    assert chosen("lstm") == chosen("sru") == chosen("transformer", "lstm") == "bf16x3"
    for narrow in ("narrow", "ctc narrow", "lstm narrow", "sru narrow"):
        assert chosen(narrow) == chosen("transformer", narrow) == "float32"
    assert chosen("lstm narrow", asked="bf16x3") == "float32"
    assert chosen("lstm narrow", asked="bf16") == "bf16"


def test_pairs_are_scored_by_the_kernels_where_they_can(folders: dict[str, Path]) -> None:
    names = ["transformer", "lstm", "sru", "narrow"]
    team = load_team([folders[name] for name in names], device="cpu", precision="float32")
    first, *others = team.scorers
    assert isinstance(first, NativeScorer) == (kernels() is not None)
    assert others == [loaded.model for loaded in team.loaded[1:]]


def test_int8_is_for_models_that_have_kernels(folders: dict[str, Path]) -> None:
    for name in ("transformer", "ctc", "lstm", "sru"):
        assert team_precision([folders[name]], "int8", CPU, available=every_arithmetic) == "int8"
    for others in (["lstm narrow"], ["sru narrow"], ["narrow"], ["transformer", "lstm narrow"]):
        with pytest.raises(InputError, match="no int8 kernels") as caught:
            team_precision([folders[name] for name in others], "int8", CPU, available=every_arithmetic)
        assert caught.value.where == str(folders[others[-1]])


@pytest.mark.parametrize(("precision", "needed"), [("int8", "int8 products"), ("bf16x3", "a bf16 matrix unit")])
def test_precisions_of_the_kernels_need_the_hardware(folders: dict[str, Path], precision: Any, needed: str) -> None:
    def available(asked: str) -> bool:
        return bool(asked != precision)

    with pytest.raises(InputError, match=f"precision {precision} needs a CPU with {needed}") as caught:
        team_precision([folders["transformer"]], precision, CPU, available=available)
    other = {"int8": "bf16x3", "bf16x3": "int8"}[precision]
    assert caught.value.expected == f"auto, float32, {other} or bf16 on this machine"
    with pytest.raises(InputError, match=f"precision {precision} is for CPUs"):
        team_precision([folders["transformer"]], precision, torch.device("cuda"))


@pytest.mark.skipif(not available("int8"), reason="this CPU has no int8 products")
def test_an_int8_team_falls_back_to_float32(folders: dict[str, Path]) -> None:
    team = load_team([folders["transformer"]], device="cpu", precision="int8")
    assert team.precision == "int8"
    assert isinstance(team.engines[0], NativeModel)
    assert team.engines[0].arithmetic == "int8"
    assert team.fallback is not None
    assert team.fallback()[0].arithmetic == "float32"  # type: ignore[attr-defined]


@pytest.mark.parametrize("settings", ['{"heads": 2}', '{"dim": "x", "heads": 2, "ffn_dim": 32}'])
def test_settings_that_fit_no_model_are_the_loaders_to_tell(
    folders: dict[str, Path], tmp_path: Path, settings: str
) -> None:
    for file in folders["transformer"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    text = (tmp_path / CONFIG).read_text()
    start, stop = text.index("{", 1), text.index("}") + 1
    (tmp_path / CONFIG).write_text(text[:start] + settings + text[stop:])
    with pytest.raises(ModelError, match="do not fit"):
        load_team([tmp_path], device="cpu", precision="auto")


@pytest.mark.skipif(kernels() is None, reason="no C++ compiler here: the torch engines are used")
@pytest.mark.parametrize("arch", ["lstm", "sru"])
def test_recurrent_models_decode_by_the_kernels(folders: dict[str, Path], arch: str) -> None:
    team = load_team([folders[arch]], device="cpu", precision="float32")
    assert isinstance(team.engines[0], NativeModel)
    decoder = quick_decoder(team.loaded[0])
    assert [row for row, _ in decoder.decode([(3, [5, 6, 7])], batch_tokens=20)] == [3]


@pytest.mark.parametrize(("arch", "kind"), [("lstm", IncrementalLstm), ("sru", IncrementalSru)])
def test_recurrent_models_that_do_not_fit_have_engines_in_torch(
    folders: dict[str, Path], arch: str, kind: type
) -> None:
    folder = folders[f"{arch} narrow"]
    team = load_team([folder], device="cpu", precision="auto")
    assert team.precision == "float32"
    assert team.fallback is None
    assert isinstance(team.engines[0], kind)
    low = load_team([folder], device="cpu", precision="bf16")
    assert low.precision == "bf16"
    assert low.engines[0].dtype == torch.bfloat16  # type: ignore[attr-defined]
    assert low.fallback is not None
    assert low.fallback()[0].dtype == torch.float32  # type: ignore[attr-defined]
    decoder = quick_decoder(team.loaded[0])
    assert [row for row, _ in decoder.decode([(3, [5, 6, 7])], batch_tokens=20)] == [3]


@pytest.mark.skipif(kernels() is None, reason="no C++ compiler here: the torch stack is used")
@pytest.mark.parametrize("arch", ["nat", "cmlm", "ctc", "dag"])
def test_models_that_write_all_at_once_decode_by_the_kernels(folders: dict[str, Path], arch: str) -> None:
    def load(precision: Any, name: str = arch) -> SearchTeam:
        return load_team([folders[name]], device="cpu", precision=precision, parallel=True)

    team = load("auto")
    assert team.parallel
    assert team.precision == ("bf16x3" if available("bf16x3") else "float32")
    assert isinstance(team.writer, NativeParallel)
    assert team.writer.stack.arithmetic == team.precision
    low = load("bf16").writer
    assert isinstance(low, NativeParallel)
    assert low.stack.arithmetic == "bf16"
    assert isinstance(load("fp16").writer, torch.nn.Module)
    assert isinstance(load("auto", "ctc narrow").writer, torch.nn.Module)
    decoder = quick_decoder(team.loaded[0])
    assert isinstance(decoder, ParallelSearch)
    assert isinstance(decoder.model, NativeParallel)
    assert [row for row, _ in decoder.decode([(3, [5, 6, 7])], batch_tokens=20)] == [3]


@pytest.mark.parametrize("side", ["source", "target"])
def test_an_ensemble_has_one_pair_of_vocabularies(folders: dict[str, Path], tmp_path: Path, side: str) -> None:
    own, other = folders["sru"].parent / "vocab.model", tmp_path / "other.model"
    Vocabulary.train(
        ["ein anderer text", "noch einer"] * 20,
        other,
        size=275,
        type="unigram",
        byte_fallback=True,
        character_coverage=1.0,
        symbols=(),
        seed=1,
    )
    source, target = (other, own) if side == "source" else (own, other)
    settings = {**SETTINGS["transformer"], "embeddings": "separate"}
    sizes = {"source_vocab": Vocabulary.load(source).size, "target_vocab": Vocabulary.load(target).size}
    model = build("transformer", settings, **sizes)
    (tmp_path / "strange").mkdir()
    save_model(tmp_path / "strange", model, arch="transformer", settings=settings, vocab=target, source_vocab=source)
    with pytest.raises(ModelError, match=f"its {side} vocabulary is not that of the first model"):
        load_team([folders["transformer"], tmp_path / "strange"], device="cpu", precision="float32")


def test_an_architecture_without_an_engine_is_refused(folders: dict[str, Path]) -> None:
    known = load_model(folders["lstm"])
    strange = LoadedModel(
        model=torch.nn.Linear(2, 2),
        arch="linear",
        settings={},
        vocabularies=known.vocabularies,
        digest="",
    )
    with pytest.raises(ModelError, match="cannot drive the architecture 'linear'"):
        build_engine(strange, "float32")
