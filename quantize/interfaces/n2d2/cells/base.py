# SPDX-License-Identifier: MIT
"""What every cell is: a part of a program, an activation behind it, and what its parameters start from and move by."""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np

from quantize.errors import ConfigError
from quantize.importers.graph_block import LayerSpec, Step
from quantize.interfaces.n2d2.activation import ActivationFunction, Linear
from quantize.interfaces.n2d2.filler import DEFAULT, Filler
from quantize.interfaces.n2d2.quantizer import CellQuantizer
from quantize.interfaces.n2d2.solver import SGD, Solver

BEFORE = ":before"  # behind the name of the tensor between a cell and its activation


class Names(NamedTuple):
    """What a cell is called in a program: its layers' paths begin with `path`, its output is the tensor `output`."""

    path: str
    output: str


class Cell:
    """A cell.

    Parameters
    ----------
    name : str
        "" gets a name by type and number when the cell is put into a network.
    inputs : sequence of str
        Names of cells; empty: the cell before, or the images.
    activation : ActivationFunction, optional
        None: the identity.
    quantizer : CellQuantizer, optional
        Of the weights, for cells that have any.

    Attributes
    ----------
    arrays : dict of str to array
        Values that parameters have, by short name ("weight", "running_mean"); absent: to be filled.
    fillers : dict of str to Filler
        What a parameter is filled with where `arrays` has nothing.
    solvers : dict of str to Solver
        What moves a parameter.
    imported : list of Step or None
        The steps that an ONNX file has for the cell.
    refilled : set of str
        Parameters whose present values are thrown away when the network is made anew.
    given : Names or None
        Path and output of a cell of an ONNX file.
    """

    #: cells behind several inputs see them joined along the channels, but for those that take them one by one
    joins_inputs = True
    #: cells whose steps depend on the size of what they read find its shape (without the batch) in `input_size`
    needs_size = False
    input_size: Tuple[int, ...] = ()
    type_name = ""

    def __init__(self, name: str = "", inputs: Sequence[str] = (), nb_outputs: Optional[int] = None,
                 activation: Optional[ActivationFunction] = None, quantizer: Optional[CellQuantizer] = None) -> None:
        self.name, self.inputs, self.nb_outputs = name, list(inputs), nb_outputs
        self.activation: ActivationFunction = Linear() if activation is None else activation
        self.arrays: Dict[str, np.ndarray] = {}
        self.fillers: Dict[str, Filler] = {}
        self.solvers: Dict[str, Solver] = {}
        self.quantizer = quantizer
        self.imported: Optional[List[Step]] = None
        self.given: Optional[Names] = None
        self.refilled: Set[str] = set()

    def kind(self) -> str:
        """The type, as INI files write it."""
        return self.type_name or type(self).__name__

    def core(self, sources: Sequence[str], names: Names) -> List[Step]:
        """The steps without the activation; the last one puts out the tensor `names.output`."""
        raise NotImplementedError

    def program(self, sources: Sequence[str], names: Names) -> Tuple[List[Step], str]:
        """(All steps, path of the layer that carries the activation's quantizer, "" where there is none)."""
        own = self._core(sources, names)
        after, carrier = self.activation.steps(self.activation_path(names), own[-1].outputs[0] if own else sources[0])
        if not after:
            if own:
                return own, carrier
            return [Step(names.path, tuple(sources[:1]), (names.output,), op="identity")], carrier
        if own:
            before = names.output + BEFORE
            own[-1] = own[-1]._replace(outputs=(before,) + own[-1].outputs[1:])
            after[0] = after[0]._replace(inputs=(before,))
        after[-1] = after[-1]._replace(outputs=(names.output,))
        return own + after, carrier

    def _core(self, sources: Sequence[str], names: Names) -> List[Step]:
        if self.imported is not None:
            return [step._replace(layer=step.layer and step.layer._replace(arrays={})) for step in self.imported]
        if not self.joins_inputs or len(sources) < 2:
            return self.core(sources, names)
        joined = Step(names.path + "_concat", tuple(sources), (names.output + ":joined",), op="concat",
                      attrs={"dim": 1})
        return [joined] + self.core(joined.outputs, names)

    def activation_path(self, names: Names) -> str:
        """Path of the activation's layer."""
        return names.path + "_activation"

    @property
    def layer_kind(self) -> Optional[type]:
        """Gluon's class of the layer that holds the parameters; None for cells without any."""
        return None

    # ---- what N2D2's scripts call

    def set_solver_parameter(self, name: str, value: Any) -> None:
        """Change a number of all solvers; ConfigError for a cell without any."""
        if not self.solvers:
            raise ConfigError(f"{self.name}: a {self.kind()} has no solver")
        for solver in self.solvers.values():
            solver.set_parameter(name, value)

    def describe(self) -> Dict[str, Any]:
        """What decides how the network is made: it is made anew where this changes."""
        function = self.activation
        return {"type": self.kind(), "inputs": list(self.inputs), "refilled": sorted(self.refilled),
                "activation": type(function).__name__,
                **{f"activation.{key}": value for key, value in vars(function).items() if key != "quantizer"},
                "act": None if function.quantizer is None else function.quantizer.describe(),
                "quantizer": None if self.quantizer is None else self.quantizer.describe()}

    def __repr__(self) -> str:
        said = [f"nb_outputs={self.nb_outputs}"] if self.nb_outputs else []
        if not isinstance(self.activation, Linear) or self.activation.quantizer is not None:
            said.append(f"activation={type(self.activation).__name__}"
                        + (f"(quantizer={self.activation.quantizer})" if self.activation.quantizer else ""))
        said += [f"quantizer={self.quantizer}"] if self.quantizer is not None else []
        return f"{self.name!r} {self.kind()}({', '.join(said)})"


