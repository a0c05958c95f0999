# SPDX-License-Identifier: MIT
"""Whose results a folder holds, and what processes that were killed left beside and in it."""

import os
import pathlib
import re
import shutil
import stat
from typing import Iterator, Optional, Set

from deploy.proof import machines
from deploy.proof.certificate import FORMAT, JSON, TEXT
from quantize.documents import read_json
from quantize.errors import DataError

KINDS = SIMULATION, TRAINING, DEPLOYMENT = ("simulation", "training", "deployment")
RESULT, LOG, CHECKPOINTS = "result.json", "log.json", "checkpoints"
FILES = "files"
PAGE, PAGE_DATA = "report.html", "report.json"
# half written by quantize.files (hidden or not), and by checkpoints
_TEMPORARY = re.compile(r"\.?((best|final)\.(params|qnet)|network\.qnet|(log|result|rules)\.json|plan\.txt|curves\.png|"
                        r"epochs\.csv)\..*tmp$|"
                        r"epoch-\d+(\.[0-9a-f]{16})?\.tmp$")


def kind_of(folder: pathlib.Path) -> Optional[str]:
    """Which command's results a folder holds; None: no command's."""
    if manifest(folder) is not None:
        return DEPLOYMENT
    if (folder / LOG).exists() or (folder / CHECKPOINTS).is_dir():
        return TRAINING
    contents = _read(folder / RESULT)
    return SIMULATION if "quantized" in contents else None


def manifest(folder: pathlib.Path) -> Optional[Set[str]]:
    """Names of the files that a deployment, or a search, wrote into a folder; None where none did.

    The certificate lists them, and so does result.json; both are absent only where a caller of Python has asked for
    neither.
    """
    certificate, result = _read(folder / JSON), _read(folder / RESULT)
    found = [{pathlib.PurePosixPath(str(name)).name for name in contents[FILES]} for contents, is_one in (
        (certificate, certificate.get("format") == FORMAT), (result, "accuracy" in result or "curve" in result))
        if is_one and isinstance(contents.get(FILES), (dict, list))]
    return set().union(*found, {JSON, TEXT, RESULT, PAGE, PAGE_DATA}) if found else None


def _read(path) -> dict:
    try:
        found = read_json(path)
    except DataError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_recheck(path: pathlib.Path, folder: pathlib.Path) -> bool:
    """Whether a file is a certificate that `recheck` has kept in the folder, or their table."""
    kept = path.parent == folder / machines.FOLDER
    return kept and (path.name == machines.TABLE or _read(path).get("format") == FORMAT)


def check_replaceable(folder: pathlib.Path) -> None:
    """DataError for a folder that holds anything that this program did not write."""
    own = manifest(folder)
    if own is None:
        raise DataError(f"--output {folder}: is no folder of a deployment, so --force does not replace it; take "
                        "another folder, or remove it yourself")
    foreign = sorted(str(path.relative_to(folder)) for path in folder.rglob("*")
                     if not path.is_dir() and path.name not in own and not _is_recheck(path, folder))
    if foreign:
        raise DataError(f"--output {folder}: holds {foreign[0]}, which no deployment has written ({len(foreign)} such "
                        "files), so --force does not replace it; move them elsewhere")


# ---- leftovers


def recover(folder: pathlib.Path) -> None:
    """A folder that a killed process had put aside, to put another one in its place, comes back."""
    for old in _beside(folder, "old"):
        if folder.exists():
            if manifest(old) is not None:
                shutil.rmtree(str(old), ignore_errors=True)
        else:
            os.replace(str(old), str(folder))


def remove_staging(folder: pathlib.Path) -> None:
    """Remove what killed processes have left half written beside a folder."""
    for path in _beside(folder, "tmp"):
        shutil.rmtree(str(path), ignore_errors=True)


def _beside(folder: pathlib.Path, suffix: str) -> Iterator[pathlib.Path]:
    """Folders NAME.PID.RANDOM.suffix of processes that are no more, and were this user's."""
    pattern = re.compile(re.escape(folder.name) + r"\.(\d+)(?:\.[0-9a-f]{16})?\." + suffix + "$")
    for path in sorted(folder.parent.glob("*." + suffix)) if folder.parent.is_dir() else ():
        match = pattern.match(path.name)
        if match and _is_own_folder(path) and not _is_alive(int(match.group(1))):
            yield path


def _is_own_folder(path: pathlib.Path) -> bool:
    """Whether it is a folder, no link to one, that this user made."""
    found = path.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def remove_leftovers(folder: pathlib.Path) -> None:
    """Remove files that a killed run has left half written in its folder, and half a checkpoint."""
    for path in list(folder.iterdir()) + list((folder / CHECKPOINTS).glob("*")):
        if _TEMPORARY.match(path.name) and not path.is_symlink():
            if path.is_dir():
                shutil.rmtree(str(path), ignore_errors=True)
            else:
                path.unlink()
