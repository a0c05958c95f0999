# SPDX-License-Identifier: MIT
"""NNI's quantizers (`nni.algorithms.compression.pytorch.quantization`) for Gluon networks.

    config_list = [{"quant_types": ["weight", "input"], "quant_bits": 8, "op_types": ["Conv2d", "Linear"]}]
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.01})
    quantizer = QATQuantizer(net, config_list, trainer, dummy_input=images)
    quantizer.compress()
    ...                                     # the loop as it was
    quantizer.eval()                        # ranges stand still; quantizer.train() lets them follow the batches again
    quantizer.export_model("net.params", "ranges.json")

`op_types` are PyTorch's names (Conv2d, Linear, ConvTranspose2d, ReLU, ReLU6, default) or Gluon's (a type that no layer
has is warned about), `op_names` structural
paths. As in NNI the last entry that selects a layer counts, whole, and layers that no entry selects stay float.

What differs on purpose:

* The optimizer is a `gluon.Trainer`; it gets the numbers that quantizers train, and counts the steps. Loops without one
  call `step_with_optimizer()`. There is no `model.eval()` in Gluon: ranges stand still between `eval()` and `train()`.
* Symmetric "uint" inputs and outputs are unsigned where the graph proves that they cannot be negative, and signed
  elsewhere; NNI would spend half of the levels on values that never come. Symmetric weights go from -127 to 127.
* With `dummy_input` BatchNorm is folded (`quantize.convert.fake_bn`: the batch's statistics in training, the running
  ones in inference). Float weights are never replaced, so that there is nothing to restore after `export_model`.
* The gradient of weights is masked outside their range as everywhere here, and `NaiveQuantizer` rounds (NNI truncates).
* A bias stays float: engines add it in 32 bits.
"""

from typing import Any, Dict, Optional, Sequence

from mxnet.gluon import Block, Trainer

from quantize.config import Format
from quantize.interfaces.nni.config import LayerSetting, reset_quant_scheme_dtype, set_quant_scheme_dtype
from quantize.interfaces.nni.observer import ObserverQuantizer
from quantize.interfaces.nni.quantizer import Quantizer
from quantize.modes import fix_params

__all__ = ["BNNQuantizer", "DoReFaQuantizer", "LsqQuantizer", "NaiveQuantizer", "ObserverQuantizer", "QATQuantizer",
           "QAT_Quantizer", "reset_quant_scheme_dtype", "set_quant_scheme_dtype"]


class NaiveQuantizer(Quantizer):
    """Weights rounded once, to 8 bits unless the config says otherwise; nothing is trained."""

    quant_types = ("weight",)

    def __init__(self, model: Block, config_list: Optional[Sequence[Dict[str, Any]]] = None,
                 optimizer: Optional[Trainer] = None) -> None:
        super().__init__(model, config_list or [{"quant_types": ["weight"], "op_types": ["default"]}], optimizer)

    def compress(self) -> Block:
        """The network with rounded weights."""
        self._convert()
        fix_params(self.net)
        return self.net

    def eval(self) -> None:
        """Nothing: there are no ranges."""

    def train(self) -> None:
        """Nothing: there are no ranges."""


class QATQuantizer(Quantizer):
    """Jacob et al., arXiv:1712.05877: `UniformFakeQuantize`, affine unless the config says otherwise.

    Inputs and outputs follow moving averages of ranges (0.99). Engines such as ncnn know symmetric grids alone: for
    them choose ``per_tensor_symmetric`` (weights: ``per_channel_symmetric``).
    """

    weight_scheme = activation_scheme = "per_tensor_affine"


QAT_Quantizer = QATQuantizer


class LsqQuantizer(Quantizer):
    """Esser et al., arXiv:1902.08153: `LSQFakeQuantize`, symmetric.

    Weights start from their own mean magnitude, inputs and outputs from the range of the first batch.
    """

    method = "lsq"
    schemes = ("per_tensor_symmetric", "per_channel_symmetric")


class DoReFaQuantizer(Quantizer):
    """Zhou et al., arXiv:1606.06160: `DoReFaWeight`, and `DoReFaActivation` for what cannot be negative.

    Other activations are rounded by the moving average of their range.
    """

    method = "dorefa"
    schemes = ("per_tensor_symmetric",)


class BNNQuantizer(Quantizer):
    """Courbariaux et al., arXiv:1602.02830: signs. Weights are clipped to [-1, 1] after each step.

    Everything is one bit, whatever `quant_bits` says. The sign of a ReLU's output is always +1: let the ReLU itself be
    binary (op_types ReLU, quant_types output), not the input behind it.
    """

    method = "bnn"

    def _format(self, setting: LayerSetting, quant_type: str) -> Format:
        return Format(1, True)
