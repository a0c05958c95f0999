# SPDX-License-Identifier: MIT
"""What a report can be made of: the folder of a deployment, of a simulation or of a training; a checkpoint."""

import pathlib
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from deploy.ir import Model
from deploy.ir.file import load
from deploy.proof.machines import certificates
from gluon_quantize.runs.result_schema import Log, Result
from quantize.documents import checked, read_json
from quantize.errors import DataError
from quantize.files import check_within, links_in, read_text

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
    check_within(folder, links_in(folder) if models else [folder / name for name in (RESULT, LOG, PLAN)])
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
    found = (named + sorted(folder.glob("*" + CHECKPOINT)))[:1]
    check_within(folder, found)
    return next(iter(found), None)


def _json(path: pathlib.Path, schema: Any) -> Dict[str, Any]:
    """What a file of results holds, {} where there is none."""
    if not path.is_file():
        return {}
    contents = read_json(path)
    checked(contents, schema, str(path))
    return contents
