# SPDX-License-Identifier: MIT
"""Quantization methods by name: the class for weights and the class for activations.

A new method is a file with its class, which declares what it can do (`FakeQuantize`'s attributes) and its formula, and
a row in `quantize.methods`; a program may also call ``METHODS.register(name)(Method(weight, activation))``.

What the rest of a network's life means for them:

* `calibrate` sets the step of LSQ, step and offset of LSQ+, alpha of PACT and CG-PACT, DoReFa's fixed clip; training
  goes on from there. Signs have no numbers and ignore it.
* `fix_params` stores, as `scale`, the step of the grid on which it leaves the weights: the range's (STE), 2 / levels
  (DoReFa; times SAT's factor). LSQ keeps its trained step, and signs have 2. Fixed weights in a checkpoint want the
  `offline` mode, which rounds to that grid and leaves them alone; DoReFa's formula would move them again.
* `get_qparams` gives the grid as it is after training, for tables and deployment. DoReFa, SAT and sign weights lie on
  mid-rise grids, which have no level at zero.
* Exported graphs compute the same from the trained numbers.
"""

import importlib
import math
from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple, Type

from quantize.errors import ConfigError, SpecError
from quantize.methods import ROWS
from quantize.nn.fake_quantize import FakeQuantize, Option
from quantize.registry import Registry, closest
from quantize.spec import QuantSpec


class Method(NamedTuple):
    """The classes of a method. PACT and CG-PACT say nothing of weights: theirs are DoReFa's, as in the PACT paper."""

    weight: Type[FakeQuantize]
    activation: Type[FakeQuantize]

    @property
    def trains_step(self) -> bool:
        """Whether the step of the weights' grid is trained."""
        return self.weight.trains_step

    @property
    def per_tensor(self) -> bool:
        """Whether weights have one range for a tensor, whatever a configuration would like."""
        return self.weight.per_tensor

    @property
    def only_bits(self) -> Optional[int]:
        """The one number of bits of weights that the method knows, None where there are several."""
        return self.weight.only_bits

    @property
    def replaces_activation(self) -> bool:
        """Whether configurations quantize activations' outputs with it, and not layers' inputs."""
        return self.activation.replaces_activation

    @property
    def clamp_stage(self) -> bool:
        """Whether training may begin with weights that are clamped and not rounded."""
        return self.weight.clamp_stage

    @property
    def start_calibrator(self) -> str:
        """Name of the calibrator for the ranges at the start of training."""
        return self.activation.start_calibrator

    @property
    def options(self) -> Dict[str, Option]:
        """What a configuration may set."""
        return {**self.weight.options, **self.activation.options}


METHODS: Registry[Method] = Registry("quantization method")


def _quantizer(name: str) -> Type[FakeQuantize]:
    """The class that a row of `quantize.methods` names."""
    module, _, cls = name.partition(".")
    found: Type[FakeQuantize] = getattr(importlib.import_module(f"quantize.nn.{module}"), cls)
    return found


for _name, (_weight, _activation) in ROWS.items():
    METHODS.register(_name)(Method(_quantizer(_weight), _quantizer(_activation)))

# what a configuration may set of the layer itself
LAYER_OPTIONS = {
    "gradient_bits": Option("bits of the gradient of the layer's output (DoReFa): 1 to 8",
                            lambda v: isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= 8),
    "integer_weights": Option("true: the layer multiplies with whole numbers while it learns; or false",
                              lambda v: isinstance(v, bool)),
}


# a solver of its own for what the quantizers of an operand train: {"optimizer": "adam", "lr": 0.001, "wd": 0}
SOLVER_OPTIONS = tuple(f"{operand}_solver" for operand in ("weight", "input", "output"))
_SOLVER_KEYS: Dict[str, Any] = {"optimizer": str, "lr": (int, float), "wd": (int, float), "momentum": (int, float)}


def _is_solver(value: Any) -> bool:
    """Pairs, as rules keep dictionaries."""
    pairs = value.items() if isinstance(value, dict) else value
    try:
        return bool(pairs) and all(name in _SOLVER_KEYS and isinstance(number, _SOLVER_KEYS[name])
                                   and not isinstance(number, bool) and (name == "optimizer" or 0 <= number < math.inf)
                                   for name, number in pairs)
    except (TypeError, ValueError):
        return False


LAYER_OPTIONS.update(dict.fromkeys(SOLVER_OPTIONS, Option(
    f"a dictionary of {', '.join(_SOLVER_KEYS)}, each as the training's option of that name", _is_solver)))


def known_options() -> Dict[str, Option]:
    """What a configuration may set, beside the method: those of all methods, and of layers."""
    found = dict(LAYER_OPTIONS)
    for _, method in METHODS.items():
        found.update(method.options)
    return found


def check_options(options: Mapping[str, Any]) -> None:
    """ConfigError for an option that does not exist or a value that it cannot have."""
    known = known_options() if options else {}
    for name, value in options.items():
        if name not in known:
            raise ConfigError(f"unknown option {name!r}; known: {', '.join(sorted(known))}{closest(name, known)}")
        what, fits = known[name]
        if not fits(value):
            raise ConfigError(f"option {name!r} is {what}; got {value!r}")


def weight_spec(method: str, spec: QuantSpec) -> QuantSpec:
    """The spec that the method's weights have where a configuration asks for `spec`; SpecError when it cannot."""
    return METHODS.get(method).weight.adapt(spec)


def activation_spec(method: str, spec: QuantSpec, undecided: bool) -> Tuple[str, QuantSpec, str]:
    """(method, spec, note) for an activation.

    A method that clips below zero is of no use for an input that can be negative. Where the configuration left the sign
    to the graph (`undecided`), such an input gets the method's signed counterpart (LSQ for PACT), and the note says so.
    """
    cls = METHODS.get(method).activation
    counterpart = cls.signed_counterpart
    if undecided and spec.signed and counterpart is not None:
        return counterpart, METHODS.get(counterpart).activation.adapt(spec), f"{method} clips below zero: {counterpart}"
    try:
        return method, cls.adapt(spec), ""
    except SpecError as error:
        if spec.signed and counterpart is not None:
            raise SpecError(f"{error}; or input_method {counterpart!r} for signed inputs") from None
        raise


def make_quantizer(cls: Type[FakeQuantize], spec: QuantSpec, shape: Tuple[int, ...], prefix: str,
                   options: Optional[Mapping[str, Any]] = None) -> FakeQuantize:
    """A quantizer of one of the classes above.

    Parameters
    ----------
    shape : tuple of int
        Of the scale.
    options : mapping, optional
        Of those the class's options and facts are used, and of solvers that of the operand, which `prefix` ends with.
    """
    given = options or {}
    own = {name: given[name] for name in (*cls.options, *cls.facts) if name in given}
    quantizer = cls(spec, shape, prefix=prefix, **own)
    operand = next((name for name in ("weight", "output") if prefix.endswith(f"{name}_quantizer_")), "input")
    quantizer.solver = tuple(sorted(dict(given.get(f"{operand}_solver", ())).items()))
    quantizer.stated = any(name in own for name in cls.starts)
    return quantizer
