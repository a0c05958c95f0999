# SPDX-License-Identifier: MIT
"""LSQ+: a trained step and a trained offset."""

from types import ModuleType
from typing import Optional, Tuple

import numpy as np
from mxnet.gluon import ParameterDict

from quantize import reference
from quantize.errors import SpecError
from quantize.nn.lsq import LSQActivation
from quantize.ops import lsq_plus
from quantize.ops.types import Tensor
from quantize.spec import QParams, QuantSpec


class LSQPlusFakeQuantize(LSQActivation):
    """Rounds activations by a trained step and a trained offset, for tensors with negative values.

    y = s * (clip(round(x / s) + z, qmin, qmax) - z), z = qmin - round(b / s) clipped to [qmin, qmax], b = `scale` *
    `offset`: the offset is rounded to whole steps, so that zero stays a level (padding) and the integers of an engine
    give the same values.

    dy/dx = 1 inside the grid, else 0;
    dy/ds = g * (round(x / s) - x / s) inside, g * (code - qmin) outside;
    dy/db = 0 inside, g outside; rounding of b passes straight through. Bhalgat et al., arXiv:2004.09576, with
    `LSQActivation`'s g for both. Towards `growth` and `offset` they are divided by `scale`, as in `LSQFakeQuantize`.

    It is computed with composed operators and takes several times as long as LSQ.

    Attributes
    ----------
    offset : Parameter, (1,)
        Real value of the smallest level in units of `scale`; trained in `offline` mode.
    """

    method = "lsq+"
    trained = ("growth", "offset")

    def __init__(self, spec: QuantSpec, scale_shape: Tuple[int, ...] = (1,), mode: str = "online",
                 prefix: Optional[str] = None, params: Optional[ParameterDict] = None) -> None:
        super().__init__(spec, scale_shape, mode, prefix, params)
        self.offset = self._trained_parameter("offset", scale_shape, 0, wd_mult=0)

    @classmethod
    def adapt(cls, spec: QuantSpec) -> QuantSpec:
        """The spec without its symmetry: the zero point is trained."""
        if spec.grid != "mid_tread":
            raise SpecError(f"{cls.method}: a trained offset needs a grid with a level at zero, got {spec}")
        # asymmetric, for a stored zero point, which is where the offset starts from
        return spec.with_(symmetric=False)

    def quantize(self, F: ModuleType, x: Tensor, scale: Tensor, ema: Tensor, growth: Tensor, offset: Tensor,
                 zero_point: Tensor) -> Tensor:
        """Fake-quantized `x`: by the trained numbers in `offline` mode, else as `UniformFakeQuantize`."""
        if self.mode != "offline":
            return super().quantize(F, x, scale, ema, growth, zero_point)
        # trained in units of the scale, so that one learning rate serves layers of any range
        real = F.BlockGrad(scale * offset) + self._slope(F, offset, scale, x)
        return lsq_plus(F, x, self.step(F, scale, growth, x), real, self.spec)

    def start(self, x: np.ndarray) -> None:
        """Take both numbers from the range of the data."""
        self.set_qparams(reference.find_qparams(x, self.spec))

    def set_qparams(self, qparams: QParams) -> None:
        """Start again from this grid."""
        super().set_qparams(qparams)
        self._store(self.offset, self.spec.qmin - qparams.zero_point)

    def get_qparams(self) -> QParams:
        """The grid as it is now."""
        step = super().get_qparams().scale
        steps = self.scale.data().asnumpy() * self.offset.data().asnumpy() / step
        # the trained offset lies between two steps, a zero point is a code: rounded as the forward pass rounds it
        zero_point = self.spec.qmin - reference.ROUND[self.spec.rounding](steps)
        return QParams(step, np.clip(zero_point, self.spec.qmin, self.spec.qmax).astype(np.int32))
