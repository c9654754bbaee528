"""Models that start from another one's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqkd.errors import ModelError
from seqkd.models.initialiser import Group, Initialiser
from seqkd.models.registry import build
from seqkd.training.initialiser import Original, initialise
from tests.unit.training.support import settings, train

VOCAB = 12
SIZES = {"dim": 16, "heads": 2, "ffn_dim": 32, "encoder_layers": 4, "decoder_layers": 3, "max_positions": 16}
RECURRENT = {"dim": 16, "encoder_layers": 2, "decoder_layers": 2, "max_positions": 16}


def model_of(arch: str, sizes: dict[str, Any], seed: int) -> Any:
    torch.manual_seed(seed)
    return build(arch, sizes, source_vocab=VOCAB, target_vocab=VOCAB)


def started(
    wanted: Initialiser, *, arch: str = "transformer", first: dict[str, Any] = SIZES, other: str = "", **own: Any
) -> tuple[nn.Module, nn.Module]:
    """The model that is started from, and the one that starts."""
    big, small = model_of(other or arch, first, 1), model_of(arch, {**first, **own}, 2)
    initialise(small, arch, {**first, **own}, Original(big, other or arch, first), wanted)
    return big, small


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("arch", ["transformer", "sru", "lstm", "nat", "ctc"])
def test_all_weights_are_copied(arch: str) -> None:
    big, small = started(Initialiser(model="big"), arch=arch, first=RECURRENT if arch == "lstm" else SIZES)
    assert same(small.state_dict(), big.state_dict())


@pytest.mark.parametrize("arch", ["transformer", "sru", "nat"])
def test_chosen_layers_are_copied_in_their_order(arch: str) -> None:
    wanted = Initialiser(model="big", encoder_layers=(0, 3), decoder_layers=(2,))
    big, small = started(wanted, arch=arch, encoder_layers=2, decoder_layers=1)
    there: Any = getattr(big, "stack", big)
    here: Any = getattr(small, "stack", small)
    for own, taken in (
        (here.encoder[0], there.encoder[0]),
        (here.encoder[1], there.encoder[3]),
        (here.decoder[0], there.decoder[2]),
        (here.encoder_norm, there.encoder_norm),
    ):
        assert same(own.state_dict(), taken.state_dict())
    assert torch.equal(here.target_embedding, there.target_embedding)


def test_one_side_may_be_chosen_alone_and_a_layer_may_be_taken_twice() -> None:
    big, small = started(Initialiser(model="big", encoder_layers=(1, 1)), encoder_layers=2)
    taken = big.get_submodule("encoder.1").state_dict()
    assert same(small.get_submodule("encoder.0").state_dict(), taken)
    assert same(small.get_submodule("encoder.1").state_dict(), taken)
    assert same(small.get_submodule("decoder").state_dict(), big.get_submodule("decoder").state_dict())


@pytest.mark.parametrize(
    ("wanted", "more", "message"),
    [
        ({"encoder_layers": (0, 4)}, {"encoder_layers": 2}, "names layer 4, but big has layers 0 to 3"),
        (
            {"encoder_layers": (0,)},
            {"encoder_layers": 2},
            "init_from.encoder_layers names 1 layers, but the model has 2",
        ),
        ({}, {"decoder_layers": 1}, "big has 3 decoder layers, but the model that starts from it has 1; choose"),
        ({}, {"dim": 32}, "its weights have other sizes: dim is 16, here 32"),
        ({"decoder_layers": (0, 1, 2)}, {"ffn_dim": 64, "dropout": 0.3}, "ffn_dim is 32, here 64"),
        ({}, {"arch": "sru", "other": "transformer"}, "its architecture is 'transformer'"),
        (
            {"decoder_layers": (0, 1)},
            {"arch": "lstm", "first": RECURRENT},
            "the layers of its decoder are not separate weights",
        ),
        ({"freeze": ("embeddings", "encoder", "decoder")}, {}, "nothing is left to train"),
    ],
)
def test_what_does_not_fit_is_refused(wanted: dict[str, Any], more: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        started(Initialiser(model="big", **wanted), **more)
    assert raised.value.where == "big"


@pytest.mark.parametrize("group", ["embeddings", "encoder", "decoder"])
@pytest.mark.parametrize("arch", ["transformer", "lstm", "sru", "nat", "cmlm"])
def test_a_frozen_part_is_marked_and_the_others_are_not(arch: str, group: Group) -> None:
    wanted = Initialiser(model="big", freeze=(group,))
    _, small = started(wanted, arch=arch, first=RECURRENT if arch == "lstm" else SIZES)
    stacks: Any = getattr(small, "stack", small)
    parts = {
        "embeddings": [stacks.target_embedding],
        "encoder": list(stacks.encoder.parameters()),
        "decoder": list(stacks.decoder.parameters()),
    }
    for name, weights in parts.items():
        assert all(weight.requires_grad == (name != group) for weight in weights)


def test_a_part_that_the_model_does_not_have_is_named() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(2, 2)

    with pytest.raises(ModelError, match="the model has no part 'encoder'"):
        initialise(Other(), "x", {}, Original(Other(), "x", {}), Initialiser(model="big", freeze=("encoder",)))


def test_a_frozen_part_is_not_trained(tmp_path: Path) -> None:
    _, small = started(Initialiser(model="big", freeze=("embeddings", "decoder")))
    before = {name: weight.clone() for name, weight in small.named_parameters()}
    trained, _, _ = train(tmp_path, settings(8, validate_every=4), model=small)
    for name, weight in trained.named_parameters():
        assert torch.equal(weight, before[name]) == (not name.startswith("encoder")), name
