# SPDX-License-Identifier: MIT
"""ONNX Runtime as the judge of the importer: models made of a few nodes, and the comparison."""

import warnings

import mxnet as mx
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from quantize.importers.onnx import import_onnx

ORT = tuple(map(int, onnxruntime.__version__.split(".")[:2]))


def arr(*shape, seed=0):
    return np.random.RandomState(seed).uniform(-1, 1, shape).astype("float32")


def ints(*values):
    return np.array(values, dtype="int64")


def node(op, inputs="x", output="y", **attrs):
    """A node of named inputs; ``_`` leaves an optional one out."""
    names = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(op, names, output.split(), name=attrs.pop("name", "the/" + op), **attrs)


def make_model(nodes, shape, constants=(), opset=13, outputs=("y",), kind=TensorProto.FLOAT, **more):
    """A ModelProto with the input x of `shape` and the given outputs."""
    for index, proto in enumerate(nodes):  # ONNX Runtime wants names that differ
        if proto.name in [earlier.name for earlier in nodes[:index]]:
            proto.name += f".{index}"
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in dict(constants).items()]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs], tensors)
    imports = [helper.make_opsetid("", opset)] + [helper.make_opsetid(*domain) for domain in more.get("domains", ())]
    return helper.make_model(graph, opset_imports=imports, ir_version=9 if opset < 23 else 10,
                             functions=more.get("functions", ()))


def import_model(model, folder, **options):
    path = folder / "model.onnx"
    onnx.save(model, str(path))
    return import_onnx(path, **options)


def as_arrays(outputs):
    return [out.asnumpy() for out in (outputs if isinstance(outputs, (list, tuple)) else [outputs])]


def judged(model, x):
    """ONNX Runtime's outputs, its own rewriting of the graph switched off."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def close(outputs, want, tolerance=1e-5):
    """Shapes equal, values within `tolerance`, of the largest where that is above 1."""
    outputs = as_arrays(outputs)
    assert [out.shape for out in outputs] == [np.shape(out) for out in want]
    for out, expected in zip(outputs, want):
        finite = np.abs(expected[np.isfinite(expected)])
        np.testing.assert_allclose(out, expected, rtol=tolerance, atol=tolerance * max(1, finite.max(initial=0)))


def check(model, folder, x, tolerance=1e-5, hybrid=True):
    """The imported network computes what ONNX Runtime does, eager and hybridized; returns it."""
    net = import_model(model, folder)
    want, data = judged(model, x), mx.nd.array(x, dtype=x.dtype)
    close(net(data), want, tolerance)
    if hybrid:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net.hybridize()
            close(net(data), want, tolerance)
    return net


def judged_by_name(model, x):
    """ONNX Runtime's first output, whatever the input is called."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    stored = {tensor.name for tensor in model.graph.initializer}
    name = next(value.name for value in model.graph.input if value.name not in stored)
    return session.run(None, {name: x})[0]
