# SPDX-License-Identifier: MIT
"""The parts of requests that several runs share, beside `models.request` and `data.request`."""

import dataclasses
from typing import Any, Optional, Tuple

from calib.rounding import ROUNDINGS
from gluon_quantize.data.request import ImagesRequest
from gluon_quantize.models.request import NetworkRequest, RunRequest
from quantize.config import Rule
from quantize.errors import ConfigError
from quantize.winograd import NONE, WinogradSpec, parse_winograd

AUTO = "auto"
# what formats are where nothing is said, and what an option that says otherwise is called on the command line
FREE_FORMATS = {"weight_bits": "weight-bits", "input_bits": "input-bits", "input_signed": "input-signed",
                "granularity": "quant-type", "winograd": "wino-quantize"}


# what evaluates a quantized network: float operators, the integers of an engine, or the integer engine as any target
# computes; and the target that each goes with
FLOATS, EXACT = "float", "exact"
BACKENDS = {FLOATS: "", "int8": "mxnet", EXACT: ""}


@dataclasses.dataclass(frozen=True)
class QuantizationRequest:
    """Which layers compute in which formats.

    Parameters
    ----------
    weight_bits, input_bits : int
        1 to 16.
    input_signed : bool, optional
        None: unsigned where the graph proves that the input cannot be negative.
    granularity : {'layer', 'group', 'channel'}, optional
        One weight scale for each of them; None: channel.
    winograd : str
        'none', or what is quantized in the Winograd domain, as `quantize.winograd.parse_winograd` reads it: 'F43',
        'F43/position', 'F43/position/inputs'.
    target : str or deploy.target.Target, optional
        Quantize as this engine computes, instead of by the parameters above.
    merge_bn : bool
        Merge batch norm into the weights first.
    exclude_first : bool
        Leave the first convolution float.
    config : str or path, optional
        JSON file of rules for single layers, applied after those of the parameters above.
    rules : tuple of Rule
        Further ones, applied last.

    Raises
    ------
    ConfigError
        For a format beside a target, which decides the formats.
    """

    weight_bits: int = 8
    input_bits: int = 8
    input_signed: Optional[bool] = None
    granularity: Optional[str] = None
    winograd: str = NONE
    target: Any = None
    merge_bn: bool = False
    exclude_first: bool = True
    config: Optional[str] = None
    rules: Tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        parse_winograd(self.winograd)
        plain = {field.name: field.default for field in dataclasses.fields(self)}
        given = [option for name, option in FREE_FORMATS.items() if getattr(self, name) != plain[name]]
        if self.target and given:
            raise ConfigError(f"--target {getattr(self.target, 'name', self.target)}: the engine decides the formats; "
                              f"leave out --{given[0]}, or write rules for single layers into a --config file")

    @property
    def usual_granularity(self) -> str:
        """The granularity, where no engine decides."""
        return self.granularity or "channel"

    @property
    def rounds_tiles(self) -> bool:
        """Whether transformed input tiles are rounded too, and so need ranges."""
        found = parse_winograd(self.winograd)
        return isinstance(found, WinogradSpec) and found.inputs


@dataclasses.dataclass(frozen=True)
class CalibrationFiles:
    """Where ranges come from instead of images, and where what was found goes.

    Parameters
    ----------
    load_table : str or path, optional
        Ranges instead of a calibration.
    save_table : str or path, optional
        The calibrated ranges, as text.
    shard : (int, int), optional
        (i, n): observe only part i of n, from 1, of the images, write `save_state` and stop.
    save_state : str or path, optional
        What was observed, to be merged with other shards.
    merge_states : tuple of str
        What was observed, from the states of all shards, instead of observing.

    Raises
    ------
    ConfigError
        For parts that exclude or need each other.
    """

    load_table: Optional[str] = None
    save_table: Optional[str] = None
    shard: Optional[Tuple[int, int]] = None
    save_state: Optional[str] = None
    merge_states: Tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = {"--load-table": self.load_table, "--merge-states": self.merge_states, "--calib-shard": self.shard}
        exclusive = [name for name, value in given.items() if value]
        if len(exclusive) > 1:
            raise ConfigError(f"{exclusive[0]} and {exclusive[1]} exclude each other")
        if self.shard and not self.save_state:
            raise ConfigError("--calib-shard needs --save-state FILE")


