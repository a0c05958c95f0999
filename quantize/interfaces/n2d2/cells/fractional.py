# SPDX-License-Identifier: MIT
"""Fractional max pooling (Graham, arXiv:1412.6071), made of MXNet's operators."""

import math
from typing import Any, Dict, List, Sequence, Tuple

from quantize.errors import ConfigError
from quantize.importers.graph_block import Step
from quantize.interfaces.n2d2.cells.base import Cell, Names, operator_step

FAR = 1e30  # below every pixel: what lies outside of a window
MARGIN = 1e-4  # the places where windows begin are drawn from a little above 0
GOLDEN = 0.6180339887  # multiples of it lie evenly between 0 and 1, in no order


class FMP(Cell):
    """The maximum over windows that are drawn anew for each batch: sides shrink by a factor that is no whole number.

    A side of n becomes m = round(n / scaling_ratio). Window i goes from b[i] to b[i + 1] - 1, with `overlapping` to
    b[i + 1]; b[0] is 0 and b[m] is n. With `pseudo_random` b[i] = ceil(n / m * (i - 1 + u)), u drawn between 0 and 1,
    else the windows' sizes, n // m and n // m + 1, are in an order that is drawn. Rows and columns are drawn apart.
    Nothing is drawn in testing, so that results repeat: u is 1 / 2, and larger windows lie evenly.
    The gradient goes to the first one of the largest pixels.
    """

    needs_size = True

    def __init__(self, scaling_ratio: float, *, overlapping: bool = True, pseudo_random: bool = True,
                 **common: Any) -> None:
        super().__init__(**common)
        if isinstance(scaling_ratio, bool) or not 1 <= scaling_ratio < math.inf:
            raise ConfigError(f"FMP: scaling_ratio must be a number from 1 on, got {scaling_ratio!r}")
        self.scaling_ratio = float(scaling_ratio)
        self.overlapping, self.pseudo_random = bool(overlapping), bool(pseudo_random)

    def core(self, sources: Sequence[str], names: Names) -> List[Step]:
        """See `Cell`."""
        if len(self.input_size) != 3:
            raise ConfigError(f"{self.name or 'FMP'}: feature maps are wanted, its input has the shape "
                              f"{self.input_size}")
        steps: List[Step] = []
        source = sources[0]
        for axis, size in ((2, self.input_size[1]), (3, self.input_size[2])):
            source = self._pooled(_Chain(steps, names, f"axis{axis}"), source, axis, size)
        steps[-1] = steps[-1]._replace(name=names.path, outputs=(names.output,))
        return steps

    def describe(self) -> Dict[str, Any]:
        """See `Cell`."""
        return dict(super().describe(), fractional=[self.scaling_ratio, self.overlapping, self.pseudo_random])

    def _pooled(self, chain: "_Chain", source: str, axis: int, size: int) -> str:
        """Maxima along one axis."""
        count = math.floor(size / self.scaling_ratio + 0.5)
        if count < 1:
            raise ConfigError(f"{self.name or 'FMP'}: a side of {size} is too short to be divided by "
                              f"{self.scaling_ratio}")
        places = chain("_contrib_arange_like", (source,), axis=axis)
        windows = chain("slice_axis", (places,), axis=0, begin=0, end=count)
        if self.pseudo_random:
            begin, end = _pseudo_random(chain, windows, size, count)
            longest = math.floor(2 * size / count)
        else:
            begin, end = _random(chain, windows, size, count)
            longest = -(-size // count)
        last = chain("_minus_scalar", (end,), scalar=1.0)
        if self.overlapping:
            last = chain("_minimum_scalar", (end,), scalar=size - 1.0)
        longest = min(longest + self.overlapping, size)
        return _maxima(chain, (source, places), (begin, last), axis, (count, longest))


class _Chain:
    """Adds operators to steps, one by one, and tells what their outputs are called."""

    def __init__(self, steps: List[Step], names: Names, part: str) -> None:
        self._steps, self._names, self._part = steps, names, part

    def __call__(self, op: str, sources: Sequence[str], **attrs: object) -> str:
        self._steps.append(operator_step(sources, self._names, op, f"{self._part}_{len(self._steps)}", **attrs))
        return self._steps[-1].outputs[0]


def _drawn(chain: _Chain, calm: str) -> str:
    """Between 0 and 1 in training, one for each of `calm`, which it is in testing.

    Dropout is the operator that knows which of both it is: it leaves a 1 as it is in testing alone.
    """
    ones = chain("_plus_scalar", (chain("_mul_scalar", (calm,), scalar=0.0),), scalar=1.0)
    training = chain("_not_equal_scalar", (chain("Dropout", (ones,), p=0.5),), scalar=1.0)
    testing = chain("broadcast_mul", (calm, chain("_rminus_scalar", (training,), scalar=1.0)))
    low = chain("broadcast_add", (testing, chain("_mul_scalar", (training,), scalar=MARGIN)))
    return chain("_sample_uniform", (low, chain("broadcast_add", (testing, training))))


def _pseudo_random(chain: _Chain, windows: str, size: int, count: int) -> Tuple[str, str]:
    """(Where windows begin, where they end)."""
    first = chain("slice_axis", (windows,), axis=0, begin=0, end=1)
    shifted = chain("broadcast_add", (windows, _drawn(chain, chain("_plus_scalar", (first,), scalar=0.5))))

    def bounds(shift: float) -> str:
        moved = chain("_minus_scalar", (shifted,), scalar=shift)
        return chain("ceil", (chain("_mul_scalar", (moved,), scalar=size / count),))
    begin = chain("_maximum_scalar", (bounds(1.0),), scalar=0.0)
    final = chain("_equal_scalar", (windows,), scalar=count - 1.0)
    return begin, chain("broadcast_maximum", (bounds(0.0), chain("_mul_scalar", (final,), scalar=float(size))))


def _random(chain: _Chain, windows: str, size: int, count: int) -> Tuple[str, str]:
    """As `_pseudo_random`: windows of two sizes in any order."""
    evenly = chain("_mod_scalar", (chain("_mul_scalar", (windows,), scalar=GOLDEN),), scalar=1.0)
    drawn = _drawn(chain, evenly)
    rank = chain("argsort", (chain("argsort", (drawn,), axis=0),), axis=0)
    larger = chain("_lesser_scalar", (rank,), scalar=float(size % count))
    sizes = chain("_plus_scalar", (larger,), scalar=float(size // count))
    row, column = chain("expand_dims", (windows,), axis=0), chain("expand_dims", (windows,), axis=1)
    before = chain("broadcast_lesser_equal", (row, column))
    end = chain("sum", (chain("broadcast_mul", (before, chain("expand_dims", (sizes,), axis=0))),), axis=1)
    return chain("broadcast_sub", (end, sizes)), end


def _maxima(chain: _Chain, tensors: Tuple[str, str], bounds: Tuple[str, str], axis: int,
            size: Tuple[int, int]) -> str:
    """The largest of each window: all as long as the longest can be, with what is too much far below."""
    source, places = tensors
    begin, last = (chain("expand_dims", (chain("BlockGrad", (bound,)),), axis=1) for bound in bounds)
    steps = chain("slice_axis", (places,), axis=0, begin=0, end=size[1])
    index = chain("broadcast_add", (begin, chain("expand_dims", (chain("BlockGrad", (steps,)),), axis=0)))
    outside = chain("broadcast_greater", (index, last))
    pixels = chain("take", (source, index), axis=axis, mode="clip")
    depth = chain("_mul_scalar", (outside,), scalar=-FAR)
    shape = (1, 1, 1, *size) if axis == 3 else (1, 1, *size, 1)
    low = chain("broadcast_add", (pixels, chain("reshape", (depth,), shape=shape)))
    return chain("pick", (low, chain("argmax", (low,), axis=axis + 1)), axis=axis + 1)
