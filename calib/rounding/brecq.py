# SPDX-License-Identifier: MIT
"""BRECQ with QDrop: what the rounding of a whole block of layers does to the block's output."""

from dataclasses import dataclass

from calib.rounding.gptq import GPTQ
from calib.rounding.problem import ROUNDINGS
from quantize.errors import ConfigError


@ROUNDINGS.register("block")
@dataclass(frozen=True)
class BRECQ(GPTQ):
    """Li et al., "BRECQ", arXiv:2102.05426; inputs dropped as in Wei et al., "QDrop", arXiv:2203.05740.

    Layers between which a single tensor passes are ends of blocks (a residual block is one; of plain chains two layers
    are). The layers of a block are first rounded by GPTQ, one after the other. Then all of them learn together, by
    AdaRound's soft rounding, whether each weight goes to GPTQ's code or to the one on the other side, for the least
    squared error of the block's output; meanwhile each number of the block's input is, with probability `drop`, the
    float network's, and each number of a layer's input stays unrounded as often. Biases give each layer the wanted
    mean. GPTQ's codes stay where, of all images, the learned ones miss by more.

    The paper weighs outputs by the Fisher information; here they count alike.

    Parameters
    ----------
    iterations : int
        For each block; the papers take 20000, of blocks that start from the nearest codes.
    batch : int
        Images for each iteration.
    rate : float
    weight : float
        Of the regulariser.
    drop : float
    """

    iterations: int = 200
    batch: int = 16
    rate: float = 0.03
    weight: float = 0.05
    drop: float = 0.5

    name = "brecq"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1 or self.batch < 1 or not self.rate > 0 or not 0 <= self.drop <= 1 or self.weight < 0:
            raise ConfigError("brecq: iterations and batch must be at least 1, rate positive, drop from 0 to 1 and "
                              f"weight not negative, got {self}")
