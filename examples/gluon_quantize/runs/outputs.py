# SPDX-License-Identifier: MIT
"""Where results go: checked before a long run begins.

A folder of them appears whole or not at all, and belongs to one run at a time.
"""

import contextlib
import os
import pathlib
import secrets
import shutil
import signal
import sys
import threading
from typing import Iterator, Optional

from gluon_quantize.runs import ownership
from gluon_quantize.runs.exchange import exchange
from gluon_quantize.runs.lock import locked
from quantize.errors import DataError
from quantize.files import PathLike, check_within, mxnet_name

PLAN, RESULT = "plan.txt", "result.json"
LOCK = ".lock"


def check_file(name: Optional[PathLike]) -> None:
    """That a file to be written later has a folder, and is none."""
    if name is None:
        return
    path = pathlib.Path(name)
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name a file")
    folder = path.parent
    if not folder.is_dir():
        raise DataError(f"{path}: the folder {folder} does not exist; make it first")
    if not os.access(str(folder), os.W_OK | os.X_OK):
        raise DataError(f"{path}: no permission to write there")


# ---- folders that are there while a run fills them


@contextlib.contextmanager
def claimed(output: Optional[PathLike], kind: str) -> Iterator[None]:
    """The output folder of one run, made before long work begins; it goes again if nothing came to lie in it.

    What an earlier run that was killed left half written is removed.

    Parameters
    ----------
    output : str or path, optional
        None: nothing is done.
    kind : str
        One of `ownership.KINDS`: the folder of another command is refused.

    Raises
    ------
    DataError
        For a folder that cannot be written, that holds another command's results, or that another process writes to.
    """
    if output is None:
        yield
        return
    folder = pathlib.Path(output)
    if kind == ownership.TRAINING:
        mxnet_name(folder)  # before anything is trained that could not be written
    made = _make(folder)
    try:
        _check_writable(folder)
        check_within(folder, [folder / ownership.CHECKPOINTS])  # old ones are removed there
        found = ownership.kind_of(folder)
        if found not in (None, kind):
            raise DataError(f"--output {folder}: holds the results of a {found}; take another folder")
        with locked(folder / LOCK, f"--output {folder}"):
            ownership.remove_leftovers(folder)
            yield
    finally:
        _unmake(made)


def _check_writable(folder):
    if not os.access(str(folder), os.W_OK | os.X_OK):
        raise DataError(f"--output {folder}: no permission to write there")
    for path in (folder / PLAN, folder / RESULT):
        if path.is_dir():
            raise DataError(f"--output {folder}: {path.name} is a folder there; remove it")


def _make(folder):
    """Make a folder and its parents; those that were not there, the innermost first."""
    missing = []
    for path in (folder, *folder.parents):
        if path.exists():
            break
        missing.append(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _unmake(missing)
        raise DataError(f"--output {folder}: cannot be made: {error.strerror}") from None
    return missing


def _unmake(folders):
    """Remove folders that are empty, the innermost first."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


# ---- folders that appear whole


def check_new(output: PathLike, force: bool) -> None:
    """That results can go to a folder, before a long run begins.

    A folder that a killed process had put aside comes back first.

    Raises
    ------
    DataError
        For a file in its place, a folder that is not empty (with `force`: one that holds anything but a deployment of
        this program), and a parent that cannot be written to.
    """
    folder = pathlib.Path(output).resolve()
    ownership.recover(folder)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"--output {folder}: is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not force:
            raise DataError(f"--output {folder}: exists and is not empty; --force replaces it")
        ownership.check_replaceable(folder)
    parent = next(path for path in folder.parents if path.exists())
    if not parent.is_dir():
        raise DataError(f"--output {folder}: cannot be made: {parent} is a file")
    if not os.access(str(parent), os.W_OK | os.X_OK):
        raise DataError(f"--output {folder}: no permission to write in {parent}")


@contextlib.contextmanager
def reserved(output: Optional[PathLike], force: bool) -> Iterator[None]:
    """Context in which no other process of this program writes to a folder that `staged` will make; see `check_new`."""
    if output is None:
        yield
        return
    check_new(output, force)
    folder = pathlib.Path(output).resolve()
    made = _make(folder.parent)
    try:
        with _unwound_by_sigterm(), locked(folder.with_name(f".{folder.name}{LOCK}"), f"--output {folder}"):
            ownership.remove_staging(folder)
            yield
    finally:
        _unmake(made)


@contextlib.contextmanager
def staged(output: PathLike, force: bool) -> Iterator[pathlib.Path]:
    """A temporary folder beside `output`, which takes its place when the block ends well and is removed otherwise.

    With `force` the old folder stays where it is until the new one is whole, and both change places in one step.
    Raises DataError where something cannot be written, a full disk for instance.
    """
    check_new(output, force)
    folder = pathlib.Path(output).resolve()  # "." has no name
    made = _make(folder.parent)
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.{secrets.token_hex(8)}.tmp")
    try:
        with _unwound_by_sigterm():
            temporary.mkdir()
            yield temporary
            _replace(temporary, folder, force)
    except OSError as error:
        raise DataError(f"--output {folder}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(str(temporary), ignore_errors=True)
        _unmake(made)


@contextlib.contextmanager
def _unwound_by_sigterm():
    """SIGTERM ends the process as an exception does, so that what is temporary goes; exit code 143, as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what signals do
        return

    def end(*_):
        sys.exit(128 + signal.SIGTERM)
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _replace(temporary, folder, force):
    """Move a folder to where another one may be, which comes back if that fails."""
    if not force or not folder.exists():
        os.replace(str(temporary), str(folder))  # over an empty folder, too; over any other it fails
        return
    if any(folder.iterdir()):
        ownership.check_replaceable(folder)  # it may have filled while we worked
    if exchange(temporary, folder):
        return  # what was there is the temporary one now, and goes with it
    old = folder.with_name(f"{folder.name}.{os.getpid()}.{secrets.token_hex(8)}.old")
    os.replace(str(folder), str(old))
    try:
        os.replace(str(temporary), str(folder))
    except OSError:
        os.replace(str(old), str(folder))
        raise
    shutil.rmtree(str(old), ignore_errors=True)
