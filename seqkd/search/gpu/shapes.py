"""The few sizes of batches and caches that the GPU engine works with."""

from __future__ import annotations

from dataclasses import dataclass


def rung(size: int, parts: int) -> int:
    """`size` rounded up, to one of `parts` evenly spaced sizes between each power of two and the next."""
    unit = 1
    while size > 2 * parts * unit:
        unit *= 2
    return -(-size // unit) * unit


def multiple(size: int, unit: int) -> int:
    """`size` rounded up to a multiple of `unit`."""
    return -(-size // unit) * unit


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of caches."""

    slots: int
    beam: int
    max_source: int
    max_target: int

    @property
    def widths(self) -> tuple[int, int, int]:
        """All sizes but the number of slots."""
        return self.beam, self.max_source, self.max_target


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Powers of two, to which slots and widths are rounded up, so that all batches have a few shapes.

    The kernels stop at the length of each sentence, so wider caches take memory and no time.

    Attributes:
        slots: The fewest slots that a step works on. It takes no less time with fewer.
        width: Source tokens of the narrowest caches.
    """

    slots: int = 64
    width: int = 16

    def rows(self, slots: int) -> int:
        """The slots that a step works on."""
        return max(self.slots, rung(slots, 1))

    def width_of(self, tokens: int, most: int) -> int:
        """The source tokens for which caches have room; `most` is the model's longest source."""
        return max(tokens, min(most, max(self.width, rung(tokens, 1))))


LADDER = Ladder()
