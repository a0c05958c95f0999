# SPDX-License-Identifier: MIT
"""The base of all fake quantizers: a spec, a stored scale, and a mode."""

import mxnet as mx
from mxnet.gluon import HybridBlock

from quantize import reference
from quantize.errors import CalibrationError, ConfigError, ConversionError
from quantize.ops import online_qparams
from quantize.spec import QParams, QuantSpec

MODES = ("float", "observe", "online", "ema", "offline")
MOMENTUM = 0.9


class FakeQuantize(HybridBlock):
    """A block that rounds its input to an integer grid, or watches it, or lets it pass.

    Modes: `float` passes the input through; `observe` passes it through and hands it to `observer`;
    `online` quantizes with the range of this tensor; `ema` with a moving average of ranges which every batch updates
    (for training; `update_ema` turns the average into the stored scale); `offline` with the stored scale.
    Use `quantize.modes.set_mode` to switch a whole network: it also drops cached graphs. Subclasses that train numbers
    use them in `offline` mode and give them a gradient in no other.

    Parameters
    ----------
    spec : QuantSpec
    scale_shape : tuple of int
        `spec.scale_shape` of the tensors to come.
    mode : str
        One of `MODES`.

    Attributes
    ----------
    scale : Parameter, float32, `scale_shape`
        The stored scale; 0 where nothing was calibrated yet.
    zero_point : Parameter, float32, `scale_shape`, or None
        Only for asymmetric specs.
    ema : Parameter, float32, (3,)
        Moving averages of the images' minimum and maximum, and the weight seen so far.
    backend : {"auto", "native", "composed"}
        The operators to compute with.
    observer : object with ``update(array)``, or None
        One with ``trace(symbol)`` is handed the symbol when the network is traced.
    reorder_first : bool
        Bring the input into MXNet's plain layout by an operator of its own. Convolutions leave oneDNN's blocked layout,
        which the native operators have reordered in the forward and again in the backward pass; this saves the second
        time. Layers set it for their inputs until their weights are frozen, since inference has no second time.
    frozen : bool
        The input is already on the grid (weights after `fix_params`): pass it through.
    method : str
        The class's published name, as configurations write it.
    trained : tuple of str
        Names of the parameters that get a gradient.
    training_mode : str
        The mode in which the method trains: `offline` where it trains its numbers, else `online`.
    options : tuple of str
        Constructor arguments that a configuration may set.
    momentum : float
        Of the moving average in `ema` mode, 0 to 1. After a change drop cached graphs.
    """

    method = "ste"
    momentum = MOMENTUM
    trained = ()
    training_mode = "online"
    options = ()

    def __init__(self, spec: QuantSpec, scale_shape=(1,), mode="online", prefix=None, params=None):
        super().__init__(prefix=prefix, params=params)
        self.spec = spec
        self.observer = None
        self.backend = "auto"
        self.frozen = False
        self.reorder_first = False
        self._traced = (None, None)
        self._requests = {}
        self.mode = mode
        self.scale = self._statistic("scale", scale_shape)
        self.ema = self._statistic("ema", (3,))
        self.zero_point = None if spec.symmetric else self._statistic("zero_point", scale_shape)

    def _statistic(self, name, shape, start=0):
        return self.params.get(name, shape=shape, init=mx.init.Constant(start), grad_req="null", differentiable=False)

    def _trained_parameter(self, name, shape, start, wd_mult):
        """A parameter that gets a gradient in `offline` mode alone, so that no other mode leaves it a stale one."""
        parameter = self.params.get(name, shape=shape, init=mx.init.Constant(start), wd_mult=wd_mult)
        if self.mode != "offline":
            self._requests[name], parameter.grad_req = parameter.grad_req, "null"
        return parameter

    @classmethod
    def adapt(cls, spec: QuantSpec) -> QuantSpec:
        """The spec as this class computes with it; SpecError when it cannot."""
        return spec

    @property
    def mode(self) -> str:
        """Current mode."""
        return self._mode

    @mode.setter
    def mode(self, value):
        if value not in MODES:
            raise ConfigError("mode must be one of {}, got {!r}".format(", ".join(MODES), value))
        for name in self.trained:
            parameter = self._reg_params.get(name)
            if parameter is not None and (value == "offline") != (self._mode == "offline"):
                request = self._requests.pop(name, "null")
                self._requests[name], parameter.grad_req = parameter.grad_req, request
        self._mode = value

    def hybrid_forward(self, F, x, **parameters):
        """`x` as the mode says; shape and dtype of `x`."""
        if self.mode == "float" or self.frozen:
            return x
        if self.mode == "observe":
            self._observe(F, x)
            return x
        if F is mx.nd:
            return self.quantize(F, x, **parameters)
        # layers that read one tensor share their quantizer: in a graph it is quantized once
        if self._traced[0] is not x:
            plain = F.reshape(x, shape=(-2,)) if self.reorder_first else x
            self._traced = (x, self.quantize(F, plain, **parameters))
        return self._traced[1]

    def quantize(self, F, x, scale, ema, zero_point=None):
        """Fake-quantized `x`; what subclasses define. Receives every parameter of the block by name."""
        raise NotImplementedError

    def fix(self, weight):
        """`weight` (NDArray) rounded once and for all; the scale of the grid it now lies on is stored."""
        if self.mode != "offline":
            self.set_qparams(self.qparams_of(weight))
        return self.quantize(mx.nd, weight, **{name: p.data() for name, p in self._reg_params.items()})

    def qparams_of(self, weight) -> QParams:
        """The grid that `quantize` would put a weight on outside the `offline` mode: by default one that covers it."""
        scale, zero_point = online_qparams(mx.nd, weight, self.spec)
        if zero_point is None:
            return QParams.symmetric(scale.asnumpy())
        return QParams(scale.asnumpy(), zero_point.asnumpy().astype("int32"))

    def _clear_cached_op(self):
        self._traced = (None, None)
        super()._clear_cached_op()

    def _observe(self, F, x):
        if F is mx.sym:
            if not hasattr(self.observer, "trace"):
                raise ConversionError(f"{self.name}: a hybridized network cannot be observed as it runs; use "
                                      "calib.collect.collect, which runs a graph of its own")
            self.observer.trace(x)
        elif self.observer is not None:
            self.observer.update(x.asnumpy())

    def set_qparams(self, qparams: QParams):
        """Store calibrated numbers (shape of the scale)."""
        self._store(self.scale, qparams.scale)
        if self.zero_point is not None:
            self._store(self.zero_point, qparams.zero_point)

    def get_qparams(self) -> QParams:
        """The stored numbers; CalibrationError when there are none yet."""
        if not self.calibrated:
            raise CalibrationError(f"{self.name} has no calibrated range yet; calibrate first, or use online ranges")
        scale = self.scale.data().asnumpy()
        if self.zero_point is None:
            return QParams.symmetric(scale)
        return QParams(scale, self.zero_point.data().asnumpy().astype("int32"))

    @property
    def calibrated(self) -> bool:
        """Whether a scale is stored."""
        if self.scale._data is None:
            return False
        return bool((self.scale.data().asnumpy() > 0).all())

    def update_ema(self):
        """Store the range that the moving average has reached; nothing happens before it has seen a batch."""
        low, high, weight = self.ema.data().asnumpy().astype("float64")
        if weight > 0:
            self.set_qparams(reference.qparams_of_range(low / weight, high / weight, self.spec))

    @property
    def threshold(self):
        """Largest representable magnitude under the stored scale (array of the scale's shape)."""
        return self.get_qparams().scale * self.spec.max_level

    @staticmethod
    def _store(parameter, values):
        values = values.astype("float32").reshape(parameter.shape)
        if parameter._data is None:
            parameter.initialize()
        parameter.set_data(mx.nd.array(values))

    def __repr__(self):
        method = "" if self.method == "ste" else self.method + " "
        return "{} {}{}".format(self.spec, method, "frozen" if self.frozen else self.mode)
