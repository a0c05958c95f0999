# SPDX-License-Identifier: MIT
"""The operators composed of MXNet's own: they run wherever MXNet runs, eager and hybridized.

MXNet broadcasts only between tensors of equal rank, so every tensor is viewed in a shape that its scale broadcasts
against (`_view`) and viewed back at the end.
"""

from types import ModuleType
from typing import Callable, Optional, Tuple

import mxnet as mx
from mxnet import autograd

from quantize.errors import ConversionError
from quantize.ops.composed_engine import integer_codes, multiply_add  # noqa: F401 (part of this back end)
from quantize.ops.types import Tensor
from quantize.spec import PerGroup, PerTensor, QuantSpec


def fake_quantize(F: ModuleType, x: Tensor, scale: Tensor, spec: QuantSpec, zero_point: Optional[Tensor] = None,
                  multiplier: Optional[Tensor] = None) -> Tensor:
    """See `quantize.ops.entry.fake_quantize`."""
    parts = _view(F, x, spec)
    # ranges carry no gradient here; what trains them (LSQ, PACT) has operators of its own
    scale, zero_point, multiplier = (None if operand is None else _view_scale(F, F.BlockGrad(operand), spec)
                                     for operand in (scale, zero_point, multiplier))
    # the common grid by the shorter way: round_ste and clip bring the right gradient along
    if spec.grid == "mid_tread" and spec.rounding == "half_away":
        y = _round_ste(F, parts, scale, spec, zero_point, multiplier)
    else:
        values, mask = _values(F, F.BlockGrad(parts), scale, spec, zero_point, multiplier)
        y = _with_gradient(F, values, (mask, parts))
    return F.reshape_like(y, x)


def online_fake_quantize(F: ModuleType, x: Tensor, spec: QuantSpec) -> Tensor:
    """See `quantize.ops.entry.online_fake_quantize`."""
    scale, zero_point = online_qparams(F, x, spec)
    return fake_quantize(F, x, scale, spec, zero_point)


def online_qparams(F: ModuleType, x: Tensor, spec: QuantSpec) -> Tuple[Tensor, Optional[Tensor]]:
    """(scale, zero_point) that just cover `x`; zero_point is None for symmetric specs. No gradient flows into them.

    Equals `quantize.reference.find_qparams`; an all-zero part gets scale 1.
    """
    # a gradient through max |x| would reach one element alone, and is none of the straight-through estimator's
    x = F.BlockGrad(x)
    if spec.symmetric:
        # an unsigned grid has no levels below zero: a negative peak would be a negative scale
        peak = _reduce(F, F.max, F.abs(x) if spec.signed else F.relu(x), spec)
        return _nonzero(peak / spec.max_level), None
    return _from_range(F, _reduce(F, F.min, x, spec), _reduce(F, F.max, x, spec), spec)


def tracking_fake_quantize(F: ModuleType, x: Tensor, state: Tensor, spec: QuantSpec, momentum: float) -> Tensor:
    """See `quantize.ops.entry.tracking_fake_quantize`; eager only."""
    if F is not mx.nd:
        raise ConversionError("the composed back end cannot update a moving average inside a hybridized network; run "
                              "eagerly, or build the native operators (python -m quantize.ops build)")
    with autograd.pause():
        # the mean of the images' own ranges, not the batch's range, which grows with the batch size
        images = x.reshape((x.shape[0], -1))
        new = F.concat(F.minimum(images.min(axis=1), 0).mean(), F.maximum(images.max(axis=1), 0).mean(),
                       F.ones((1,), ctx=x.context), dim=0)
        state[:] = momentum * state + (1 - momentum) * new
        low, high = state[0:1] / state[2:3], state[1:2] / state[2:3]
        if spec.symmetric:
            threshold = F.maximum(-low, high) if spec.signed else high
            scale, zero_point = _nonzero(threshold / spec.max_level), None
        else:
            scale, zero_point = _from_range(F, low, high, spec)
    return fake_quantize(F, x, scale, spec, zero_point)


def lsq(F: ModuleType, x: Tensor, step: Tensor, spec: QuantSpec, grad_scale: Optional[float] = None) -> Tensor:
    """See `quantize.ops.entry.lsq`."""
    parts, step_view = _view(F, x, spec), _view_scale(F, step, spec)
    # every factor is cut off: the gradients are given explicitly at the end
    steps = F.broadcast_div(F.BlockGrad(parts), F.BlockGrad(step_view))
    levels, mask = _levels(F, steps, spec)
    slope = F.where(mask, levels - steps, levels)
    if grad_scale is None:
        slope = _flat(F, F.broadcast_mul, slope, _grad_factor(F, x, step, spec))
    else:
        slope = slope * grad_scale
    values = F.broadcast_mul(levels, F.BlockGrad(step_view))
    return F.reshape_like(_with_gradient(F, values, (mask, parts), (slope, step_view)), x)


