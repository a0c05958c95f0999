# SPDX-License-Identifier: MIT
"""C source as a target, verified by compiling and running it here."""

import pathlib
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np

from deploy.image_steps import ImageSteps
from deploy.ir import Model
from deploy.ir.file import load
from deploy.target import TARGETS, Engine, Option, Problem, Ranges, Target, Way
from deploy.target import Side as Computed
from deploy.targets.c import constraints, runner, writer
from deploy.targets.c.arithmetic import FixedArithmetic
from deploy.targets.c.grids import settled, with_settled_inputs
from deploy.targets.c.runner import Runner
from deploy.targets.c.scaling import SCALINGS
from quantize.errors import ConfigError

NAME = "model"
DEFAULT = "FIXED_MULT32"
SWITCHES = {"fixed16": "FIXED_MULT16", "single_shift": "SINGLE_SHIFT", "double_shift": "DOUBLE_SHIFT",
            "float_mult": "FLOAT_MULT"}


class CompiledEngine(Engine):
    """A C compiler, and this machine."""

    def require(self) -> None:
        """DeployError where there is no compiler."""
        runner.compiler()

    def versions(self) -> Dict[str, str]:
        """What compiles."""
        return {"compiler": pathlib.Path(runner.compiler()).name}

    def open(self, files: Sequence[pathlib.Path], way: Way) -> Runner:
        """Compiled, and able to tell every blob."""
        return Runner(files)

    def side(self, model: Model, session: Any) -> Computed:
        """See `runner.side`."""
        return runner.side(model, session)


@TARGETS.register(constraints.NAME)
class CTarget(Target):
    """`model.c` and `model.h`; `model.model` is what they are made from.

    Parameters
    ----------
    fixed16, single_shift, double_shift, float_mult : bool
        How sums become codes (`scaling.SCALINGS`); by 31 bits and a shift without any.
    """

    name, title = constraints.NAME, "C source"
    suffixes, weights_suffix = writer.SUFFIXES, writer.SUFFIXES[0]
    engine = CompiledEngine()
    options = tuple(Option(name, "--" + name.replace("_", "-"), f"scaling {scaling}: {SCALINGS[scaling].help} "
                           f"(default: {DEFAULT})") for name, scaling in SWITCHES.items())

    def __init__(self, fixed16: bool = False, single_shift: bool = False, double_shift: bool = False,
                 float_mult: bool = False):
        self.fixed16, self.single_shift, self.double_shift, self.float_mult = (fixed16, single_shift, double_shift,
                                                                               float_mult)
        chosen = [scaling for name, scaling in SWITCHES.items() if getattr(self, name)]
        if len(chosen) > 1:
            raise ConfigError(f"C source has one scaling, not {' and '.join(chosen)}")
        self.scaling = chosen[0] if chosen else DEFAULT
        self.arithmetic = FixedArithmetic(self.scaling)

    def config_list(self, net: Any) -> List[dict]:
        """See `constraints.config_list`."""
        return constraints.config_list()

    def check_plan(self, layers: Iterable[Tuple[Any, Any]]) -> List[Problem]:
        """See `constraints.check_plan`."""
        return constraints.check_plan(layers)

    def settled(self, model: Model, ranges: Ranges) -> Model:
        """See `grids.settled`; no ranges are asked for. Layers that round no input read bytes, or 16 bits."""
        return settled(with_settled_inputs(model))

    def check(self, model: Model) -> List[Problem]:
        """See `constraints.check`."""
        return constraints.check(model)

    def write_files(self, model: Model, folder: Any, name: str = NAME,
                    integers: bool = True) -> Tuple[pathlib.Path, ...]:
        """The source, the header and the model."""
        return writer.write(model, folder, name, self.scaling if integers else None)

    def weight_bytes(self, files: Sequence[pathlib.Path]) -> int:
        """Bytes of constants that the compiled source holds; that of the source says little."""
        return writer.program_of(load(files[2]))[0].flash

    def run(self, folder: Any, inputs: Any) -> Tuple[np.ndarray, ...]:
        """Outputs (a tuple) of the compiled source for a batch (n, c, h, w)."""
        session = Runner([pathlib.Path(folder) / (NAME + suffix) for suffix in self.suffixes])
        found = session.run(inputs, session.model.outputs)
        return tuple(found[name] for name in session.model.outputs)

    def programs(self, title: str, steps: ImageSteps, files: Sequence[str], blobs: Tuple[str, str],
                 class_names: Sequence[str] = (), shape: Sequence[int] = ()) -> Dict[str, str]:
        """`main.c`."""
        return writer.main_program(title, steps, files, class_names)

    def fused(self, net: Any, images: np.ndarray, scaling: str, scale: Optional[float]) -> Any:
        """N2D2's `fuse_qat`: see `deploy.targets.c.simulate`, which needs MXNet and is imported when it is needed.

        Parameters
        ----------
        net : HybridBlock
        images : array (n, channels, height, width)
        scaling : str
            As N2D2 calls it.
        scale : float or None
            Images are bytes times this number; None: any numbers.
        """
        from deploy.targets.c import simulate
        return simulate.fuse_qat(net, images.shape[1:], scaling, simulate.bytes_grid(scale), images)
