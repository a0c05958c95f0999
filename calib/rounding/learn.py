# SPDX-License-Identifier: MIT
"""Round the weights of a converted network so that its layers' outputs change least, one layer after the other."""

import logging
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple, Union

import mxnet as mx
import numpy as np
from mxnet.gluon import Block

from calib.feed import checked_batches
from calib.rounding.blocks import Joint, SoftLayer, blocks_of
from calib.rounding.brecq import BRECQ
from calib.rounding.gptq import finished
from calib.rounding.problem import ROUNDINGS, Problem, Rounding, Solution
from calib.rounding.samples import MomentSums, patches, random_positions
from calib.rounding.store import Progress, fingerprint
from quantize.errors import CalibrationError, ConfigError
from quantize.files import PathLike
from quantize.modes import Unrounded, clear_cached_graphs, quantized_layers, unfix_params
from quantize.spec import QParams
from quantize.stages import Chain, LayerGraph, Step, float_product, product, quantized_product, read_input

logger = logging.getLogger(__name__)

POSITIONS = 25000
PART = 32
FEWEST = 16


class Learned(NamedTuple):
    """What became of a layer.

    Attributes
    ----------
    path : str
    error, nearest_error : float
        Mean square error of its outputs over their variance: as rounded now, and with nearest codes.
    """

    path: str
    error: float
    nearest_error: float


class Chains(NamedTuple):
    """The calibration images on their way through both networks."""

    floating: Chain
    quantized: Chain
    images: int

    def advance(self, step: Step) -> None:
        """Bring both in front of a layer."""
        self.floating.advance(step.index)
        self.quantized.advance(step.index)


def learn_rounding(net: Block, batches: Iterable, method: Union[str, Rounding] = "gptq", *,
                   folder: Optional[PathLike] = None, seed: int = 0, ctx: Optional[mx.Context] = None,
                   progress: Callable = lambda items: items) -> List[Learned]:
    """Weights on their grids, chosen by the outputs they make; returns what became of each layer.

    Layers are rounded in the order they are computed. Each gets the inputs that the quantized network gives it, with
    all layers before it rounded already, and is to put out what it puts out in the float network, so that it also makes
    up for errors of the layers before it. Its bias gives each output channel the float mean.

    Afterwards weights lie on their grids, whose scales are stored, and weight quantizers compute with those
    (`offline`): simulation, deployment and proof go on as with weights rounded to the nearest. `restore_rounding` takes
    it back.

    Parameters
    ----------
    net : converted network
        With calibrated inputs, in the modes it is to compute in; BatchNorm merged.
    batches : iterable
        As for `calib.collect.collect`. Feature maps of all images are kept in front of one layer; what is over 1 GiB in
        files. Some hundreds of images are usual; a layer with more inputs than there are samples leans on its float
        weight.
    method : str or Rounding
        Of `calib.rounding.ROUNDINGS`.
    folder : path, optional
        Each finished layer is written there; a call with the same network, images, method and seed goes on from it.
    seed : int
        Of the choice of positions, and of the method.
    progress : function, optional
        Wraps the list of layers; for a progress bar.

    Raises
    ------
    CalibrationError
        For uncalibrated inputs and too few images.
    ConfigError
        For layers that cannot be rounded so: other grids, Winograd, folded BatchNorm.
    """
    method = ROUNDINGS.get(method)() if isinstance(method, str) else method
    restore_rounding(net)
    graph = LayerGraph(net)
    chosen = roundable(net, graph)
    images = [part for batch in checked_batches(batches, ctx) for part in _parts(batch)]
    count = sum(len(part) for part in images)
    if count < FEWEST:
        raise CalibrationError(f"rounding is learned from the images' feature maps: {count} images are too few, give "
                               f"at least {FEWEST} (some hundreds are usual)")
    before = {path: Unrounded.of(graph.layers[path]) for path in chosen}
    done = None if folder is None else Progress(folder, fingerprint(net, images, f"{method} seed {seed}"))
    computes = _floating(graph, before), quantized_product(graph)
    floating, quantized = (Chain(graph, images, compute) for compute in computes)
    chains = Chains(floating, quantized, count)
    work = _Work(graph, chains, before, method, seed, done)
    numbers = {path: number for number, path in enumerate(chosen)}
    waiting = iter(progress(chosen))
    solutions: Dict[str, Solution] = {}
    for block in blocks_of(graph, chosen) if isinstance(method, BRECQ) else [[path] for path in chosen]:
        solutions.update(work.block({path: numbers[path] for path in block}, waiting))
    next(waiting, None)  # lets a progress bar end
    clear_cached_graphs(net)
    return [Learned(path, solution.error, solution.nearest_error) for path, solution in solutions.items()]