def lsq_plus(F: ModuleType, x: Tensor, step: Tensor, offset: Tensor, spec: QuantSpec) -> Tensor:
    """See `quantize.ops.entry.lsq_plus`."""
    parts = _view(F, x, spec)
    step_view, offset_view = _view_scale(F, step, spec), _view_scale(F, offset, spec)
    data, fixed = F.BlockGrad(parts), F.BlockGrad(step_view)
    # zero must stay a code, or padding would no longer be zero
    zero_point = F.clip(spec.qmin - _round(F, F.BlockGrad(offset_view) / fixed, spec), spec.qmin, spec.qmax)
    values, inside = _values(F, data, fixed, spec, zero_point, None)
    steps = F.broadcast_div(data, fixed)
    outside = 1 - inside
    # inside the value is a rounded x; outside it is the lower or the upper end, counted from the lower
    above = outside * F.broadcast_greater(steps, -zero_point)
    slope = inside * (F.broadcast_div(values, fixed) - steps) + above * (spec.qmax - spec.qmin)
    factor = _grad_factor(F, x, step, spec)
    slope, outside = _flat(F, F.broadcast_mul, slope, factor), _flat(F, F.broadcast_mul, outside, factor)
    y = _with_gradient(F, values, (inside, parts), (slope, step_view), (outside, offset_view))
    return F.reshape_like(y, x)


def pact(F: ModuleType, x: Tensor, alpha: Tensor, levels: int, calibrated: bool = False) -> Tensor:
    """See `quantize.ops.entry.pact`."""
    flat, fixed = F.reshape(x, shape=(-1,)), F.BlockGrad(alpha)
    data = F.BlockGrad(flat)
    scale = fixed / levels
    # clipped before it is divided: rounding x / scale first could end one level above alpha
    values = F.broadcast_mul(F.round(F.broadcast_div(F.broadcast_minimum(F.relu(data), fixed), scale)), scale)
    above = F.broadcast_greater_equal(data, fixed)
    inside = (data >= 0) * (1 - above)
    slope = above
    if calibrated:
        error = F.round(F.broadcast_div(data, scale)) / levels - F.broadcast_div(data, fixed)
        slope = above + inside * (data > 0) * error
    return F.reshape_like(_with_gradient(F, values, (inside, flat), (slope, alpha)), x)


def dorefa(F: ModuleType, w: Tensor, levels: int) -> Tensor:
    """See `quantize.ops.entry.dorefa`."""
    # float32's tanh differs between MXNet, NumPy and the C library in the last bit, which decides levels
    t = F.tanh(F.cast(F.BlockGrad(w), "float64"))
    divisor = _nonzero(F.max(F.abs(t)))
    clamped = F.cast(_flat(F, F.broadcast_div, t, divisor), "float32")
    slope = F.cast(_flat(F, F.broadcast_div, 1 - t * t, divisor), "float32")
    values = 2 * (F.round((clamped * 0.5 + 0.5) * levels) / levels) - 1 if levels else clamped
    return _with_gradient(F, values, (slope, w))


def sign(F: ModuleType, x: Tensor) -> Tensor:
    """See `quantize.ops.entry.sign`."""
    data = F.BlockGrad(x)
    # sign(0) is 0 in MXNet, and contrib.sign_ste lets the gradient pass everywhere: neither is binary
    return _with_gradient(F, 2 * (data >= 0) - 1, (F.abs(data) <= 1, x))


def _grad_factor(F: ModuleType, x: Tensor, step: Tensor, spec: QuantSpec) -> Tensor:
    """(1,): 1 / sqrt(elements of a part * levels above zero)."""
    # one part has as many elements as there are for each scale, whatever the granularity
    per_part = F.cast(F.size_array(x), "float32") / F.cast(F.size_array(step), "float32")
    return F.rsqrt(per_part * spec.positive_levels)


def _round_ste(F: ModuleType, parts: Tensor, scale: Tensor, spec: QuantSpec, zero_point: Optional[Tensor],
               multiplier: Optional[Tensor]) -> Tensor:
    # clip works on rounded codes, so its gradient (1 on both ends, 0 beyond) is the mask that the reference defines
    steps = F.broadcast_div(parts, scale) if multiplier is None else F.broadcast_mul(parts, multiplier)
    codes = F.contrib.round_ste(steps)
    if zero_point is None:
        return F.broadcast_mul(F.clip(codes, spec.qmin, spec.qmax), scale)
    codes = F.clip(F.broadcast_add(codes, zero_point), spec.qmin, spec.qmax)
    return F.broadcast_mul(F.broadcast_sub(codes, zero_point), scale)


