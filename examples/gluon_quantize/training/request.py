# SPDX-License-Identifier: MIT
"""What a training is asked to do, in parts; requests load nothing."""

import dataclasses
from typing import Any, Dict, Mapping, Optional, Tuple

from gluon_quantize.data.request import ImagesRequest
from gluon_quantize.models.request import NetworkRequest, RunRequest
from quantize.errors import ConfigError
from quantize.winograd import NONE, parse_winograd

FLOAT = "float"
AUGMENTATIONS = ("none", "crop", "crop-flip")
SCHEDULES = ("cosine", "step", "constant")


@dataclasses.dataclass(frozen=True)
class TrainingImagesRequest:
    """Which images are trained on, and how they are varied.

    Parameters
    ----------
    augment : {'none', 'crop', 'crop-flip'}, optional
        None: what is usual for the data set.
    pad : int, optional
        Pixels of border from which crops are taken; None: what is usual.
    hold_out : int
        So many training images choose the best epoch; 0: the test images do.
    count : int, optional
        Train on the first so many images only.
    """

    augment: Optional[str] = None
    pad: Optional[int] = None
    hold_out: int = 0
    count: Optional[int] = None


@dataclasses.dataclass(frozen=True)
class FormatsRequest:
    """How layers are rounded and trained.

    Parameters
    ----------
    method : str
        One of `quantize.nn.METHODS`; 'float': nothing is rounded.
    weight_bits, input_bits : int
        1 to 8.
    first_last_bits : int
        Of the first and the last layer; 0: float.
    granularity : {'layer', 'group', 'channel'}, optional
        One weight scale for each; None: channel where the method can.
    ranges : {'ema', 'online', 'offline'}
        For inputs of methods that train no ranges, see `quantize.train.start_training`.
    winograd : str
        As `quantize.winograd.parse_winograd` reads it.
    config : str or path, optional
        JSON file of rules for single layers, applied after all others.
    fake_bn : {'none', 'batch', 'corrected', 'running'}, optional
        Round weights as they will be once batch norm is merged into them; see `quantize.convert.fake_bn`. None: 'batch'
        for a target, where the method rounds weights in their own size, else 'none'.
    target : str or deploy.target.Target, optional
        Keep to what this engine can hold.
    """

    method: str = "lsq"
    weight_bits: int = 8
    input_bits: int = 8
    first_last_bits: int = 8
    granularity: Optional[str] = None
    ranges: str = "ema"
    winograd: str = NONE
    config: Optional[str] = None
    fake_bn: Optional[str] = None
    target: Any = None

    def __post_init__(self) -> None:
        parse_winograd(self.winograd)
        if self.target is not None and self.method == FLOAT:
            raise ConfigError("--target decides how layers are rounded, and --method float rounds none")
        if self.target is not None and self.winograd != NONE:
            raise ConfigError("--target decides the formats: no engine holds weights that are rounded in the Winograd "
                              "domain; leave out --wino-quantize")
        if self.fake_bn not in (None, "none") and self.method == FLOAT:
            raise ConfigError("--fake-bn needs quantized weights, not --method float")


@dataclasses.dataclass(frozen=True)
class StartRequest:
    """What training starts from.

    Parameters
    ----------
    from_scratch : bool
        Random weights, whatever the network brings along.
    weights : str or path, optional
        Parameters that another training left.
    clamp_only : bool
        The first stage of methods that have two: weights are clamped and nothing is rounded.
    calibrator : str, optional
        Ranges of inputs, as `calib.calibrators` writes them, or 'none'; None: the method's own choice.
    calibration_images : int
        Training images of that calibration.
    """

    from_scratch: bool = False
    weights: Optional[str] = None
    clamp_only: bool = False
    calibrator: Optional[str] = None
    calibration_images: int = 512


