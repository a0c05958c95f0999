# SPDX-License-Identifier: MIT
"""Which network, and on what it runs: requests, which load nothing."""

import dataclasses
from typing import Any, Mapping

from quantize.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class NetworkRequest:
    """Where a network comes from: exactly one of `model`, `onnx`, `symbol` and `checkpoint`.

    Parameters
    ----------
    model : str
        'digits_lenet', 'mnist_lenet', 'cifar_vgg', 'cifar_vgg_0.5' or a classification network of gluoncv.
    onnx : str or path
        An ONNX file.
    symbol : str or path
        A ``-symbol.json`` of HybridBlock.export.
    params : str or path
        Weights for `model` or `symbol`, instead of the embedded or pretrained ones.
    checkpoint : str or path
        A file of `quantize.save_quantized`, or the output folder of a command that wrote one.
    pretrained : bool
        Without `params`: gluoncv's weights, downloaded where needed; False: random ones.
    options : mapping
        Keywords for gluoncv: classes, use_gn, batch_norm, use_se, last_gamma, ...; see
        `gluon_quantize.models.zoo.build`.

    Raises
    ------
    ConfigError
        For none or several sources, and for parts that do not go together.
    """

    model: str = ""
    onnx: str = ""
    symbol: str = ""
    params: str = ""
    checkpoint: str = ""
    pretrained: bool = True
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        sources = {"name": self.model, "onnx": self.onnx, "symbol": self.symbol, "checkpoint": self.checkpoint}
        given = [kind for kind, source in sources.items() if source]
        if len(given) != 1:
            raise ConfigError("a model is one of a name (--model), an ONNX file (--onnx), a symbol file (--symbol) and "
                              f"a checkpoint; given: {' and '.join(given) or 'none'}")
        if self.checkpoint and self.params:
            raise ConfigError(f"{self.checkpoint}: a checkpoint holds its own weights; leave out --params")
        if self.onnx and self.params:
            raise ConfigError(f"{self.onnx}: an ONNX file holds its own weights; leave out --params")
        if self.options and not self.model:
            raise ConfigError(f"option {next(iter(self.options))!r} is for networks by name, not for files; leave it "
                              "out")
        classes = self.options.get("classes", 1)
        if not isinstance(classes, int) or classes < 1:
            raise ConfigError(f"option 'classes' is {classes!r}; want a whole number of at least 1")


@dataclasses.dataclass(frozen=True)
class RunRequest:
    """What a run runs on, and what makes it repeatable.

    Parameters
    ----------
    gpu : int
        Number of the GPU; -1: the CPU.
    cudnn_autotune : bool
        Let cuDNN search for the fastest convolution.
    seed : int
        Of NumPy and MXNet, 0 to 2**32 - 1; also of the choice of calibration images.
    """

    gpu: int = -1
    cudnn_autotune: bool = True
    seed: int = 7
