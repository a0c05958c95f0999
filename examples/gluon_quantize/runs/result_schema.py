# SPDX-License-Identifier: MIT
"""What a report reads of `result.json` and `log.json`, for msgspec to check; the files hold more."""

from typing import Dict, List, Optional, Tuple

import msgspec
from msgspec import Meta
from typing_extensions import Annotated, Literal

Count = Annotated[int, Meta(ge=0, le=2 ** 53)]
Whole = Annotated[int, Meta(ge=-2 ** 53, le=2 ** 53)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Counts(msgspec.Struct):
    """How many of the images are right."""

    top1_count: Count = 0
    agreement_count: Optional[Count] = None
    metrics: Optional[Dict[str, float]] = None
    sqnr_db: List[float] = []
    agreement: Optional[Share] = None


class Closeness(msgspec.Struct):
    """How close outputs are to float's, of networks that do not classify."""

    sqnr_db: List[float]
    agreement: Optional[Share] = None


class Sizes(msgspec.Struct):
    """Of the files."""

    int8: Count
    float_: Count = msgspec.field(name="float")
    ratio: float


class Latency(msgspec.Struct):
    """Milliseconds."""

    int8: float
    float_: float = msgspec.field(name="float")
    ratio: Annotated[float, Meta(gt=0)]
    runs: Count
    spread: Optional[Dict[Literal["float", "int8"], Tuple[float, float]]] = None


class Trust(msgspec.Struct):
    """How far a calibration can be trusted."""

    movement: Optional[Dict[str, Optional[float]]] = None
    never_active_channels: Optional[Dict[str, Count]] = None
    dead_channels: Optional[Dict[str, Count]] = None


class Scores(msgspec.Struct):
    """Of an epoch."""

    top1: float = 0.0
    top1_count: Count = 0
    images: Count = 0
    sensitivity: float = 0.0
    specificity: float = 0.0
    precision: float = 0.0
    accuracy: float = 0.0
    f1: float = 0.0
    informedness: float = 0.0


class Settings(msgspec.Struct, frozen=True):
    """What was asked for."""

    data_dir: Optional[str] = None
    model: Optional[str] = None
    onnx: Optional[str] = None
    symbol: Optional[str] = None


class Answer(msgspec.Struct):
    """One of the likeliest classes."""

    class_: Whole = msgspec.field(name="class")
    share: Optional[float] = None


class Changed(msgspec.Struct):
    """An image that gets another class than in float."""

    index: Count
    label: Optional[Whole]
    float_: List[Answer] = msgspec.field(name="float")
    quantized: List[Answer]


class Answers(msgspec.Struct):
    """Which images get another class."""

    by: str
    images: Count
    agreement: Count
    changed: List[Changed]
    pairs: List[Tuple[Whole, Whole, Count]]


class Measured(msgspec.Struct):
    """What outputs keep where something is quantized."""

    sqnr_db: Optional[float]


class OperandMeasured(msgspec.Struct):
    """The same of one operand of a layer."""

    layer: str
    operand: str
    bits: Annotated[int, Meta(ge=1, le=32)]
    sqnr_db: Optional[float]


class Sensitivity(msgspec.Struct):
    """Measurements of all layers, and with everything quantized."""

    images: Count
    passes: Annotated[float, Meta(ge=0)]
    rows: List[OperandMeasured]
    everything: Optional[Dict[str, Measured]] = None


class Result(msgspec.Struct):
    """What a report reads of `result.json`, of which there are several kinds; each holds more."""

    images: Optional[Count] = None
    agreement_count: Optional[Count] = None
    settings: Settings = Settings()
    float_: Optional[Counts] = msgspec.field(name="float", default=None)
    quantized: Optional[Counts] = None
    accuracy: Optional[Dict[str, Counts]] = None
    best: Optional[Scores] = None
    final: Optional[Scores] = None
    sizes: Optional[Sizes] = None
    latency_ms: Optional[Latency] = None
    calibration: Optional[Trust] = None
    responses: Optional[Closeness] = None
    answers: Optional[Answers] = None
    sensitivity: Optional[Sensitivity] = None
    before: Optional[Dict[str, Optional[Scores]]] = None


class Epoch(msgspec.Struct):
    """One row of a training."""

    epoch: Whole
    loss: Optional[float] = None
    top1: Optional[float] = None
    ranges: Optional[Dict[str, float]] = None


class Log(msgspec.Struct):
    """What a report reads of `log.json`."""

    epochs: List[Epoch] = []
    before: Optional[Dict[str, Optional[Scores]]] = None
    settings: Settings = Settings()