def _values(F: ModuleType, parts: Tensor, scale: Tensor, spec: QuantSpec, zero_point: Optional[Tensor],
            multiplier: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
    """(value on the grid, mask of the gradient)."""
    steps = F.broadcast_div(parts, scale) if multiplier is None else F.broadcast_mul(parts, multiplier)
    levels, mask = _levels(F, steps, spec, zero_point)
    return F.broadcast_mul(levels, scale), mask


def _levels(F: ModuleType, steps: Tensor, spec: QuantSpec,
            zero_point: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
    """(level in steps, mask of the gradient) of what is already divided by the scale."""
    if spec.grid == "mid_rise":
        # level k stands for the interval from k to k + 1: the highest one ends at qmax + 1
        mask = (steps >= spec.qmin) * (steps <= spec.qmax + 1)
        return F.clip(F.floor(steps), spec.qmin, spec.qmax) + 0.5, mask
    codes = _round(F, steps, spec)
    if zero_point is not None:
        codes = F.broadcast_add(codes, zero_point)
    clipped = F.clip(codes, spec.qmin, spec.qmax)
    # on the rounded code, as in the reference: an x / s one ulp above qmax keeps its gradient
    return clipped if zero_point is None else F.broadcast_sub(clipped, zero_point), clipped == codes


def _with_gradient(F: ModuleType, values: Tensor, *terms: Tuple[Tensor, Tensor]) -> Tensor:
    """`values`, whose gradient towards each (slope, variable) is the slope: ``slope * (v - stop(v))`` adds zero."""
    y = F.BlockGrad(values)
    for slope, variable in terms:
        y = y + F.broadcast_mul(F.BlockGrad(slope), variable - F.BlockGrad(variable))
    return y


def _round(F: ModuleType, x: Tensor, spec: QuantSpec) -> Tensor:
    rounded = F.round(x)
    if spec.rounding == "half_away":
        return rounded
    # MXNet's rint sends halves down, not to even; on an exact half, 2 * round(x / 2) is the even neighbour
    is_half = F.abs(x - F.fix(x)) == 0.5
    return F.where(is_half, F.round(x / 2) * 2, rounded)


def _from_range(F: ModuleType, low: Tensor, high: Tensor, spec: QuantSpec) -> Tuple[Tensor, Tensor]:
    low, high = F.minimum(low, 0), F.maximum(high, 0)
    scale = _nonzero((high - low) / (spec.qmax - spec.qmin))
    zero_point = spec.qmin - _round(F, low / scale, spec)
    return scale, F.clip(zero_point, spec.qmin, spec.qmax)


def _nonzero(scale: Tensor) -> Tensor:
    # an all-zero part gets scale 1, so that nothing is divided by 0
    return scale + (scale == 0)


def _flat(F: ModuleType, function: Callable[..., Tensor], x: Tensor, one: Tensor) -> Tensor:
    # MXNet broadcasts between equal ranks only
    return F.reshape_like(function(F.reshape(x, shape=(-1,)), one), x)


def _reduce(F: ModuleType, function: Callable[..., Tensor], x: Tensor, spec: QuantSpec) -> Tensor:
    if isinstance(spec.granularity, PerTensor):
        return function(x)
    parts = _view(F, x, spec)
    peak = function(parts, axis=spec.granularity.axis, exclude=True, keepdims=True)
    if isinstance(spec.granularity, PerGroup):
        peak = F.squeeze(peak, axis=spec.granularity.axis + 1)
    return peak


def _view(F: ModuleType, x: Tensor, spec: QuantSpec) -> Tensor:
    if isinstance(spec.granularity, PerTensor):
        return F.reshape(x, shape=(-1,))
    if isinstance(spec.granularity, PerGroup):
        axis, groups = spec.granularity.axis, spec.granularity.groups
        # 0 keeps an axis, -4 splits the next into two, -2 keeps the rest: no size needs to be known
        return F.reshape(x, shape=(0,) * axis + (-4, groups, -1, -2))
    return x


def _view_scale(F: ModuleType, scale: Tensor, spec: QuantSpec) -> Tensor:
    if isinstance(spec.granularity, PerGroup):
        return F.expand_dims(scale, axis=spec.granularity.axis + 1)
    return scale
