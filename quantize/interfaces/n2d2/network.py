# SPDX-License-Identifier: MIT
"""Cells become a Gluon network, and what training has made of it becomes the cells' again."""

from math import prod
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np
from mxnet import gluon

from quantize.config import Rule
from quantize.convert import convert_model, mean_global_pooling
from quantize.convert.layers import DEFAULT_TYPES
from quantize.errors import ConfigError, DataError, ModelFileError, last_line
from quantize.importers.graph_block import GraphBlock, Names, Program, Step
from quantize.interfaces.n2d2.cells import base, operators
from quantize.interfaces.n2d2.quantizer import LSQAct, LSQCell, Quantizer, SATCell
from quantize.interfaces.n2d2.solver import Solver
from quantize.limits import claim
from quantize.modes import clear_cached_graphs
from quantize.nn.fake_quantize import FakeQuantize
from quantize.registry import closest
from quantize.spec import QParams
from quantize.train import ParameterGroup, start_training

INPUT = "images"
SEED = 1
Shape = Tuple[int, ...]
Group = Tuple[Solver, str, gluon.Parameter]


class Place(NamedTuple):
    """Where a cell is in the network: the path of its layers, its output, the path that carries its quantizer."""

    path: str
    output: str
    carrier: str = ""


class CellNetwork:
    """A network of cells.

    Parameters
    ----------
    cells : sequence of Cell
        In an order in which each comes behind its inputs. A Softmax with loss at the end trains by its inputs.
    size : (int, int, int)
        Channels, height and width of the images.
    provider : str
        What cells call the images.
    seed : int
        Of the fillers.
    constants : dict, optional
        Arrays that steps of an ONNX file read.

    Attributes
    ----------
    net : GraphBlock
        Made by `build`: ordinary Gluon layers, converted where anything is quantized.
    places : dict of str to Place
    shapes : dict of str to shape
        Of each cell's output, for one image.
    """

    def __init__(self, cells: Sequence[base.Cell], size: Shape, provider: str = "sp", seed: int = SEED,
                 constants: Optional[Mapping[str, Any]] = None) -> None:
        self.cells: Dict[str, base.Cell] = {}
        self.size, self.provider, self.seed = tuple(size), provider, seed
        self.constants = dict(constants or {})
        for cell in cells:
            self.add(cell)
        self.net: Optional[GraphBlock] = None
        self.places: Dict[str, Place] = {}
        self.shapes: Dict[str, Shape] = {}

    def add(self, cell: base.Cell) -> None:
        """Put a cell at the end; one without a name gets its type and number."""
        if not cell.name:
            number = sum(type(other) is type(cell) for other in self.cells.values())
            cell.name = f"{cell.kind()}_{number}"
        if cell.name in self.cells:
            raise ConfigError(f"cell {cell.name!r} is there already; each needs a name of its own")
        if not cell.inputs:
            cell.inputs = [next(reversed(self.cells))] if self.cells else [self.provider]
        for source in cell.inputs:
            if source != self.provider and source not in self.cells:
                known = [self.provider, *self.cells]
                raise ConfigError(f"cell {cell.name!r}: its input {source!r} is no cell before it"
                                  f"{closest(source, known)}")
        if isinstance(cell, operators.Unpool) and cell.arg_max:
            cell.follow(self.cells)
        self.cells[cell.name] = cell

    # ---- building

    @property
    def computed(self) -> List[base.Cell]:
        """The cells that are run: a Softmax with loss at the end is left to the loss."""
        found = list(self.cells.values())
        if found and isinstance(found[-1], operators.Softmax) and found[-1].with_loss:
            return found[:-1]
        return found

    def description(self) -> Dict[str, Any]:
        """What decides how the network is made, as JSON can hold it."""
        return {name: cell.describe() for name, cell in self.cells.items()}

    def build(self, ctx: Optional[mx.Context] = None) -> GraphBlock:
        """Make the Gluon network, with the values that the cells have."""
        program, self.places = self._program()
        for cell in self.computed:  # before layers of that size are made
            claim(4 * (cell.nb_outputs or 0), f"cell {cell.name!r}: its NbOutputs", ConfigError)
        try:
            net = GraphBlock(program, ctx=ctx)
        except (mx.MXNetError, ValueError, AssertionError) as error:
            raise self._misfit(error) from None
        self._check_memory(net)
        example = mx.nd.zeros((1, *self.size), ctx=ctx)
        mean_global_pooling(net)
        self.shapes = self._measured(net, example)
        self._fill(net)
        rules = self.rules()
        if rules:
            convert_model(net, config_list=rules, example_input=example)
        self.net = net
        self._put_quantizers()
        return net

    def _program(self) -> Tuple[Program, Dict[str, Place]]:
        steps: List[Step] = []
        places: Dict[str, Place] = {}
        names = Names([cell.given.path for cell in self.cells.values() if cell.given is not None])
        tensors = {self.provider: INPUT}
        for cell in self.computed:
            own = cell.given
            if own is None:
                path = names.unique(cell.name)
                own = base.Names(path, path + ":out")
            sources = [tensors[source] for source in cell.inputs]
            if cell.needs_size:
                cell.input_size = self._size_of(steps, sources[0])
            made, carrier = cell.program(sources, own)
            steps += made
            tensors[cell.name] = own.output
            places[cell.name] = Place(own.path, own.output, carrier)
        if not steps:
            raise ConfigError("the network has no cells")
        return Program(INPUT, (tensors[self.computed[-1].name],), steps, self.constants, (None, *self.size)), places

    def _size_of(self, steps: List[Step], tensor: str) -> Shape:
        """Channels, height and width of what the steps make; ConfigError where the images do not fit them."""
        if tensor == INPUT:
            return self.size
        shape = (1, *self.size)
        try:
            net = GraphBlock(Program(INPUT, (tensor,), steps, self.constants, (None, *self.size)))
            found = net(mx.sym.var(INPUT, shape=shape)).infer_shape(**{INPUT: shape})[1]
        except (mx.MXNetError, ValueError, AssertionError, DataError) as error:
            raise self._misfit(error) from None
        return found[0][1:]

    def _check_memory(self, net: GraphBlock) -> None:
        """ConfigError where the images do not fit the cells, or the cells want more memory than is allowed."""
        claim(4 * prod(self.size), f"an image of {self.size} (channels, height, width)", ConfigError)
        try:
            sizes = net.measure([(1, *self.size)])
        except DataError as error:
            raise self._misfit(error) from None
        weights = sum(prod(sizes.get(name, ())) for name in net.collect_params())
        claim(4 * weights, "what the cells learn", ConfigError)

    def _misfit(self, error: Exception) -> ConfigError:
        return ConfigError(f"images of {self.size} (channels, height, width) do not fit the cells: "
                           f"{last_line(error)[:300]}")

    def _measured(self, net: GraphBlock, example: mx.nd.NDArray) -> Dict[str, Shape]:
        try:
            found = net.shapes_of(example, [place.output for place in self.places.values()])
        except (mx.MXNetError, ValueError, AssertionError, DataError) as error:
            raise self._misfit(error) from None
        shapes = {name: found[place.output][1:] for name, place in self.places.items()}
        for name, cell in self.cells.items():
            shape = shapes.get(name, ())
            if cell.nb_outputs and shape and shape[0] != cell.nb_outputs:
                raise ConfigError(f"cell {name!r} puts out {shape[0]} feature maps, its NbOutputs says "
                                  f"{cell.nb_outputs}")
        return shapes

    def _fill(self, net: GraphBlock) -> None:
        random = np.random.RandomState(self.seed)
        for cell in self.computed:
            layer = net._children.get(self.places[cell.name].path)
            for key, filler in cell.fillers.items():
                parameter = getattr(layer, key)
                # drawn for every parameter, so that those of one cell do not depend on what others bring along
                drawn = filler.fill(parameter.shape, random)
                value = cell.arrays.get(key, drawn)
                if value.shape != parameter.shape:
                    raise ModelFileError(f"cell {cell.name!r}: {key} has the shape {value.shape}, {parameter.shape} is "
                                         "wanted: it is of another network")
                parameter.set_data(mx.nd.array(value))
            cell.refilled.clear()

    def rules(self) -> List[Rule]:
        """What is quantized, as `convert_model` takes it; empty where nothing is."""
        found = []
        for cell in self.computed:
            place = self.places[cell.name]
            if cell.quantizer is not None:
                found.append(cell.quantizer.rule(place.path))
            if cell.activation.quantizer is not None:
                found.append(cell.activation.quantizer.rule(place.carrier))
        if not found:
            return []
        others = Rule(op_types=DEFAULT_TYPES, weight="float", input="float", reason="N2D2 quantizes what is said")
        return [others] + found

    # ---- quantizers

    def quantizers(self) -> Iterator[Tuple[base.Cell, str, Quantizer, FakeQuantize]]:
        """(Cell, "weight" or "activation", N2D2's quantizer, the block that computes it) of a network that is built."""
        net = self.built
        for cell in self.computed:
            place = self.places[cell.name]
            if cell.quantizer is not None:
                yield cell, "weight", cell.quantizer, net._children[place.path].weight_quantizer
            if cell.activation.quantizer is not None:
                yield cell, "activation", cell.activation.quantizer, net._children[place.carrier].output_quantizer

    def _put_quantizers(self) -> None:
        """The stage of SAT, fixed starts, and the numbers that an earlier training reached."""
        for cell, kind, chosen, block in self.quantizers():
            if isinstance(chosen, SATCell):
                block.clamp_only = not chosen.apply_quantization
            if isinstance(chosen, (LSQCell, LSQAct)) and not chosen.step_opt_init_step_size:
                block.set_qparams(QParams.symmetric(np.full(block.scale.shape, chosen.step_size, np.float32)))
            for name in ("scale", *block.trained):
                value = cell.arrays.get(f"{kind}.{name}")
                if value is not None and value.shape == getattr(block, name).shape:
                    block._store(getattr(block, name), value)

    def start(self, batch: mx.nd.NDArray) -> None:
        """Put everything into the state in which it trains; trained steps without a start take it from a batch."""
        net = self.built
        if self.rules():
            start_training(net, batch)
        clear_cached_graphs(net)

    # ---- values

    def pull(self) -> None:
        """Let the cells hold the values that the network has now."""
        if self.net is None:
            return
        mx.nd.waitall()
        for cell in self.computed:
            layer = self.net._children.get(self.places[cell.name].path)
            for key in set(cell.fillers) - cell.refilled:
                cell.arrays[key] = getattr(layer, key).data().asnumpy()
            # those that the network was made with: a cell may have been given others since
            for kind, block in self._blocks(cell):
                for name in ("scale", *block.trained):
                    cell.arrays[f"{kind}.{name}"] = getattr(block, name).data().asnumpy()

    def _blocks(self, cell: base.Cell) -> Iterator[Tuple[str, FakeQuantize]]:
        place, children = self.places[cell.name], self.built._children
        block = getattr(children.get(place.path), "weight_quantizer", None)
        if block is not None:
            yield "weight", block
        if place.carrier:
            yield "activation", children[place.carrier].output_quantizer

    def groups(self) -> Dict[str, ParameterGroup]:
        """Parameters by the solver that moves them; solvers that do the same are one."""
        chosen: Dict[Tuple[Any, ...], Tuple[Solver, Dict[str, gluon.Parameter]]] = {}
        for solver, name, parameter in self._trained():
            if parameter.grad_req != "null":
                chosen.setdefault(solver.key, (solver, {}))[1][name] = parameter
        found = {}
        for number, (solver, parameters) in enumerate(chosen.values()):
            optimizer, options = solver.optimizer()
            found[f"solver{number}"] = ParameterGroup(parameters, optimizer, solver.learning_rate, options,
                                                      solver.share, solver.iteration_size)
        return found

    def _trained(self) -> Iterator[Group]:
        net = self.built
        for cell in self.computed:
            layer = net._children.get(self.places[cell.name].path)
            for key, solver in cell.solvers.items():
                parameter = getattr(layer, key)
                yield solver, parameter.name, parameter
        for _, _, chosen, block in self.quantizers():
            for name in block.trained:
                parameter = getattr(block, name)
                yield chosen.solver, parameter.name, parameter

    @property
    def built(self) -> GraphBlock:
        """The network; ConfigError before `build`."""
        if self.net is None:
            raise ConfigError("the network is not built yet")
        return self.net

