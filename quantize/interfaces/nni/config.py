# SPDX-License-Identifier: MIT
"""NNI's `config_list`: checked key by key, and resolved into one setting for each layer of a network."""

import logging
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from mxnet.gluon import Block, nn

from quantize.convert.layers import QUANTIZABLE, quantizable
from quantize.errors import ConfigError
from quantize.registry import closest
from quantize.tree import walk

QUANT_TYPES = ("weight", "input", "output")
DTYPES = ("int", "uint")
SCHEMES = ("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric")

logger = logging.getLogger(__name__)

_DEFAULTS: Dict[str, Dict[str, str]] = {}


def set_quant_scheme_dtype(quant_type: str, new_scheme: Optional[str] = None, new_dtype: Optional[str] = None) -> None:
    """What networks that are compressed from now on use where their config says nothing; None leaves one alone.

    As in NNI it holds for the whole process; `reset_quant_scheme_dtype` takes it back.
    """
    for name, value, allowed in (("quant_type", quant_type, QUANT_TYPES), ("new_scheme", new_scheme, SCHEMES),
                                 ("new_dtype", new_dtype, DTYPES)):
        if value not in allowed and not (value is None and name != "quant_type"):
            raise ConfigError(f"set_quant_scheme_dtype: {name} must be one of {', '.join(allowed)}, got {value!r:.200}"
                              f"{closest(str(value), allowed)}")
    chosen = {"quant_scheme": new_scheme, "quant_dtype": new_dtype}
    _DEFAULTS.setdefault(quant_type, {}).update({key: value for key, value in chosen.items() if value is not None})


def reset_quant_scheme_dtype() -> None:
    """Back to the defaults that the quantizers came with."""
    _DEFAULTS.clear()


@dataclass(frozen=True)
class LayerSetting:
    """What one entry says of one layer.

    Attributes
    ----------
    path : str
    where : str
        The entry, for messages.
    types : tuple of str
        Operands that are quantized.
    entry : dict
    """

    path: str
    where: str
    types: Tuple[str, ...]
    entry: Dict[str, Any]

    @property
    def start_step(self) -> int:
        """Steps in float at first."""
        return self.entry.get("quant_start_step", 0)

    def bits(self, quant_type: str) -> int:
        """Of an operand; 8 where nothing is said."""
        return self._of(quant_type, "quant_bits") or 8

    def chosen(self, quant_type: str, key: str) -> Optional[str]:
        """Scheme or dtype of an operand: the entry's, else what `set_quant_scheme_dtype` chose, else None."""
        return self._of(quant_type, key) or _DEFAULTS.get(quant_type, {}).get(key)

    def _of(self, quant_type: str, key: str) -> Any:
        value = self.entry.get(key)
        return value.get(quant_type) if isinstance(value, dict) else value


Check = Callable[[Any], bool]


def _is_choice(allowed: Sequence[str]) -> Check:
    return lambda value: isinstance(value, str) and value in allowed


def _is_list(fits: Check) -> Check:
    return lambda value: isinstance(value, (list, tuple)) and bool(value) and all(fits(item) for item in value)


def _is_int(low: int, high: float) -> Check:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _by_type(fits: Check) -> Check:
    return lambda value: fits(value) or (isinstance(value, dict) and bool(value) and all(
        key in QUANT_TYPES and fits(item) for key, item in value.items()))


_BY_TYPE = ", or a dictionary of these by weight, input and output"
KEYS = {
    "quant_types": ("a list of weight, input and output", _is_list(_is_choice(QUANT_TYPES))),
    "quant_bits": ("a whole number from 1 to 16" + _BY_TYPE, _by_type(_is_int(1, 16))),
    "quant_start_step": ("a number of steps from 0", _is_int(0, float("inf"))),
    "quant_dtype": ("one of " + ", ".join(DTYPES) + _BY_TYPE, _by_type(_is_choice(DTYPES))),
    "quant_scheme": ("one of " + ", ".join(SCHEMES) + _BY_TYPE, _by_type(_is_choice(SCHEMES))),
    "op_types": ("a list of type names", _is_list(lambda value: isinstance(value, str))),
    "op_names": ("a list of structural paths", _is_list(lambda value: isinstance(value, str))),
    "exclude": ("true or false", lambda value: isinstance(value, bool)),
}


