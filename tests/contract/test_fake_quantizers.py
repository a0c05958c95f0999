# SPDX-License-Identifier: MIT
"""What every fake quantizer keeps to, judged by `quantize.reference`; one body, run over classes and formats."""

import contextlib

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from quantize import reference
from quantize.errors import CalibrationError, ConfigError, ConversionError, SpecError
from quantize.nn import (
    METHODS,
    CGPACTFakeQuantize,
    DoReFaActivation,
    DoReFaWeight,
    LSQActivation,
    LSQFakeQuantize,
    LSQPlusFakeQuantize,
    LSQPlusWeight,
    PACTFakeQuantize,
    SATWeight,
    SignFakeQuantize,
    UniformFakeQuantize,
)
from quantize.spec import PerChannel, PerGroup, QParams, QuantSpec

# a quantizer on its own, hybridized, with online ranges: MXNet notes that the stored scale is not in the graph
pytestmark = pytest.mark.filterwarnings("ignore:Parameter .* is not used by any computation")

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
STEPS = [QuantSpec(8), QuantSpec(2, narrow=False), QuantSpec(1, signed=False), QuantSpec(3, signed=False),
         QuantSpec(8, levels=63), QuantSpec(5, rounding="half_even"), QuantSpec(4, granularity=PerChannel(1)),
         QuantSpec(8, granularity=PerGroup(2)), QuantSpec(1, grid="mid_rise"),
         QuantSpec(1, granularity=PerChannel(1), grid="mid_rise"), QuantSpec(3, grid="mid_rise")]
AFFINE = [QuantSpec(8, signed=False, symmetric=False), QuantSpec(4, symmetric=False, rounding="half_even"),
          QuantSpec(2, symmetric=False, narrow=False), QuantSpec(4, symmetric=False, granularity=PerChannel(1))]
CLIPS = [QuantSpec(bits, signed=False) for bits in (1, 2, 4, 8)] + [QuantSpec(8, signed=False, levels=100)]
MID_RISE = [QuantSpec(bits, grid="mid_rise") for bits in (1, 2, 4, 8)] + [QuantSpec(4, levels=9, grid="mid_rise")]
CHOSEN = {UniformFakeQuantize: SPECS, LSQFakeQuantize: STEPS, LSQActivation: STEPS[2:4],
          LSQPlusWeight: STEPS[:2] + STEPS[8:9], LSQPlusFakeQuantize: AFFINE, PACTFakeQuantize: CLIPS,
          CGPACTFakeQuantize: CLIPS[:3], DoReFaActivation: CLIPS[:3], DoReFaWeight: MID_RISE, SATWeight: MID_RISE[:3],
          SignFakeQuantize: MID_RISE[:1]}


def accepted(cls):
    """The formats that a class can do, of all there are here: for classes that nobody has chosen some for."""
    found = []
    for spec in dict.fromkeys(SPECS + STEPS + AFFINE + CLIPS + MID_RISE):
        with contextlib.suppress(SpecError):
            if cls.adapt(spec) == spec:
                found.append(spec)
    assert found, f"{cls.__name__}.adapt accepts none of this file's formats: add some to CHOSEN"
    return found


# every class of every method: a new one is held to the contract without being named here
MEMBERS = {cls: CHOSEN.get(cls) or accepted(cls) for name in METHODS.names() for cls in METHODS.get(name)}
PACTS = (PACTFakeQuantize, CGPACTFakeQuantize, DoReFaActivation)
every_class = pytest.mark.parametrize("cls", MEMBERS, ids=lambda c: c.__name__)
every_member = pytest.mark.parametrize("cls, spec", [
    pytest.param(cls, spec, id=f"{cls.__name__}-{spec}") for cls, specs in MEMBERS.items() for spec in specs])


def values(cls, spec, x, params=None):
    """What the class says it computes: by stored numbers, or (None) by what it finds itself."""
    return cls.formula(x, spec, params)


def gradient(cls, spec, x, dy, params=None):
    """dx of the class's docstring, as it states it in NumPy."""
    return cls.formula_gradient(x, dy, spec, params)


def stated_by(cls, name):
    """For messages: who states the formula that a class was held to."""
    owner = next(base for base in cls.__mro__ if name in vars(base))
    return f"{cls.__name__} does not compute what {owner.__name__}.{name} says"


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


@every_member
@pytest.mark.parametrize("hybridize", [False, True])
def test_offline_equals_reference_bit_for_bit(cls, spec, hybridize, backend):
    params = qparams(spec)
    x = data(spec, params.scale)
    made = block(cls, spec, params, backend)
    made.hybridize(hybridize)
    np.testing.assert_array_equal(made(mx.nd.array(x)).asnumpy(), values(cls, spec, x, params),
                                  stated_by(cls, "formula"))


