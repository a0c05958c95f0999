# SPDX-License-Identifier: MIT
import pytest

from quantize.errors import SpecError
from quantize.spec import PerChannel, PerGroup, PerTensor, QuantSpec


@pytest.mark.parametrize("spec, qmin, qmax", [
    (QuantSpec(8), -127, 127),
    (QuantSpec(8, narrow=False), -128, 127),
    (QuantSpec(8, signed=False), 0, 255),
    (QuantSpec(2), -1, 1),
    (QuantSpec(1, signed=False), 0, 1),
    (QuantSpec(16), -32767, 32767),
    (QuantSpec(8, levels=63), -31, 31),
    (QuantSpec(8, signed=False, levels=15), 0, 15),
    (QuantSpec(1, grid="mid_rise"), -1, 0),
    (QuantSpec(4, grid="mid_rise"), -8, 7),
])
def test_code_range(spec, qmin, qmax):
    assert (spec.qmin, spec.qmax) == (qmin, qmax)


def test_mid_rise_levels_are_symmetric():
    spec = QuantSpec(2, grid="mid_rise")
    assert spec.max_level == 1.5 and spec.qmin + 0.5 == -1.5


@pytest.mark.parametrize("options, message", [
    (dict(bits=0), "1 to 16"), (dict(bits=17), "1 to 16"), (dict(bits=2.5), "1 to 16"), (dict(bits=True), "1 to 16"),
    (dict(bits=1), "mid_rise"), (dict(levels=256), "levels"), (dict(levels=0), "levels"),
    (dict(grid="grid"), "mid_tread"), (dict(rounding="up"), "half_away"),
    (dict(grid="mid_rise", signed=False), "symmetric"), (dict(granularity=PerGroup(0)), "groups"),
])
def test_impossible_formats_are_refused(options, message):
    with pytest.raises(SpecError, match=message):
        QuantSpec(**options)


def test_scale_shape():
    shape = (8, 3, 5, 5)
    assert QuantSpec(granularity=PerTensor()).scale_shape(shape) == (1,)
    assert QuantSpec(granularity=PerChannel()).scale_shape(shape) == (8, 1, 1, 1)
    assert QuantSpec(granularity=PerChannel(1)).scale_shape(shape) == (1, 3, 1, 1)
    assert QuantSpec(granularity=PerGroup(2)).scale_shape(shape) == (2, 1, 1, 1)
    with pytest.raises(SpecError, match="axis 4"):
        QuantSpec(granularity=PerChannel(4)).scale_shape(shape)
    with pytest.raises(SpecError, match="8 channels cannot be split into 3"):
        QuantSpec(granularity=PerGroup(3)).scale_shape(shape)


def test_specs_are_values():
    assert QuantSpec(4) == QuantSpec(4) and hash(QuantSpec(4)) == hash(QuantSpec(4))
    assert QuantSpec(4).with_(bits=5).bits == 5
    assert str(QuantSpec(4, signed=False, granularity=PerChannel())) == "uint4/channel"
