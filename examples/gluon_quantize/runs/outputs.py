# SPDX-License-Identifier: MIT
"""Where results go: checked before a long run begins; a folder of them appears whole or not at all."""

import contextlib
import os
import pathlib
import shutil
import signal
import sys
import threading
from typing import Iterator, Optional

from quantize.errors import DataError

PLAN, RESULT = "plan.txt", "result.json"


def check_folder(folder: str) -> None:
    """Make the output folder now, so that a long run does not end in an error."""
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--output {folder}: cannot be made: {error.strerror}") from None
    if not os.access(str(folder), os.W_OK | os.X_OK):
        raise DataError(f"--output {folder}: no permission to write there")
    for path in (folder / PLAN, folder / RESULT):
        if path.is_dir():
            raise DataError(f"--output {folder}: {path.name} is a folder there; remove it")


def check_file(path: Optional[str]) -> None:
    """That a file to be written later has a folder, and is none."""
    if path is None:
        return
    path = pathlib.Path(path)
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name a file")
    folder = path.parent
    if not folder.is_dir():
        raise DataError(f"{path}: the folder {folder} does not exist; make it first")
    if not os.access(str(folder), os.W_OK | os.X_OK):
        raise DataError(f"{path}: no permission to write there")


def check_new(folder: str, force: bool) -> None:
    """That results can go to a folder, before a long run begins.

    Raises DataError for a file in its place, a folder that is not empty (unless `force`), and a parent that cannot be
    written to.
    """
    folder = pathlib.Path(folder).resolve()
    if folder.exists() and not folder.is_dir():
        raise DataError(f"--output {folder}: is a file; name a folder")
    if not force and folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"--output {folder}: exists and is not empty; --force replaces it")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--output {folder}: cannot be made: {error.strerror}") from None
    if not os.access(str(folder.parent), os.W_OK | os.X_OK):
        raise DataError(f"--output {folder}: no permission to write in {folder.parent}")


@contextlib.contextmanager
def staged(folder: str, force: bool) -> Iterator[pathlib.Path]:
    """A temporary folder beside `folder`, which takes its place when the block ends well and is removed otherwise.

    Raises DataError where something cannot be written, a full disk for instance.
    """
    check_new(folder, force)
    folder = pathlib.Path(folder).resolve()  # "." has no name
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        with _unwound_by_sigterm():
            temporary.mkdir()
            yield temporary
            _replace(temporary, folder, force)
    except OSError as error:
        raise DataError(f"--output {folder}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(str(temporary), ignore_errors=True)


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
    old = folder.with_name(f"{folder.name}.{os.getpid()}.old")
    os.replace(str(folder), str(old))
    try:
        os.replace(str(temporary), str(folder))
    except OSError:
        os.replace(str(old), str(folder))
        raise
    shutil.rmtree(str(old), ignore_errors=True)
