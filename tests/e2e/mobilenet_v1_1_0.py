# SPDX-License-Identifier: MIT
"""MobileNet v1 1.0 as an ONNX file, from the weights of ../shared/data: a network that no figure was tuned on.

    python tests/e2e/mobilenet_v1_1_0.py DATA/mobilenet_v1_1.0_224_dequantized/weights.npz mobilenet_v1_1.0.onnx

Its weights lie on one asymmetric uint8 grid a layer, on which they were trained. Float: 485 of the 634 `val` images.
"""

import json
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)  # of the 13 depthwise convolutions
PREPROCESSING = {"layout": "NCHW", "colour_order": "RGB", "resize_short_side": 256, "crop": 224, "scale": 2 / 255,
                 "mean": [1.0] * 3, "std": [1.0] * 3, "crop_position": "centre", "resize_filter": "bilinear",
                 "formula": "data = (u8 * scale - mean) / std, channels in colour_order"}


def network(weights):
    """The ONNX model; weights: name of an array -> array."""
    nodes, blob = [], "data"
    layers = [("conv1", 2), *((f"conv_{kind}_{number}", stride if kind == "dw" else 1)
                              for number, stride in enumerate(STRIDES, 1) for kind in ("dw", "pw"))]
    for name, stride in layers:
        nodes += [_convolution(weights, name, blob, stride),
                  helper.make_node("Clip", [name, "relu6/min", "relu6/max"], [name + "_relu6"])]
        blob = name + "_relu6"
    nodes += [helper.make_node("GlobalAveragePool", [blob], ["global_pool"]),
              _convolution(weights, "conv_preds", "global_pool", 1),
              helper.make_node("Flatten", ["conv_preds"], ["logits"], axis=1)]
    arrays = {f"{name}/{kind}": np.float32(weights[f"{name}/{kind}"])
              for name in [*(name for name, _ in layers), "conv_preds"] for kind in ("weight", "bias")}
    arrays.update({"relu6/min": np.float32(0), "relu6/max": np.float32(6)})
    graph = helper.make_graph(
        nodes, "mobilenet_v1_1.0", [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(arrays["conv_preds/bias"])])],
        [numpy_helper.from_array(value, name) for name, value in arrays.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {"preprocessing": json.dumps(PREPROCESSING)})
    return model


def _convolution(weights, name, blob, stride):
    """Padded as TensorFlow's "same" does it on sides that are even."""
    shape = weights[name + "/weight"].shape
    pads = [0] * 4 if shape[2] == 1 else [0, 0, 1, 1] if stride == 2 else [1] * 4
    return helper.make_node("Conv", [blob, name + "/weight", name + "/bias"], [name], strides=[stride] * 2, pads=pads,
                            kernel_shape=shape[2:], group=shape[0] if shape[1] == 1 and "dw" in name else 1)


if __name__ == "__main__":
    with np.load(sys.argv[1]) as content:
        onnx.save(network(dict(content)), sys.argv[2])
