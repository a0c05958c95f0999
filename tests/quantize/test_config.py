# SPDX-License-Identifier: MIT
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.config import Format, load_config, parse_format, rules_from_config
from quantize.errors import ConfigError
from quantize.spec import PerChannel, PerGroup, PerTensor


@given(st.sampled_from([True, False, None]), st.integers(1, 16), st.sampled_from(["layer", "group", "channel"]),
       st.booleans(), st.booleans())
def test_formats_survive_text(signed, bits, granularity, symmetric, narrow):
    form = Format(bits, signed, granularity, symmetric, narrow)
    assert parse_format(str(form)) == form


@pytest.mark.parametrize("text, form", [
    ("int(15)/channel", Format(4, True, "channel")), ("uint(255)", Format(8, False)), ("int(1)", Format(1, True)),
    ("uint(100)", Format(7, False, levels=100)), ("uint8/affine", Format(8, False, symmetric=False)),
    ("int2/full/channel", Format(2, True, "channel", narrow=False)),
])
def test_levels_and_flags(text, form):
    assert parse_format(text) == form and parse_format(str(form)) == form


def test_the_spec_has_the_flags_of_the_format():
    spec = parse_format("int(9)/channel/affine/full").spec()
    assert (spec.levels, spec.symmetric, spec.narrow, spec.bits) == (9, False, False, 4)
    assert (parse_format("int2/full").spec().qmin, parse_format("int2").spec().qmin) == (-2, -1)


@pytest.mark.parametrize("text", ["", "int", "int0", "int17", "int8/row", "8", "int8 /layer", "INT8", None, 8,
                                  "int(0)", "int(99999)", "int()", "int8/full/full", "int8/layer/channel", "int8/"])
def test_bad_formats_name_themselves(text):
    with pytest.raises(ConfigError) as error:
        parse_format(text, "here")
    assert str(error.value).startswith("here") and repr(text) in str(error.value)


def test_spec_of_a_format():
    assert Format(8, True, "channel").spec().granularity == PerChannel(0)
    assert Format(8, True, "group").spec(groups=4).granularity == PerGroup(4, 0)
    assert Format(8, True, "group").spec(groups=1).granularity == PerTensor()
    assert Format(1, True).spec().grid == "mid_rise"
    assert Format(8, None).spec(signed=False).signed is False


@pytest.mark.parametrize("entry, message", [
    ({"op_type": ["Conv2D"]}, "unknown key 'op_type'.*did you mean 'op_types'"),
    ({"op_names": "features"}, "must be a list of strings"),
    ({"exclude": "yes"}, "must be true or false"),
    ({"weight": "uint8"}, "weights are signed; write int8"),
    ({"input": "int8/channel"}, "one scale per layer"),
    ({"input": "int99"}, "1 to 16"),
    ("int8", "must be a dictionary"),
    ({"method": 3}, "'method' must be the name of a method, got 3"),
    ({"input_method": ["lsq"]}, "'input_method' must be the name"),
    ({"options": [1]}, "'options' must be a dictionary"),
])
def test_wrong_entries_name_entry_and_key(entry, message):
    with pytest.raises(ConfigError, match="config entry 1.*" + message):
        rules_from_config([{"weight": "int8"}, entry])


def test_a_method_is_for_all_operands_but_those_with_one_of_their_own():
    rule, = rules_from_config([{"method": "sat", "input_method": "lsq", "options": {"alpha": 6.0}}])
    assert (rule.weight_method, rule.input_method, rule.output_method) == ("sat", "lsq", "sat")
    assert rule.options == (("alpha", 6.0),)


def test_config_file(tmp_path):
    path = tmp_path / "rules.json"
    path.write_text(json.dumps([{"op_types": ["Dense"], "weight": "int4/channel", "exclude": False}]))
    assert load_config(path)[0].weight == Format(4, True, "channel")
    path.write_text('[{"weight": }]')
    with pytest.raises(ConfigError, match="line 1 column 13"):
        load_config(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "absent.json")