def check_config_list(config_list: Sequence[Dict[str, Any]], quant_types: Sequence[str] = QUANT_TYPES) -> None:
    """ConfigError that names the entry and the key which is wrong.

    Parameters
    ----------
    quant_types : sequence of str
        What the quantizer can quantize.
    """
    if not isinstance(config_list, (list, tuple)) or not config_list:
        raise ConfigError(f"config_list must be a list of dictionaries, got {config_list!r:.200}")
    for index, entry in enumerate(config_list):
        where = f"config_list[{index}]"
        if not isinstance(entry, dict):
            raise ConfigError(f"{where}: must be a dictionary, got {entry!r:.200}")
        for key, value in entry.items():
            if key not in KEYS:
                raise ConfigError(f"{where}: unknown key {key!r}; known: {', '.join(KEYS)}{closest(key, KEYS)}")
            what, fits = KEYS[key]
            if not fits(value):
                raise ConfigError(f"{where}: {key!r} must be {what}, got {value!r:.200}")
        _check_entry(entry, where, quant_types)


def _check_entry(entry: Dict[str, Any], where: str, quant_types: Sequence[str]) -> None:
    if "op_types" not in entry and "op_names" not in entry:
        raise ConfigError(f"{where}: 'op_types' or 'op_names' is needed, to say which layers are meant")
    if entry.get("exclude"):
        return
    if "quant_types" not in entry:
        raise ConfigError(f"{where}: 'quant_types' is needed (a list of {', '.join(quant_types)})")
    for quant_type in entry["quant_types"]:
        if quant_type not in quant_types:
            raise ConfigError(f"{where}: 'quant_types': this quantizer quantizes {' and '.join(quant_types)}, not "
                              f"{quant_type}")


def type_names(block: Block) -> Tuple[str, ...]:
    """Names by which `op_types` may call a layer: Gluon's, PyTorch's, and "default" for layers with a weight."""
    row = QUANTIZABLE[type(block)]
    names = [row.name, *row.aliases]
    if type(block) is nn.Activation and block._act_type == "relu":
        names.append("ReLU")
    return tuple(names + (["default"] if row.has_weight else []))


def layer_settings(net: Block, config_list: Sequence[Dict[str, Any]]) -> List[LayerSetting]:
    """One setting for each layer that is quantized: that of the last entry which selects it.

    Types that no layer has are warned about. Raises ConfigError for names that no layer has, for an entry whose types
    and names do not fit each other, and for operands that a layer does not have.
    """
    layers = [(path, block) for path, block in walk(net) if quantizable(block)]
    chosen = {}
    for index, entry in enumerate(config_list):
        where = f"config_list[{index}]"
        selected = [(path, block) for path, block in layers if _selects(entry, path, block)]
        _check_selection(entry, where, layers, selected)
        for path, block in selected:
            chosen[path] = None if entry.get("exclude") else _setting(path, block, where, entry)
    settings = [chosen.get(path) for path, _ in layers]
    found = [setting for setting in settings if setting is not None]
    if not found:
        raise ConfigError("config_list leaves every layer of the network float")
    return found


def _selects(entry: Dict[str, Any], path: str, block: Block) -> bool:
    return (path in entry.get("op_names", (path,))
            and any(name in entry.get("op_types", type_names(block)) for name in type_names(block)))


def _check_selection(entry: Dict[str, Any], where: str, layers: Sequence[Tuple[str, Block]],
                     selected: Sequence[Tuple[str, Block]]) -> None:
    """Layers by name must be there; types may be missing, since one config serves many networks."""
    paths, types = [path for path, _ in layers], sorted({name for _, block in layers for name in type_names(block)})
    for name in entry.get("op_names", ()):
        if name not in paths:
            raise ConfigError(f"{where}: 'op_names': the network has no layer {name!r} that can be quantized; it has "
                              f"{', '.join(paths)}{closest(name, paths)}")
    missing = [name for name in entry.get("op_types", ()) if name not in types]
    for name in missing:
        logger.warning("%s: 'op_types': the network has no %s that can be quantized; it has %s%s", where, name,
                       ", ".join(types), closest(name, types))
    if not selected and not missing:
        raise ConfigError(f"{where}: no layer fits both 'op_types' and 'op_names'")


def _setting(path: str, block: Block, where: str, entry: Dict[str, Any]) -> LayerSetting:
    possible = QUANT_TYPES if QUANTIZABLE[type(block)].has_weight else ("output",)
    types = tuple(name for name in QUANT_TYPES if name in entry["quant_types"] and name in possible)
    if not types:
        raise ConfigError(f"{where}: 'quant_types': {path} ({type(block).__name__}) has only an {possible[0]} that can "
                          f"be quantized, not {' and '.join(entry['quant_types'])}")
    return LayerSetting(path, where, types, entry)