class WeightedCell(Cell):
    """A cell with weights and perhaps a bias."""

    def __init__(self, nb_outputs: Optional[int] = None, no_bias: bool = False,
                 weights_filler: Optional[Filler] = None, bias_filler: Optional[Filler] = None,
                 weights_solver: Optional[Solver] = None, bias_solver: Optional[Solver] = None, **common: Any) -> None:
        super().__init__(nb_outputs=nb_outputs, **common)
        self.no_bias = bool(no_bias)
        self.fillers["weight"] = DEFAULT if weights_filler is None else weights_filler
        self.solvers["weight"] = SGD() if weights_solver is None else weights_solver
        if not no_bias:
            self.fillers["bias"] = DEFAULT if bias_filler is None else bias_filler
            self.solvers["bias"] = SGD() if bias_solver is None else bias_solver

    def has_bias(self) -> bool:
        """Whether there is a bias."""
        return not self.no_bias

    def set_weights_filler(self, filler: Filler, refill: bool = False) -> None:
        """What weights start from; `refill` throws the present ones away."""
        self._set_filler("weight", filler, refill)

    def set_bias_filler(self, filler: Filler, refill: bool = False) -> None:
        """What the bias starts from; a cell without one does not mind."""
        if self.has_bias():
            self._set_filler("bias", filler, refill)

    def refill_weights(self) -> None:
        """Throw the weights away: the filler makes new ones."""
        self._throw_away("weight")

    def refill_bias(self) -> None:
        """Throw the bias away: the filler makes a new one."""
        self._throw_away("bias")

    def _throw_away(self, name: str) -> None:
        self.arrays.pop(name, None)
        self.refilled.add(name)

    def _set_filler(self, name: str, filler: Filler, refill: bool) -> None:
        self.fillers[name] = filler
        if refill:
            self._throw_away(name)

    def drop_bias(self) -> None:
        """Leave the bias out (NoBias of a base block for cells of an ONNX file)."""
        self.no_bias = True
        for part in (self.arrays, self.fillers, self.solvers):
            part.pop("bias", None)
        if self.imported is not None:
            self.imported = [step if step.layer is None else step._replace(layer=step.layer._replace(
                options=dict(step.layer.options, use_bias=False))) for step in self.imported]

    def describe(self) -> Dict[str, Any]:
        """See `Cell`."""
        return dict(super().describe(), no_bias=self.no_bias)


def layer_step(sources: Sequence[str], names: Names, kind: type, options: Dict[str, object]) -> Step:
    """The step of a cell that is one layer."""
    return Step(names.path, tuple(sources[:1]), (names.output,), layer=LayerSpec(kind, options))


def operator_step(sources: Sequence[str], names: Names, op: str, part: str = "", **attrs: object) -> Step:
    """The step of a cell that is one operator; `part`: one of several, which is not the last."""
    ending = f"_{part}" if part else ""
    return Step(names.path + ending, tuple(sources), (names.output + (f":{part}" if part else ""),), op=op, attrs=attrs)
