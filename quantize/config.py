# SPDX-License-Identifier: MIT
"""Rules that say what is quantized and how, and the dictionaries (JSON) they are written as.

A config list is a list of dictionaries; later entries win over earlier ones, key by key::

    [{"op_types": ["Conv2D"], "weight": "int4/channel", "input": "auto4"},
     {"op_names": ["features.0", "output*"], "weight": "int8/channel", "input": "auto8"},
     {"op_names": ["*.se.*"], "exclude": true},
     {"kernel": [1, 1], "weight": "int4/channel"},
     {"op_types": ["Dense"], "method": "sat", "options": {"alpha": 6.0}}]

A format is ``int``, ``uint`` or ``auto`` (unsigned where the input is proven non-negative), the bits (1 to 16), or in
parentheses N2D2's Range, which is 2^bits - 1 for whole bits (``int(15)`` is ``int4``), and for weights ``/layer``,
``/group`` or ``/channel``. The Range counts the steps from the lowest to the highest code (``uint(15)``: 0 to 15; SAT's
weights: -7.5 to 7.5; ``int(15)/full``: -8 to 7); where both sides of zero are alike, an odd one has one step less
(``int(15)``: -7 to 7). ``/affine`` adds a zero point,
``/full`` the lowest code of signed grids (-8..7 instead of -7..7), ``/even`` rounds exact halves to the even code
instead of away from zero. ``float`` leaves the operand float.

A method (`quantize.nn.methods.METHODS`: ste, lsq, lsq+, pact, cgpact, dorefa, sat, bnn) says how an operand is rounded
and trained: ``weight_method``, ``input_method``, ``output_method``, or ``method`` for all three.

``"fold_bn": true`` folds BatchNorm into weights in training; ``"winograd": "F43/position/inputs"`` quantizes 3x3
convolutions in the Winograd domain (`quantize.winograd`).
"""

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from quantize.documents import parse_json
from quantize.errors import ConfigError, DataError, SpecError
from quantize.files import PathLike, read_text
from quantize.registry import closest
from quantize.spec import Granularity, PerChannel, PerGroup, PerTensor, QuantSpec
from quantize.winograd import WinogradSpec, parse_winograd

GRANULARITIES = ("layer", "group", "channel")
METHOD_KEYS = ("weight_method", "input_method", "output_method")
KEYS = ("op_types", "op_names", "kernel", "exclude", "weight", "input", "output", "method") + METHOD_KEYS + (
    "options", "winograd", "fold_bn")


@dataclass(frozen=True)
class Format:
    """A number format before it meets a layer.

    Parameters
    ----------
    bits : int
    signed : bool or None
        None: decide by the graph (activations only).
    granularity : {"layer", "group", "channel"}
        "group" follows the layer's own groups; for Dense it means per unit, as "channel" does.
    symmetric, narrow, levels, rounding
        As `QuantSpec` has them.
    """

    bits: int = 8
    signed: Optional[bool] = True
    granularity: str = "layer"
    symmetric: bool = True
    narrow: bool = True
    levels: Optional[int] = None
    rounding: str = "half_away"

    def __post_init__(self) -> None:
        if self.granularity not in GRANULARITIES:
            raise ConfigError(f"granularity must be one of {', '.join(GRANULARITIES)}, got {self.granularity!r:.60}")
        if not 1 <= self.bits <= 16:
            raise SpecError(f"bits must be a whole number from 1 to 16, got {self.bits!r:.60}")

    def spec(self, signed: Optional[bool] = None, groups: int = 1, axis: int = 0) -> QuantSpec:
        """The QuantSpec of this format for a layer with `groups`; `signed` decides where the format leaves it open.

        One signed bit means the two levels -1 and +1 (a mid_rise grid).
        """
        signed = self.signed if self.signed is not None else bool(signed)
        parts: Dict[str, Granularity] = {"layer": PerTensor(), "channel": PerChannel(axis),
                 "group": PerGroup(groups, 0) if groups > 1 else PerTensor()}
        return QuantSpec(self.bits, signed, parts[self.granularity], self.symmetric, self.narrow, self.levels,
                         grid="mid_rise" if self.bits == 1 and signed else "mid_tread", rounding=self.rounding)

    def __str__(self) -> str:
        sign = {True: "int", False: "uint", None: "auto"}[self.signed]
        width = str(self.bits) if self.levels is None else f"({self.levels})"
        flags = ("" if self.symmetric else "/affine") + ("" if self.narrow else "/full") + (
            "/even" if self.rounding == "half_even" else "")
        return f"{sign}{width}/{self.granularity}{flags}"


