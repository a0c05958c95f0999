# SPDX-License-Identifier: MIT
"""A model as one file.

The file is a zip archive without compression. Its first member, ``model.json``, is ASCII JSON, indented by one space::

    {"format": "deploy.ir", "version": 1,
     "metadata": {text: text}, "inputs": [blob], "outputs": [blob], "shapes": {blob: [size]},
     "nodes": [{"type": "Convolution", "name": ..., every other field of the class in `deploy.ir` ...}]}

Tuples are lists; `Quantization`, `Grid` and `Function` are objects with the fields of their classes; real numbers
have a point or an exponent; what is absent is null. An array is ``{"array": number, "dtype": text, "shape": [size]}``,
of float32, int8 or int16, and lies in the member ``arrays/<number, five digits>.npy`` (NumPy's format, version 1.0, C
order, little endian). Arrays are numbered in the order in which they occur.

The same model always gives the same bytes. Reading accepts what `save` could have written and nothing else; no code
in a file is ever run (there is no pickle).
"""

import io
import json
import os
import struct
import zipfile
import zlib
from dataclasses import fields
from math import prod
from typing import Any, List, cast

import numpy as np

from deploy.ir.model import NODE_TYPES, Model
from deploy.ir.validate import ARRAY_TYPES, element_types, hints, inner, sort, validate
from quantize.documents import parse_json
from quantize.errors import DeployError, ModelFileError
from quantize.escape import shown
from quantize.files import PathLike, opened, write_whole
from quantize.limits import claim

FORMAT = "deploy.ir"
VERSION = 1
MEMBER = "model.json"
DATE = (1980, 1, 1, 0, 0, 0)  # the earliest a zip file can hold
BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, ValueError, KeyError, IndexError, EOFError, OSError,
          RuntimeError, OverflowError)  # what zipfile raises for archives that are none


def save(model: Model, path: PathLike) -> None:
    """Write a model; DeployError where it is not a valid one, DataError where the file cannot be written."""
    validate(model)
    text, arrays = _encode_model(model)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, content in [(MEMBER, text)] + [(_member(i), _npy(array)) for i, array in enumerate(arrays)]:
            entry = zipfile.ZipInfo(name, DATE)
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # the same on every system
            archive.writestr(entry, content)
    write_whole(path, stream.getvalue())


def load(path: PathLike) -> Model:
    """The model in a file; ModelFileError that says what is wrong with any other file."""
    try:
        with opened(path, ModelFileError) as stream:
            members = _members(stream)
        return _decode_model(members)
    except (DeployError, ModelFileError) as error:
        raise ModelFileError(f"{path}: {error}") from None


def _member(number):
    return f"arrays/{number:05d}.npy"


def _npy(array):
    """The bytes of a .npy file, in one fixed form (NumPy's own header differs between its versions)."""
    return _npy_header(array.dtype.name, array.shape) + np.ascontiguousarray(array, _little(array.dtype.name)).tobytes()


def _npy_header(dtype, shape):
    sizes = "".join(f"{size:d}, " for size in shape)
    text = f"{{'descr': '{_little(dtype).str}', 'fortran_order': False, 'shape': ({sizes}), }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("ascii")


def _little(dtype):
    return np.dtype(dtype).newbyteorder("<")


# ---- from values to JSON

def _encode_model(model):
    """(bytes of model.json, arrays)."""
    arrays: List[np.ndarray] = []
    nodes = [dict({"type": type(node).__name__}, **_encode_fields(node, arrays)) for node in model.nodes]
    content = {"format": FORMAT, "version": VERSION, "metadata": dict(sorted(model.metadata.items())),
               "inputs": list(model.inputs), "outputs": list(model.outputs),
               "shapes": {name: [int(size) for size in model.shapes[name]] for name in sorted(model.shapes)},
               "nodes": nodes}
    return json.dumps(content, indent=1, allow_nan=False).encode("ascii"), arrays


def _encode_fields(item, arrays):
    return {name: _encode(getattr(item, name), hint, arrays) for name, hint in hints(cast(Any, type(item))).items()}


def _encode(value, hint, arrays):
    hint, _ = inner(hint)
    if value is None:
        return None
    if sort(hint) is fields:
        return _encode_fields(value, arrays)
    if hint is np.ndarray:
        arrays.append(value)
        return {"array": len(arrays) - 1, "dtype": value.dtype.name, "shape": list(value.shape)}
    if isinstance(value, tuple):
        return [_encode(part, kind, arrays) for part, kind in zip(value, element_types(hint, len(value)))]
    return hint(value)


