# SPDX-License-Identifier: MIT
"""The file that a network is kept in: a zip of JSON documents and arrays, nothing in which can run.

Every entry is stored as it is, so that no file can unpack to more than its own size; `manifest.json` names each with
its size and SHA-256, and is checked before anything else is read. Arrays are ``.npy`` files of plain numbers, without
pickles: ``numpy.load`` opens the whole.
"""

import hashlib
import io
import json
import math
import os
import pathlib
import zipfile
from typing import Any, Dict, Mapping, NamedTuple, Tuple

import numpy as np

from quantize.documents import checked, parse_json
from quantize.errors import ModelFileError
from quantize.escape import shown
from quantize.files import PathLike, opened, whole_file
from quantize.limits import claim
from quantize.npz import PLAIN
from quantize.storage.schema import Entry, Manifest

FORMAT, VERSION = "quantize network", 1
MANIFEST, NETWORK, FACTS = "manifest.json", "network.json", "facts.json"
ARRAYS, SUFFIX = "arrays/", ".npy"
CODES = ("f2", "f4", "f8", "i1", "u1", "i4", "i8")  # element types of arrays, as NumPy writes them
MAX_DOCUMENT = 1 << 26
MAX_AXES = 8
NPY = b"\x93NUMPY\x01\x00"


class Stored(NamedTuple):
    """What a file holds.

    Attributes
    ----------
    documents : dict
        ``network.json``, ``facts.json`` -> their contents.
    arrays : dict
        Name -> array.
    digest : str
        SHA-256 of the manifest: of everything.
    """

    documents: Dict[str, Any]
    arrays: Dict[str, np.ndarray]
    digest: str


def write(path: PathLike, documents: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Write a file whole or not at all; the same contents make the same bytes. Returns its digest."""
    contents = {name: _text(document) for name, document in documents.items()}
    contents.update((f"{ARRAYS}{name}{SUFFIX}", _npy(array)) for name, array in arrays.items())
    entries = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
               for name, data in contents.items()}
    manifest = _text({"format": FORMAT, "version": VERSION, "entries": entries})
    with whole_file(path) as temporary, zipfile.ZipFile(str(temporary), "w", zipfile.ZIP_STORED) as archive:
        for name, data in [(MANIFEST, manifest), *contents.items()]:
            archive.writestr(zipfile.ZipInfo(name), data)  # which has one date for all
    return hashlib.sha256(manifest).hexdigest()


def _text(document: Any) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("utf-8")


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), (1, 0), allow_pickle=False)
    return buffer.getvalue()


def read(path: PathLike, only: str = "") -> Stored:
    """The contents of a file.

    Parameters
    ----------
    only : str
        Read this document and no other entry.

    Raises
    ------
    ModelFileError
        For a file that is missing, damaged, changed, of another format or version, or larger inside than outside.
    """
    path = pathlib.Path(path)
    try:
        with opened(path, ModelFileError) as stream, zipfile.ZipFile(stream) as archive:
            return _Reader(path, archive).read(only)
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
        raise ModelFileError(f"{path}: not a file of save_quantized (truncated?): {shown(error):.300}") from None


class _Reader:
    """One open file; every method raises ModelFileError for what is wrong in it."""

    def __init__(self, path: pathlib.Path, archive: zipfile.ZipFile):
        self._path, self._archive = path, archive

    def read(self, only: str) -> Stored:
        """See the function."""
        entries, digest = self._manifest()
        wanted = [name for name in entries if not only or name == only]
        contents = {name: self._entry(name, entries[name]) for name in wanted}
        arrays = {name[len(ARRAYS):-len(SUFFIX)]: self._array(name, data) for name, data in contents.items()
                  if name.startswith(ARRAYS)}
        documents = {name: self._document(name, data) for name, data in contents.items()
                     if not name.startswith(ARRAYS)}
        return Stored(documents, arrays, digest)

    def _manifest(self) -> Tuple[Dict[str, Entry], str]:
        infos = self._archive.infolist()
        names = [info.filename for info in infos]
        outside = os.path.getsize(str(self._path))
        if MANIFEST not in names or len(set(names)) < len(names):
            raise self._error(f"holds no {MANIFEST}, or entries with the same name")
        for info in infos:
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise self._error(f"{info.filename} is compressed, which no file of save_quantized is")
        if sum(info.file_size for info in infos) > outside:
            raise self._error("its entries overlap")
        claim(2 * outside, str(self._path), ModelFileError)  # the bytes, and the arrays made of them
        data = self._archive.read(MANIFEST)
        manifest = checked(self._document(MANIFEST, data), Manifest, f"{self._path}: {MANIFEST}", ModelFileError)
        if manifest.format != FORMAT:
            raise self._error(f"{MANIFEST} does not say that this is a {FORMAT}")
        if manifest.version != VERSION:
            raise self._error(f"has version {manifest.version!r} of the format, this program reads {VERSION}; use the "
                              "release that wrote it")
        if set(manifest.entries) != set(names) - {MANIFEST}:
            raise self._error(f"its entries are not those that {MANIFEST} names")
        return manifest.entries, hashlib.sha256(data).hexdigest()

    def _entry(self, name: str, stated: Entry) -> bytes:
        size = self._archive.getinfo(name).file_size
        if stated.bytes != size:
            raise self._error(f"{name} has {size} bytes, {MANIFEST} says otherwise")
        data = self._archive.read(name)
        if hashlib.sha256(data).hexdigest() != stated.sha256:
            raise self._error(f"{name} was changed: its SHA-256 is not the one in {MANIFEST}")
        return data

    def _document(self, name: str, data: bytes) -> Any:
        if len(data) > MAX_DOCUMENT:
            raise self._error(f"{name} has {len(data)} bytes, {MAX_DOCUMENT} at most are read")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._error(f"{name} is no text: {error}") from None
        return parse_json(text, f"{self._path}: {name}", ModelFileError)

    def _array(self, name: str, data: bytes) -> np.ndarray:
        """The array of a .npy file (version 1.0), whose header must fit the bytes behind it."""
        length = int.from_bytes(data[8:10], "little")
        match = PLAIN.fullmatch(data[10:10 + length]) if data[:8] == NPY and name.endswith(SUFFIX) else None
        if match is None or match.group(2) != b"False":
            raise self._error(f"{name}: is no {SUFFIX} file of version 1.0 with the header of a plain array")
        descr = match.group(1).decode()
        dtype = np.dtype(descr) if descr[1:] in CODES else None  # NumPy raises for some others
        shape = tuple(int(size) for size in match.group(3).split(b",") if size.strip())
        values = len(data) - 10 - length
        if dtype is None or len(shape) > MAX_AXES or math.prod(shape) * dtype.itemsize != values:
            raise self._error(f"{name}: {values} bytes of values are no {descr} array of shape {shape}")
        return np.frombuffer(data, dtype, offset=10 + length).reshape(shape).copy()

    def _error(self, text: str) -> ModelFileError:
        return ModelFileError(f"{self._path}: {shown(text):.500}")  # names of members are the file's


def expect(value: Any, kind: type, what: str) -> Any:
    """`value`, where it is of a kind; ModelFileError otherwise."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ModelFileError(f"{what}: a {kind.__name__} is wanted, not {value!r:.60}")
    return value