FLOAT = "float"
Operand = Union[None, str, Format]


@dataclass(frozen=True)
class Rule:
    """One entry of a config list: a selection of layers, and what to change for them.

    Parameters
    ----------
    op_types : tuple of str
        Layer type names ("Conv2D"); empty selects every type.
    op_names : tuple of str
        Shell wildcards on structural paths ("features.3.*"); empty selects every layer.
    kernel : tuple of int
        The shape of a convolution's kernel; empty selects every layer.
    exclude : bool or None
        True leaves the layer float whatever other rules say; False takes an earlier exclusion back.
    weight, input, output : Format, "float" or None
        None leaves what earlier rules said.
    weight_method, input_method, output_method : str or None
        Names of `quantize.nn.methods.METHODS`.
    options : tuple of (str, value)
        For the methods (`quantize.nn.methods.known_options`); option by option later rules win.
    winograd : WinogradSpec, "none" or None
        For 3x3 convolutions with stride and dilation 1; others are quantized as without it.
    fold_bn : bool or None
        Fold the BatchNorm behind the layer into its weights in training (`quantize.convert.fake_bn`).
    reason : str
        Shown in the Plan.
    """

    op_types: Tuple[str, ...] = ()
    op_names: Tuple[str, ...] = ()
    exclude: Optional[bool] = None
    weight: Operand = None
    input: Operand = None
    output: Operand = None
    reason: str = ""
    weight_method: Optional[str] = None
    input_method: Optional[str] = None
    output_method: Optional[str] = None
    options: Tuple[Tuple[str, Any], ...] = ()
    winograd: Union[None, str, WinogradSpec] = None
    fold_bn: Optional[bool] = None
    kernel: Tuple[int, ...] = ()

    def settings(self) -> Dict[str, Any]:
        """What the rule says of the layers it selects, but for `options`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)
                  if field.name not in ("op_types", "op_names", "kernel", "options", "reason")}
        return {name: value for name, value in values.items() if value is not None}

    def then(self, later: "Rule") -> "Rule":
        """Both rules as one: what `later` says, else what this one says; options one by one."""
        return replace(self, options=tuple(sorted({**dict(self.options), **dict(later.options)}.items())),
                       **later.settings())


_FORMAT = re.compile(r"(int|uint|auto)(?:([0-9]{1,9})|\(([0-9]{1,9})\))((?:/[a-z]{1,20}){0,9})\Z")


def parse_format(text: str, where: str = "format") -> Operand:
    """"int4/channel" -> Format; "float" stays. ConfigError says what is allowed."""
    if text == FLOAT:
        return FLOAT
    match = _FORMAT.match(text) if isinstance(text, str) else None
    if match is None:
        raise ConfigError(f"{where}: {str(text)[:60]!r} is not a format; write for example 'int8/channel', 'uint4', "
                          "'auto8' or 'float'")
    sign, bits, levels, words = match.groups()
    try:
        return _format({"int": True, "uint": False, "auto": None}[sign], bits, levels, words.split("/")[1:])
    except (SpecError, ConfigError) as error:
        raise ConfigError(f"{where}: {text[:60]!r}: {error}") from None


def _format(signed: Optional[bool], bits: Optional[str], levels: Optional[str], words: Sequence[str]) -> Format:
    steps = None if levels is None else int(levels)
    width = int(bits or 0) if steps is None else steps.bit_length()
    if steps == 2 ** width - 1:
        steps = None  # int(15) is int4, and equal to it
    flags = [word for word in words if word in ("affine", "full", "even")]
    others = [word for word in words if word not in flags]
    if len(set(flags)) < len(flags) or len(others) > 1:
        raise ConfigError("a granularity, 'affine', 'full' and 'even' can each be given once")
    return Format(width, signed, others[0] if others else "layer", "affine" not in flags, "full" not in flags, steps,
                  "half_even" if "even" in flags else "half_away")


def rules_from_config(config_list: Sequence[Dict[str, Any]]) -> List[Rule]:
    """Ordered rules of a config list; ConfigError names the entry and key that is wrong."""
    if not isinstance(config_list, (list, tuple)):
        raise ConfigError(f"a config list is a list of dictionaries, got {type(config_list).__name__}")
    return [_rule(entry, f"config entry {i}") for i, entry in enumerate(config_list)]


def _rule(entry: Dict[str, Any], where: str) -> Rule:
    if isinstance(entry, Rule):
        return entry
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: must be a dictionary, got {type(entry).__name__}")
    for key in entry:
        if key not in KEYS:
            raise ConfigError(f"{where}: unknown key {key!r:.60}; known: {', '.join(KEYS)}{closest(key, KEYS)}")
    flags = {key: entry[key] for key in ("exclude", "fold_bn") if entry.get(key) is not None}
    for key, value in flags.items():
        if value not in (True, False):
            raise ConfigError(f"{where}: {key!r} must be true or false, got {str(value)[:60]!r}")
    operands = {key: parse_format(entry[key], f"{where}, key {key!r}")
                for key in ("weight", "input", "output") if entry.get(key) is not None}
    weight = operands.get("weight")
    if isinstance(weight, Format) and weight.signed is not True:
        raise ConfigError(f"{where}, key 'weight': weights are signed; write int{weight.bits}")
    for key in ("input", "output"):
        operand = operands.get(key)
        if isinstance(operand, Format) and operand.granularity != "layer":
            raise ConfigError(f"{where}, key {key!r}: activations have one scale per layer")
    settings: Dict[str, Any] = {**flags, **_methods(entry, where), **operands}
    return Rule(_names(entry, "op_types", where), _names(entry, "op_names", where), reason=where,
                options=_options(entry, where), winograd=_winograd(entry, where), kernel=_kernel(entry, where),
                **settings)


def _kernel(entry: Dict[str, Any], where: str) -> Tuple[int, ...]:
    kernel = entry.get("kernel", ())
    if "kernel" in entry and (not isinstance(kernel, (list, tuple)) or not 1 <= len(kernel) <= 3 or not all(
            isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in kernel)):
        raise ConfigError(f"{where}: 'kernel' must be a list of one to three sides, such as [3, 3], got "
                          f"{str(kernel)[:60]!r}")
    return tuple(kernel)


def _winograd(entry: Dict[str, Any], where: str) -> Union[None, str, WinogradSpec]:
    text = entry.get("winograd")
    return None if text is None else parse_winograd(text, f"{where}, key 'winograd'")


def _methods(entry: Dict[str, Any], where: str) -> Dict[str, Any]:
    found = {key: entry.get(key, entry.get("method")) for key in METHOD_KEYS}
    for key, name in found.items():
        if name is not None and not isinstance(name, str):
            raise ConfigError(f"{where}: {key if key in entry else 'method'!r} must be the name of a method, got "
                              f"{name!r:.60}")
    return found


def _options(entry: Dict[str, Any], where: str) -> Tuple[Tuple[str, Any], ...]:
    options = entry.get("options", {})
    if not isinstance(options, dict):
        raise ConfigError(f"{where}: 'options' must be a dictionary, got {options!r:.200}")
    # values that can be compared: what tells one quantizer from another is in sets and keys
    return tuple(sorted((name, tuple(sorted(value.items(), key=str)) if isinstance(value, dict) else value)
                        for name, value in options.items()))


def _names(entry: Dict[str, Any], key: str, where: str) -> Tuple[str, ...]:
    names = entry.get(key, ())
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{where}: {key!r} must be a list of strings, got {str(names)[:200]!r}")
    return tuple(names)


def load_config(path: PathLike) -> List[Rule]:
    """Rules from a JSON file that holds a config list."""
    path = Path(path)
    try:
        content = parse_json(read_text(path), f"config file {path}", ConfigError)
    except DataError as error:
        raise ConfigError(f"config file {error}") from None
    try:
        return rules_from_config(content)
    except ConfigError as error:
        raise ConfigError(f"config file {path}: {error}") from None
