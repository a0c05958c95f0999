# SPDX-License-Identifier: MIT
"""A random network as plain values: printable, buildable as ONNX, and small enough to be cut down to what fails."""

from dataclasses import dataclass, field
from typing import Any, Dict, Tuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = Tuple[int, ...]


@dataclass(frozen=True)
class Constant:
    """An operand that is no blob: whole numbers as they are, or random numbers between `low` and `high` by a seed."""

    shape: Shape = ()
    seed: int = 0
    low: float = -1.0
    high: float = 1.0
    values: Tuple[float, ...] = ()
    integer: bool = False

    def array(self) -> np.ndarray:
        """Its numbers."""
        if self.values or self.integer:
            return np.array(self.values, np.int64 if self.integer else np.float32).reshape(self.shape)
        return np.random.RandomState(self.seed).uniform(self.low, self.high, self.shape).astype(np.float32)


@dataclass(frozen=True)
class Step:
    """One ONNX operator; `inputs` are names of blobs, Constants, or "" for an optional operand that is absent."""

    op: str
    inputs: Tuple[Any, ...]
    outputs: Tuple[str, ...]
    attrs: Dict[str, Any] = field(default_factory=dict)

    @property
    def blobs(self) -> Tuple[str, ...]:
        """The operands that other steps write, or the network's input."""
        return tuple(name for name in self.inputs if isinstance(name, str) and name)


@dataclass(frozen=True)
class Recipe:
    """A network with the input ``x``; `shapes` of all blobs, without the batch axis."""

    shape: Shape
    steps: Tuple[Step, ...]
    outputs: Tuple[str, ...]
    shapes: Dict[str, Shape]
    seed: int = 0

    def images(self, count: int, part: int = 0) -> np.ndarray:
        """A batch of inputs."""
        rng = np.random.RandomState(self.seed * 7 + part)
        return rng.uniform(-1.5, 1.5, (count,) + self.shape).astype(np.float32)

    def needed(self) -> "Recipe":
        """Without the steps that contribute to no output."""
        wanted, kept = set(self.outputs), []
        for step in reversed(self.steps):
            if wanted.intersection(step.outputs):
                wanted.update(step.blobs)
                kept.insert(0, step)
        return Recipe(self.shape, tuple(kept), self.outputs, self.shapes, self.seed)

    def model(self) -> onnx.ModelProto:
        """The file's content, opset 13."""
        tensors, nodes = [], []
        for number, step in enumerate(self.steps):
            names = []
            for place, operand in enumerate(step.inputs):
                if isinstance(operand, Constant):
                    tensors.append(numpy_helper.from_array(operand.array(), f"k{number}_{place}"))
                    operand = tensors[-1].name
                names.append(operand)
            nodes.append(helper.make_node(step.op, names, list(step.outputs), name=f"n{number}_{step.op}",
                                          **step.attrs))
        graph = helper.make_graph(
            nodes, "fuzz", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *self.shape])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self.outputs], tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
