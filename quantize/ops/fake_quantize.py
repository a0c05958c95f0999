# SPDX-License-Identifier: MIT
"""The one entry point through which every layer and quantizer fake-quantizes a tensor."""

from quantize.ops import composed


def fake_quantize(F, x, scale, spec, zero_point=None):
    """`x` rounded to the grid of `spec`, float32, with the straight-through gradient.

    dy/dx = 1 where the unclipped code lies in [qmin, qmax], else 0; dy/dscale = dy/dzero_point = 0.
    Forward and gradient equal `quantize.reference.fake_quantize` and `.ste_gradient` (the default, divide form).

    Parameters
    ----------
    F : mxnet.ndarray or mxnet.symbol
    x : NDArray or Symbol, float32
    scale : NDArray or Symbol, `spec.scale_shape(x.shape)`
        Real value of one integer step; positive.
    spec : QuantSpec
    zero_point : NDArray or Symbol, scale's shape, optional
        Code of real zero as float32; None for symmetric specs.
    """
    return composed.fake_quantize(F, x, scale, spec, zero_point)


def online_qparams(F, x, spec):
    """(scale, zero_point) that just cover `x`; zero_point is None for symmetric specs. No gradient flows into them.

    Equals `quantize.reference.find_qparams`; an all-zero part gets scale 1.
    """
    return composed.online_qparams(F, x, spec)
