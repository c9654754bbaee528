"""The settings of a model that starts from another one's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from seqkd.models.registry import Stack

Group = Literal["embeddings", "encoder", "decoder"]
Choice = tuple[Annotated[int, Field(ge=0)], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Initialiser:
    """A model whose weights another one starts from, the layers that are taken, and the weights that then stay.

    Attributes:
        model: Its folder, or in a pipeline file its name.
        encoder_layers: For each encoder layer of the new model the number of the layer that it starts from, from 0;
            empty if all are copied.
        decoder_layers: The same for the decoder.
        freeze: Parts of the new model that are not trained. Embeddings are all tables of pieces and positions, and so
            the output layer; the encoder and the decoder are their layers and last norms.
    """

    model: Annotated[str, Field(min_length=1)]
    encoder_layers: Choice = ()
    decoder_layers: Choice = ()
    freeze: tuple[Group, ...] = ()

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    def problem(self, stack: Stack, own: int, first: int | None = None) -> str | None:
        """The reason why the layers of a stack cannot be copied; None if they can.

        Args:
            stack: encoder or decoder.
            own: Layers of the new model.
            first: Layers of the model that it starts from, if they are known.
        """
        choice = self.encoder_layers if stack == "encoder" else self.decoder_layers
        if choice and len(choice) != own:
            return f"init_from.{stack}_layers names {len(choice)} layers, the model has {own}; give one for each"
        if first is None:
            return None
        if choice and max(choice) >= first:
            return f"init_from.{stack}_layers names layer {max(choice)}, {self.model} has layers 0 to {first - 1}"
        if not choice and own != first:
            return (
                f"init_from: {self.model} has {first} {stack} layers, the model that starts from it {own}; choose the "
                f"layers to copy with init_from.{stack}_layers"
            )
        return None

    @property
    def choices(self) -> dict[str, list[int] | list[Group]]:
        """The settings beside the model, without those that are left as they are."""
        given: dict[str, list[int] | list[Group]] = {
            "encoder_layers": list(self.encoder_layers),
            "decoder_layers": list(self.decoder_layers),
            "freeze": list(self.freeze),
        }
        return {name: value for name, value in given.items() if value}
