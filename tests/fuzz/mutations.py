"""Files with something wrong in them; a seed gives the same file always."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

MOST = 4  # mutations of one file
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


def mutated(files: Sequence[bytes], seed: int) -> bytes:
    """One of `files` after one to `MOST` mutations; what is spliced in comes from any of them."""
    draw = random.Random(seed)
    data = bytearray(draw.choice(files))
    for _ in range(draw.randint(1, MOST)):
        draw.choice(_MUTATIONS)(draw, data, files)
    return bytes(data)


def _place(draw: random.Random, data: bytearray) -> int:
    """Anywhere, but often at either end: that is where tables of contents are."""
    size = max(len(data), 1)
    near = draw.randrange(min(size, 200))
    return draw.choice((draw.randrange(size), near, size - 1 - near))


def _flip(draw: random.Random, data: bytearray, files: Sequence[bytes]) -> None:
    del files  # as all of them are called
    for _ in range(draw.choice((1, 1, 3, 20))):
        if data:
            data[_place(draw, data)] ^= 1 << draw.randrange(8)


def _truncate(draw: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    del data[_place(draw, data) :]


def _blow_up(draw: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    """A number, such as a length, becomes another: of 1 to 8 bytes, aligned as numbers are."""
    width = draw.choice((1, 2, 4, 8))
    start = _place(draw, data) // width * width
    number = draw.choice(EXTREMES) % 256**width
    data[start : start + width] = number.to_bytes(width, draw.choice(("little", "big")))


def _digits(draw: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    """The same in text."""
    places = [place for place, byte in enumerate(data) if 48 <= byte < 58]
    if places:
        start = draw.choice(places)
        data[start : start + 1] = draw.choice((b"-1", b"0", b"1e999", b"9" * 18, b"9" * 5000, b"NaN", b'""', b"null"))


def _splice(draw: random.Random, data: bytearray, files: Sequence[bytes]) -> None:
    other = draw.choice(files)
    start = draw.randrange(max(len(other), 1))
    part = other[start : start + draw.choice((4, 64, 1024, len(other)))]
    place = _place(draw, data)
    data[place : place + draw.choice((0, len(part)))] = part


def _remove(draw: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    start = _place(draw, data)
    del data[start : start + draw.choice((1, 4, 8, 100))]


def _repeat(draw: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    start = _place(draw, data)
    part = bytes(data[start : start + draw.choice((1, 8, 200))])
    data[start:start] = part * draw.choice((1, 2, 3000))


def _nest(draw: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    """Text that opens more than it closes."""
    start = _place(draw, data)
    data[start:start] = draw.choice((b"[", b'{"a":', b"(", b"a.", b"\x00", b"\xff", b'"')) * draw.choice((1, 50_000))


_MUTATIONS: tuple[Callable[[random.Random, bytearray, Sequence[bytes]], None], ...] = (
    _flip,
    _flip,
    _truncate,
    _blow_up,
    _blow_up,
    _digits,
    _splice,
    _remove,
    _repeat,
    _nest,
)