class _Work(NamedTuple):
    """What the layers of one call have in common."""

    graph: LayerGraph
    chains: Chains
    before: Dict[str, Unrounded]
    method: Rounding
    seed: int
    done: Optional[Progress]

    def block(self, numbers: Dict[str, int], waiting: Iterator[str]) -> Dict[str, Solution]:
        """Round the layers of a block, given with their numbers; `waiting` yields each when it begins."""
        read = {path: self.done.read(number) if self.done else None for path, number in numbers.items()}
        kept = {path: solution for path, solution in read.items() if solution is not None}
        if len(kept) == len(numbers):
            for path in numbers:
                next(waiting)
                self._store(path, kept[path])
            return kept
        first = self.graph.steps[self.graph.calls[next(iter(numbers))][0]]
        self.chains.advance(first)
        starts = self.chains.floating.copy(), self.chains.quantized.copy()
        problems, solutions = {}, {}
        for path, number in numbers.items():
            next(waiting)
            problems[path] = problem_of(self.graph, path, self.chains, (self.method.samples, self.seed, number))
            solutions[path] = self.method.solve(problems[path], self.seed)
            self._store(path, solutions[path])
        if isinstance(self.method, BRECQ):
            solutions = self._learned_together(self.method, numbers, starts, (problems, solutions))
        for path, number in numbers.items():
            if self.done is not None:
                self.done.write(number, solutions[path])
            logger.info("%s: error %.2e of the output's variance, rounded to the nearest %.2e", path,
                        solutions[path].error, solutions[path].nearest_error)
        return solutions

    def _store(self, path, solution):
        store(self.graph.layers[path], solution, self.before[path])

    def _learned_together(self, method: BRECQ, numbers, starts, layers):
        """The solutions of a block's layers, (problems, solutions), learned together where that is better."""
        problems, solutions = layers
        end = min((self.graph.calls[path][0] for path in self.before if path not in numbers
                   and self.graph.calls[path][0] > starts[0].position), default=len(self.graph.steps))
        block = Joint(self.graph, starts, end)
        start = block.loss()
        soft = {path: SoftLayer(problems[path], solutions[path], method.rate) for path in numbers}
        block.learn(soft, method, (self.seed, *numbers.values()), start)
        found = {path: finished(problems[path], layer.codes(), solutions[path].scale.astype(np.float64))
                 for path, layer in soft.items()}
        for path, solution in found.items():
            self._store(path, solution)
        after = block.loss()
        logger.info("block %s: error of its output %.3e by GPTQ, %.3e learned", ", ".join(numbers), start, after)
        if after >= start:
            found = solutions
            for path, solution in found.items():
                self._store(path, solution)
        self.chains.quantized.rewind(starts[1])
        return found


def restore_rounding(net: Block) -> None:
    """Undo `learn_rounding`: weights, biases and the modes of weight quantizers are what they were before."""
    unfix_params(net)
    for _, layer in quantized_layers(net):
        if layer.unrounded is not None:
            layer.unrounded.restore(layer)
    clear_cached_graphs(net)


def _parts(batch):
    return [batch[start:start + PART] for start in range(0, len(batch), PART)]


def roundable(net: Block, graph: LayerGraph) -> List[str]:
    """Paths of the layers with quantized weights, in the order they are computed.

    Raises ConfigError for layers whose rounding cannot be learned, and CalibrationError for inputs without a range.
    """
    problems, chosen = [], []
    for path, layer in quantized_layers(net):
        obstacle = _obstacle(layer)
        if obstacle:
            problems.append(f"{path}: {obstacle}")
    if problems:
        raise ConfigError(f"the rounding of {len(problems)} layers cannot be learned: " + "; ".join(problems))
    for path in graph.calls:
        layer = graph.quantized.get(path)
        if layer is None or layer.weight_quantizer is None or layer.weight_quantizer.mode == "float":
            continue
        if graph.steps[graph.calls[path][0]].op == "Deconvolution":
            logger.warning("%s: a transposed convolution's weight stays rounded to the nearest", path)
            continue
        chosen.append(path)
    if not chosen:
        raise ConfigError(f"{net.name}: no weight of the network is quantized: there is no rounding to learn")
    for path in chosen:
        quantizer = graph.layers[path].input_quantizer
        if quantizer is not None and quantizer.mode == "offline" and not quantizer.calibrated:
            raise CalibrationError(f"{path}: its input has no calibrated range; calibrate first")
    return chosen


