# SPDX-License-Identifier: MIT
"""Sizes that a file leaves open: products of a number and of named sizes, and arrays of them, in NumPy's terms."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Iterable, Union

import numpy as np


class OpenSize(Exception):
    """A result that depends on a size that is not known before anything runs."""


@dataclass(frozen=True)
class Size:
    """``factor`` times the sizes called `symbols`, each of which is a whole number of at least 1.

    Arithmetic gives a plain int where no symbol is left, and raises OpenSize where the result is no such product.
    """

    factor: int
    symbols: tuple[str, ...]

    def __str__(self):
        return "*".join(([str(self.factor)] if self.factor != 1 else []) + list(self.symbols))

    def __mul__(self, other):
        factor, symbols = _parts(other)
        return _size(self.factor * factor, self.symbols + symbols)

    def __add__(self, other):
        if other == 0:
            return self
        factor, symbols = _parts(other)
        if symbols != self.symbols:
            raise OpenSize(f"{self} + {other}")
        return _size(self.factor + factor, symbols)

    def __sub__(self, other):
        return self + -1 * other

    def __rsub__(self, other):
        return -1 * self + other

    def __floordiv__(self, other):
        factor, symbols = _parts(other)
        left = list(self.symbols)
        for symbol in symbols:
            if symbol not in left:
                raise OpenSize(f"{self} / {other}")
            left.remove(symbol)
        if factor == 0 or self.factor % factor:
            raise OpenSize(f"{self} / {other}")
        return _size(self.factor // factor, tuple(left))

    __rmul__, __radd__ = __mul__, __add__


Length = Union[int, Size]


def _size(factor, symbols) -> Length:
    return Size(int(factor), tuple(sorted(symbols))) if symbols and factor else int(factor)


def _parts(value):
    """Factor and symbols of a number or Size."""
    if isinstance(value, Size):
        return value.factor, value.symbols
    if value != int(value):
        raise OpenSize(f"a size times {value}")
    return int(value), ()


def is_open(value: Any) -> bool:
    """Whether a length or an array holds a Size."""
    return isinstance(value, Size) or (isinstance(value, np.ndarray) and value.dtype == object)


def whole(lengths: Iterable[Any]) -> Length:
    """The product of lengths."""
    return prod(lengths, start=1)


def known(lengths: Iterable[Length] | None) -> tuple[int | None, ...] | None:
    """The lengths with None for the open ones; None for None."""
    return None if lengths is None else tuple(None if isinstance(length, Size) else int(length) for length in lengths)


def array_of(values: Any) -> np.ndarray:
    """An array of lengths: int64 where all are known, of objects otherwise."""
    values = np.asarray(values, dtype=object)
    return values if any(is_open(value) for value in values.ravel()) else values.astype("int64")


def divided(left: Any, right: Any) -> Length:
    """left / right of whole numbers as ONNX has it: towards zero."""
    if is_open(left) or is_open(right):
        return left // right if is_open(left) else _open(f"{left} / {right}")
    return int(left / right) if right else _open("a division by zero")


def equal(left: Any, right: Any) -> bool:
    """Whether lengths are equal; a Size is at least 1."""
    if not (is_open(left) or is_open(right)) or left == right:
        return left == right
    number = right if is_open(left) else left
    if not is_open(number) and number < 1:
        return False
    return _open(f"{left} == {right}")


def _open(text: str) -> Any:
    raise OpenSize(text)
