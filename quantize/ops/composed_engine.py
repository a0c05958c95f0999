# SPDX-License-Identifier: MIT
"""What an engine with integer layers computes around its sums, composed of MXNet's operators; without gradients."""

from types import ModuleType

from quantize.ops.types import Tensor

VECTOR = 4
# x86 converts what does not fit into int32 to its smallest value, which is then clipped to -qmax
INT32_END = 2.0 ** 31


def integer_codes(F: ModuleType, x: Tensor, multiplier: Tensor, qmax: int, run: int) -> Tensor:
    """See `quantize.ops.entry.integer_codes`."""
    steps = F.reshape(F.broadcast_mul(F.reshape(x, shape=(-1,)), multiplier), shape=(-1, run))
    whole = run // VECTOR * VECTOR
    parts = []
    if whole:
        fours = F.slice_axis(steps, axis=1, begin=0, end=whole)
        parts.append(F.trunc(fours + 0.5 * F.sign(fours)))
    if whole < run:
        parts.append(F.round(F.slice_axis(steps, axis=1, begin=whole, end=None)))
    codes = F.clip(F.concat(*parts, dim=1), -qmax, qmax)
    return F.reshape_like(F.where(steps < INT32_END, codes, F.zeros_like(codes) - qmax), x)


def multiply_add(F: ModuleType, x: Tensor, factor: Tensor, term: Tensor) -> Tensor:
    """See `quantize.ops.entry.multiply_add`.

    The product of two float32 is exact in float64. Rounding the sum to float64 and then to float32 is not rounding it
    once where the first result lies half way between two float32 and was not exact: there the sign of what it lost
    (TwoSum, Knuth) decides between the two. Not for results that are subnormal in float32.
    """
    factor, term = (F.expand_dims(F.reshape(F.cast(v, "float64"), shape=(1, -1)), axis=2) for v in (factor, term))
    product = F.broadcast_mul(F.reshape(F.cast(x, "float64"), shape=(0, 0, -1)), factor)
    total = F.broadcast_add(product, term)
    added = total - product
    lost = (product - (total - added)) + F.broadcast_sub(term, added)
    nearest = F.cast(F.cast(total, "float32"), "float64")
    rest = total - nearest
    other = nearest + 2 * rest
    half_way = (rest != 0) * (F.cast(F.cast(other, "float32"), "float64") == other)
    return F.reshape_like(F.cast(F.where(half_way * (lost * rest > 0), other, nearest), "float32"), x)
