# SPDX-License-Identifier: MIT
"""Every operator against ONNX Runtime, over shapes, attributes and operator sets 7 to 22, as hypothesis draws them."""

import json
import time
import warnings

import mxnet as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from quantize.errors import ModelFileError
from quantize.importers.onnx import OPERATORS
from quantize.importers.symbol_layers import FUNCTIONS, LAYERS
from tests.quantize.importers.onnx.judge import close, import_model, judged, make_model
from tests.quantize.importers.onnx.strategies import STRATEGIES

LAST = 22
SECONDS = 4  # of each operator in the long run
WITHOUT_A_CASE = {"Constant", "Swish"}  # the first is always evaluated, the second is of operator set 24


def runtime_says(model, x):
    """ONNX Runtime's outputs; another example where it has no such operator or forbids the attributes."""
    try:
        return judged(model, x)
    except Exception as error:
        assert "onnxruntime" in type(error).__module__
        assume(False)


def agrees(op, data, folder):
    first, make = STRATEGIES[op]
    opset = data.draw(st.integers(first, LAST))
    case = make(data.draw, opset)
    shape = list(case.x.shape)
    way = data.draw(st.sampled_from(["fixed", "batch", "open"]))
    if way != "fixed":
        shape = ["N", *shape[1:]] if way == "batch" else ["N", *(f"s{axis}" for axis in range(1, len(shape)))]
    model = make_model(case.nodes, shape, case.constants, opset, kind=case.kind)
    with np.errstate(all="ignore"):
        want = runtime_says(model, case.x)
    assume(all(np.size(out) and np.ndim(out) for out in want[:1]))
    try:
        net = import_model(model, folder)
    except ModelFileError as error:
        # what depends on sizes may be refused where the file leaves them open, and only there
        # (an Expand may state the batch that it was traced with, though the file leaves the batch open)
        # (a TopK along a batch that the file leaves open may want more than one image has)
        assert way == "open" or op in ("Expand", "TopK"), error
        assert any(word in str(error) for word in ("open", "unknown", "None channels")), error
        return
    x = mx.nd.array(case.x, dtype=case.x.dtype)
    close(net(x), want, case.tolerance)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net.hybridize()
        close(net(x), want, case.tolerance)
    graph = json.loads(net(mx.sym.var("x")).tojson())
    # what ONNX files become can be exported as a symbol and imported again
    assert {entry["op"] for entry in graph["nodes"]} - {"null"} <= set(LAYERS) | set(FUNCTIONS)


def test_every_operator_is_drawn():
    assert set(STRATEGIES) | WITHOUT_A_CASE == set(OPERATORS)


CHECKS = dict(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@settings(max_examples=3, derandomize=True, **CHECKS)
@given(data=st.data())
@pytest.mark.parametrize("op", sorted(STRATEGIES))
def test_operator(op, tmp_path_factory, data):
    agrees(op, data, tmp_path_factory.getbasetemp())


@pytest.fixture
def end():
    """When an operator has had its share of the long run, which so takes eight minutes of one core at most."""
    return time.process_time() + SECONDS


@pytest.mark.slow
@settings(max_examples=60, **dict(CHECKS, suppress_health_check=list(HealthCheck)))
@given(data=st.data())
@pytest.mark.parametrize("op", sorted(STRATEGIES))
def test_operator_at_length(op, tmp_path_factory, end, data):
    if time.process_time() < end:
        agrees(op, data, tmp_path_factory.getbasetemp())
