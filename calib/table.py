# SPDX-License-Identifier: MIT
"""The calibration table: a text file with one line for each range that was decided.

The format, version 1, UTF-8, line ends LF or CRLF::

    calibration-table 1
    # layer tensor method bits sign samples data zero_point threshold...
    features.0 input kl-ncnn 8 signed 200 5be1f0c2a91d77e0 - 2.64000112
    #features.3 input kl-ncnn 8 unsigned 200 5be1f0c2a91d77e0 - 5.31250006
    end 2

* Fields are separated by blanks. `tensor` is input, output or weight; `sign` is signed or unsigned.
* `threshold` is the real value of the largest level, ``scale * max_level``; one number for the whole tensor, or one for
  each channel or group. It is written with as few digits as give the same float32 scale back.
* `zero_point` is ``-`` for symmetric grids, else the code of real zero, as many as there are thresholds, with commas.
* `samples` is the number of images seen; `data` identifies them (`data_fingerprint`), ``-`` where that is unknown.
* In the name of a layer, blanks, ``#``, ``%`` and what does not show are ``%XX`` for each byte, as in addresses.
* A leading ``#`` on a line keeps that layer float: its inputs and its weights. Other lines with ``#``, and empty lines,
  mean nothing.
* The last line counts the lines of layers, those with ``#`` included, so that half a file is not taken for a whole one.

The same table always gives the same bytes.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Dict, Iterable, List, Optional, Sequence, Tuple
from urllib.parse import quote, unquote

import numpy as np

from quantize.errors import CalibrationError
from quantize.files import PathLike, read_text, write_whole
from quantize.spec import QParams, QuantSpec

MAGIC = "calibration-table 1"
COLUMNS = "# layer tensor method bits sign samples data zero_point threshold..."
TENSORS = ("input", "output", "weight")
SIGNS = ("signed", "unsigned")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_FIELD = re.compile(r"\S+")


@dataclass(frozen=True)
class Row:
    """The range of one tensor.

    Parameters
    ----------
    layer : str
        Structural path.
    tensor : {"input", "output", "weight"}
    method : str
    bits : int
    signed : bool
    thresholds : tuple of float
        Real value of the largest level; one, or one for each channel or group.
    zero_points : tuple of int
        Empty for symmetric grids.
    samples : int
        Images seen.
    data : str
        Which images; see `data_fingerprint`.
    enabled : bool
        False: the layer stays float.
    """

    layer: str
    tensor: str
    method: str
    bits: int
    signed: bool
    thresholds: Tuple[float, ...]
    zero_points: Tuple[int, ...] = ()
    samples: int = 0
    data: str = "-"
    enabled: bool = True

    def scale(self, spec: QuantSpec) -> np.ndarray:
        """The scales as float32, one for each threshold."""
        return (np.asarray(self.thresholds, np.float64) / spec.max_level).astype(np.float32)

    def qparams(self, spec: QuantSpec, shape: Tuple[int, ...]) -> QParams:
        """QParams of the given shape; CalibrationError where the row does not fit the format."""
        where = f"{self.layer} {self.tensor}"
        if (self.bits, self.signed) != (spec.bits, spec.signed):
            raise CalibrationError(f"{where}: the table has {self.bits} bits {SIGNS[not self.signed]}, the network "
                                   f"{spec}; calibrate again for this format"
                                   )
        if bool(self.zero_points) == spec.symmetric:
            raise CalibrationError(f"{where}: the table has {'a' if self.zero_points else 'no'} zero point, the "
                                   f"network's grid {'has none' if spec.symmetric else 'needs one'}; calibrate again "
                                   "for this format")
        if len(self.thresholds) != int(np.prod(shape)):
            raise CalibrationError(f"{where}: {len(self.thresholds)} thresholds in the table, the network needs "
                                   f"{int(np.prod(shape))}")
        scale = self.scale(spec)
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise CalibrationError(f"{where}: threshold {self.thresholds!r} gives no float32 scale above 0")
        if self.zero_points:
            return QParams(scale.reshape(shape), np.asarray(self.zero_points, np.int32).reshape(shape))
        return QParams.symmetric(scale.reshape(shape))

    def __str__(self):
        zeros = ",".join(map(str, self.zero_points)) or "-"
        fields = [_quoted(self.layer), self.tensor, self.method, str(self.bits), SIGNS[not self.signed],
                  str(self.samples), self.data, zeros] + [_shortest(value) for value in self.thresholds]
        return ("" if self.enabled else "#") + " ".join(fields)


@dataclass(frozen=True)
class Table:
    """Rows in the network's order."""

    rows: Tuple[Row, ...]

    @property
    def float_layers(self) -> List[str]:
        """Layers with a row that is switched off, in order."""
        return list(dict.fromkeys(row.layer for row in self.rows if not row.enabled))

    def __str__(self):
        lines = [MAGIC, COLUMNS] + [str(row) for row in self.rows] + [f"end {len(self.rows)}"]
        return "\n".join(lines) + "\n"


