# SPDX-License-Identifier: MIT
"""The .param text: what is written comes back, what is no network is refused, and ncnn reads the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.targets.ncnn.param import Layer, Network, format_float, format_param, parse_param, read_float
from quantize.errors import DeployError, ModelFileError

NETWORK = Network((
    Layer("Input", "data", (), ("data",), {0: 4, 1: 3, 2: 2}),
    Layer("Split", "split", ("data",), ("a", "b")),
    Layer("Clip", "clip", ("a",), ("c",), {0: -0.25, 1: 6.0}),
    Layer("BinaryOp", "sum", ("c", "b"), ("d",), {0: 2}),
    Layer("Crop", "crop", ("d",), ("e",), {9: (0, -1), 10: (1, 2), 11: (0, 2)}),
    Layer("Eltwise", "elt", ("e",), ("f",), {0: 1, 1: (1.0, 0.5)}),
))
TEXT = """7767517
6 7
Input                    data                     0 1 data 0=4 1=3 2=2
Split                    split                    1 2 data a b
Clip                     clip                     1 1 a c 0=-2.500000e-01 1=6.000000e+00
BinaryOp                 sum                      2 1 c b d 0=2
Crop                     crop                     1 1 d e -23309=2,0,-1 -23310=2,1,2 -23311=2,0,2
Eltwise                  elt                      1 1 e f 0=1 -23301=2,1.000000e+00,5.000000e-01
"""

names = st.text(st.characters(blacklist_categories=("Cc", "Cs", "Zs", "Zl", "Zp")), min_size=1, max_size=20)
int32 = st.integers(-2 ** 31, 2 ** 31 - 1)
float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
values = st.one_of(int32, float32, st.lists(int32, max_size=4).map(tuple), st.lists(float32, max_size=4).map(tuple))


@st.composite
def networks(draw):
    """Any network that the format can hold."""
    layers, blobs = [], []
    for number in range(draw(st.integers(1, 4))):
        read = draw(st.lists(st.sampled_from(blobs), max_size=2)) if blobs else []
        written = [f"{name}_{number}" for name in draw(st.lists(names, max_size=2, unique=True))]
        parameters = draw(st.dictionaries(st.integers(0, 31), values, max_size=3))
        layers.append(Layer(draw(names), f"{draw(names)}_{number}", tuple(read), tuple(written), parameters))
        blobs += written
    return Network(tuple(layers))


def test_a_network_and_its_text():
    assert format_param(NETWORK) == TEXT
    assert parse_param(TEXT) == NETWORK
    assert NETWORK.blobs == ("data", "a", "b", "c", "d", "e", "f")


@given(networks())
def test_what_is_written_comes_back(network):
    text = format_param(network)
    assert parse_param(text) == network
    assert format_param(parse_param(text)) == text


def test_what_other_writers_do_is_read():
    text = TEXT.replace("-23301=2,1.000000e+00,5.000000e-01", "1=1.0,.5").replace("\n", "\r\n")
    with pytest.raises(ModelFileError, match="line 8 column 63: .*'.5'"):
        parse_param(text)
    assert parse_param(text.replace(",.5", ",5e-1").replace("6.000000e+00", "6.")) == NETWORK


@pytest.mark.parametrize("old, new, message", [
    ("7767517", "7767518", "line 1: expected ncnn's magic number 7767517, got '7767518'"),
    ("6 7\n", "6 8\n", "line 2 says 8 blobs, the layers write 7"),
    ("6 7\n", "5 7\n", "line 2 says 5 layers, 6 lines follow"),
    ("6 7\n", "6\n", "line 2 column 2: expected a number of layers or blobs, got the line's end"),
    ("6 7\n", "6 7 8\n", "line 2 column 5: expected the line's end, got '8'"),
    ("1 2 data a b", "1 3 data a b", "line 4 column .*: expected 4 blobs, got the line's end"),
    ("1 2 data a b", "1 2 data a a", "line 4: split writes the blob a a second time"),
    ("1 2 data a b", "1 2 dat a b", "line 4: split reads the blob dat, which no layer before it writes"),
    ("sum  ", "clip ", "line 6: a second layer clip"),
    ("1=6.000000e+00", "1=6.000000e+00 1=7.0", "line 5 column 90: expected each id once, got '1=7.0'"),
    ("1=6.000000e+00", "1=0x6", "expected an integer or a float of at most 15 characters, got '0x6'"),
    ("1=6.000000e+00", "1=inf", "got 'inf'"),
    ("1=6.000000e+00", "1=1e39", "got '1e39'"),
    ("1=6.000000e+00", "1=0.1234567890123", "got '0.1234567890123'"),
    ("1=6.000000e+00", "1=1.123456789e+10000", "got '1.123456789e"),
    ("1=6.000000e+00", "1=12345.67890e+000", "got '12345.67890e"),
    ("1=6.000000e+00", "1=12345.678901e+01", "got '12345.678901e"),
    ("1=6.000000e+00", "1=2147483648", "got '2147483648'"),
    ("1=6.000000e+00", "1=\"text\"", "got '\"text\"'"),
    ("1=6.000000e+00", "1=", "got ' '"),
    ("1=6.000000e+00", "1", "expected <id>=<value>, got '1'"),
    ("1=6.000000e+00", "32=6", "expected an id from 0 to 31"),
    ("1=6.000000e+00", "-1=6", "expected an id from 0 to 31"),
    ("-23310=2,1,2", "-23310=3,1,2", "expected an array of 3 values after its length"),
    ("-23310=2,1,2", "-23310=2,1,2.0", "expected an array of integers or one of floats"),
    ("-23310=2,1,2", "-23310", "expected <id>=<value>"),
    ("Clip ", "Cl\tip ", "expected a layer type"),
    ("clip ", "c" * 256 + " ", "expected a layer name of at most 255 bytes"),
])
def test_what_is_no_network_is_refused_with_its_place(old, new, message):
    with pytest.raises(ModelFileError, match="my.param.*" + message.replace("+", r"\+")):
        parse_param(TEXT.replace(old, new), "my.param")


def test_a_file_that_was_cut_off_is_refused():
    for length in range(len(TEXT)):
        with pytest.raises(ModelFileError):
            parse_param(TEXT[:length])


def plain_reading(text):
    """What a text says, field by field, without any checks."""
    lines = [line.split() for line in text.splitlines()]
    return [(words[0], words[1], words[4:4 + int(words[2]) + int(words[3])]) for words in lines[2:]]


@settings(max_examples=300)
@given(st.integers(0, len(TEXT) - 1), st.integers(0, 3), st.text("0123456789abcdef=,.-+ \n\t#", max_size=3))
def test_a_changed_file_is_refused_or_read_as_it_says(place, removed, added):
    text = TEXT[:place] + added + TEXT[place + removed:]
    try:
        network = parse_param(text)
    except ModelFileError:
        return
    assert [(layer.type, layer.name, list(layer.inputs + layer.outputs)) for layer in network.layers] == \
        plain_reading(text)
    assert parse_param(format_param(network)) == network


@given(st.text(max_size=60))
def test_any_text_is_refused(text):
    with pytest.raises(ModelFileError):
        parse_param("7767517\n" + text if text.startswith("1") else text)


@pytest.mark.parametrize("layer", [
    Layer("Input", "two words", (), ("x",)), Layer("Input", "x", ("y",), ("x",)),
    Layer("Input", "x", (), ("x",), {32: 1}), Layer("Input", "x", (), ("x",), {0: 2 ** 40})])
def test_what_the_format_cannot_hold_is_not_written(layer):
    with pytest.raises(DeployError, match="cannot be written for ncnn"):
        format_param(Network((layer,)))


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_parameters_must_be_finite(value):
    with pytest.raises(DeployError, match="only finite numbers"):
        format_param(Network((Layer("ReLU", "x", (), ("x",), {0: value}),)))


@given(float32)
def test_floats_keep_every_bit(value):
    text = format_float(value)
    assert read_float(text) == value and np.float32(text) == np.float32(value)
    assert len(text) <= 15 and "e" in text


@pytest.mark.parametrize("value, text", [
    (6, "6.000000e+00"), (0.1, "1.000000e-01"), (1 / 6, "1.6666667e-01"), (-1000.00006, "-1.00000006e+03"),
    (3.4028235e38, "3.4028235e+38"), (1e-45, "1.401298e-45")])
def test_floats_are_as_short_as_they_can_be(value, text):
    assert format_float(value) == text


def read_by_the_engine(ncnn, texts):
    """The float32 numbers that ncnn makes of texts: each is added to 0."""
    count = len(texts)
    lines = ["7767517", f"{count + 2} {2 * count + 1}", "Input x 0 1 x",
             f"Split s 1 {count} x " + " ".join(f"x{k}" for k in range(count))]
    lines += [f"BinaryOp y{k} 1 1 x{k} y{k} 0=0 1=1 2={text}" for k, text in enumerate(texts)]
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    assert net.load_param_mem("\n".join(lines) + "\n") == 0
    zero = np.zeros(1, np.float32)
    extractor = net.create_extractor()
    extractor.set_light_mode(False)
    extractor.input("x", ncnn.Mat(zero))
    return [float(np.array(extractor.extract(f"y{k}")[1])[0]) for k in range(count)]


def test_the_engine_reads_the_same_floats(ncnn):
    rng = np.random.RandomState(2)
    bits = rng.randint(0, 2 ** 32, 600, dtype=np.uint64).astype(np.uint32).view(np.float32)
    numbers = [float(x) for x in bits if np.isfinite(x) and abs(x) > 1e-37] + [1 / 3, 0.1, -6.0, 3.4028235e38]
    texts = [f"{x:e}" for x in numbers] + ["7.", "1E3", "-8e-1", "0.000001234"]
    assert read_by_the_engine(ncnn, [format_float(x) for x in numbers]) == [float(np.float32(x)) for x in numbers]
    assert read_by_the_engine(ncnn, texts) == [read_float(text) for text in texts]


def test_the_engine_reads_the_same_network(ncnn):
    net = ncnn.Net()
    assert net.load_param_mem(TEXT) == 0
    assert [(item.type, item.name) for item in net.layers()] == [(item.type, item.name) for item in NETWORK.layers]
    assert [blob.name for blob in net.blobs()] == list(NETWORK.blobs)
