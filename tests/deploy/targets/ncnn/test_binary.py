# SPDX-License-Identifier: MIT
"""The .bin: what is written comes back, and a file that is not the network's is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.targets.ncnn.binary import fields, read_binary, write_binary
from deploy.targets.ncnn.param import Layer, Network, parse_param
from quantize.errors import DeployError, ModelFileError

LAYERS = (
    Layer("Input", "data", (), ("data",)),
    Layer("Convolution", "conv", ("data",), ("a",), {0: 2, 5: 1, 6: 6, 8: 102}),
    Layer("ConvolutionDepthWise", "dw", ("a",), ("b",), {0: 4, 6: 6, 7: 2, 8: 1}),
    Layer("ConvolutionDepthWise", "dw2", ("b",), ("c",), {0: 4, 6: 6, 7: 2, 8: 2}),
    Layer("BatchNorm", "norm", ("c",), ("d",), {0: 2}),
    Layer("Scale", "scale", ("d",), ("e",), {0: 2, 1: 1}),
    Layer("PReLU", "slope", ("e",), ("f",), {0: 1}),
    Layer("InnerProduct", "fc", ("f",), ("g",), {0: 3, 1: 1, 2: 9}),
)
NETWORK = Network(LAYERS)


def numbers(count):
    return np.arange(1, count + 1, dtype=np.float32) / 8


WEIGHTS = {
    "conv": {"weight": np.int8([1, -2, 3, -127, 127, 0]), "bias": numbers(2), "weight_scale": numbers(2),
             "input_scale": numbers(1), "output_scale": numbers(1)},
    "dw": {"weight": np.int8([1, 2, 3, 4, 5, 6]), "weight_scale": numbers(2), "input_scale": numbers(1)},
    "dw2": {"weight": np.int8([1, 2, 3, 4, 5, 6]), "weight_scale": numbers(1), "input_scale": numbers(1)},
    "norm": {"slope": numbers(2), "mean": -numbers(2), "variance": numbers(2), "bias": numbers(2)},
    "scale": {"scale": numbers(2), "bias": numbers(2)},
    "slope": {"slope": numbers(1)},
    "fc": {"weight": numbers(9), "bias": numbers(3)},
}
DATA = write_binary(NETWORK, WEIGHTS)


def test_the_bytes():
    conv = b"\x38\x4b\x0d\x00" + b"\x01\xfe\x03\x81\x7f\x00" + b"\x00\x00"  # tag, codes, padding
    assert DATA.startswith(conv + np.float32([0.125, 0.25]).tobytes())
    assert DATA.endswith(bytes(4) + numbers(9).tobytes() + numbers(3).tobytes())
    assert len(DATA) == 184


def test_what_is_written_comes_back():
    found = read_binary(NETWORK, DATA)
    assert {layer: list(arrays) for layer, arrays in found.items()} == \
        {layer: list(arrays) for layer, arrays in WEIGHTS.items()}
    for layer, arrays in WEIGHTS.items():
        for name, array in arrays.items():
            assert found[layer][name].dtype == array.dtype
            np.testing.assert_array_equal(found[layer][name], array)


def test_float16_is_read():
    network = Network((Layer("InnerProduct", "fc", (), ("x",), {0: 1, 2: 3}),))
    data = np.uint32(0x01306B47).tobytes() + np.float16([1, -2, 0.5]).tobytes() + bytes(2)
    np.testing.assert_array_equal(read_binary(network, data)["fc"]["weight"], np.float16([1, -2, 0.5]))


def test_almost_zero_is_stored_as_zero():
    weights = {"slope": {"slope": np.float32([1e-31])}}
    network = Network((Layer("PReLU", "slope", (), ("x",), {0: 1}),))
    assert write_binary(network, weights) == bytes(4)
    assert weights["slope"]["slope"][0] > 0  # the caller's array is his


def test_a_file_that_is_cut_off_or_too_long_is_refused():
    for length in range(len(DATA)):
        with pytest.raises(ModelFileError, match=r"my.bin byte \d+: \w+ \w+: \d+ bytes are missing"):
            read_binary(NETWORK, DATA[:length], "my.bin")
    with pytest.raises(ModelFileError, match="layers need 184 bytes, the file has 185"):
        read_binary(NETWORK, DATA + b"\0")


def test_wrong_tags_and_padding_are_refused():
    with pytest.raises(ModelFileError, match="unknown tag 0xff0d4b38"):
        read_binary(NETWORK, DATA[:3] + b"\xff" + DATA[4:])
    with pytest.raises(ModelFileError, match="padding that are not zero"):
        read_binary(NETWORK, DATA[:11] + b"\x01" + DATA[12:])


@settings(max_examples=200)
@given(st.integers(0, len(DATA) - 1), st.binary(min_size=1, max_size=5))
def test_changed_bytes_are_refused_or_read_as_they_are(place, changed):
    data = (DATA[:place] + changed + DATA[place + len(changed):])[:len(DATA)]
    try:
        found = read_binary(NETWORK, data)
    except ModelFileError:
        return
    numbers_only = b"".join(data[start:end] for start, end in (
        (4, 10), (12, 36), (40, 46), (48, 60), (64, 70), (72, 132), (136, 184)))
    assert b"".join(array.tobytes() for arrays in found.values() for array in arrays.values()) == numbers_only
    assert [data[start:end] for start, end in ((0, 4), (36, 40), (60, 64))] == [b"\x38\x4b\x0d\x00"] * 3


@settings(max_examples=200)
@given(st.sampled_from([layer.type for layer in LAYERS]), st.binary(max_size=40),
       st.dictionaries(st.integers(0, 9), st.one_of(st.integers(-2 ** 31, 2 ** 31 - 1), st.just(1.0), st.just((1, 2)))))
def test_any_parameters_and_bytes_give_arrays_or_an_error(kind, data, parameters):
    network = Network((Layer(kind, "x", (), ("x",), parameters),))
    try:
        found = read_binary(network, data)
    except ModelFileError:
        return
    sizes = {item.name: item.count for item in fields(network.layers[0])}
    assert {name: array.size for name, array in found.get("x", {}).items()} == sizes


def test_unknown_layers_are_refused():
    network = parse_param("7767517\n1 1\nLSTM lstm 0 1 x 0=3\n")
    with pytest.raises(ModelFileError, match="lstm: what a layer of type LSTM stores is not known"):
        read_binary(network, b"")
    with pytest.raises(DeployError, match="lstm: what a layer of type LSTM stores is not known"):
        write_binary(network, {})


@pytest.mark.parametrize("array, message", [(numbers(2), "2 numbers for its slope, the .param says 1"),
                                            (np.float32([np.inf]), "its slope holds values that are not finite")])
def test_weights_that_do_not_fit_are_not_written(array, message):
    with pytest.raises(DeployError, match=message):
        write_binary(Network((Layer("PReLU", "p", (), ("x",), {0: 1}),)), {"p": {"slope": array}})
