# SPDX-License-Identifier: MIT
"""NumPy's `.npz` files from strangers: looked at before anything is unpacked, and without pickle.

A few kilobytes of zeros unpack to gigabytes, and a header may say any size. So the names, the sizes that the archive
and each header declare, and the types are checked first; an archive hands out no more than it has declared.
"""

import io
import re
import zipfile
from math import prod
from typing import IO, Dict, List, Optional, Sequence, Tuple

import numpy as np

from quantize.errors import DataError
from quantize.escape import shown
from quantize.files import PathLike, opened
from quantize.limits import claim

MOST_MEMBERS = 10_000
KINDS = "biufc"  # numbers alone: no objects, which would be pickles, no records
TEXT = "U"
UNICODE = 0x10FFFF  # the last letter; NumPy makes strings of numbers beyond it, in which Python's own functions fail
# as numpy.save writes it, of numbers and texts
PLAIN = re.compile(rb"\{'descr': '([<>|][biufcU]\d{1,9})', 'fortran_order': (True|False), "
                   rb"'shape': \(((?:\d{1,18}, ?)*(?:\d{1,18},?)?)\), \} *\n")


def read_npz(path: PathLike, keys: Optional[Sequence[str]] = None, texts: Sequence[str] = ()) -> Dict[str, np.ndarray]:
    """The arrays of an npz file by name.

    Parameters
    ----------
    keys : sequence of str, optional
        Only these, all of which must be there.
    texts : sequence of str
        Arrays that may hold text; all others hold numbers.

    Raises
    ------
    DataError
        For a file that is missing or damaged, without one of the arrays, or that wants more memory than is allowed.
    """
    try:
        with opened(path) as stream, zipfile.ZipFile(stream) as archive:
            entries = {entry.filename[:-len(".npy")]: entry for entry in _entries(archive, path)}
            missing = [key for key in keys or () if key not in entries]
            if missing:
                raise DataError(f"{path}: no array {missing[0]!r}; it holds {', '.join(entries) or 'nothing'}")
            chosen = {name: entries[name] for name in (entries if keys is None else keys)}
            claim(sum(entry.file_size for entry in chosen.values()), f"{path}: unpacks to more than it may")
            return {name: _array(archive, entry, path, KINDS + TEXT * (name in texts))
                    for name, entry in chosen.items()}
    except DataError:
        raise
    # a broken file shows as whatever zipfile, zlib, lzma or the npy reader raise: there is no common base
    except Exception as error:
        raise DataError(f"{path}: not a complete npz file ({shown(error):.200}); fetch or write it again") from None


def _entries(archive: zipfile.ZipFile, path: PathLike) -> List[zipfile.ZipInfo]:
    found = archive.infolist()
    names = [entry.filename for entry in found]
    if len(found) > MOST_MEMBERS or len(set(names)) != len(names) or not all(name.endswith(".npy") for name in names):
        raise DataError(f"{path}: not an npz file of this program: {len(names)} members, among them "
                        f"{next((name for name in names if not name.endswith('.npy')), '')[:60]!r}")
    return found


def _header(stream: IO[bytes], where: str) -> Tuple[Tuple[int, ...], bool, np.dtype]:
    """(shape, whether Fortran's order, element type), without evaluating what NumPy writes."""
    start = stream.read(10)
    if start[:8] != b"\x93NUMPY\x01\x00":  # others have headers of any length
        raise DataError(f"{where} is not of version 1.0 of the npy format")
    text = stream.read(int.from_bytes(start[8:], "little"))
    match = PLAIN.fullmatch(text)
    if match:
        return tuple(map(int, re.findall(rb"\d+", match.group(3)))), match.group(2) == b"True", np.dtype(
            match.group(1).decode())
    return np.lib.format.read_array_header_1_0(io.BytesIO(start[8:] + text))  # as others write it


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: PathLike, kinds: str) -> np.ndarray:
    """An array whose header says what its member holds."""
    with archive.open(entry) as stream:
        shape, fortran, dtype = _header(stream, f"{path}: array {entry.filename!r}")
        needed = prod(shape) * dtype.itemsize
        if dtype.kind not in kinds or any(size < 0 for size in shape):
            raise DataError(f"{path}: not a complete npz file of numbers: array {entry.filename!r} is {dtype} {shape}")
        data = stream.read(needed)
        if len(data) != needed or stream.read(1):
            raise DataError(f"{path}: array {entry.filename!r} has another length than its shape {shape} says")
        if dtype.kind == TEXT and (np.frombuffer(data, dtype.str[0] + "u4") > UNICODE).any():
            raise DataError(f"{path}: array {entry.filename!r} holds letters that are none")
    array = np.frombuffer(data, dtype).reshape(shape[::-1] if fortran else shape)
    return (array.T if fortran else array).copy()
