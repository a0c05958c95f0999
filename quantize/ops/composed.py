# SPDX-License-Identifier: MIT
"""Fake quantization composed of MXNet's own operators: runs wherever MXNet runs, eager and hybridized.

MXNet broadcasts only between tensors of equal rank, so every tensor is viewed in a shape that its scale broadcasts
against (`_view`) and viewed back at the end.
"""

from quantize.spec import PerGroup, PerTensor


def fake_quantize(F, x, scale, spec, zero_point=None):
    """See `quantize.ops.fake_quantize.fake_quantize`."""
    parts, scale = _view(F, x, spec), _view_scale(F, scale, spec)
    if zero_point is not None:
        zero_point = _view_scale(F, zero_point, spec)
    if spec.grid == "mid_tread" and spec.rounding == "half_away":
        y = _round_ste(F, parts, scale, spec, zero_point)
    else:
        y = _with_masked_gradient(F, parts, scale, spec, zero_point)
    return F.reshape_like(y, x)


def online_qparams(F, x, spec):
    """See `quantize.ops.fake_quantize.online_qparams`."""
    x = F.BlockGrad(x)
    if spec.symmetric:
        peak = _reduce(F, F.max, F.abs(x) if spec.signed else F.relu(x), spec)
        return _nonzero(peak / spec.max_level), None
    low = F.minimum(_reduce(F, F.min, x, spec), 0)
    high = F.maximum(_reduce(F, F.max, x, spec), 0)
    scale = _nonzero((high - low) / (spec.qmax - spec.qmin))
    zero_point = spec.qmin - _round(F, low / scale, spec)
    return scale, F.clip(zero_point, spec.qmin, spec.qmax)


def _round_ste(F, parts, scale, spec, zero_point):
    # clip works on rounded codes, so its gradient (1 on both ends, 0 beyond) is the mask that the reference defines
    codes = F.contrib.round_ste(F.broadcast_div(parts, scale))
    if zero_point is None:
        return F.broadcast_mul(F.clip(codes, spec.qmin, spec.qmax), scale)
    codes = F.clip(F.broadcast_add(codes, zero_point), spec.qmin, spec.qmax)
    return F.broadcast_mul(F.broadcast_sub(codes, zero_point), scale)


def _with_masked_gradient(F, parts, scale, spec, zero_point):
    """Values without gradient, plus ``mask * (x - stop(x))``: zero in value, the mask in gradient."""
    steps = F.broadcast_div(F.BlockGrad(parts), scale)
    if spec.grid == "mid_rise":
        mask = (steps >= spec.qmin) * (steps <= spec.qmax + 1)
        values = F.clip(F.floor(steps), spec.qmin, spec.qmax) + 0.5
    else:
        codes = _round(F, steps, spec)
        if zero_point is not None:
            codes = F.broadcast_add(codes, zero_point)
        mask = (codes >= spec.qmin) * (codes <= spec.qmax)
        values = F.clip(codes, spec.qmin, spec.qmax)
        if zero_point is not None:
            values = F.broadcast_sub(values, zero_point)
    values = F.broadcast_mul(values, scale)
    return F.BlockGrad(values) + F.BlockGrad(mask) * (parts - F.BlockGrad(parts))


def _round(F, x, spec):
    rounded = F.round(x)
    if spec.rounding == "half_away":
        return rounded
    # MXNet's rint sends halves down, not to even; on an exact half, 2 * round(x / 2) is the even neighbour
    is_half = F.abs(x - F.fix(x)) == 0.5
    return F.where(is_half, F.round(x / 2) * 2, rounded)


def _nonzero(scale):
    return scale + (scale == 0)


def _reduce(F, function, x, spec):
    if isinstance(spec.granularity, PerTensor):
        return function(x)
    parts = _view(F, x, spec)
    peak = function(parts, axis=spec.granularity.axis, exclude=True, keepdims=True)
    if isinstance(spec.granularity, PerGroup):
        peak = F.squeeze(peak, axis=spec.granularity.axis + 1)
    return peak


def _view(F, x, spec):
    if isinstance(spec.granularity, PerTensor):
        return F.reshape(x, shape=(-1,))
    if isinstance(spec.granularity, PerGroup):
        axis, groups = spec.granularity.axis, spec.granularity.groups
        return F.reshape(x, shape=(0,) * axis + (-4, groups, -1, -2))
    return x


def _view_scale(F, scale, spec):
    if isinstance(spec.granularity, PerGroup):
        return F.expand_dims(scale, axis=spec.granularity.axis + 1)
    return scale
