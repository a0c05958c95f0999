# SPDX-License-Identifier: MIT
"""A model as an ncnn network: its layers, a Split behind every blob with several readers, integers kept between layers.

Where all readers of a quantized convolution are quantized convolutions, it writes their integers itself (it
"requantizes"): 100 is added to its `int8_scale_term`, and their input scale stands behind its own. ncnn2int8 does the
same, and the same results come without it. Depthwise layers whose channels are no multiple of 8 write real numbers all
the same: on ARM their integers would be rounded otherwise in whole groups of eight columns than in the rest, and end
at -128 there.
"""

from dataclasses import replace
from typing import Collection, Dict, List, Optional, Set, Tuple, cast

import numpy as np

from deploy import ir
from deploy.targets.ncnn.layers import CONVERTERS, Build
from deploy.targets.ncnn.param import ACTIVATION, Layer, Network
from quantize.errors import DeployError

TERM = 8  # the parameter int8_scale_term
REQUANTIZE = 100
FEATURE_MASK = 31
NO_16_BITS = 1 << 0 | 1 << 1 | 1 << 2  # no fp16 arithmetic, no fp16 storage, no bf16 storage
CONVOLUTIONS = ("Convolution", "ConvolutionDepthWise")
INTEGER = (*CONVOLUTIONS, "InnerProduct")  # types that compute in integers where they have the term
OUTPUTS, GROUPS = 0, 7  # parameters of convolutions
PACKED = 8  # channels that are packed together in blobs of integers


def to_network(model: ir.Model, integers: bool = True) -> Tuple[Network, Dict[str, Dict[str, np.ndarray]]]:
    """The ncnn network of a model, and its weights by layer and field.

    Parameters
    ----------
    integers : bool
        False: all layers compute in float32, quantized ones too.

    Raises
    ------
    DeployError
        For a node that ncnn has no layer for.
    """
    build = Build(model, integers)
    for blob in model.inputs:
        shape = build.shape(blob)
        if not 1 <= len(shape) <= 3:
            raise DeployError(f"input {blob}: ncnn's inputs have 1 to 3 axes without the batch, not {len(shape)}")
        build.add("Input", blob, [], [blob], dict(zip((0, 1, 2), map(int, reversed(shape)))))
    for node in model.nodes:
        if type(node) not in CONVERTERS:
            raise DeployError(f"{node.path or node.name}: ncnn has no layer for {type(node).__name__}")
        CONVERTERS[type(node)](node, build)
    layers = _split(build.layers)
    if integers:
        layers = _requantize(layers, build.weights, set(model.outputs))
    return Network(tuple(layers)), build.weights


def without_16_bits(network: Network, chosen: Optional[Collection[str]] = None) -> Network:
    """The network whose layers keep to 32 bits whatever the engine's options are: by their feature masks.

    So the files themselves keep ncnn's default on ARM, fp16, from rounding what goes between integer layers.

    Parameters
    ----------
    chosen : collection of str, optional
        Layers whose inputs are to be kept so: they, and what computes these inputs in real numbers, back to the integer
        layers that it starts from; None: all layers.
    """
    kept = None if chosen is None else _computing(network, chosen)
    return Network(tuple(
        layer if layer.type == "Input" or kept is not None and layer.name not in kept else replace(layer, parameters={
            **layer.parameters, FEATURE_MASK: cast(int, layer.parameters.get(FEATURE_MASK, 0)) | NO_16_BITS})
        for layer in network.layers))


def _computing(network, chosen) -> Set[str]:
    """The chosen layers, what their inputs come from, back to integer layers, and activations that are layers apart."""
    makers = {blob: layer for layer in network.layers for blob in layer.outputs}
    layers = {layer.name: layer for layer in network.layers}
    found, asked, todo = set(chosen), set(), list(chosen)
    for name in chosen:
        apart = layers.get(name + ACTIVATION)
        if apart is not None and apart.inputs == layers[name].outputs:
            found.add(apart.name)
    while todo:
        name = todo.pop()
        if name in asked:
            continue
        asked.add(name)
        for maker in map(makers.__getitem__, layers[name].inputs):
            found.add(maker.name)
            if maker.type not in INTEGER or TERM not in maker.parameters:
                todo.append(maker.name)
    return found