def _obstacle(layer) -> str:
    if layer.output_quantizer is not None and layer.output_quantizer.mode != "float":
        return "its output is quantized; quantize inputs instead"
    quantizer = layer.weight_quantizer
    if quantizer is None or quantizer.mode == "float":
        return ""
    if layer.weight_transform is not None:
        return "its weight is rounded in the Winograd domain"
    if layer.norm is not None:
        return "a BatchNorm is folded into it; merge BatchNorm before converting"
    spec = quantizer.spec
    if not spec.symmetric or not spec.signed or spec.grid != "mid_tread" or quantizer.method not in ("ste", "lsq"):
        return f"{spec} {quantizer.method} weights; symmetric ones on a mid_tread grid are wanted"
    return ""


def _floating(graph, before: Dict[str, Unrounded]):
    as_it_is = float_product(graph)

    def compute(step, x):
        kept = before.get(step.layer)
        return as_it_is(step, x) if kept is None else product(step, x, kept.weight, kept.bias)
    return compute


def problem_of(graph: LayerGraph, path: str, chains: Chains, choice: Tuple[int, int, int]) -> Problem:
    """What the images say about a layer; both chains are brought in front of it.

    Parameters
    ----------
    choice : (int, int, int)
        How many samples to hand on; seed and number of the layer, which decide on positions.
    """
    step, layer = graph.steps[graph.calls[path][0]], graph.layers[path]
    chains.advance(step)
    samples, *seed = choice
    random = np.random.RandomState(seed)
    weight = layer.weight.data().asnumpy()
    groups = layer.groups_of(layer)
    sums = MomentSums(groups, -(-samples * PART // chains.images), random)
    wanted = -(-POSITIONS // chains.images)
    for x, reads in zip(chains.floating.inputs_of(step), chains.quantized.inputs_of(step)):
        outputs = chains.floating.compute(step, x).asnumpy()
        sums.update(*_rows(step, read_input(graph, step, reads).asnumpy(), outputs, wanted, random))
    shape = (groups, len(weight) // groups, -1)
    return Problem(weight.astype(np.float64).reshape(shape), spec=layer.weight_quantizer.spec,
                   rectified=graph.is_rectified(step), **sums.moments(), **sums.samples())


def _rows(step, inputs, outputs, wanted, random):
    """(samples, what one output reads), (samples, output channels)."""
    if step.op == "FullyConnected":
        flat = step.attrs.get("flatten", "True") in ("True", "1")
        width = int(np.prod(inputs.shape[1:])) if flat else inputs.shape[-1]
        return inputs.reshape(-1, width), outputs.reshape(-1, outputs.shape[-1])
    shape = outputs.shape[2:]
    positions = random_positions(len(outputs), int(np.prod(shape)), wanted, random)
    read = patches(inputs, step.attrs, positions, shape)
    made = outputs.reshape(outputs.shape[:2] + (-1,))[np.arange(len(outputs))[:, None], :, positions]
    return read.reshape(positions.size, -1), made.reshape(positions.size, -1)


def store(layer: Block, solution: Solution, before: Unrounded) -> None:
    """Write a solution into a layer, which then computes with it."""
    quantizer = layer.weight_quantizer
    parts = np.zeros(solution.codes.shape[:2], int)
    if solution.scale.size > 1:
        parts = np.arange(parts.size).reshape(parts.shape) // (parts.size // solution.scale.size)
    weight = solution.codes.astype(np.float32) * solution.scale[parts][..., None]
    layer.weight.set_data(mx.nd.array(weight.reshape(layer.weight.shape)))
    if layer.bias is not None:
        layer.bias.set_data(mx.nd.array(solution.bias.reshape(layer.bias.shape)))
    quantizer.set_qparams(QParams.symmetric(solution.scale.reshape(quantizer.scale.shape)))
    quantizer.mode = "offline"
    layer.unrounded = before
