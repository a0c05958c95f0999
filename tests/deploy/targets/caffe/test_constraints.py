# SPDX-License-Identifier: MIT
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy import engine, ir
from deploy.targets.caffe.constraints import ADVICE, check
from tests.deploy.targets.caffe import caffe_naive
from tests.deploy.targets.caffe.models import conv, model, one, own_cases, quantized_model, real


def texts(case):
    return [str(problem) for problem in check(case) if problem.fatal]


def test_what_only_looks_like_trouble_is_accepted():
    assert {name: texts(case) for name, case in own_cases().items() if check(case)} == {}


def convolution(*shape, **options):
    return model((shape[1] * options.get("groups", 1), 9, 8), [conv("x", "data", shape, **options)])


def pool(**options):
    return one(ir.Pooling, (3, 12, 11), kernel=(3, 3), stride=(2, 2), **options)


def function(kind, *parameters):
    return one(ir.Activation, (3, 4, 5), function=ir.Function(kind, parameters))


def pair(op, *shapes):
    return one(ir.Elementwise, dict(zip(("a", "b", "c"), shapes)), *("a", "b", "c")[:len(shapes)], op=op)


AVERAGE = "an average over padding (top 1, left 1, bottom 1, right 1): Caffe counts it, caffe2ncnn does not"
REFUSED = [
    (function("clip", -1.0, 1.0), "clip(-1.0, 1.0)"),
    (function("elu", 0.123456789), "elu(0.123456789,)"),
    (function("gelu"), "gelu()"),
    (function("hard_sigmoid", 0.2, 0.5), "hard_sigmoid(0.2, 0.5)"),
    (convolution(4, 3, 3, 3, activation=ir.Function("hard_swish", (1 / 6, 0.5))), "hard_swish(0.1666"),
    (convolution(4, 3, 3, 3, dilation=(1, 2)), "dilation 1x2: caffe2ncnn reads one for both axes"),
    (convolution(4, 3, 3, 3, dilation=(9, 9), pads=(9, 9, 9, 9)), "ncnn's engine dies of such a convolution in float"),
    (convolution(4, 3, 3, 3, pads=(1, 1, 1, 1), pad_value=0.5), "padding with 0.5, Caffe pads with 0"),
    (convolution(8, 1, 3, 3, groups=8, pads=(0, 1, 2, 0)),
     "padding (top 0, left 1, bottom 2, right 0): Caffe pads both sides alike and would give 7x8, not 9x7"),
    (one(ir.Deconvolution, (6, 5, 4), weight=real(6, 3, 4, 4), stride=(2, 2), output_pads=(0, 1)),
     "would give 12x10, not 12x11"),
    (pool(pads=(1, 1, 1, 1)),
     "pooling 12x11 to 6x6 (window 3x3, stride 2x2, padding 1x1): Caffe rounds up, to 7x6"),
    (pool(kind="avg", ceil=True, pads=(1, 1, 1, 1)), AVERAGE),
    (pool(kind="avg", ceil=True, pads=(1, 1, 1, 1), count_padding=True), AVERAGE),
    (pair("add", (8, 5, 4), (8, 1, 1)), "(8, 5, 4), (8, 1, 1): Caffe's Eltwise wants equal ones"),
    (pair("min", (3, 4, 5), (3, 4, 5)), "'min' of blobs: Caffe's Eltwise knows add, max, mul, sub"),
    (one(ir.ScalarOp, (3, 4, 5), op="div", scalar=3.0), "division by 3.0"),
    (one(ir.ScalarOp, (3, 4, 5), op="max", scalar=1.0), "'max' with a number"),
    (one(ir.Crop, (6, 7, 8), begin=(1, 0, 2), end=(5, 6, 8)), "no layer for Crop"),
    (one(ir.Padding, (6, 7, 8), pads=(1, 1, 1, 1)), "no layer for Padding"),
    (one(ir.Resize, (6, 7, 8), size=(14, 16)), "no layer for Resize"),
    (one(ir.Reshape, (6, 4, 5), shape=(2, 3, 4, 5)), "(2, 3, 4, 5): ncnn's have 3 axes at most"),
    (one(ir.Permute, (3, 4), order=(1, 0)), "order (1, 0)"),
    (one(ir.Reduce, (3, 4, 5), op="sum", axes=(1, 2)), "sum over the axes (1, 2)"),
    (one(ir.Reduce, (3, 4, 5), op="mean", axes=(0,)), "mean over the axes (0,)"),
]


@pytest.mark.parametrize("case, says", REFUSED)
def test_the_reason_is_told_with_the_advice(case, says):
    found, = texts(case)
    assert says in found and found.endswith(ADVICE)


