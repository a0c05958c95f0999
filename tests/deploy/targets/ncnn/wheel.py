# SPDX-License-Identifier: MIT
"""Single layers in the ncnn wheel, described by hand: independent of the project's writers."""

import numpy as np

from deploy.ir import Convolution

INT8 = np.uint32(0x000D4B38).tobytes()  # tag of int8 weights in a .bin
ACTIVATIONS = {"relu": 1, "leaky_relu": 2, "clip": 3, "sigmoid": 4, "hard_swish": 6}


def run_layer(ncnn, line, binary, inputs, packing=False, winograd43=True):
    """Output (n, ...) of one layer for each image.

    Parameters
    ----------
    ncnn : module
    line : str
        Its line of a .param file after the name: counts, blobs (inputs in0, in1..., output out), parameters.
    binary : bytes
        Its part of a .bin file.
    inputs : sequence of array, (n, ...)
    """
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_packing_layout = packing
    net.opt.use_winograd43_convolution = winograd43
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    kind, rest = line.split(" ", 1)
    lines = [f"Input in{i} 0 1 in{i}" for i in range(len(inputs))] + [f"{kind} layer {rest}"]
    text = "\n".join(["7767517", f"{len(lines)} {len(lines)}"] + lines) + "\n"
    assert net.load_param_mem(text) == 0
    net.load_model_mem(binary)
    outputs = []
    for images in zip(*inputs):
        with net.create_extractor() as extractor:
            for i, image in enumerate(images):
                image = np.ascontiguousarray(image)  # a name: a Mat does not keep its array alive
                extractor.input(f"in{i}", ncnn.Mat(image).clone())
            code, mat = extractor.extract("out")
            assert code == 0
            outputs.append(np.array(mat))
    return np.stack(outputs)


def quantized_layer(node, output_scale=None):
    """Line and bytes of a quantized Convolution or InnerProduct, requantized for a consumer with `output_scale`."""
    words = [f"0={len(node.weight)}"]
    term, kind = 2, "InnerProduct"
    if isinstance(node, Convolution):
        kind = "Convolution" if node.groups == 1 else "ConvolutionDepthWise"
        term = 2 if node.groups == 1 else 1
        top, left, bottom, right = node.pads
        kernel, dilation, stride = node.weight.shape[2:], node.dilation, node.stride
        words += [f"11={kernel[0]} 1={kernel[1]}", f"12={dilation[0]} 2={dilation[1]}",
                  f"13={stride[0]} 3={stride[1]}", f"4={left} 14={top} 15={right} 16={bottom}",
                  f"5={int(node.bias is not None)} 6={node.weight.size} 7={node.groups} 31=64"]
    else:
        words += [f"1={int(node.bias is not None)} 2={node.weight.size}"]
    words.append(f"8={term if output_scale is None else term + 100}")
    if node.activation is not None:
        values = [f"{value:.8e}" for value in node.activation.parameters]
        words.append(f"9={ACTIVATIONS[node.activation.kind]} -23310={','.join([str(len(values))] + values)}")
    return f"{kind} 1 1 in0 out {' '.join(words)}", _quantized_bytes(node, output_scale)


def _quantized_bytes(node, output_scale):
    codes = node.quantization.weight_q.tobytes()
    groups = getattr(node, "groups", 1)
    scales = node.quantization.weight_scale
    if groups > 1:
        scales = scales[::len(scales) // groups]
    parts = [INT8, codes, b"\0" * (-len(codes) % 4)]
    parts += [] if node.bias is None else [node.bias.tobytes()]
    parts += [(np.float32(1) / scales).tobytes(), (np.float32(1) / np.float32(node.quantization.input.scale)).tobytes()]
    parts += [] if output_scale is None else [(np.float32(1) / np.float32(output_scale)).tobytes()]
    return b"".join(parts)
