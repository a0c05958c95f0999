# SPDX-License-Identifier: MIT
"""What nodes are made of: integer grids, activation functions, and the node itself."""

from dataclasses import dataclass
from typing import Tuple

import numpy as np


@dataclass(frozen=True)
class Grid:
    """The integer grid of a blob: real = (code - zero_point) * scale.

    Parameters
    ----------
    scale : float
        A float32 number: the real value of one step.
    zero_point : int
    qmin, qmax : int
        Smallest and largest code.
    """

    scale: float
    zero_point: int = 0
    qmin: int = -127
    qmax: int = 127


@dataclass(frozen=True, eq=False)
class Quantization:
    """How a layer with a weight computes in integers.

    Parameters
    ----------
    input : Grid
        The grid of the layer's input blob.
    weight_q : array of int8, shape of the weight
        Codes, zero point 0.
    weight_scale : array of float32, (outputs,)
        Real value of one step, for each output channel; equal within a group where the target wants one per group.
    weight_qmax : int
        Largest allowed magnitude of a code (127, or 31 for ncnn's Winograd convolutions).
    """

    input: Grid
    weight_q: np.ndarray
    weight_scale: np.ndarray
    weight_qmax: int = 127


@dataclass(frozen=True)
class Function:
    """An activation function: its kind and the parameters which that kind has.

    relu; leaky_relu (slope); clip (min, max); sigmoid; tanh; hard_sigmoid (alpha, beta): clip(alpha*x + beta, 0, 1);
    hard_swish (alpha, beta): x * hard_sigmoid(x); swish: x * sigmoid(x); softplus; gelu; elu (alpha); exp; abs; square;
    sqrt.
    """

    kind: str
    parameters: Tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Node:
    """One operation.

    Parameters
    ----------
    name : str
        Unique in the model.
    inputs, outputs : tuple of str
        Blobs.
    path : str
        Structural path of the Gluon layer it comes from; empty for bare operators.
    """

    name: str
    inputs: Tuple[str, ...]
    outputs: Tuple[str, ...]
    path: str = ""
