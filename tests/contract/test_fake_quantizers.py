# SPDX-License-Identifier: MIT
"""What every fake quantizer keeps to, judged by `quantize.reference`; one body, run over classes and formats."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from quantize import reference
from quantize.errors import CalibrationError, ConfigError, ConversionError
from quantize.nn import UniformFakeQuantize
from quantize.spec import PerChannel, PerGroup, QParams, QuantSpec

# a quantizer on its own, hybridized, with online ranges: MXNet notes that the stored scale is not in the graph
pytestmark = pytest.mark.filterwarnings("ignore:Parameter .* is not used by any computation")

CLASSES = [UniformFakeQuantize]
SPECS = [
    QuantSpec(8), QuantSpec(8, signed=False), QuantSpec(8, narrow=False), QuantSpec(2), QuantSpec(1, signed=False),
    QuantSpec(16), QuantSpec(1, grid="mid_rise"), QuantSpec(4, grid="mid_rise"), QuantSpec(8, levels=63),
    QuantSpec(8, rounding="half_even"), QuantSpec(3, signed=False, rounding="half_even"),
    QuantSpec(8, signed=False, symmetric=False), QuantSpec(4, symmetric=False, rounding="half_even"),
    QuantSpec(8, granularity=PerChannel(0)), QuantSpec(4, granularity=PerChannel(1)),
    QuantSpec(8, granularity=PerGroup(2)), QuantSpec(3, granularity=PerGroup(3, 1)),
    QuantSpec(2, granularity=PerChannel(1), grid="mid_rise"),
    QuantSpec(5, signed=False, symmetric=False, granularity=PerGroup(4)),
]
SHAPE = (8, 6, 5, 3)
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
every_spec = pytest.mark.parametrize("spec", SPECS, ids=str)


def data(spec, scale=None, seed=0):
    """Random values with zeros, and where a scale is given exact halves and values at and beyond the clip."""
    random = np.random.RandomState(seed)
    x = random.randn(*SHAPE).astype(np.float32)
    x[0, 0, 0] = 0
    if scale is not None:
        parts = reference.split_groups(x, spec)
        steps = random.choice([spec.qmin - 2, spec.qmin - 1, spec.qmin - 0.5, spec.qmin, -1.5, -0.5, 0, 0.5, 1.5, 2.5,
                               spec.qmax, spec.qmax + 0.5, spec.qmax + 1, spec.qmax + 2], parts.shape)
        special = steps.astype(np.float32) * reference.expand_scale(scale, spec)
        x = np.where(random.rand(*SHAPE) < 0.5, special.reshape(SHAPE), x).astype(np.float32)
    return x


def qparams(spec):
    """A power-of-two scale (so that halves are exact) that differs from part to part."""
    shape = spec.scale_shape(SHAPE)
    scale = (2.0 ** -np.arange(3, 3 + np.prod(shape))).astype(np.float32).reshape(shape)
    zero_point = np.zeros(shape, np.int32)
    if not spec.symmetric:
        zero_point += np.arange(zero_point.size, dtype=np.int32).reshape(shape) % 3 + spec.qmin + 1
    return QParams(scale, zero_point)


def block(cls, spec, params=None, using="auto"):
    made = cls(spec, spec.scale_shape(SHAPE), mode="online" if params is None else "offline")
    made.backend = using
    made.initialize()
    if params is not None:
        made.set_qparams(params)
    return made


@every_class
@every_spec
@pytest.mark.parametrize("hybridize", [False, True])
def test_offline_equals_reference_bit_for_bit(cls, spec, hybridize, backend):
    params = qparams(spec)
    x = data(spec, params.scale)
    made = block(cls, spec, params, backend)
    made.hybridize(hybridize)
    np.testing.assert_array_equal(made(mx.nd.array(x)).asnumpy(), reference.fake_quantize(x, params, spec))


@every_class
@every_spec
@pytest.mark.parametrize("hybridize", [False, True])
def test_online_equals_reference_bit_for_bit(cls, spec, hybridize, backend):
    x = data(spec)
    x[:, 1] = 0
    x[3] = 0
    made = block(cls, spec, using=backend)
    made.hybridize(hybridize)
    expected = reference.fake_quantize(x, reference.find_qparams(x, spec), spec)
    np.testing.assert_array_equal(made(mx.nd.array(x)).asnumpy(), expected)


@every_class
@every_spec
@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize("hybridize", [False, True])
def test_gradient_equals_the_formula(cls, spec, online, hybridize, backend):
    params = None if online else qparams(spec)
    x = data(spec, None if online else params.scale)
    dy = np.random.RandomState(1).randn(*SHAPE).astype(np.float32)
    made = block(cls, spec, params, backend)
    made.hybridize(hybridize)
    x_nd = mx.nd.array(x)
    x_nd.attach_grad()
    with autograd.record():
        y = made(x_nd)
    y.backward(mx.nd.array(dy))
    used = reference.find_qparams(x, spec) if online else params
    np.testing.assert_allclose(x_nd.grad.asnumpy(), reference.ste_gradient(x, dy, used, spec), rtol=1e-6)


@every_class
@every_spec
def test_twice_equals_once(cls, spec):
    params = qparams(spec)
    made = block(cls, spec, params)
    once = made(mx.nd.array(data(spec, params.scale)))
    np.testing.assert_array_equal(made(once).asnumpy(), once.asnumpy())


@every_class
def test_modes(cls):
    spec = QuantSpec(4)
    x = mx.nd.array(data(spec))
    made = block(cls, spec, qparams(spec))
    made.mode = "float"
    np.testing.assert_array_equal(made(x).asnumpy(), x.asnumpy())
    seen = []
    made.observer = type("Spy", (), {"update": lambda self, batch: seen.append(batch)})()
    made.mode = "observe"
    np.testing.assert_array_equal(made(x).asnumpy(), x.asnumpy())
    np.testing.assert_array_equal(seen[0], x.asnumpy())
    with pytest.raises(ConfigError, match="mode must be one of"):
        made.mode = "onlin"
    with pytest.raises(ConversionError, match="cannot be observed"):
        made(mx.sym.var("data"))


@every_class
def test_uncalibrated_is_an_error(cls):
    made = block(cls, QuantSpec(8))
    assert not made.calibrated
    with pytest.raises(CalibrationError, match="no calibrated range"):
        made.get_qparams()


@every_class
@pytest.mark.parametrize("spec", [QuantSpec(8), QuantSpec(8, signed=False, symmetric=False)], ids=str)
def test_qparams_survive_save_and_load(cls, spec, tmp_path):
    made, other = block(cls, spec, qparams(spec)), block(cls, spec)
    made.save_parameters(str(tmp_path / "q.params"))
    other.load_parameters(str(tmp_path / "q.params"))
    np.testing.assert_array_equal(other.get_qparams().scale, qparams(spec).scale)
    np.testing.assert_array_equal(other.get_qparams().zero_point, qparams(spec).zero_point)
