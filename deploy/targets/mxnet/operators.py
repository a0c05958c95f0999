# SPDX-License-Identifier: MIT
"""The symbol of a model: integer operators where it has integers, float ones elsewhere, and what is between them."""

from typing import Any, Dict, Union, cast

import numpy as np

from deploy.ir import Concat, Convolution, Elementwise, Grid, InnerProduct, Model, Node, Rounding
from deploy.targets.mxnet.floats import FLOATS, activated, attributes_of, pooling_of
from deploy.targets.mxnet.fusion import Fused, Fusion
from deploy.targets.mxnet.scales import requantized_end, signed, stored, threshold
from deploy.targets.mxnet.symbols import Codes, Entry, Graph, layer_graph
from quantize.errors import DeployError


class Writing:
    """A model on its way into a symbol.

    Attributes
    ----------
    values : dict
        Blob -> `Entry` of its real values, or `Codes`.
    """

    def __init__(self, model: Model) -> None:
        self.model, self.graph, self.fusion = model, Graph(), Fusion(model)
        self.values: Dict[str, Union[Entry, Codes]] = {}
        self._reals: Dict[Codes, Entry] = {}
        self._done, self._hosts = self.fusion.done(), self.fusion.added()
        self._waiting: Dict[str, Convolution] = {}  # additions that are written once both operands are
        for blob in (*model.inputs, *model.outputs):
            self.graph.reserve(blob)
        self.values.update((blob, self.graph.variable(blob)) for blob in model.inputs)
        self._write_all()
        # so that outputs are found by their blobs' names
        self._heads = [self.graph.named("identity", self.real(blob), blob) for blob in model.outputs]

    def put(self, node: Node, value: Union[Entry, Codes]) -> None:
        """The output of a node."""
        self.values[node.outputs[0]] = value

    def real(self, blob: str) -> Entry:
        """A blob as real numbers."""
        value = self.values[blob]
        if isinstance(value, Entry):
            return value
        if value not in self._reals:
            self._reals[value] = self.graph.node("_contrib_dequantize", list(value), blob + "_real")
        return self._reals[value]

    def codes(self, blob: str) -> Codes:
        """A blob that was rounded."""
        value = self.values[blob]
        assert isinstance(value, Codes)
        return value

    def document(self) -> str:
        """The file."""
        return self.graph.document(self._heads)

    def places(self) -> Dict[str, str]:
        """Blob that a `Rounding` writes -> the node whose first output its codes are."""
        return {blob: self.graph.nodes[self.codes(blob).values.node]["name"] for blob in self.fusion.grids}

    def _write_all(self) -> None:
        """Every node; DeployError with all of them that MXNet lacks."""
        problems = []
        for node in self.model.nodes:
            try:
                self._write(node)
            except DeployError as error:
                problems.append(str(error))
                self.values.update((blob, Entry(0)) for blob in node.outputs)  # so that those behind it are heard
        if problems:
            raise DeployError("\n".join(problems))

    def _write(self, node: Node) -> None:
        if node.name in self._hosts:
            host = self._waiting[node.name]
            _convolution(self, host, self.fusion.of[host.name])
        elif node.name in self._done:
            return  # whoever does it has put its output
        elif node.name in self.fusion.of and isinstance(node, Convolution):
            fused = self.fusion.of[node.name]
            if fused.add is None:
                _convolution(self, node, fused)
            else:
                self._waiting[fused.add.name] = node
        elif node.name in self.fusion.of:
            _sum(self, cast(Elementwise, node), self.fusion.of[node.name])
        elif node.name in self.fusion.handed:
            (_concat if isinstance(node, Concat) else _pooling)(self, node)
        elif isinstance(node, InnerProduct) and node.quantization is not None:
            _inner_product(self, node)
        elif isinstance(node, Rounding):
            self.put(node, self._rounded(node))
        else:
            FLOATS[type(node)](self, node)

    def _rounded(self, node: Rounding) -> Codes:
        value = self.values[node.inputs[0]]
        if isinstance(value, Codes) and self.fusion.coded[node.inputs[0]] == node.grid:
            return value
        return self.graph.coded("_contrib_quantize_v2", [self.real(node.inputs[0])], codes_name(node.outputs[0]),
                                out_type="int8" if signed(node.grid) else "uint8", **ends(node.grid))


def codes_name(blob: str) -> str:
    """What the node is called that makes the codes of a rounded blob."""
    return blob + "_codes"


def ends(grid: Grid) -> Dict[str, Any]:
    """A grid as MXNet's operators are told it."""
    return {"min_calib_range": -threshold(grid) if signed(grid) else np.float32(0), "max_calib_range": threshold(grid)}


