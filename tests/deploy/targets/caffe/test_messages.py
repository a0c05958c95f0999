# SPDX-License-Identifier: MIT
import struct

import pytest

from deploy.targets.caffe.messages import ENUMS, MESSAGES, LayerParameter, NetParameter
from tests.deploy.targets.caffe.caffe_naive import read_varints, read_wire

# the fields of LayerParameter in the public caffe.proto
LAYER_FIELDS = dict(name=1, type=2, bottom=3, top=4, blobs=7, concat_param=104, convolution_param=106,
                    eltwise_param=110, inner_product_param=117, pooling_param=121, power_param=122, relu_param=123,
                    softmax_param=125, slice_param=126, reshape_param=133, batch_norm_param=139, elu_param=140,
                    scale_param=142, input_param=143, permute_param=202)


def real(value):
    return struct.pack("<f", value)


# contents of a parameter -> field number: values, as the bytes of the public format are to be read
CONTENTS = [
    ("concat_param", dict(axis=3), {2: [3]}),
    ("convolution_param", dict(num_output=7, bias_term=True, pad=[1], kernel_size=[3], group=2, stride=[4],
                               dilation=[5]), {1: [7], 2: [1], 3: [1], 4: [3], 5: [2], 6: [4], 18: [5]}),
    ("convolution_param", dict(pad_h=1, pad_w=2, kernel_h=3, kernel_w=4, stride_h=5, stride_w=6),
     {9: [1], 10: [2], 11: [3], 12: [4], 13: [5], 14: [6]}),
    ("eltwise_param", dict(operation="MAX", coeff=[1, -1]), {1: [2], 2: [real(1), real(-1)]}),
    ("inner_product_param", dict(num_output=5, bias_term=False), {1: [5], 2: [0]}),
    ("pooling_param", dict(pool="AVE", kernel_size=3, stride=2, pad=1, global_pooling=True),
     {1: [1], 2: [3], 3: [2], 4: [1], 12: [1]}),
    ("pooling_param", dict(kernel_h=1, kernel_w=2, stride_h=3, stride_w=4, pad_h=5, pad_w=6),
     {5: [1], 6: [2], 7: [3], 8: [4], 9: [5], 10: [6]}),
    ("power_param", dict(power=2, scale=3, shift=4), {1: [real(2)], 2: [real(3)], 3: [real(4)]}),
    ("relu_param", dict(negative_slope=0.5), {1: [real(0.5)]}),
    ("softmax_param", dict(axis=1), {2: [1]}),
    ("slice_param", dict(axis=2, slice_point=[3, 9]), {2: [3, 9], 3: [2]}),
    ("batch_norm_param", dict(use_global_stats=True, eps=0.25), {1: [1], 3: [real(0.25)]}),
    ("elu_param", dict(alpha=0.5), {1: [real(0.5)]}),
    ("scale_param", dict(axis=1, bias_term=True), {1: [1], 4: [1]}),
    ("permute_param", dict(order=[0, 2, 1]), {1: [0, 2, 1]}),
]


def test_the_fields_of_a_layer_are_the_public_ones():
    assert {name: number for name, number, *_ in MESSAGES["LayerParameter"]} == LAYER_FIELDS


@pytest.mark.parametrize("field, contents, wanted", CONTENTS)
def test_parameters_have_the_public_numbers_and_types(field, contents, wanted):
    layer = read_wire(LayerParameter(**{field: contents}).SerializeToString())
    assert list(layer) == [LAYER_FIELDS[field]]
    assert read_wire(layer[LAYER_FIELDS[field]][0]) == wanted


def test_shapes_are_packed_and_network_and_layer_have_the_public_numbers():
    shape = {"dim": [0, 300, -1]}
    net = NetParameter(name="n", layer=[dict(name="l", type="t", bottom=["b", "c"], top=["d"],
                                             input_param={"shape": [shape]}, reshape_param={"shape": shape})])
    fields = read_wire(net.SerializeToString())
    assert fields[1] == [b"n"] and set(fields) == {1, 100}
    layer = read_wire(fields[100][0])
    assert (layer[1], layer[2], layer[3], layer[4]) == ([b"l"], [b"t"], [b"b", b"c"], [b"d"])
    for number in (143, 133):
        packed = read_wire(read_wire(layer[number][0])[1][0])[1][0]
        assert read_varints(packed) == [0, 300, 2 ** 64 - 1]


def test_every_field_is_looked_at_here():
    looked_at = {(field, name) for field, contents, _ in CONTENTS for name in contents}
    kinds = {kind: name for name, _, kind, *_ in MESSAGES["LayerParameter"] if kind in MESSAGES}
    declared = {(kinds[kind], name) for kind, fields in MESSAGES.items() if kind in kinds for name, *_ in fields}
    assert declared - looked_at == {("input_param", "shape"), ("reshape_param", "shape"), ("blobs", "data"),
                                    ("blobs", "shape")}  # test above, caffe_naive.read_blobs
    assert ENUMS == {"PoolMethod": ["MAX", "AVE", "STOCHASTIC"], "EltwiseOp": ["PROD", "SUM", "MAX"]}
