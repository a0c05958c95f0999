# SPDX-License-Identifier: MIT
"""The format of an integer grid (`QuantSpec`) and its numbers (`QParams`): values without behaviour."""

from dataclasses import dataclass, replace
from typing import Any, Optional, Sequence, Tuple, Union

import numpy as np
from numpy.typing import ArrayLike

from quantize.errors import SpecError

GRIDS = ("mid_tread", "mid_rise")
ROUNDINGS = ("half_away", "half_even")


@dataclass(frozen=True)
class PerTensor:
    """One scale for the whole tensor."""

    def __str__(self) -> str:
        return "layer"


@dataclass(frozen=True)
class PerChannel:
    """One scale for each index along `axis`."""

    axis: int = 0

    def __str__(self) -> str:
        return "channel"


@dataclass(frozen=True)
class PerGroup:
    """One scale for each of `groups` equal, consecutive parts of `axis`."""

    groups: int
    axis: int = 0

    def __str__(self) -> str:
        return f"group({self.groups})"


Granularity = Union[PerTensor, PerChannel, PerGroup]


@dataclass(frozen=True)
class QuantSpec:
    """The format of an integer grid. It says nothing about data.

    Parameters
    ----------
    bits : int
        Width, 1 to 16.
    signed : bool
        Whether codes can be negative.
    granularity : PerTensor, PerChannel or PerGroup
        How many scales a tensor has.
    symmetric : bool
        True: the zero point is 0. False: the zero point is part of `QParams`.
    narrow : bool
        Signed 8 bit is -127..127 (True, as ncnn) or -128..127 (False).
    levels : int, optional
        Overrides ``2**bits - 1``: 255, 15, 7, 1 in N2D2's `Range`. Steps from the lowest to the highest code; only a
        narrow signed mid_tread grid has one less where they are odd (15: -7..7), since both its sides are alike.
        ncnn's "31 levels" count one side of a signed grid and are ``levels=63`` here (-31..31).
    grid : {"mid_tread", "mid_rise"}
        mid_rise has no zero level: the value of code q is ``(q + 0.5) * scale`` (DoReFa weights, binary).
    rounding : {"half_away", "half_even"}
        What happens to exact halves on a mid_tread grid; half_away is ncnn's and MXNet's, half_even ONNX's.

    Raises
    ------
    SpecError
        For a format that cannot exist.
    """

    bits: int = 8
    signed: bool = True
    granularity: Granularity = PerTensor()
    symmetric: bool = True
    narrow: bool = True
    levels: Optional[int] = None
    grid: str = "mid_tread"
    rounding: str = "half_away"

    def __post_init__(self) -> None:
        _check_choice("grid", self.grid, GRIDS)
        _check_choice("rounding", self.rounding, ROUNDINGS)
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 1 <= self.bits <= 16:
            raise SpecError(f"bits must be a whole number from 1 to 16, got {self.bits!r}")
        if self.levels is not None and not 1 <= self.levels <= 2 ** self.bits - 1:
            raise SpecError(f"levels must be from 1 to {2 ** self.bits - 1} for {self.bits} bits, got {self.levels!r}")
        if isinstance(self.granularity, PerGroup) and self.granularity.groups < 1:
            raise SpecError(f"groups must be at least 1, got {self.granularity.groups!r}")
        if self.grid == "mid_rise" and not (self.signed and self.symmetric):
            raise SpecError("a mid_rise grid is symmetric about zero: signed and symmetric must be True")
        if self.grid == "mid_tread" and self.qmax <= 0:
            raise SpecError(f"a signed {self.bits}-bit mid_tread grid holds no positive level; use grid='mid_rise' "
                            "(levels -1 and +1) or signed=False")

    @property
    def qmin(self) -> int:
        """Smallest code."""
        if not self.signed:
            return 0
        if self.grid == "mid_rise":
            return -((self._steps + 1) // 2)
        return -self.qmax if self.narrow else self.qmax - self._steps

    @property
    def qmax(self) -> int:
        """Largest code."""
        return self._steps // 2 if self.signed else self._steps

    @property
    def max_level(self) -> float:
        """The largest representable value in units of the scale."""
        return self.qmax + 0.5 if self.grid == "mid_rise" else float(self.qmax)

    @property
    def positive_levels(self) -> int:
        """How many levels lie above zero: Q_P of LSQ (arXiv:1902.08153, section 2)."""
        return self.qmax + 1 if self.grid == "mid_rise" else self.qmax

    @property
    def _steps(self) -> int:
        return 2 ** self.bits - 1 if self.levels is None else self.levels

    def scale_shape(self, x_shape: Tuple[int, ...]) -> Tuple[int, ...]:
        """Shape of the scale of a tensor: ``(1,)`` for the whole tensor, else ones but for the scaled axis.

        Raises SpecError when the axis does not exist or its length is not a multiple of the groups.
        """
        if isinstance(self.granularity, PerTensor):
            return (1,)
        axis = self.granularity.axis
        if not 0 <= axis < len(x_shape):
            raise SpecError(f"axis {axis} does not exist in a tensor of shape {tuple(x_shape)}")
        count = x_shape[axis]
        if isinstance(self.granularity, PerGroup):
            groups = self.granularity.groups
            if count % groups:
                raise SpecError(f"{count} channels cannot be split into {groups} equal groups")
            count = groups
        return tuple(count if i == axis else 1 for i in range(len(x_shape)))

    def with_(self, **changes: Any) -> "QuantSpec":
        """A copy with some fields changed (checked again)."""
        return replace(self, **changes)

    def __str__(self) -> str:
        name = f"{'' if self.signed else 'u'}int{self.bits}"
        if self.levels is not None:
            name += f"({self.levels} levels)"
        if self.grid == "mid_rise":
            name += " mid-rise"
        if not self.symmetric:
            name += " asymmetric"
        full = self.signed and self.symmetric and not self.narrow
        even = "/even" if self.rounding == "half_even" else ""
        return f"{name}/{self.granularity}{'/full' if full else ''}{even}"


@dataclass(frozen=True)
class QParams:
    """The numbers of a grid.

    Parameters
    ----------
    scale : array of float32, `spec.scale_shape(x.shape)`
        The real value of one integer step, everywhere.
    zero_point : array of int32, same shape
        The code of real zero.
    """

    scale: np.ndarray
    zero_point: np.ndarray

    @classmethod
    def symmetric(cls, scale: ArrayLike) -> "QParams":
        """QParams with zero points 0."""
        scale = np.asarray(scale, dtype=np.float32)
        return cls(scale, np.zeros(scale.shape, np.int32))


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise SpecError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
