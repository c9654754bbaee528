"""Settings for a model that is initialised with the weights of another model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from seqkd.models.registry import Stack

Group = Literal["embeddings", "encoder", "decoder"]
Choice = tuple[Annotated[int, Field(ge=0)], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Initialiser:
    """The model from which a new model starts, the layers that are copied, and the parts that stay frozen.

    Attributes:
        model: The folder of the model, or its name in a pipeline file.
        encoder_layers: For each encoder layer of the new model, the number of the layer that it starts from, from 0.
            Empty if all layers are copied.
        decoder_layers: The same for the decoder.
        freeze: Parts of the new model that are not trained. The embeddings are all tables of pieces and positions,
            including the output layer. The encoder and the decoder are their layers and last norms.
    """

    model: Annotated[str, Field(min_length=1)]
    encoder_layers: Choice = ()
    decoder_layers: Choice = ()
    freeze: tuple[Group, ...] = ()

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    def problem(self, stack: Stack, own: int, first: int | None = None) -> str | None:
        """Return the reason why the layers of a stack cannot be copied, or None if they can.

        Args:
            stack: The stack.
            own: Number of layers of the new model.
            first: Number of layers of the model that it starts from, if it is known.
        """
        choice = self.encoder_layers if stack == "encoder" else self.decoder_layers
        if choice and len(choice) != own:
            return f"init_from.{stack}_layers names {len(choice)} layers, but the model has {own}; name one for each"
        if first is None:
            return None
        if choice and max(choice) >= first:
            return f"init_from.{stack}_layers names layer {max(choice)}, but {self.model} has layers 0 to {first - 1}"
        if not choice and own != first:
            return (
                f"init_from: {self.model} has {first} {stack} layers, but the model that starts from it has {own}; "
                f"choose the layers to copy with init_from.{stack}_layers"
            )
        return None

    @property
    def choices(self) -> dict[str, list[int] | list[Group]]:
        """Return the settings other than the model, without those that have their defaults."""
        given: dict[str, list[int] | list[Group]] = {
            "encoder_layers": list(self.encoder_layers),
            "decoder_layers": list(self.decoder_layers),
            "freeze": list(self.freeze),
        }
        return {name: value for name, value in given.items() if value}
