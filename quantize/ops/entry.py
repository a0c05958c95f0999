# SPDX-License-Identifier: MIT
"""The one entry point through which every layer and quantizer rounds a tensor; each call names its back end.

Back ends: `native` (C++ operators), `composed` (MXNet's own operators), `auto` (native where it can be had).
All take ``F`` (mxnet.ndarray or mxnet.symbol) and float32 NDArrays or Symbols, and equal `quantize.reference` and
`quantize.reference_trained` in value (bit for bit, but for the sign of zero) and gradient.
"""

import logging
from types import ModuleType
from typing import List, Optional

from quantize.errors import ConfigError
from quantize.ops import composed, native
from quantize.ops.types import Tensor
from quantize.spec import QuantSpec

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "native", "composed")
_warned: List[bool] = []


def choose(name: str, device_type: str) -> str:
    """The back end for a network on a device ("cpu", "gpu"): `auto` is composed where the native one has no kernels."""
    # an operator without a kernel for the device would fail in the middle of a run
    if name == "auto" and device_type == "gpu" and not native.runs_on_gpu():
        return "composed"
    return name


def backend(name: str = "auto") -> ModuleType:
    """The module of a back end; `auto` warns once where the native one is missing."""
    if name not in BACKENDS:
        raise ConfigError(f"back end must be one of {', '.join(BACKENDS)}, got {name!r}")
    if name == "native":
        native.require()
        return native
    if name == "auto":
        if not native.why_not():
            return native
        # once in a process: a network has dozens of quantizers
        if not _warned:
            _warned.append(True)
            logger.warning("native operators are missing, the composed ones are several times slower: %s",
                           native.why_not())
    return composed


def fake_quantize(F: ModuleType, x: Tensor, scale: Tensor, spec: QuantSpec, zero_point: Optional[Tensor] = None, *,
                  multiplier: Optional[Tensor] = None, using: str = "auto") -> Tensor:
    """`x` rounded to the grid of `spec`, with the straight-through gradient.

    dy/dx = 1 where the unclipped code lies in [qmin, qmax], else 0; dy/dscale = dy/dzero_point = 0.

    Parameters
    ----------
    scale : `spec.scale_shape(x.shape)`
        Real value of one integer step; positive.
    zero_point : scale's shape, optional
        Code of real zero as float32; None for symmetric specs.
    multiplier : scale's shape, optional
        Given: codes come from ``x * multiplier`` instead of ``x / scale``, as ncnn computes.
    using : {"auto", "native", "composed"}
        The back end.
    """
    return backend(using).fake_quantize(F, x, scale, spec, zero_point, multiplier)


def online_fake_quantize(F: ModuleType, x: Tensor, spec: QuantSpec, *, using: str = "auto") -> Tensor:
    """`x` rounded to a grid that just covers it (`reference.find_qparams`); the range carries no gradient."""
    return backend(using).online_fake_quantize(F, x, spec)


def tracking_fake_quantize(F: ModuleType, x: Tensor, state: Tensor, spec: QuantSpec, momentum: float, *,
                           using: str = "auto") -> Tensor:
    """`x` rounded by a moving average of ranges which this batch updates first; one scale for the tensor.

    Parameters
    ----------
    state : (3,), auxiliary
        Averages of the images' minimum and maximum, and the weight seen so far, as `calib.observers.EMAObserver`;
        changed in place. The composed back end can do that only eagerly.
    """
    return backend(using).tracking_fake_quantize(F, x, state, spec, momentum)


def lsq(F: ModuleType, x: Tensor, step: Tensor, spec: QuantSpec, grad_scale: Optional[float] = None, *,
        using: str = "auto") -> Tensor:
    """`x` rounded by a trained step (LSQ, arXiv:1902.08153); gradients as `reference_trained.lsq_gradient`.

    Grids without a level at zero (one bit) are always composed.
    """
    # no native operator there: such weights are few, and the common grid keeps its short loop
    module = composed if spec.grid == "mid_rise" else backend(using)
    return module.lsq(F, x, step, spec, grad_scale)


def lsq_plus(F: ModuleType, x: Tensor, step: Tensor, offset: Tensor, spec: QuantSpec) -> Tensor:
    """`x` rounded by a trained step and the trained real value of the lowest level (LSQ+, arXiv:2004.09576).

    Step and offset have the scale's shape; gradients as `reference_trained.lsq_plus_gradient`. Always composed.
    """
    # no native operator: its gradients are three, and it is seldom used
    return composed.lsq_plus(F, x, step, offset, spec)


def pact(F: ModuleType, x: Tensor, alpha: Tensor, levels: int, calibrated: bool = False, *,
         using: str = "auto") -> Tensor:
    """`x` clipped to a trained [0, alpha (1,)] and rounded to `levels` steps; see `reference_trained.pact_gradient`."""
    return backend(using).pact(F, x, alpha, levels, calibrated)


def dorefa(F: ModuleType, w: Tensor, levels: int, *, using: str = "auto") -> Tensor:
    """Weights clamped by tanh and rounded to `levels` steps on [-1, 1]; see `reference_trained.dorefa`."""
    return backend(using).dorefa(F, w, levels)


def quantize_gradient(F: ModuleType, x: Tensor, bits: int) -> Tensor:
    """`x`, whose gradient is rounded to `bits` with noise; see `reference_trained.dorefa_quantized_gradient`.

    Native only (a composed operator cannot change the gradient that passes through it), and on the CPU only.
    """
    native.require()
    return native.quantize_gradient(F, x, bits)


def sign(F: ModuleType, x: Tensor, *, using: str = "auto") -> Tensor:
    """+1 or -1 with the clipped-identity gradient; see `reference_trained.sign_gradient`."""
    return backend(using).sign(F, x)


def integer_codes(F: ModuleType, x: Tensor, multiplier: Tensor, qmax: int, run: int, *, using: str = "auto") -> Tensor:
    """Codes (float32) of `x` as ncnn's loops compute them: clip(round(x * multiplier), -qmax, qmax).

    Halves are rounded away from zero. A loop goes over `run` elements at a time, in fours that are rounded by
    trunc(v + copysign(0.5, v)) in float32, which sends 0.49999997 to 1; what is left of a run is rounded exactly. What
    is no number, or at least 2^31, becomes -qmax. No gradient.

    Parameters
    ----------
    multiplier : (1,)
        Positive.
    run : int
        Divides the number of elements; 1: everything is rounded exactly.
    """
    return backend(using).integer_codes(F, x, multiplier, qmax, run)


def multiply_add(F: ModuleType, x: Tensor, factor: Tensor, term: Tensor, *, using: str = "auto") -> Tensor:
    """x * factor + term for each channel, rounded once (a fused multiply-add). No gradient.

    Parameters
    ----------
    x : (n, channels, ...)
    factor, term : (channels,)
    """
    return backend(using).multiply_add(F, x, factor, term)