def row_of(path: str, spec: QuantSpec, qparams: QParams, method: str, seen: Tuple[int, str] = (0, "-")) -> Row:
    """The row of a quantizer.

    Parameters
    ----------
    path : str
        Of the quantizer: the layer's path and ``input_quantizer``, ``output_quantizer`` or ``weight_quantizer``.
    seen : (int, str)
        Images, and their fingerprint.
    """
    layer, _, name = path.rpartition(".")
    thresholds = tuple(_threshold(scale, spec) for scale in np.ravel(qparams.scale))
    zero_points = () if spec.symmetric else tuple(int(zero) for zero in np.ravel(qparams.zero_point))
    return Row(layer, name.replace("_quantizer", ""), method, spec.bits, spec.signed, thresholds, zero_points, *seen)


def _threshold(scale, spec) -> float:
    """The shortest decimal threshold that gives the float32 scale back."""
    exact = float(scale) * spec.max_level
    for digits in range(6, 18):
        short = float(f"{exact:.{digits}g}")
        if np.float32(short / spec.max_level) == np.float32(scale):
            return short
    return exact


def _shortest(value: float) -> str:
    return repr(float(value))


def _quoted(layer: str) -> str:
    """The name as one word."""
    return "".join(quote(letter, safe="", errors="surrogatepass") if letter in "#%" or not letter.isprintable()
                   or letter.isspace() else letter for letter in layer)


def write_table(path: PathLike, table: Table) -> None:
    """Write a table, whole or not at all; CalibrationError for one that could not be read again."""
    text = str(table)
    if parse_table(text, str(path)) != table:
        raise CalibrationError(f"{path}: this table cannot be written: its names or methods are no single words")
    write_whole(path, text)


def read_table(path: PathLike) -> Table:
    """The table in a file; DataError or CalibrationError names the file, and the line and column of what is wrong."""
    return parse_table(read_text(path), str(path))


def parse_table(text: str, name: str = "table") -> Table:
    """The table that a text is."""
    lines = [line[:-1] if line.endswith("\r") else line for line in text.split("\n")]
    if lines[0].rstrip() != MAGIC:
        raise CalibrationError(f"{name} line 1: not a calibration table: expected {MAGIC!r}, got {lines[0][:40]!r}")
    rows: List[Row] = []
    seen: Dict[Tuple[str, str], int] = {}
    end: Optional[int] = None
    for number, line in enumerate(lines[1:], 2):
        if end is not None and line.strip():
            raise CalibrationError(f"{name} line {number}: text after the 'end' line")
        if re.fullmatch(r"end\s+[0-9]{1,9}\s*", line):
            end = int(line.split()[1])
            continue
        row = _row(line, f"{name} line {number}")
        if row is None:
            continue
        key = row.layer, row.tensor
        if key in seen:
            raise CalibrationError(f"{name} line {number}: {row.layer} {row.tensor} has a line already, line "
                                   f"{seen[key]}")
        seen[key] = number
        rows.append(row)
    _check_end(end, rows, name)
    return Table(tuple(rows))