@dataclasses.dataclass(frozen=True)
class CalibrationRequest:
    """How the ranges of inputs are decided, and from which images.

    Parameters
    ----------
    method : str
        NAME, NAME:VALUE or NAME:VALUE,KEY=VALUE: a calibrator of `calib.calibrators` with its parameters
        (`percentile:99.9`), or 'easyquant'.
    passes : int
        Over the images; more than one only change `naive`, so the other methods take one.
    per_class : int
        Calibration images of each class.
    max_batches, max_images : int, optional
        At most so many of them.
    values : int
        Values of each feature map that histograms count, evenly spaced; 0: all.
    folder : str or path, optional
        Of the calibration images, where they lie elsewhere than the others.
    bias_correction : {'auto', 'none', 'parallel', 'sequential'}
        See `calib.bias_correction`; auto: parallel where BatchNorm is merged, see `correction`.
    evaluate_passes : bool
        Evaluate after every pass.
    compare : bool
        Also every other method, from the same pass.
    best : bool
        Of a comparison take the best method in the end, instead of `method`.
    files : CalibrationFiles

    Raises
    ------
    ConfigError
        For parts that exclude each other.
    """

    method: str = "sqnr"
    passes: int = 3
    per_class: int = 5
    max_batches: Optional[int] = None
    max_images: Optional[int] = None
    values: int = 16384
    folder: Optional[str] = None
    bias_correction: str = AUTO
    evaluate_passes: bool = False
    compare: bool = False
    best: bool = False
    files: CalibrationFiles = CalibrationFiles()

    def __post_init__(self) -> None:
        files, corrects = self.files, self.bias_correction not in ("none", AUTO)
        if files.shard and (files.save_table or self.compare or corrects):
            raise ConfigError("--calib-shard only observes; leave --save-table, --compare-calibrators and "
                              "--bias-correction to the run with --merge-states")
        if files.load_table and (files.save_state or files.save_table or self.compare or self.evaluate_passes):
            raise ConfigError("--load-table calibrates nothing; leave out --save-state, --save-table, "
                              "--compare-calibrators and --eval-per-calib")

    def correction(self, merged: bool) -> str:
        """How biases are corrected: 'none', 'parallel' or 'sequential'; `merged`: BatchNorm is in the weights.

        A shard is only observed, so that nothing of it is corrected.
        """
        if self.bias_correction != AUTO:
            return self.bias_correction
        return "parallel" if merged and not self.files.shard else "none"


