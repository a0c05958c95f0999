# SPDX-License-Identifier: MIT
"""ONNX with QuantizeLinear and DequantizeLinear as a target, verified in ONNX Runtime."""

import pathlib
from dataclasses import replace
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np

from deploy.ir import Model, quantized
from deploy.narrow import whole_bytes
from deploy.programs import rendered, values_of
from deploy.settling import apart, cuts, settled
from deploy.target import TARGETS, Engine, ImageSteps, Option, Problem, Ranges, Report, Target, Way, raise_problems
from deploy.target import Side as Computed
from deploy.targets.onnx import constraints, runner, unoptimized, writer
from deploy.targets.onnx.arithmetic import OrtArithmetic
from deploy.targets.onnx.biases import finer, held
from deploy.targets.onnx.runner import Options, Runner

NAME, PROGRAM = "model", "run_onnx.py"
TEMPLATES = pathlib.Path(__file__).resolve().parent / "templates"
SATURATION = ("pairs of products are cut off at 16 bits: this processor has no VNNI instructions; exact with "
              "session.x64quantprecision=1")
FLOAT_SUMS = "sums of float32 products instead of integers: what lies next to the middle between two codes falls to " \
             "either side"

FLOAT_INT4 = "ONNX Runtime has no integer operators for 4-bit weights: " + FLOAT_SUMS


class OrtEngine(Engine):
    """PyPI's `onnxruntime`, on the CPU in one thread.

    Parameters
    ----------
    reason : str
        Why layers deviate however files are run; none do by default.
    """

    def __init__(self, reason: str = "") -> None:
        self._reason = reason

    ways = (Way("unoptimized", Options(optimized=False)), Way("default", Options(exact_products=False)),
            Way("exact", Options()))
    float_way = Way("float", Options(optimized=False))

    def require(self) -> None:
        """DeployError where it is missing."""
        runner.engine()

    def versions(self) -> Dict[str, str]:
        """Of the package."""
        return {"onnxruntime": runner.version()}

    def open(self, files: Sequence[pathlib.Path], way: Way) -> Runner:
        """The file."""
        return Runner(pathlib.Path(files[0]), way.options)

    def side(self, model: Model, session: Any) -> Computed:
        """See `runner.side`."""
        return runner.side(model, session)

    def deviations(self, model: Model, way: Way) -> Dict[str, str]:
        """Every layer whose sums are none of integers, and why."""
        reason = self._reason
        if not reason and not way.options.optimized:
            reason = FLOAT_SUMS
        elif not reason and not way.options.exact_products:
            reason = SATURATION
        return {node.name: reason for node in quantized(model)} if reason else {}


@TARGETS.register(constraints.NAME)
class OnnxTarget(Target):
    """`model.onnx`.

    Parameters
    ----------
    affine : bool
        Inputs that can be negative have their zero point where their range wants it, instead of in the middle.
    reduce_range : bool
        Weights have 7 bits.
    int4 : bool
        Weights have 4 bits where rules do not say otherwise, and are stored so.
    """

    name, title = constraints.NAME, "an ONNX file"
    arithmetic = OrtArithmetic()
    suffixes, weights_suffix = (writer.SUFFIX,), writer.SUFFIX
    engine = OrtEngine()
    rounds_between = True
    options = (Option("affine", "--affine", "zero points anywhere for inputs that can be negative (default: in the "
                                            "middle, which every engine knows)"),
               Option("reduce_range", "--reduce-range",
                      "7 bits for weights: exact with the engine's default options also on x86 processors without "
                      "VNNI, which cut off sums of two products at 16 bits (default: 8)"),
               Option("int4", "--int4",
                      "4 bits for weights, stored as that (operator set 21): a smaller file, whose layers ONNX Runtime "
                      "computes in float32; rules of a --config file may give layers int8 again"))

    def __init__(self, affine: bool = False, reduce_range: bool = False, int4: bool = False):
        self.affine, self.reduce_range, self.int4 = affine, reduce_range, int4
        self.weight_bits = 4 if int4 else 7 if reduce_range else 8
        self.largest_bits = 8 if int4 else self.weight_bits
        if int4:
            self.engine = OrtEngine(reason=FLOAT_INT4)

    def config_list(self, net: Any) -> List[dict]:
        """See `constraints.config_list`."""
        return constraints.config_list(self.affine, self.weight_bits)

    def check_plan(self, layers: Iterable[Tuple[Any, Any]]) -> List[Problem]:
        """See `constraints.check_plan`."""
        return constraints.check_plan(layers, self.largest_bits)

    def settled(self, model: Model, ranges: Ranges) -> Model:
        """See `deploy.settling.settled`, and `biases`.

        In front of functions that stay float convolutions are rounded, since ONNX Runtime else computes them in float.
        """
        model = whole_bytes(apart(model, cuts, last=False), self.arithmetic)
        found = settled(model, ranges, symmetric=not self.affine)
        if not self.int4:  # four bits are stored as they are
            found = replace(found, nodes=tuple(finer(node, 2 ** (self.largest_bits - 1) - 1) for node in found.nodes))
        return replace(found, nodes=tuple(held(node) for node in found.nodes))

    def check(self, model: Model) -> List[Problem]:
        """See `constraints.check`."""
        return constraints.check(model, self.largest_bits)

    def write_files(self, model: Model, folder: Any, name: str = NAME,
                    integers: bool = True) -> Tuple[pathlib.Path, ...]:
        """The .onnx."""
        return writer.write(model, folder, name, integers, self.int4)

    def check_files(self, model: Model, files: Sequence[pathlib.Path]) -> None:
        """See `writer.check`: ONNX Runtime gets no file that somebody else wrote."""
        raise_problems(self.check(model), self.title)
        writer.check(model, pathlib.Path(files[0]))

    def reports(self) -> Tuple[Report, ...]:
        """Whether ONNX Runtime without optimizations computes what its float32 sums make one expect."""
        return (Report("unoptimized", "--unoptimized-report",
                       "foresee every code of ONNX Runtime without optimizations, where sums are of float32 products, "
                       "on a few of the images (seconds for each)", "unoptimized.json", unoptimized.report),)

    def programs(self, title: str, steps: ImageSteps, files: Sequence[str], blobs: Tuple[str, str],
                 class_names: Sequence[str] = (), shape: Sequence[int] = ()) -> Dict[str, str]:
        """`run_onnx.py`."""
        values = dict(values_of(title, steps, blobs, shape), file=files[0])
        return {PROGRAM: rendered(TEMPLATES / (PROGRAM + ".txt"), values)}

    def run(self, folder: Any, inputs: Any, options: Optional[Options] = None) -> Tuple[np.ndarray, ...]:
        """Outputs (a tuple) of ONNX Runtime for a batch (n, c, h, w), exact by default."""
        session = Runner(pathlib.Path(folder) / (NAME + writer.SUFFIX), options or Options())
        found = session.run(inputs, session.outputs)
        return tuple(found[name] for name in session.outputs)
