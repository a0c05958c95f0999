# SPDX-License-Identifier: MIT
"""What a report can be made of: the folder of a deployment, of a simulation or of a training; a checkpoint."""

import pathlib
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

import msgspec

from deploy.ir import Model
from deploy.ir.file import load
from deploy.proof.machines import certificates
from quantize.documents import checked, read_json
from quantize.errors import DataError
from quantize.files import read_text

RESULT, LOG, PLAN = "result.json", "log.json", "plan.txt"
CHECKPOINT, BEST_FIRST = ".qnet", ("best.qnet", "final.qnet")


@dataclass(frozen=True)
class Material:
    """What lies in a folder.

    Attributes
    ----------
    kind : {"deployment", "training", "simulation", "checkpoint"}
    result, log : dict
        As the command wrote them; empty where there is none.
    plan : str
    certificates : list of dict
        One for each machine that compared the files.
    model : Model or None
    stem : str
        What the deployment's files are called.
    checkpoint : path or None
        The network as the command left it; of a training the best epoch's, else the last one's.
    """

    kind: str
    folder: pathlib.Path
    result: Dict[str, Any] = field(default_factory=dict)
    log: Dict[str, Any] = field(default_factory=dict)
    plan: str = ""
    certificates: List[Dict[str, Any]] = field(default_factory=list)
    model: Optional[Model] = None
    stem: str = ""
    checkpoint: Optional[pathlib.Path] = None


def material(path: Any) -> Material:
    """What lies in a folder, or in the folder of its `result.json`; or a checkpoint alone.

    Raises DataError where no command wrote anything.
    """
    given = pathlib.Path(path)
    if given.suffix == CHECKPOINT and given.is_file():
        return Material("checkpoint", given.parent, checkpoint=given, stem=given.stem)
    folder = given.parent if given.is_file() else given
    models = sorted(folder.glob("*.ir"))
    result, log = _json(folder / RESULT, Result), _json(folder / LOG, Log)
    if not (result or log or models):
        raise DataError(f"{path}: holds no {RESULT}; name a folder that simulate, train or deploy has written "
                        "(--output), or a checkpoint (.qnet)")
    plan = read_text(folder / PLAN) if (folder / PLAN).is_file() else ""
    checkpoint = _checkpoint(folder)
    if models:
        # files are found by the name of this one: what stands in it could lead elsewhere
        return Material("deployment", folder, result, log, plan, certificates(folder), load(models[0]), models[0].stem,
                        checkpoint)
    return Material("training" if log else "simulation", folder, result, log, plan, checkpoint=checkpoint)


def _checkpoint(folder: pathlib.Path) -> Optional[pathlib.Path]:
    named = [folder / name for name in BEST_FIRST if (folder / name).is_file()]
    return next(iter(named + sorted(folder.glob("*" + CHECKPOINT))), None)


class Counts(msgspec.Struct):
    """How many of the images are right."""

    top1_count: int = 0
    agreement_count: Optional[int] = None
    metrics: Optional[Dict[str, float]] = None


class Sizes(msgspec.Struct):
    """Of the files."""

    int8: int
    float_: int = msgspec.field(name="float")
    ratio: float


class Latency(msgspec.Struct):
    """Milliseconds."""

    int8: float
    float_: float = msgspec.field(name="float")
    ratio: float
    runs: int


class Trust(msgspec.Struct):
    """How far a calibration can be trusted."""

    movement: Optional[Dict[str, Optional[float]]] = None
    never_active_channels: Optional[Dict[str, int]] = None
    dead_channels: Optional[Dict[str, int]] = None


class Scores(msgspec.Struct):
    """Of an epoch."""

    top1: float = 0.0
    top1_count: int = 0
    images: int = 0
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


class Result(msgspec.Struct):
    """What a report reads of `result.json`, of which there are several kinds; each holds more."""

    images: Optional[int] = None
    settings: Settings = Settings()
    float_: Optional[Counts] = msgspec.field(name="float", default=None)
    quantized: Optional[Counts] = None
    accuracy: Optional[Dict[str, Counts]] = None
    best: Optional[Scores] = None
    final: Optional[Scores] = None
    sizes: Optional[Sizes] = None
    latency_ms: Optional[Latency] = None
    calibration: Optional[Trust] = None


class Epoch(msgspec.Struct):
    """One row of a training."""

    epoch: int
    loss: Optional[float] = None
    top1: Optional[float] = None
    ranges: Optional[Dict[str, float]] = None


class Log(msgspec.Struct):
    """What a report reads of `log.json`."""

    epochs: List[Epoch] = []
    settings: Settings = Settings()


def _json(path: pathlib.Path, schema: Any) -> Dict[str, Any]:
    """What a file of results holds, {} where there is none."""
    if not path.is_file():
        return {}
    contents = read_json(path)
    checked(contents, schema, str(path))
    return contents