@dataclasses.dataclass(frozen=True)
class RepairRequest:
    """What is done to the weights, beside rounding them to the nearest, so that quantization costs less.

    Parameters
    ----------
    equalize : bool
        Scale channels so that they share a range well (`quantize.repair`); merges batch norm, as the next two do.
    absorb : bool
        Move high biases into the next layers.
    split : float
        Share of the channels of each layer that may be split where the next layer's largest weights are; 0: none.
    rounding : str
        'none', or a method of `calib.rounding.ROUNDINGS`.
    folder : str or path, optional
        Progress of the rounding is kept there; an equal run goes on from it.
    """

    equalize: bool = False
    absorb: bool = False
    split: float = 0.0
    rounding: str = "none"
    folder: Optional[str] = None

    def __post_init__(self) -> None:
        if self.rounding != "none":
            ROUNDINGS.get(self.rounding)
        if not 0 <= self.split <= 1:
            raise ConfigError(f"--split-channels {self.split:g}: a share of the channels, from 0 to 1 (0.02, not 2)")
        if self.folder and self.rounding == "none":
            raise ConfigError("--rounding-progress keeps the progress of --learn-rounding, which is not asked for")

    @property
    def changes_float(self) -> bool:
        """Whether the float network is changed, and its batch norm merged."""
        return self.equalize or self.absorb or self.split > 0

    @property
    def wants_images(self) -> bool:
        """Whether calibration images are looked at."""
        return self.changes_float or self.rounding != "none"

    def check(self, calibration: Optional[CalibrationRequest]) -> None:
        """ConfigError where the calibration does not go with it."""
        if not self.wants_images:
            return
        if calibration is None:
            raise ConfigError("--equalize, --absorb-biases, --split-channels and --learn-rounding look at calibration "
                              "images and need fixed input ranges: give --quantize-input-offline")
        if calibration.files.shard or calibration.files.merge_states:
            raise ConfigError("--equalize, --absorb-biases, --split-channels and --learn-rounding want all images in "
                              "one run; leave out --calib-shard and --merge-states")
        if self.rounding != "none" and calibration.bias_correction not in ("none", AUTO):
            raise ConfigError("--learn-rounding gives each bias the float network's mean already; leave out "
                              "--bias-correction")


@dataclasses.dataclass(frozen=True)
class SensitivityRequest:
    """Measure what quantizing each layer costs.

    Parameters
    ----------
    bits : tuple of int
        2 to 8.
    images : int
        So many of the calibration images at most; layers near the input are measured on fewer.
    operands : tuple of {'weight', 'input', 'layer'}
        What is measured: see `calib.sensitivity.Row`.
    """

    bits: Tuple[int, ...] = (8, 4)
    images: int = 256
    operands: Tuple[str, ...] = ("weight", "input", "layer")


@dataclasses.dataclass(frozen=True)
class GoalRequest:
    """What a network must keep; methods are tried in the order of their costs until it does.

    Parameters
    ----------
    drop : float, optional
        Points of Top-1 that may be lost.
    agreement : float, optional
        Share of the images, 0 to 1, that must get the float network's class.

    Raises
    ------
    ConfigError
        For a goal that says nothing, or cannot be one.
    """

    drop: Optional[float] = None
    agreement: Optional[float] = None

    def __post_init__(self) -> None:
        if self.drop is None and self.agreement is None:
            raise ConfigError("a goal is a drop of Top-1 in points (--accuracy-drop), an agreement with the float "
                              "network (--agreement), or both")
        if self.drop is not None and not 0 <= self.drop <= 100:
            raise ConfigError(f"--accuracy-drop {self.drop:g}: points of Top-1, from 0 to 100")
        if self.agreement is not None and not 0 <= self.agreement <= 1:
            raise ConfigError(f"--agreement {self.agreement:g}: a share of the images, from 0 to 1 (0.98, not 98)")


@dataclasses.dataclass(frozen=True)
class PostTrainingRequest:
    """What every run that quantizes a trained network wants to know.

    Parameters
    ----------
    network : NetworkRequest
    images : ImagesRequest
    quantization : QuantizationRequest
    calibration : CalibrationRequest, optional
        None: each batch's own range.
    run : RunRequest
    repair : RepairRequest
    sensitivity : SensitivityRequest, optional
        None: the costs of single layers are not measured.
    """

    network: NetworkRequest
    images: ImagesRequest = ImagesRequest()
    quantization: QuantizationRequest = QuantizationRequest()
    calibration: Optional[CalibrationRequest] = None
    run: RunRequest = RunRequest()
    repair: RepairRequest = RepairRequest()
    sensitivity: Optional[SensitivityRequest] = None

    def __post_init__(self) -> None:
        self.repair.check(self.calibration)
        if self.sensitivity is not None and (self.calibration is None or self.calibration.files.shard):
            raise ConfigError("--sensitivity looks at calibration images and needs fixed input ranges: give "
                              "--quantize-input-offline, and no --calib-shard")
