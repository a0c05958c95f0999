# SPDX-License-Identifier: MIT
"""Files in ONNX Runtime (PyPI's `onnxruntime`) on the CPU, and any tensor in them."""

import importlib
import logging
import pathlib
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Tuple

import numpy as np

from deploy.ir import Model, Rounding, consumers, integers
from deploy.ir.packed import unpacked
from deploy.proof.compare import Observed
from deploy.target import Inputs, Session
from deploy.targets.onnx.operators import codes_name, node_codes
from quantize.errors import DeployError
from quantize.files import read_bytes

LOG = logging.getLogger(__name__)
EXACT_PRODUCTS = "session.x64quantprecision"


@dataclass(frozen=True)
class Options:
    """How ONNX Runtime is told to run a file.

    Parameters
    ----------
    optimized : bool
        Off: every node is computed as it stands in the file, in float32 between DequantizeLinear and QuantizeLinear.
        On: they become integer operators (all optimizations, the default of ONNX Runtime).
    exact_products : bool
        Where the processor multiplies bytes in pairs whose sum it cuts off at 16 bits (x86 without VNNI), the weights
        are taken as uint8, for which there is an exact instruction (`session.x64quantprecision`).
    threads : int
    """

    optimized: bool = True
    exact_products: bool = True
    threads: int = 1


def engine() -> Any:
    """The module; DeployError where it is missing."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise DeployError(f"ONNX Runtime is not installed ({error}); install it with: pip install "
                          "onnxruntime") from None


def version() -> str:
    """Of the installed package."""
    return str(engine().__version__)


class Runner(Session):
    """A file, loaded; tensors that are no outputs of the file become some in a copy in memory.

    Parameters
    ----------
    path : path
    options : Options
    content : bytes, optional
        Of the file, where it is not to be read.
    """

    def __init__(self, path: pathlib.Path, options: Options, content: Optional[bytes] = None) -> None:
        self._module, self._options, self._path = engine(), options, path
        self._content = read_bytes(path) if content is None else content
        self._sessions: Dict[Tuple[str, ...], Any] = {}
        plain = self._session(())
        self.input = plain.get_inputs()[0].name
        self.outputs = [output.name for output in plain.get_outputs()]

    def options(self) -> Dict[str, object]:
        """For the certificate."""
        return {"optimized": self._options.optimized, "exact_products": self._options.exact_products,
                "threads": self._options.threads}

    def _session(self, more: Tuple[str, ...]) -> Any:
        """The session in which also the tensors `more` are outputs."""
        if more not in self._sessions:
            options = self._module.SessionOptions()
            levels = self._module.GraphOptimizationLevel
            options.graph_optimization_level = (levels.ORT_ENABLE_ALL if self._options.optimized
                                                else levels.ORT_DISABLE_ALL)
            options.intra_op_num_threads = options.inter_op_num_threads = self._options.threads
            options.log_severity_level = 3
            if self._options.exact_products:
                options.add_session_config_entry(EXACT_PRODUCTS, "1")
            content = _with_outputs(self._content, more) if more else self._content
            try:
                self._sessions[more] = self._module.InferenceSession(content, options,
                                                                     providers=["CPUExecutionProvider"])
            except Exception as error:  # ONNX Runtime raises classes of its own that share no base
                raise DeployError(f"{self._path}: ONNX Runtime cannot load it: {error}") from None
            LOG.info("%s: loaded, %d tensors put out, %s", self._path, len(self._sessions[more].get_outputs()),
                     self._options)
        return self._sessions[more]

    def run(self, inputs: Inputs, extract: Iterable[str]) -> Dict[str, np.ndarray]:
        """Tensors of a batch; a mapping has several inputs by their names."""
        names: List[str] = list(dict.fromkeys(extract))
        session = self._session(tuple(name for name in names if name not in self.outputs))
        arrays = inputs if isinstance(inputs, Mapping) else {self.input: inputs}
        values = session.run(names, {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()})
        return dict(zip(names, values))


def _with_outputs(content: bytes, names: Tuple[str, ...]) -> bytes:
    """A file with further outputs."""
    import onnx
    from onnx import TensorProto, helper
    model = onnx.load_model_from_string(content)
    kinds = {output: TensorProto.UINT8 if node.op_type == "QuantizeLinear" else TensorProto.FLOAT
             for node in model.graph.node for output in node.output}
    model.graph.output.extend(helper.make_tensor_value_info(name, kinds[name], None) for name in names)
    return model.SerializeToString()


def side(model: Model, runner: Runner) -> Callable[[np.ndarray], Observed]:
    """A function from images to the codes of every rounding, and the outputs, as the runner computes them."""
    roundings = [node for node in model.nodes if isinstance(node, Rounding)]
    readers = consumers(model)
    names = [codes_name(node.outputs[0]) for node in roundings] + list(model.outputs)

    def compute(images: np.ndarray) -> Observed:
        found = runner.run(images if len(model.inputs) == 1 else unpacked(model, images), names)
        codes: Dict[str, np.ndarray] = {}
        for node in roundings:
            values = node_codes(found[codes_name(node.outputs[0])], node)
            codes[node.name] = values
            codes.update((reader.name, values) for reader in readers[node.outputs[0]]
                         if reader is not None and integers(reader) is not None)
        return Observed({name: found[name] for name in model.outputs}, codes)
    return compute
