# SPDX-License-Identifier: MIT
"""A network from a file that was quantized already, with the file's grids: formats, ranges and codes are kept."""

from typing import Any, Dict, List, Mapping, Tuple

import numpy as np
from mxnet.gluon import Block

from quantize.config import Format
from quantize.convert.convert import convert_model
from quantize.errors import ConversionError
from quantize.modes import fix_params, quantized_layers, set_mode
from quantize.nn import Place
from quantize.spec import QParams
from quantize.tree import replace_blocks

HALF = 128  # what codes of uint8 and int8 differ by


def restore(net: Block, grids: Mapping[str, Any], example_input: Any = None) -> Block:
    """The network quantized as its file says; changed in place and returned.

    Parameters
    ----------
    net : HybridBlock
        As `quantize.importers.onnx.import_onnx` makes it with `keep_grids`.
    grids : dict
        Its `grids`.

    Raises
    ------
    ConversionError
        Naming every layer whose weight has codes that no symmetric grid holds.
    """
    layers = {name: stored for name, stored in grids.items() if hasattr(stored, "weight")}
    places = {name: stored for name, stored in grids.items() if name not in layers}
    _refuse(layers)
    replace_blocks(net, {id(net._children[name]): Place(prefix=net._children[name].prefix) for name in places})
    rules: List[Dict[str, Any]] = [{"op_names": ["*"], "exclude": True}]
    rules += [{"op_names": [name], "exclude": False, "weight": _weight_format(stored),
               "input": str(_activation(stored.input)[0])} for name, stored in layers.items()]
    rules += [{"op_names": [name], "exclude": False, "output": str(_activation(stored)[0])}
              for name, stored in places.items()]
    net = convert_model(net, config_list=rules, example_input=example_input)
    for path, layer in quantized_layers(net):
        if path in places:
            layer.output_quantizer.set_qparams(_activation(places[path])[1])
        else:
            layer.input_quantizer.set_qparams(_activation(layers[path].input)[1])
            scale = layers[path].weight.scale
            layer.weight_quantizer.set_qparams(QParams.symmetric(scale.reshape(layer.weight_quantizer.scale.shape)))
    set_mode(net, "offline")
    fix_params(net)
    return net


def _refuse(layers: Mapping[str, Any]) -> None:
    problems = []
    for name, stored in layers.items():
        zeros = {int(zero) + (0 if stored.weight.low else -HALF) for zero in stored.weight.zero_point}
        if zeros != {0} or stored.smallest < -HALF + 1:
            problems.append(f"{name}: weight codes with zero points {sorted(zeros)[:4]} and down to {stored.smallest}")
    if problems:
        raise ConversionError("the file's weights lie on grids that are not symmetric with codes from -127 to 127: "
                              f"{'; '.join(problems)}; quantize its float network here, or write symmetric weights")


def _weight_format(stored: Any) -> str:
    return "int8/" + ("channel" if stored.weight.scale.size > 1 else "layer") + "/even"


def _activation(stored: Any) -> Tuple[Format, QParams]:
    """Format and numbers of a tensor: zero in the middle is signed, zero at the lower end unsigned, else affine."""
    zero = int(stored.zero_point[0]) - stored.low  # as uint8
    scale = np.asarray(stored.scale, np.float32)
    if zero == HALF:
        return Format(8, True, narrow=False, rounding="half_even"), QParams.symmetric(scale)
    if zero == 0:
        return Format(8, False, rounding="half_even"), QParams.symmetric(scale)
    return (Format(8, True, symmetric=False, narrow=False, rounding="half_even"),
            QParams(scale, np.array([zero - HALF], np.int32)))