def integer_blobs(network: Network) -> Dict[str, str]:
    """Blobs that hold codes instead of real numbers -> the layer that computes them."""
    found = {}
    for layer in network.layers:
        if layer.type in CONVOLUTIONS and cast(int, layer.parameters.get(TERM, 0)) > REQUANTIZE:
            found[layer.outputs[0]] = layer.name
        elif layer.type == "Split" and layer.inputs[0] in found:
            found.update((blob, found[layer.inputs[0]]) for blob in layer.outputs)
    return found


def integer_grids(model: ir.Model) -> Dict[str, ir.Grid]:
    """Node that hands on codes instead of real numbers -> their grid."""
    readers, found = ir.consumers(model), {}
    holding = integer_blobs(to_network(model)[0])
    for node in model.nodes:
        if node.outputs[0] in holding:
            reader = cast(ir.QuantizedNode, readers[node.outputs[0]][0])
            found[node.name] = reader.quantization.input
    return found


def _readers(layers) -> Dict[str, List[Layer]]:
    readers: Dict[str, List[Layer]] = {}
    for layer in layers:
        for blob in layer.inputs:
            readers.setdefault(blob, []).append(layer)
    return readers


def _split(layers) -> List[Layer]:
    """The layers with Splits: ncnn counts on a blob having one reader, for example when it computes in place."""
    readers, result = _readers(layers), []
    names: Dict[str, List[str]] = {}
    for layer in layers:
        inputs = tuple(names[blob].pop(0) if blob in names else blob for blob in layer.inputs)
        result.append(replace(layer, inputs=inputs))
        for blob in layer.outputs:
            count = len(readers.get(blob, ()))
            if count > 1:
                names[blob] = [f"{blob}_splitncnn_{k}" for k in range(count)]
                number = sum(item.type == "Split" for item in result)
                result.append(Layer("Split", f"splitncnn_{number}", (blob,), tuple(names[blob])))
    return result


def _requantize(layers, weights, outputs) -> List[Layer]:
    """The layers, those marked and given an output scale that hand integers on."""
    readers, result = _readers(layers), []
    for layer in layers:
        scales = _integer_readers(layer, readers, weights, outputs)
        if scales:
            if len(set(scales.values())) > 1:
                found = ", ".join(f"{name} {scale}" for name, scale in scales.items())
                raise DeployError(f"{layer.name}: its readers quantize the blob {layer.outputs[0]} with different "
                                  f"scales ({found}), ncnn keeps one for each blob")
            layer = replace(layer, parameters={**layer.parameters, TERM: layer.parameters[TERM] + REQUANTIZE})
            weights[layer.name]["output_scale"] = np.float32(next(iter(scales.values())))
        result.append(layer)
    return result


def _integer_readers(layer, readers, weights, outputs) -> Dict[str, float]:
    """Reader -> its input's multiplier, if all readers of the layer's output take integers; else nothing."""
    if not _is_integer(layer) or layer.outputs[0] in outputs or _unpacked_depthwise(layer):
        return {}
    found = readers.get(layer.outputs[0], [])
    if len(found) == 1 and found[0].type == "Split":
        found = [reader for blob in found[0].outputs for reader in readers[blob]]
    if not all(map(_is_integer, found)):
        return {}
    return {reader.name: float(weights[reader.name]["input_scale"]) for reader in found}


def _unpacked_depthwise(layer) -> bool:
    groups = layer.parameters.get(GROUPS, 1)
    return 1 < groups == layer.parameters[OUTPUTS] and groups % PACKED != 0


def _is_integer(layer) -> bool:
    return layer.type in CONVOLUTIONS and TERM in layer.parameters