@every_member
@pytest.mark.parametrize("hybridize", [False, True])
def test_online_equals_reference_bit_for_bit(cls, spec, hybridize, backend):
    x = data(spec)
    x[:, 1] = 0
    x[3] = 0
    made = block(cls, spec, using=backend)
    made.hybridize(hybridize)
    np.testing.assert_array_equal(made(mx.nd.array(x)).asnumpy(), values(cls, spec, x),
                                  stated_by(cls, "formula"))


@every_member
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
    np.testing.assert_allclose(x_nd.grad.asnumpy(), gradient(cls, spec, x, dy, params), rtol=1e-6,
                               err_msg=stated_by(cls, "formula_gradient"))


@every_member
def test_twice_equals_once(cls, spec):
    params = qparams(spec)
    made = block(cls, spec, params)
    once = made(mx.nd.array(data(spec, params.scale)))
    np.testing.assert_array_equal(made(once).asnumpy(), once.asnumpy())


@every_class
def test_modes(cls):
    spec = MEMBERS[cls][0]
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
def test_uncalibrated_is_an_error_where_there_is_no_start(cls):
    made = block(cls, MEMBERS[cls][0])
    if cls in CHOSEN:
        assert made.calibrated == (cls in PACTS + (SignFakeQuantize,))
    if not made.calibrated:
        with pytest.raises(CalibrationError, match="no calibrated range"):
            made.get_qparams()


@every_member
def test_qparams_are_kept_and_survive_save_and_load(cls, spec, tmp_path):
    params = QParams.symmetric([2]) if cls is SignFakeQuantize else qparams(spec)
    made, other = block(cls, spec, params), block(cls, spec)
    made.save_parameters(str(tmp_path / "q.params"))
    other.load_parameters(str(tmp_path / "q.params"))
    for each in (made, other):
        np.testing.assert_array_equal(each.get_qparams().scale, params.scale)
        np.testing.assert_array_equal(each.get_qparams().zero_point, params.zero_point)


@every_class
@pytest.mark.parametrize("hybridize", [False, True])
def test_trained_numbers_have_a_gradient_in_offline_mode_alone(cls, hybridize):
    """So that a Trainer never meets a stale gradient."""
    spec = MEMBERS[cls][0]
    made = block(cls, spec, qparams(spec))
    made.hybridize(hybridize)
    x = mx.nd.array(data(spec))
    x.attach_grad()
    for mode in ("offline", "online", "offline"):
        made.mode = mode
        made._clear_cached_op()
        assert all((getattr(made, name).grad_req == "write") == (mode == "offline") for name in made.trained)
        trainer = mx.gluon.Trainer(made.collect_params(), "sgd", {"learning_rate": 1e-6}, kvstore=None)
        with autograd.record():
            y = made(x * 2)
        y.backward()
        trainer.step(1)


@pytest.mark.parametrize("cls, spec", [
    (cls, spec) for cls in {METHODS.get(name).weight: None for name in METHODS.names()} for spec in MEMBERS[cls]],
                         ids=str)
def test_fixed_weights_stay_fixed(cls, spec):
    """What `fix_params` does: the stored grid leaves the fixed weight alone."""
    made = block(cls, spec)
    fixed = made.fix(mx.nd.array(data(spec)))
    np.testing.assert_array_equal(fixed.asnumpy(), values(cls, spec, data(spec)))
    made.mode = "offline"
    np.testing.assert_allclose(made(fixed).asnumpy(), fixed.asnumpy(), rtol=1e-6, atol=1e-7)


def test_every_class_of_every_method_is_held_to_the_contract():
    assert {cls for name in METHODS.names() for cls in METHODS.get(name)} == set(MEMBERS)
    assert set(CHOSEN) <= set(MEMBERS)


@pytest.mark.parametrize("cls, spec, message", [
    (LSQActivation, QuantSpec(1, grid="mid_rise"), "need a level at zero"),
    (LSQFakeQuantize, QuantSpec(4, symmetric=False), "needs a symmetric grid"),
    (LSQPlusFakeQuantize, QuantSpec(1, grid="mid_rise"), "level at zero"),
    (PACTFakeQuantize, QuantSpec(4), "write 'uint4'"), (CGPACTFakeQuantize, QuantSpec(8), "cgpact: clips below zero"),
    (DoReFaActivation, QuantSpec(2, signed=False, rounding="half_even"), "halves away from zero"),
    (DoReFaWeight, QuantSpec(4, granularity=PerChannel()), "write 'int4/layer'"),
    (SATWeight, QuantSpec(4, levels=10), "odd number"), (SignFakeQuantize, QuantSpec(2), "write 'int1'"),
], ids=str)
def test_formats_that_a_method_cannot_do_are_refused(cls, spec, message):
    with pytest.raises(SpecError, match=message):
        cls(spec)