# ---- from JSON to values

def _members(stream):
    """Name -> bytes of the members of an archive as `save` writes it."""
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
            for entry in entries:
                _demand(entry.compress_type == zipfile.ZIP_STORED, f"{entry.filename} is compressed")
            size = os.fstat(stream.fileno()).st_size
            _demand(sum(entry.file_size for entry in entries) <= size, "its members are larger than the file")
            claim(2 * size, "its arrays", ModelFileError)
            members = {entry.filename: archive.read(entry) for entry in entries}
    except BROKEN as error:
        raise ModelFileError(f"not a model file, or damaged: {shown(error):.200}") from None
    _demand(members and list(members) == [MEMBER] + [_member(i) for i in range(len(entries) - 1)],
            f"not a model file: its members are {str(list(members)):.200}")
    return members


def _demand(holds, text):
    if not holds:
        raise ModelFileError(text)


def _decode_model(members):
    """The model of the members; whatever would be saved in another form is refused."""
    content = _parse(members[MEMBER])
    reader = _Reader(members)
    try:
        model = Model(_words(content["inputs"]), _words(content["outputs"]),
                      tuple(reader.node(node) for node in content["nodes"]),
                      {name: tuple(shape) for name, shape in content["shapes"].items()}, dict(content["metadata"]))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelFileError(f"{MEMBER} is incomplete: {error!r:.200}") from None
    validate(model)
    text, arrays = _encode_model(model)
    _demand(text == members[MEMBER], f"{MEMBER} is not in the form in which models are saved")
    _demand(len(arrays) == len(members) - 1, f"it holds {len(members) - 1} arrays, but the nodes have {len(arrays)}")
    return model


def _parse(text):
    try:
        content = parse_json(text.decode("ascii"), f"{MEMBER} is not JSON", ModelFileError)
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{MEMBER} is not JSON: {error}") from None
    _demand(isinstance(content, dict) and content.get("format") == FORMAT, f"{MEMBER} is not of the format {FORMAT!r}")
    _demand(content.get("version") == VERSION,
            f"version {content.get('version')!r:.40} of the format; this program reads version {VERSION}")
    return content


def _words(names):
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise TypeError(f"{names!r} is no list of names")
    return tuple(names)


class _Reader:
    """Turns JSON back into nodes; types that do not fit are left for `validate` to name."""

    def __init__(self, members):
        self.members = members
        self.arrays = 0

    def node(self, content):
        """A node from its object."""
        kind: Any = content.get("type") if isinstance(content, dict) else None
        _demand(isinstance(kind, str) and kind in NODE_TYPES,
                f"unknown node type {kind!r:.40}; known: {', '.join(sorted(NODE_TYPES))}")
        return self._fields({name: value for name, value in content.items() if name != "type"}, NODE_TYPES[kind])

    def _fields(self, content, kind):
        types = hints(kind)
        _demand(isinstance(content, dict) and list(content) == list(types),
                f"the fields of a {kind.__name__} are {', '.join(types)}, not {shown(content):.200}")
        return kind(**{name: self._value(content[name], hint) for name, hint in types.items()})

    def _value(self, content, hint):
        hint, _ = inner(hint)
        if content is None:
            return None
        if sort(hint) is fields:
            return self._fields(content, hint)
        if hint is np.ndarray:
            return self._array(content)
        if isinstance(content, list) and sort(hint) is tuple:
            kinds = element_types(hint, len(content))
            _demand(len(kinds) == len(content), f"{shown(content):.40} should have {len(kinds)} values")
            return tuple(self._value(part, kind) for part, kind in zip(content, kinds))
        return content

    def _array(self, content):
        """The next array, whose object and member must agree."""
        number, name = self.arrays, _member(self.arrays)
        _demand(isinstance(content, dict) and content.get("array") == number and name in self.members,
                f"{shown(content):.100} should be array {number} of the file")
        dtype, shape = content.get("dtype"), content.get("shape")
        sizes = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
        _demand(dtype in ARRAY_TYPES and sizes, f"array {number} of dtype {dtype!r:.40} and shape {shown(shape):.100}")
        data, header = self.members[name], _npy_header(dtype, shape)
        _demand(data.startswith(header), f"{name} is not of dtype {dtype} and shape {shape}")
        _demand(len(data) == len(header) + prod(shape) * np.dtype(dtype).itemsize,
                f"{name} has {len(data)} bytes, not what {shape} needs")
        self.arrays += 1
        return np.frombuffer(data[len(header):], _little(dtype)).reshape(shape).astype(dtype)
