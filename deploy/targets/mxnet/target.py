# SPDX-License-Identifier: MIT
"""MXNet's own int8 as a target."""

import importlib
import pathlib
from typing import Any, Dict, Iterable, List, Sequence, Tuple

import numpy as np

from deploy.ir import Model, quantized
from deploy.target import TARGETS, Engine, Problem, Ranges, Target, Way, raise_problems
from deploy.target import Side as Computed
from deploy.targets.mxnet import constraints, writer
from deploy.targets.mxnet.arithmetic import OneDnnArithmetic
from deploy.targets.mxnet.grids import settled
from quantize.errors import DeployError
from quantize.files import read_bytes

NAME = "model"
SATURATION = "pairs of products are cut off at 16 bits: this processor has no VNNI instructions"


def _runner() -> Any:
    """The module that needs MXNet; DeployError where that is missing."""
    try:
        return importlib.import_module("deploy.targets.mxnet.runner")
    except ImportError as error:
        raise DeployError(f"MXNet is not installed ({error}); install it with: pip install mxnet==1.9.1") from None


class MxnetEngine(Engine):
    """The installed MXNet, in one thread."""

    ways = (Way("default"),)
    float_way = Way("float")

    def require(self) -> None:
        """DeployError where it is missing."""
        _runner()

    def versions(self) -> Dict[str, str]:
        """Of the package."""
        return {"mxnet": _runner().version()}

    def open(self, files: Sequence[pathlib.Path], way: Way) -> Any:
        """Both files."""
        return _runner().Runner(*files)

    def side(self, model: Model, session: Any) -> Computed:
        """See `runner.side`."""
        return _runner().side(model, session)

    def deviations(self, model: Model, way: Way) -> Dict[str, str]:
        """Every layer where the processor cuts off sums of two products."""
        if _runner().exact_products():
            return {}
        return {node.name: SATURATION for node in quantized(model)}


@TARGETS.register(constraints.NAME)
class MxnetTarget(Target):
    """`model-symbol.json` and `model-0000.params`."""

    name, title = constraints.NAME, "MXNet's int8"
    arithmetic = OneDnnArithmetic()
    suffixes, weights_suffix = writer.SUFFIXES, writer.SUFFIXES[1]
    engine = MxnetEngine()
    rounds_between = True

    def config_list(self, net: Any) -> List[dict]:
        """See `constraints.config_list`."""
        return constraints.config_list()

    def check_plan(self, layers: Iterable[Tuple[Any, Any]]) -> List[Problem]:
        """See `constraints.check_plan`."""
        return constraints.check_plan(layers)

    def settled(self, model: Model, ranges: Ranges) -> Model:
        """See `grids.settled`."""
        return settled(model, ranges)

    def check(self, model: Model) -> List[Problem]:
        """See `constraints.check`."""
        return constraints.check(model)

    def write_files(self, model: Model, folder: Any, name: str = NAME,
                    integers: bool = True) -> Tuple[pathlib.Path, ...]:
        """The symbol and its parameters."""
        return writer.write(model, folder, name, integers)

    def check_files(self, model: Model, files: Sequence[pathlib.Path]) -> None:
        """DeployError unless they are what the model is written as: MXNet ends the process over some others."""
        raise_problems(self.check(model), self.title)
        symbol, values = writer.render(model)
        for path, own in zip(files, (symbol.encode("utf-8"), values)):
            if read_bytes(path) != own:
                raise DeployError(f"{path}: is not what this program writes; deploy the network again")

    def run(self, folder: Any, inputs: Any) -> Tuple[np.ndarray, ...]:
        """Outputs (a tuple) of MXNet for a batch (n, c, h, w)."""
        session = _runner().Runner(*(pathlib.Path(folder) / (NAME + suffix) for suffix in self.suffixes))
        found = session.run(inputs, session.outputs)
        return tuple(found[name] for name in session.outputs)