def test_all_problems_come_at_once_with_their_paths():
    case = model((3, 12, 12), [
        ir.Convolution("a", ("data",), ("a",), "features.0", weight=real(4, 3, 3, 3), stride=(2, 2), pads=(0, 0, 1, 1),
                       dilation=(1, 1), activation=ir.Function("gelu")),
        ir.Pooling("b", ("a",), ("b",), "features.1", kernel=(3, 3), stride=(2, 2)),
        ir.Padding("c", ("b",), ("c",), pads=(1, 1, 1, 1))])
    paths = [text.split(": ")[0] for text in texts(case)]
    assert paths == ["features.0", "features.0", "features.1", "c"]


def test_three_by_three_codes_that_winograd_may_overflow_are_warned_about():
    assert check(quantized_model()) == []
    case = model((3, 5, 5), [conv("x", "data", (4, 3, 3, 3), largest=2.0, qmax=127)])
    problem, = check(case)
    assert not problem.fatal and "31 levels" in problem.text


# ---- accepted exactly where Caffe's pooling, caffe2ncnn's and the engine's are the same

def full_pool(x, kind, kernel, stride, pad):
    """What caffe2ncnn makes of a Pooling: ncnn's pad_mode 0, padding never counted."""
    size = [-(-(x.shape[2 + a] + 2 * pad[a] - kernel[a]) // stride[a]) + 1 for a in (0, 1)]
    y = np.zeros(x.shape[:2] + tuple(size))
    for i, j in np.ndindex(*size):
        top, left = i * stride[0] - pad[0], j * stride[1] - pad[1]
        window = x[:, :, max(top, 0):max(top + kernel[0], 0), max(left, 0):max(left + kernel[1], 0)]
        if not window.size:
            return None
        y[:, :, i, j] = (window.max if kind == "MAX" else window.mean)(axis=(2, 3))
    return y


def same(a, b):
    return a is not None and a.shape == b.shape and np.allclose(a, b, atol=1e-6)


small = st.integers(1, 4)
pads = st.tuples(*[st.integers(0, 2)] * 4)


@settings(max_examples=400)
@given(st.tuples(st.integers(4, 9), st.integers(4, 9)), st.tuples(small, small), st.tuples(small, small), pads,
       st.booleans(), st.booleans(), st.sampled_from(["max", "avg"]))
def test_pooling_is_accepted_where_all_agree_and_nowhere_else(size, kernel, stride, pads, ceil, count, kind):
    pads = tuple(min(pad, kernel[axis % 2] - 1) for axis, pad in enumerate(pads))
    x = np.random.RandomState(5).uniform(1, 2, (1, 2) + size).astype(np.float32)
    with np.errstate(invalid="ignore"):  # averages of no elements
        case = one(ir.Pooling, (2,) + size, kind=kind, kernel=kernel, stride=stride, pads=pads, ceil=ceil,
                   count_padding=count)
        wanted = engine.run(case, x).outputs[0]
    caffe = {"max": "MAX", "avg": "AVE"}[kind]
    theirs = [compute(x, caffe, kernel, stride, pads[:2]) for compute in (caffe_naive.pool, full_pool)]
    assert (not texts(case)) == all(same(y, wanted) for y in theirs)


def convolved(x, node, pads, **options):
    """The engine's result with other pads; None where no window fits."""
    try:
        case = model(x.shape[1:], [type(node)("x", ("data",), ("x",), weight=node.weight, stride=node.stride,
                                              dilation=node.dilation, pads=pads, **options)])
        return engine.run(case, x).outputs[0]
    except ValueError:
        return None


@settings(max_examples=150)
@given(st.tuples(st.integers(5, 8), st.integers(5, 8)), st.tuples(st.integers(1, 3), st.integers(1, 3)),
       st.tuples(small, small), pads, st.integers(1, 2), st.sampled_from([ir.Convolution, ir.Deconvolution]))
def test_convolutions_are_accepted_where_symmetric_pads_do_the_same(size, kernel, stride, pads, step, kind):
    weight = np.random.RandomState(6).uniform(1, 2, (2, 2) + kernel).astype(np.float32)
    node = kind("x", ("data",), ("x",), weight=weight, stride=stride, dilation=(step, step), pads=pads)
    x = np.random.RandomState(5).uniform(1, 2, (1, 2) + size).astype(np.float32)
    wanted = convolved(x, node, pads)
    if wanted is None or not wanted.size:
        return
    symmetric = convolved(x, node, pads[:2] + pads[:2])
    problems = [text for text in texts(model((2,) + size, [node])) if "ncnn's engine dies" not in text]
    assert (not problems) == (symmetric is not None and same(symmetric, wanted))
