# SPDX-License-Identifier: MIT
"""Scale-adjusted training (SAT) of weights."""

from types import ModuleType
from typing import Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import ParameterDict

from quantize.errors import CalibrationError
from quantize.nn.dorefa import DoReFaWeight
from quantize.nn.fake_quantize import Option
from quantize.ops import dorefa
from quantize.ops.types import Tensor
from quantize.spec import QParams, QuantSpec


class SATWeight(DoReFaWeight):
    """DoReFa weights, or in the first of SAT's two stages only their clamp, with an adjusted scale.

    y = c * q, q = `DoReFaWeight`'s y, or tanh(w) / max|tanh(w)| while `clamp_only` is set (N2D2: ApplyQuantization =
    false); c = 1 / sqrt(fan_out * var(q)) with `scaling` (N2D2: ApplyScaling), else 1.
    dy/dw = c * (1 - t**2) / max|t| with t = tanh(w); c carries no gradient.
    Jin, Yang and Liao, arXiv:1912.10207: layers without BatchNorm behind them need the
    scale, in the others BatchNorm makes up for it.

    Parameters
    ----------
    scaling : bool
    fan_out : int
        Output channels times kernel positions.

    Attributes
    ----------
    clamp_only : bool
        After a change drop cached graphs (`quantize.train.set_clamp_only` does).
    """

    method = "sat"
    options = {"scaling": Option("SAT's scale adjustment: true or false", lambda v: isinstance(v, bool))}
    facts = ("scaling", "fan_out")
    clamp_stage = True

    def __init__(self, spec: QuantSpec, scale_shape: Tuple[int, ...] = (1,), mode: str = "online",
                 scaling: bool = False, fan_out: int = 1, prefix: Optional[str] = None,
                 params: Optional[ParameterDict] = None) -> None:
        super().__init__(spec, scale_shape, mode, prefix, params)
        self.scaling = scaling
        self.fan_out = fan_out
        self.clamp_only = False

    def transform(self, F: ModuleType, x: Tensor) -> Tensor:
        """The class's formula."""
        q = dorefa(F, x, 0 if self.clamp_only else self.levels, using=self.backend)
        return F.reshape_like(F.broadcast_mul(F.reshape(q, shape=(-1,)), self._factor(F, q)), q) if self.scaling else q

    def _factor(self, F: ModuleType, q: Tensor) -> Tensor:
        exact = F.cast(F.BlockGrad(q), "float64")
        variance = F.mean(F.square(exact)) - F.square(F.mean(exact))
        # equal weights have no variance: they keep their scale
        return F.cast(F.rsqrt(self.fan_out * variance + (variance <= 0)), "float32")

    @property
    def rounds(self) -> bool:
        """See `FakeQuantize`: not in the first stage."""
        return super().rounds and not (self.clamp_only and self.mode != "offline")

    def _grid_step(self, F: ModuleType, x: Tensor) -> Tensor:
        step = super()._grid_step(F, x)
        if not self.scaling or self.frozen or self.mode == "offline":
            return step
        factor = self._factor(F, dorefa(F, x, self.levels, using=self.backend))
        return F.broadcast_mul(step, F.reshape(factor, shape=(1,)))

    def fix(self, weight: mx.nd.NDArray) -> mx.nd.NDArray:
        """See `FakeQuantize.fix`; CalibrationError in the clamp-only stage, whose weights lie on no grid."""
        if self.clamp_only and self.mode != "offline":
            raise CalibrationError(f"{self.name}: weights are only clamped, not yet quantized; end the first stage "
                                   "with quantize.train.set_clamp_only(net, False)")
        return super().fix(weight)

    def qparams_of(self, weight: mx.nd.NDArray) -> QParams:
        """The grid of the formula: from -c to c."""
        scale = super().qparams_of(weight).scale
        if self.scaling:
            scale = scale * self._factor(mx.nd, dorefa(mx.nd, weight, self.levels, using=self.backend)).asnumpy()
        return QParams.symmetric(np.float32(scale))

    def __repr__(self) -> str:
        return super().__repr__() + (" clamp-only" if self.clamp_only else "") + (" scaled" if self.scaling else "")
