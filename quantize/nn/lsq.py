# SPDX-License-Identifier: MIT
"""Learned step size quantization (LSQ)."""

from types import ModuleType
from typing import Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import ParameterDict

from quantize import reference_trained
from quantize.errors import SpecError
from quantize.nn.uniform import UniformFakeQuantize
from quantize.ops import lsq
from quantize.ops.types import Tensor
from quantize.spec import QParams, QuantSpec

# the step never falls below this share of its start
LEAST_RATIO = 2.0 ** -10


class LSQFakeQuantize(UniformFakeQuantize):
    """Rounds by a step that is trained; per layer, group or channel (`LSQActivation` is the one for activations).

    y = s * clip(round(x / s), qmin, qmax) with s = `scale` * max(1 + elu(`growth`), 2**-10): positive whatever an
    optimizer does to `growth`, linear in it where the step grows.

    dy/dx = 1 where qmin <= round(x / s) <= qmax, else 0;
    dy/ds = g * (round(x / s) - x / s) inside, g * qmin or g * qmax outside, g = 1 / sqrt(n * qmax) with n elements of a
    part; Esser et al., arXiv:1902.08153, equations 1 to 3 and section 2.2.
    Weights of one bit (``int1``) are -s / 2 or s / 2, in the same formulas y / s for the rounded x / s and 1 for qmax.
    dL/dgrowth = dL/ds * elu'(growth) / `scale`: with `growth` near 0 a step of gradient descent moves s as LSQ's own
    rule does, while `growth` has no unit, so that one rate of Adam suits every layer.

    The start is a calibrated scale (`set_qparams`), or `start`. Weight decay does not touch the step.

    Attributes
    ----------
    scale : Parameter, `scale_shape`
        The step that training started with.
    growth : Parameter, `scale_shape`
        Relative change of the step since, as above; trained in `offline` mode.
    """

    method = "lsq"
    trained: Tuple[str, ...] = ("growth",)
    training_mode = "offline"
    trains_step = True

    def __init__(self, spec: QuantSpec, scale_shape: Tuple[int, ...] = (1,), mode: str = "online",
                 prefix: Optional[str] = None, params: Optional[ParameterDict] = None) -> None:
        super().__init__(self.adapt(spec), scale_shape, mode, prefix, params)
        self.growth = self._trained_parameter("growth", scale_shape, 0, wd_mult=0)

    @classmethod
    def adapt(cls, spec: QuantSpec) -> QuantSpec:
        """The spec itself: symmetric."""
        if not spec.symmetric:
            raise SpecError(f"{cls.method}: a trained step needs a symmetric grid, got {spec}")
        return spec

    def quantize(self, F: ModuleType, x: Tensor, scale: Tensor, ema: Tensor, growth: Tensor,
                 zero_point: Optional[Tensor] = None) -> Tensor:
        """Fake-quantized `x`: by the trained step in `offline` mode, else as `UniformFakeQuantize`."""
        if self.mode != "offline":
            return super().quantize(F, x, scale, ema, zero_point)
        return lsq(F, x, self.step(F, scale, growth, x), self.spec, using=self.backend)

    def step(self, F: ModuleType, scale: Tensor, growth: Tensor, x: Optional[Tensor] = None) -> Tensor:
        """The step, with the gradient towards `growth` that the class states for a tensor `x`."""
        # 1 + elu grows linearly above the start, as the paper's step does, and stays positive below it;
        # the floor keeps it from vanishing, where every value would be clipped and no gradient could lead back
        ratio = F.maximum(1 + F.LeakyReLU(growth, act_type="elu", slope=1.0), LEAST_RATIO)
        # the value is cut off from the graph and the gradient comes by a term that is exactly zero: the paper's
        # gradient towards the step, whatever the parametrisation's own would be
        return F.BlockGrad(scale * ratio) + self._slope(F, ratio, scale, x)

    def _stored_step(self, F: ModuleType, x: Tensor) -> Tensor:
        return self.step(F, super()._stored_step(F, x), self._value(F, "growth", x))

    def _slope(self, F: ModuleType, value: Tensor, scale: Tensor, x: Optional[Tensor]) -> Tensor:
        """Zero, with the gradient 1 / scale towards a trained value."""
        return (value - F.BlockGrad(value)) / scale

    def start(self, x: np.ndarray) -> None:
        """Take the step from data: 2 * mean|x| / sqrt(levels above zero) for each scaled part (section 2.1)."""
        self.set_qparams(QParams.symmetric(reference_trained.lsq_start(x, self.spec)))

    def set_qparams(self, qparams: QParams) -> None:
        """Start again from this step."""
        # the trained number counts from the stored step, so that a new start means no growth
        super().set_qparams(qparams)
        self._store(self.growth, np.zeros(self.growth.shape))

    def get_qparams(self) -> QParams:
        """The step as it is now."""
        start = super().get_qparams()
        step = self.step(mx.nd, self.scale.data(), self.growth.data()).asnumpy()
        return QParams(step, start.zero_point)


class LSQActivation(LSQFakeQuantize):
    """`LSQFakeQuantize` for activations: n in the gradient's scale counts the elements of one image, not of the batch.

    So the step learns as fast whatever the batch size is ("number of features", arXiv:1902.08153, section 2.2).
    """

    @classmethod
    def adapt(cls, spec: QuantSpec) -> QuantSpec:
        """The spec itself: symmetric, with a level at zero, which borders of convolutions are filled with."""
        if spec.grid != "mid_tread":
            raise SpecError(f"{cls.method}: activations need a level at zero, got {spec}; write 'uint1' where none is "
                            "negative, or take input_method 'bnn'")
        return super().adapt(spec)

    def _slope(self, F: ModuleType, value: Tensor, scale: Tensor, x: Optional[Tensor]) -> Tensor:
        slope = super()._slope(F, value, scale, x)
        if x is None:
            return slope
        # the operator counts the whole batch
        # 1 / sqrt(n * images) times sqrt(images) is 1 / sqrt(n); the shape is only known when the graph runs
        images = F.cast(F.slice_axis(F.shape_array(x), axis=0, begin=0, end=1), "float32")
        return F.reshape_like(F.broadcast_mul(F.reshape(slope, shape=(-1,)), F.sqrt(images)), slope)


class LSQPlusWeight(LSQFakeQuantize):
    """`LSQFakeQuantize` with the start of LSQ+ for weights; Bhalgat et al., arXiv:2004.09576.

    s = max(|mean - 3 std|, |mean + 3 std|) / 2**(bits - 1) for each scaled part; the grid stays symmetric.
    """

    method = "lsq+"

    def start(self, x: np.ndarray) -> None:
        """Take the step from the weights' mean and standard deviation."""
        self.set_qparams(QParams.symmetric(reference_trained.lsq_plus_weight_start(x, self.spec)))
