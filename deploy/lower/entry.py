# SPDX-License-Identifier: MIT
"""`lower`: from a Gluon network to `ir.Model`."""

from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
from mxnet.gluon import Block

from deploy.arithmetic import Arithmetic
from deploy.ir import Grid, Model
from deploy.lower.builder import Builder
from deploy.lower.draft import Draft
from deploy.lower.passes import MERGING_NORMS, PASSES
from deploy.lower.trace import Naming, trace_network
from deploy.lower.weights import quantized_paths
from deploy.target import Problem
from quantize.errors import DeployError

Shapes = Union[Tuple[int, ...], Sequence[Tuple[int, ...]]]

MOST_NAMED = 8  # layers with the same problem


def lower(net: Block, input_shape: Shapes, *, arithmetic: Arithmetic = Arithmetic(),  # noqa: B008 (stateless)
          quantized: bool = True, input_name: str = "data", merge_norms: bool = True,
          input_grid: Optional[Grid] = None) -> Model:
    """The deployed form of a network: BatchNorm absorbed, activations fused, weights of quantized layers as integers.

    Parameters
    ----------
    net : HybridBlock
        A float network, or a converted and calibrated one. It is not changed.
    input_shape : tuple of int, or sequence of them
        Shape of one image, without the batch axis: (channels, height, width); of a network with several inputs one for
        each.
    arithmetic : Arithmetic
        How the engine that is deployed for rounds weights to codes.
    quantized : bool
        False: every layer stays float, with its float weight also where `fix_params` froze it. True: layers whose
        quantizers are switched off (float mode) do.
    input_name : str
        Name of the input's blob; of several ``data0``, ``data1`` and so on.
    merge_norms : bool
        False: every BatchNorm stays a node of its own, as Caffe's users may want it.
    input_grid : Grid, optional
        The grid on which images lie already (bytes, say): layers that read them and do not round them by themselves
        compute in integers, too.

    Raises
    ------
    ConversionError
        A network that cannot be traced.
    DeployError
        Naming every operator that has no deployed form, every layer without a calibrated range or with a format that
        integer layers cannot hold; for parameters without values; for an input shape that does not fit.
    """
    builder = _builder(net, input_shape, arithmetic, quantized, input_name, input_grid)
    draft = builder.build()
    if builder.problems:
        raise DeployError(f"the network cannot be deployed: {listed(builder.problems)}")
    return _finished(draft, merge_norms)


def lower_front(net: Block, input_shape: Shapes, arithmetic: Arithmetic = Arithmetic(),  # noqa: B008 (stateless)
                quantized: bool = True) -> Model:
    """As `lower`, of the operators in front of those that have no deployed form, to look into them.

    What those would read are the outputs: of a detector's network the maps that its boxes are decoded from.

    Raises
    ------
    ConversionError
        A network that cannot be traced.
    DeployError
        Where nothing is left.
    """
    builder = _builder(net, input_shape, arithmetic, quantized)
    builder.build()
    draft = builder.front()
    if not draft.outputs:
        raise DeployError(f"the network cannot be deployed: {listed(builder.problems)}")
    return _finished(draft)


def _builder(net, input_shape, arithmetic, quantized, input_name="data", input_grid=None) -> Builder:
    given: Any = input_shape
    shapes = [given] if not given or isinstance(given[0], (int, np.integer)) else given
    traced = trace_network(net, shapes)
    layers = quantized_paths(net) if quantized else {}
    return Builder(traced, Naming(net, traced), layers, arithmetic, input_name, input_grid)


def _finished(draft: Draft, merge_norms: bool = True) -> Model:
    for improve in PASSES:
        if merge_norms or improve not in MERGING_NORMS:
            improve(draft)
            draft.drop_unread()
    return draft.model()


def listed(problems: List[Problem]) -> str:
    """One line with every problem; those of one kind together, the first few of many by name."""
    paths: Dict[str, List[str]] = {}
    for problem in problems:
        paths.setdefault(problem.text, []).append(problem.path)
    return "; ".join(f"{text} ({_named(where)})" for text, where in paths.items())


def _named(paths: List[str]) -> str:
    if len(paths) <= MOST_NAMED:
        return ", ".join(paths)
    return f"{', '.join(paths[:MOST_NAMED])} and {len(paths) - MOST_NAMED} more"
