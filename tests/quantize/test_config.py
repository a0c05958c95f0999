# SPDX-License-Identifier: MIT
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.config import Format, load_config, parse_format, rules_from_config
from quantize.errors import ConfigError
from quantize.spec import PerChannel, PerGroup, PerTensor


@given(st.sampled_from([True, False, None]), st.integers(1, 16), st.sampled_from(["layer", "group", "channel"]))
def test_formats_survive_text(signed, bits, granularity):
    form = Format(bits, signed, granularity)
    assert parse_format(str(form)) == form


@pytest.mark.parametrize("text", ["", "int", "int0", "int17", "int8/row", "8", "int8 /layer", "INT8", None, 8])
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
])
def test_wrong_entries_name_entry_and_key(entry, message):
    with pytest.raises(ConfigError, match="config entry 1.*" + message):
        rules_from_config([{"weight": "int8"}, entry])


def test_config_file(tmp_path):
    path = tmp_path / "rules.json"
    path.write_text(json.dumps([{"op_types": ["Dense"], "weight": "int4/channel", "exclude": False}]))
    assert load_config(path)[0].weight == Format(4, True, "channel")
    path.write_text('[{"weight": }]')
    with pytest.raises(ConfigError, match="line 1 column 13"):
        load_config(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "absent.json")