def _check_end(end, rows, name):
    if end is None:
        raise CalibrationError(f"{name}: the 'end' line is missing: the file is not whole")
    if end != len(rows):
        raise CalibrationError(f"{name}: {len(rows)} lines of layers, but 'end' says {end}; to keep a layer float put "
                               "'#' in front of its line instead of deleting it")


def _row(line: str, where: str) -> Optional[Row]:
    """The row of a line; None for an empty line or a remark."""
    enabled = not line.lstrip().startswith("#")
    start = 0 if enabled else line.index("#") + 1
    fields = [(match.group(), match.start() + 1) for match in _FIELD.finditer(line, start)]
    if not fields or not (enabled or _is_row(fields)):
        return None
    if len(fields) < 9:
        raise CalibrationError(f"{where}: {len(fields)} fields, at least 9 are wanted: {COLUMNS[2:]}")
    layer, tensor, method, bits, sign, samples, data, zeros = (Field(*field, where=where) for field in fields[:8])
    thresholds = tuple(Field(*field, where=where).threshold() for field in fields[8:])
    zero_points = () if zeros.text == "-" else tuple(zeros.whole(part, -2**15, 2**16) for part in zeros.text.split(","))
    if zero_points and len(zero_points) != len(thresholds):
        raise zeros.error(f"as many zero points as thresholds ({len(thresholds)})")
    return Row(unquote(layer.text, errors="surrogatepass"), tensor.one_of(TENSORS), method.text,
               bits.whole(bits.text, 1, 16), sign.one_of(SIGNS) == "signed", thresholds, zero_points,
               samples.whole(samples.text, 0, 10**18),
               data.matching(r"-|[0-9a-f]{16}", "16 hexadecimal digits, or '-'"), enabled)


def _is_row(fields):
    """Whether a line with '#' is a layer that was switched off, and no remark."""
    return len(fields) >= 5 and fields[1][0] in TENSORS and (fields[4][0] in SIGNS or fields[3][0].isdigit())


@dataclass(frozen=True)
class Field:
    """A field and where it stands."""

    text: str
    column: int
    where: str

    def error(self, wanted: str) -> CalibrationError:
        """The error that says what was wanted instead."""
        return CalibrationError(f"{self.where} column {self.column}: expected {wanted}, got {self.text[:40]!r}")

    def one_of(self, choices: Sequence[str]) -> str:
        """The text, one of the choices."""
        if self.text not in choices:
            raise self.error(" or ".join(choices))
        return self.text

    def matching(self, pattern: str, wanted: str) -> str:
        """The text, of this form."""
        if not re.fullmatch(pattern, self.text):
            raise self.error(wanted)
        return self.text

    def whole(self, text: str, low: int, high: int) -> int:
        """A whole number in a range."""
        if not _WHOLE.fullmatch(text) or not low <= int(text) <= high:
            raise self.error(f"a whole number from {low} to {high}")
        return int(text)

    def threshold(self) -> float:
        """A number above zero that a float32 can hold."""
        value = float(self.text) if _NUMBER.fullmatch(self.text) else 0.0
        if not 1e-37 < value < 3e38:
            raise self.error("a number above 0 (from 1e-37 to 3e38)")
        return value


def data_fingerprint(images: Iterable[str]) -> str:
    """16 hexadecimal digits that identify a set of images, whatever their order.

    Parameters
    ----------
    images : iterable of str
        What identifies each image, for instance its file name and its label.
    """
    total = 0
    for image in images:
        total += int.from_bytes(hashlib.sha256(image.encode("utf-8")).digest()[:8], "little")
    return f"{total % 2 ** 64:016x}"


def add_fingerprints(fingerprints: Iterable[str]) -> str:
    """The fingerprint of all images, from those of parts that share none."""
    return f"{sum(int(text, 16) for text in fingerprints) % 2 ** 64:016x}"
