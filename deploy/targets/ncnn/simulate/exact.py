# SPDX-License-Identifier: MIT
"""Put exact blocks into a network for the time being, and run it as one side of a verification."""

import contextlib
import logging
from collections import defaultdict
from typing import Callable, Dict, Iterator, List

import mxnet as mx
import numpy as np
from mxnet.gluon import Block, nn

from deploy import ir
from deploy.ir import Model
from deploy.ir.clips import own_clip
from deploy.lower.trace import float_graph
from deploy.proof.compare import Observed
from deploy.targets.ncnn.kernels import runs
from deploy.targets.ncnn.processor import x86_here
from deploy.targets.ncnn.simulate.agreement import uncertain
from deploy.targets.ncnn.simulate.blocks import ChannelAffine, IntegerLayer, average
from quantize.convert.graph import Graph
from quantize.convert.layers import LAYER_OPS
from quantize.errors import DeployError
from quantize.modes import clear_cached_graphs, eager, quantized_layers
from quantize.nn import BypassBatchNorm, QConv2D, QDense
from quantize.tree import replace_blocks, walk

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def exact(net: Block, model: Model) -> Iterator[Block]:
    """Context in which a converted network computes what ncnn computes from its files; it can be hybridized.

    Parameters
    ----------
    net : HybridBlock
        On the CPU.
    model : Model
        `deploy.lower` of this network, for the target ncnn.

    Raises
    ------
    DeployError
        For a model that was not lowered from this network, or a network on a GPU.
    """
    with _replaced(net, _Blocks(net, model).replacements):
        yield net


def side(net: Block, model: Model) -> Callable[[np.ndarray], Observed]:
    """A function from images to the codes and outputs of the exact simulation; see `exact`."""
    blocks = _Blocks(net, model)

    def compute(images):
        with _replaced(net, blocks.replacements), eager(net), blocks.recorded() as codes:
            outputs = net(mx.nd.array(images))
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        return Observed({blob: values.asnumpy() for blob, values in zip(model.outputs, outputs)}, codes)
    return compute


class _Blocks:
    """The exact blocks of a network.

    Attributes
    ----------
    replacements : dict
        id of a block of the network -> the block that takes its place.
    """

    def __init__(self, net, model):
        _require_cpu(net)
        self._model = model
        self._nodes: Dict[str, List[ir.Node]] = defaultdict(list)
        self._writers = ir.producers(model)
        self._clips = {node.name: own_clip(self._writers, node) for node in ir.quantized(model)}
        for node in model.nodes:
            if node not in self._clips.values():
                self._nodes[node.path].append(node)
        self._runs = runs(model)
        self._hosts = hosts(float_graph(net))
        self._quantized = {node.path for node in ir.quantized(model)}
        self._integer: Dict[str, IntegerLayer] = {}
        self.replacements = {}
        for path, block in walk(net):
            new = self._make(path, block)
            if new is not None:
                self.replacements[id(block)] = new
        self._refuse_missing()
        self._report_uncertain({path for path, block in walk(net) if id(block) in self.replacements})

    def _report_uncertain(self, paths):
        names = uncertain(self._model, paths)
        if names:
            logger.info("%d operators may round otherwise than ncnn: %s", len(names), ", ".join(names))

    def _make(self, path, block):
        nodes = self._nodes.get(path, ())
        node = nodes[0] if nodes else None
        if node is not None and ir.integers(node) is not None:
            if not isinstance(block, (QConv2D, QDense)):
                raise DeployError(f"{path}: the model computes this layer in integers, but it is a "
                                  f"{type(block).__name__}; lower this network again")
            if any(_numbers(other) != _numbers(node) for other in nodes):
                raise DeployError(f"{path}: ncnn computes the calls of this layer with different numbers; give each "
                                  "call a layer of its own")
            clip = self._clips[node.name]
            self._integer[path] = IntegerLayer(block, node, self._runs[node.name],
                                                    None if clip is None else clip.function.parameters)
            return self._integer[path]
        if len({self._model.shapes[other.inputs[0]] for other in nodes}) > 1:
            return None  # called on several sizes: stays as it is, and is reported
        if isinstance(block, nn.BatchNorm) and not isinstance(block, BypassBatchNorm):
            if isinstance(node, ir.BatchNorm):
                return ChannelAffine(block, node)
            return BypassBatchNorm.from_float(block) if self._hosts.get(path) in self._quantized else None
        if isinstance(node, ir.Pooling) and node.kind == "avg" and isinstance(
                block, (nn.AvgPool2D, nn.GlobalAvgPool2D)):
            return average(block, node, self._model.shapes[node.inputs[0]])
        return None

    def _refuse_missing(self):
        missing = [node.path or node.name for node in ir.quantized(self._model) if node.path not in self._integer]
        if missing:
            raise DeployError(f"the network has no layers {', '.join(missing)}; lower this network again")

    @contextlib.contextmanager
    def recorded(self):
        """Gives a dictionary which, at the end, holds the codes of every node that computes in integers."""
        codes: Dict[str, np.ndarray] = {}
        for layer in self._integer.values():
            layer.codes = []
        try:
            yield codes
            for path, layer in self._integer.items():
                nodes = self._nodes[path]
                codes.update((node.name, values) for node, values in zip(nodes, layer.codes or ()))
        finally:
            for layer in self._integer.values():
                layer.codes = None


def hosts(graph: Graph) -> Dict[str, str]:
    """Path of a BatchNorm -> path of the layer in front of it, whatever stands between them."""
    owners = {index: path for path, calls in graph.calls.items() for index in calls}
    found = {}
    for index, path in owners.items():
        node = graph.nodes[index]
        if node.op not in LAYER_OPS:
            while node.inputs and (node.index == index or node.op not in LAYER_OPS):
                node = graph.nodes[node.inputs[0]]
            found[path] = owners.get(node.index, "")
    return found


def _numbers(node):
    """What two calls of one layer must have in common for one block to be both."""
    quantization = node.quantization
    return (x86_here().fused(node), quantization.input, quantization.weight_q.tobytes(),
            quantization.weight_scale.tobytes(), b"" if node.bias is None else node.bias.tobytes())


def _require_cpu(net):
    devices = {context for parameter in net.collect_params().values() if parameter._data is not None
               for context in parameter.list_ctx()}
    if any(context.device_type != "cpu" for context in devices):
        raise DeployError(f"{net.name}: exact simulation runs on the CPU, the network is on "
                          f"{', '.join(map(str, devices))}; move it by net.collect_params().reset_ctx(mx.cpu())")


@contextlib.contextmanager
def _replaced(net, replacements):
    originals = {id(block): block for _, block in walk(net)}
    back = {id(new): originals[old] for old, new in replacements.items()}
    # what outputs are rounded to, the layers that read them round to as ncnn does
    outputs = [layer.output_quantizer for _, layer in quantized_layers(net) if layer.output_quantizer is not None]
    modes = [quantizer.mode for quantizer in outputs]
    replace_blocks(net, replacements)
    for quantizer in outputs:
        quantizer.mode = "float"
    clear_cached_graphs(net)
    try:
        yield
    finally:
        replace_blocks(net, back)
        for quantizer, mode in zip(outputs, modes):
            quantizer.mode = mode
        clear_cached_graphs(net)
