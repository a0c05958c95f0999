# SPDX-License-Identifier: MIT
"""Cells that are layers of Gluon: convolutions, fully connected, batch norm, pools, dropout."""

from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from mxnet.gluon import nn

from quantize.errors import ConfigError
from quantize.importers.graph_block import Step
from quantize.interfaces.n2d2.cells.base import Cell, Names, WeightedCell, layer_step, operator_step
from quantize.interfaces.n2d2.filler import Constant
from quantize.interfaces.n2d2.solver import SGD, Solver

Dims = Union[int, Sequence[int]]
# what N2D2 takes for 0.0, the least that cuDNN knows
LEAST_EPSILON = 1e-5


def pair(name: str, value: Dims) -> Tuple[int, int]:
    """(height, width): N2D2 writes the width first."""
    dims = [value, value] if isinstance(value, int) else list(value)
    if len(dims) != 2:
        raise ConfigError(f"{name} must have two dimensions, got {value!r}: there are no others here")
    return int(dims[1]), int(dims[0])


class Conv(WeightedCell):
    """A convolution.

    Parameters
    ----------
    kernel_dims, stride_dims, padding_dims, dilation_dims : (int, int)
        Width and height.
    nb_groups : int
        Groups of channels, among `common`.
    """

    def __init__(self, nb_inputs: Optional[int] = None, nb_outputs: int = 1, kernel_dims: Dims = (1, 1), *,
                 stride_dims: Dims = (1, 1), padding_dims: Dims = (0, 0), dilation_dims: Dims = (1, 1),
                 **common: Any) -> None:
        self.nb_inputs, self.nb_groups = nb_inputs, int(common.pop("nb_groups", 1))
        super().__init__(nb_outputs, **common)
        self.kernel = pair("kernel_dims", kernel_dims)
        self.stride, self.padding = pair("stride_dims", stride_dims), pair("padding_dims", padding_dims)
        self.dilation = pair("dilation_dims", dilation_dims)

    def core(self, sources: Sequence[str], names: Names) -> List[Step]:
        """See `Cell`."""
        return [layer_step(sources, names, nn.Conv2D, {
            "channels": self.nb_outputs, "kernel_size": self.kernel, "strides": self.stride, "padding": self.padding,
            "dilation": self.dilation, "groups": self.nb_groups, "use_bias": not self.no_bias,
            "in_channels": self.nb_inputs or 0})]

    @property
    def layer_kind(self) -> Optional[type]:
        """See `Cell`."""
        return nn.Conv2D


class Deconv(Conv):
    """A transposed convolution."""

    def core(self, sources: Sequence[str], names: Names) -> List[Step]:
        """See `Cell`."""
        step = super().core(sources, names)[0]
        assert step.layer is not None  # a convolution's step is its layer
        return [step._replace(layer=step.layer._replace(kind=nn.Conv2DTranspose))]

    @property
    def layer_kind(self) -> Optional[type]:
        """See `Cell`."""
        return nn.Conv2DTranspose


class Fc(WeightedCell):
    """Fully connected; images are flattened."""

    def __init__(self, nb_inputs: Optional[int] = None, nb_outputs: int = 1, **common: Any) -> None:
        super().__init__(nb_outputs, **common)
        self.nb_inputs = nb_inputs

    def core(self, sources: Sequence[str], names: Names) -> List[Step]:
        """See `Cell`."""
        return [layer_step(sources, names, nn.Dense, {"units": self.nb_outputs, "use_bias": not self.no_bias,
                                                      "in_units": self.nb_inputs or 0})]

    @property
    def layer_kind(self) -> Optional[type]:
        """See `Cell`."""
        return nn.Dense


class BatchNorm2d(Cell):
    """Batch normalization.

    Parameters
    ----------
    epsilon : float
        0: the least that N2D2 takes, 1e-5.
    moving_average_momentum : float
        The newest batch's share of the moving averages.
    """

    type_name = "BatchNorm"
    STARTS = {"gamma": 1.0, "beta": 0.0, "running_mean": 0.0, "running_var": 1.0}

    def __init__(self, nb_inputs: Optional[int] = None, *, epsilon: float = 0.0, moving_average_momentum: float = 0.1,
                 scale_solver: Optional[Solver] = None, bias_solver: Optional[Solver] = None, **common: Any) -> None:
        common.setdefault("nb_outputs", nb_inputs)
        super().__init__(**common)
        self.epsilon, self.momentum = epsilon or LEAST_EPSILON, 1 - moving_average_momentum
        self.fillers = {name: Constant(value) for name, value in self.STARTS.items()}
        self.solvers = {"gamma": SGD() if scale_solver is None else scale_solver,
                        "beta": SGD() if bias_solver is None else bias_solver}

    def core(self, sources: Sequence[str], names: Names) -> List[Step]:
        """See `Cell`."""
        return [layer_step(sources, names, nn.BatchNorm, {"epsilon": self.epsilon, "momentum": self.momentum,
                                                          "in_channels": self.nb_outputs or 0})]

    @property
    def layer_kind(self) -> Optional[type]:
        """See `Cell`."""
        return nn.BatchNorm


class Pool2d(Cell):
    """Maximum or average over windows; only whole ones count."""

    type_name = "Pool"

    def __init__(self, pool_dims: Dims = (2, 2), *, stride_dims: Dims = (1, 1), padding_dims: Dims = (0, 0),
                 pooling: str = "Max", **common: Any) -> None:
        super().__init__(**common)
        if pooling not in ("Max", "Average"):
            raise ConfigError(f"pooling must be Max or Average, got {pooling!r}")
        self.pool, self.stride = pair("pool_dims", pool_dims), pair("stride_dims", stride_dims)
        self.padding, self.pooling = pair("padding_dims", padding_dims), pooling

    def core(self, sources: Sequence[str], names: Names) -> List[Step]:
        """See `Cell`."""
        options: Dict[str, object] = {"pool_size": self.pool, "strides": self.stride, "padding": self.padding}
        kind = nn.MaxPool2D
        if self.pooling == "Average":
            kind = nn.AvgPool2D
            options["count_include_pad"] = False
        return [layer_step(sources, names, kind, options)]


class GlobalPool2d(Cell):
    """Maximum or average over a whole feature map."""

    type_name = "Pool"

    def __init__(self, pooling: str = "Average", **common: Any) -> None:
        super().__init__(**common)
        self.pooling = pooling

    def core(self, sources: Sequence[str], names: Names) -> List[Step]:
        """See `Cell`."""
        op = "mean" if self.pooling == "Average" else "max"
        return [operator_step(sources, names, op, axis=(2, 3), keepdims=True)]


class Dropout(Cell):
    """Leaves out a share of its inputs in training."""

    def __init__(self, *, dropout: float = 0.5, **common: Any) -> None:
        super().__init__(**common)
        self.dropout = dropout

    def core(self, sources: Sequence[str], names: Names) -> List[Step]:
        """See `Cell`."""
        return [layer_step(sources, names, nn.Dropout, {"rate": self.dropout})]