def _parameters(writing: Writing, node: Any, weight: np.ndarray) -> list:
    found = [writing.graph.parameter(node.name + "_weight", weight)]
    return found + ([] if node.bias is None else [writing.graph.parameter(node.name + "_bias", node.bias)])


def _convolution(writing: Writing, node: Any, fused: Fused) -> None:
    source, grid = writing.codes(node.inputs[0]), fused.rounding.grid
    weight, pads = alike_padded(stored(node.quantization, node.bias).values, node.pads)
    inputs = [source.values, *_parameters(writing, node, weight)]
    attributes = dict(attributes_of(node), kernel=weight.shape[2:], pad=pads)
    switches: Dict[str, Any] = {"quantized": True}
    cut = not signed(grid)  # MXNet puts out uint8 behind a ReLU alone
    if fused.add is not None:
        other = writing.codes(fused.other)
        inputs += [other.values, source.low, source.high, other.low, other.high]
        switches.update(with_sum=True, **({"with_postsum_act": True} if cut else {}))
    else:
        inputs += [source.low, source.high]
        switches.update({"with_act": True} if cut else {})
    graph = layer_graph("Convolution", attributes, node.bias is not None, fused.add is not None,
                        "relu" if cut else None)
    found = writing.graph.coded("_sg_mkldnn_conv", inputs, codes_name(fused.rounding.outputs[0]), graph, **switches,
                                **ends(grid))
    _put_all(writing, node, fused, found)


def _put_all(writing: Writing, node: Node, fused: Fused, found: Codes) -> None:
    """The codes of a node and of all that it does as well."""
    if fused.rectified:
        found = writing.graph.coded("_contrib_quantized_act", list(found), codes_name(fused.rounding.outputs[0]),
                                    act_type="relu")
    writing.put(node, found)
    writing.values.update({blob: found for member in (fused.add, fused.dropped, fused.rounding) if member is not None
                           for blob in member.outputs})


def alike_padded(weight: np.ndarray, pads: Any) -> Any:
    """(Weight, (rows, columns)) with the same pads on both sides: a kernel with rows of zeros where they differ.

    Padding less before than behind is padding as much, and not looking at what there is more of.
    """
    top, left, bottom, right = pads
    rows, columns = max(top, bottom), max(left, right)
    return np.pad(weight, ((0, 0), (0, 0), (rows - top, rows - bottom), (columns - left, columns - right))), (rows,
                                                                                                              columns)


def _inner_product(writing: Writing, node: Any) -> None:
    source = writing.codes(node.inputs[0])
    weight = stored(node.quantization, node.bias).values
    inputs = [source.values, *_parameters(writing, node, weight), source.low, source.high]
    attributes = {"num_hidden": len(node.weight), "no_bias": node.bias is None}
    value = writing.graph.node(
        "_sg_mkldnn_fully_connected", inputs, node.name, 1, layer_graph(
            "FullyConnected", attributes, node.bias is not None, False, None),
        quantized=True, channel_wise_quantize=True, enable_float_output=True)
    activated(writing, node, value)


def _sum(writing: Writing, node: Elementwise, fused: Fused) -> None:
    first, second = (writing.codes(blob) for blob in node.inputs)
    inputs = [first.values, second.values, first.low, first.high, second.low, second.high]
    name, grid = codes_name(fused.rounding.outputs[0]), fused.rounding.grid
    if fused.wide:
        found = _narrowed(writing, writing.graph.coded("_contrib_quantized_elemwise_add", inputs, name + "_wide"),
                          name, grid)
    else:
        found = writing.graph.coded("_contrib_quantized_elemwise_add", inputs, name, **ends(grid))
    _put_all(writing, node, fused, found)


def _narrowed(writing: Writing, wide: Codes, name: str, grid: Grid) -> Codes:
    """uint8 of int32: the one operator that holds a grid as 255 steps, so that whoever reads it is told the range."""
    low, high = (writing.graph.parameter(f"{name}_{end}", np.full(1, value)) for end, value in (
        ("low", 0), ("high", threshold(grid))))
    values = writing.graph.coded("_contrib_requantize", list(wide), name, out_type="uint8",
                                 min_calib_range=np.float32(0), max_calib_range=requantized_end(grid)).values
    return Codes(values, low, high)


def _pooling(writing: Writing, node: Any) -> None:
    source = writing.codes(node.inputs[0])
    writing.put(node, writing.graph.coded("_contrib_quantized_pooling", list(source), node.name, **pooling_of(node)))


def _concat(writing: Writing, node: Any) -> None:
    sources = [writing.codes(blob) for blob in node.inputs]
    ranges = [end for source in sources for end in (source.low, source.high)]
    writing.put(node, writing.graph.coded("_contrib_quantized_concat", [source.values for source in sources] + ranges,
                                          node.name, dim=node.axis + 1, num_args=len(sources)))