@dataclasses.dataclass(frozen=True)
class OptimizerRequest:
    """How numbers are moved: those of layers, and those that quantizers train (None: as layers').

    Parameters
    ----------
    name, quantizer_name : str
        Optimizers of MXNet.
    lr, float_lr, quantizer_lr : float
        Learning rates; `float_lr` is that of epochs in float.
    momentum : float
        Of sgd and nag.
    wd, quantizer_wd : float
        Weight decay.
    """

    name: str = "nag"
    lr: float = 0.01
    float_lr: float = 0.1
    momentum: float = 0.9
    wd: float = 1e-4
    quantizer_name: Optional[str] = None
    quantizer_lr: Optional[float] = None
    quantizer_wd: Optional[float] = None


@dataclasses.dataclass(frozen=True)
class ScheduleRequest:
    """What happens when.

    Parameters
    ----------
    epochs, float_epochs : int
        Quantized ones, after those in float.
    quant_start_step : int
        Quantize after so many steps of the quantized epochs.
    shape : {'cosine', 'step', 'constant'}
        Of the learning rates.
    warm_up : float
        Epochs in which they rise from 0.
    drops : tuple of int
        Epochs after which 'step' multiplies them by `decay`.
    accumulate : int
        Batches whose gradients make one step.
    freeze_bn_epoch : int, optional
        From this epoch on keep and use the running statistics.
    reestimate_bn : int
        After training measure them anew on so many batches.
    check_every : int
        Look for numbers that are not finite after each so many steps.
    """

    epochs: int = 10
    float_epochs: int = 0
    quant_start_step: int = 0
    shape: str = "cosine"
    warm_up: float = 0
    drops: Tuple[int, ...] = ()
    decay: float = 0.1
    accumulate: int = 1
    freeze_bn_epoch: Optional[int] = None
    reestimate_bn: int = 0
    check_every: int = 1

    def __post_init__(self) -> None:
        if self.drops and self.shape != "step":
            raise ConfigError("--lr-drops belongs to --schedule step")

    @property
    def all_epochs(self) -> int:
        """With those in float."""
        return self.float_epochs + self.epochs


@dataclasses.dataclass(frozen=True)
class DistillationRequest:
    """Learning from the float network's answers: the share of that in the loss, and the temperature."""

    share: float = 0.0
    temperature: float = 4.0


@dataclasses.dataclass(frozen=True)
class TrainRequest:
    """A whole training.

    Parameters
    ----------
    output : str or path
        Folder of checkpoints and parameters.
    resume : bool
        Go on from the last checkpoint there, where there is one.
    best_by : str
        What the best epoch has most of: 'top1', or one of `gluon_quantize.models.metrics.NAMES`.
    kvstore : str
        'dist_sync': this process is one of several workers; see `gluon_quantize.training.workers`.
    keep_formats : bool
        Go on with a quantized checkpoint as it is, whatever `formats` says; False: convert the float network under it.
    options : mapping, optional
        The run's settings as its caller calls them: checkpoints and files keep them, and resuming compares them. None:
        the fields of this request.
    """

    network: NetworkRequest
    output: str
    images: ImagesRequest = ImagesRequest()
    training: TrainingImagesRequest = TrainingImagesRequest()
    formats: FormatsRequest = FormatsRequest()
    start: StartRequest = StartRequest()
    optimizer: OptimizerRequest = OptimizerRequest()
    schedule: ScheduleRequest = ScheduleRequest()
    distillation: DistillationRequest = DistillationRequest()
    run: RunRequest = RunRequest()
    resume: bool = False
    best_by: str = "top1"
    kvstore: str = "none"
    keep_formats: bool = False
    options: Optional[Mapping[str, Any]] = None

    def __post_init__(self) -> None:
        if self.start.clamp_only and (self.schedule.float_epochs or self.schedule.quant_start_step):
            raise ConfigError("--clamp-only rounds nothing: leave out --float-epochs and --quant-start-step")

    @property
    def settings(self) -> Dict[str, Any]:
        """The run's settings, as JSON can hold them."""
        if self.options is not None:
            return dict(self.options)
        found = dataclasses.asdict(self)
        del found["options"]
        parts = {name: value for name, value in found.items() if isinstance(value, dict)}
        plain = {name: value for name, value in found.items() if name not in parts}
        return dict(plain, **{f"{part}.{name}": value if value is None or isinstance(value, (int, float, dict, list))
                              else str(value) for part, values in parts.items() for name, value in values.items()})
