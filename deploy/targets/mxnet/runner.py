# SPDX-License-Identifier: MIT
"""Files in the installed MXNet on the CPU, and any tensor in them."""

import os
import pathlib
from typing import Any, Callable, Dict, Iterable, List, Mapping, Tuple

import mxnet as mx
import numpy as np

from deploy.ir import Model, Rounding, consumers, integers
from deploy.ir.packed import unpacked
from deploy.proof.compare import Observed
from deploy.proof.machine import machine
from deploy.target import Inputs, Session
from deploy.targets.mxnet import params, symbols
from deploy.targets.mxnet.operators import Writing
from quantize.errors import DeployError

OUTPUT = "_output"  # what MXNet appends to the name of a node with one output, or of its first
# binding a symbol otherwise says each time that oneDNN fuses what is float in it
os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")
VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")


def version() -> str:
    """Of the installed package."""
    return str(mx.__version__)


def exact_products() -> bool:
    """Whether this processor adds products of bytes in 32 bits."""
    flags: Any = machine()["flags"]
    return any(flag in flags for flag in VNNI)


class Runner(Session):
    """A network, loaded.

    Parameters
    ----------
    symbol, parameters : path
    """

    def __init__(self, symbol: pathlib.Path, parameters: pathlib.Path) -> None:
        # MXNet itself crashes, or takes all memory, over files that are damaged
        text, values = symbols.read(symbol), params.read(parameters)
        try:
            self.symbol = mx.sym.load_json(text)
        except mx.MXNetError as error:
            raise DeployError(f"{symbol}: MXNet cannot load it: {str(error).strip().splitlines()[-1]}") from None
        self._values = {name: mx.nd.array(value) for name, value in values.items()}
        self.inputs = [name for name in self.symbol.list_inputs() if name not in self._values]
        self.outputs = [name[:-len(OUTPUT)] for name in self.symbol.list_outputs()]
        self._bound: Dict[Tuple[str, ...], Tuple[List[Tuple[int, ...]], Any]] = {}

    def options(self) -> Dict[str, object]:
        """For the certificate."""
        return {"backend": "oneDNN", "bound": True}

    def _executor(self, names: Tuple[str, ...], arrays: List[np.ndarray]) -> Any:
        """Bound for inputs of these shapes: a `SymbolBlock` wants a gradient of each tensor that is put out."""
        shapes, executor = self._bound.get(names, ([], None))
        if executor is None or shapes != [array.shape for array in arrays]:
            internals = self.symbol.get_internals()
            known = set(internals.list_outputs())
            chosen = mx.sym.Group([internals[next(output for output in (name + OUTPUT, name + OUTPUT + "0")
                                                  if output in known)] for name in names])
            wanted = set(chosen.list_inputs())
            values = dict(self._values, **{name: mx.nd.array(array) for name, array in zip(self.inputs, arrays)})
            states = {name: values[name] for name in chosen.list_auxiliary_states()}
            executor = chosen.bind(mx.cpu(), {name: value for name, value in values.items() if name in wanted},
                                   grad_req="null", aux_states=states)
            self._bound[names] = [array.shape for array in arrays], executor
        return executor

    def run(self, inputs: Inputs, extract: Iterable[str]) -> Dict[str, np.ndarray]:
        """Tensors of a batch; a mapping has several inputs by their names."""
        names = tuple(dict.fromkeys(extract))
        arrays = [np.ascontiguousarray(array, np.float32) for array in (
            [inputs[name] for name in self.inputs] if isinstance(inputs, Mapping) else [inputs])]
        executor = self._executor(names, arrays)
        found = executor.forward(is_train=False, **{name: array for name, array in zip(self.inputs, arrays)
                                                    if name in executor.arg_dict})
        return dict(zip(names, (value.asnumpy() for value in found)))


def side(model: Model, runner: Runner) -> Callable[[np.ndarray], Observed]:
    """A function from images to the codes of every rounding, and the outputs, as the runner computes them."""
    readers, places = consumers(model), Writing(model).places()
    roundings = [node for node in model.nodes if isinstance(node, Rounding)]
    names = [places[node.outputs[0]] for node in roundings] + list(model.outputs)

    def compute(images: np.ndarray) -> Observed:
        found = runner.run(images if len(model.inputs) == 1 else unpacked(model, images), names)
        codes: Dict[str, np.ndarray] = {}
        for node in roundings:
            values = found[places[node.outputs[0]]].astype(np.int32)
            codes[node.name] = values
            codes.update((reader.name, values) for reader in readers[node.outputs[0]]
                         if reader is not None and integers(reader) is not None)
        return Observed({name: found[name] for name in model.outputs}, codes)
    return compute
