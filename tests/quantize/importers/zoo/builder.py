# SPDX-License-Identifier: MIT
"""Writes graphs node by node, with random weights, as the generators of this folder need."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper


class Builder:
    """A graph in the making; every method that adds a node returns its output's name.

    Parameters
    ----------
    opset : int
    shape : list
        Of the input, with names for open lengths.
    name : str
        Of the input.
    """

    def __init__(self, opset, shape, name="data", seed=0):
        self.opset, self.input, self.shape = opset, name, shape
        self.random = np.random.RandomState(seed)
        self.nodes, self.constants, self.count = [], {}, 0

    def array(self, *shape, scale=1.0):
        """A random weight, its values so small that a deep network neither dies nor explodes."""
        return (self.random.uniform(-1, 1, shape) * scale).astype("float32")

    def put(self, array, name=None):
        """An initializer."""
        name = name or f"const_{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def ints(self, *values):
        return self.put(np.array(values, "int64"))

    def add(self, op, *inputs, outputs=1, **attrs):
        """A node; the name of its output, or of all its outputs."""
        self.count += 1
        names = [f"{op.lower()}_{self.count}" + (f"_{index}" if index else "") for index in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"{op}_{self.count}", **attrs))
        return names[0] if outputs == 1 else names

    def conv(self, x, inside, outside, kernel=3, bias=True, groups=1, **attrs):
        """A convolution with what exporters write out: kernel_shape, strides, pads, dilations and group."""
        reach = inside // groups * kernel * kernel
        weight = self.put(self.array(outside, inside // groups, kernel, kernel, scale=(6 / reach) ** 0.5))
        inputs = [x, weight] + ([self.put(self.array(outside, scale=0.1))] if bias else [])
        if "auto_pad" not in attrs:
            attrs.setdefault("pads", [kernel // 2] * 4)
        attrs.setdefault("strides", [1, 1])
        return self.add("Conv", *inputs, kernel_shape=[kernel, kernel], group=groups, **attrs)

    def norm(self, x, channels, **attrs):
        """A BatchNormalization with statistics as training leaves them."""
        gamma, beta = self.random.uniform(0.5, 1.5, channels), self.random.uniform(-0.3, 0.3, channels)
        mean, variance = self.random.uniform(-0.3, 0.3, channels), self.random.uniform(0.5, 1.5, channels)
        return self.add("BatchNormalization", x, *(self.put(array.astype("float32"))
                                                   for array in (gamma, beta, mean, variance)), **attrs)

    def gemm(self, x, inside, outside, **attrs):
        """A Gemm with weights (outputs, inputs)."""
        return self.add("Gemm", x, self.put(self.array(outside, inside, scale=(3 / inside) ** 0.5)),
                        self.put(self.array(outside, scale=0.1)), transB=1, **attrs)

    def matmul(self, x, inside, outside, bias=True):
        """MatMul and Add."""
        y = self.add("MatMul", x, self.put(self.array(inside, outside, scale=(3 / inside) ** 0.5)))
        return self.add("Add", y, self.put(self.array(outside, scale=0.1))) if bias else y

    def model(self, output, ir_version=8, listed=False):
        """The finished ModelProto; `listed`: initializers are also listed as inputs, as before IR version 4."""
        inputs = [helper.make_tensor_value_info(self.input, TensorProto.FLOAT, self.shape)]
        if listed:
            inputs += [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
                       for name, array in self.constants.items()]
        graph = helper.make_graph(
            self.nodes, "zoo", inputs, [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=ir_version)
