# SPDX-License-Identifier: MIT
"""Quantization methods by name: the class for weights and the class for activations.

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

from typing import NamedTuple

from quantize.errors import ConfigError, SpecError
from quantize.nn.dorefa import DoReFaWeight
from quantize.nn.fake_quantize import FakeQuantize
from quantize.nn.lsq import LSQActivation, LSQFakeQuantize, LSQPlusWeight
from quantize.nn.lsqplus import LSQPlusFakeQuantize
from quantize.nn.pact import CGPACTFakeQuantize, DoReFaActivation, PACTFakeQuantize
from quantize.nn.sat import SATWeight
from quantize.nn.sign import SignFakeQuantize
from quantize.nn.uniform import UniformFakeQuantize
from quantize.registry import Registry, closest
from quantize.spec import QuantSpec


class Method(NamedTuple):
    """The classes of a method. PACT and CG-PACT say nothing of weights: theirs are DoReFa's, as in the PACT paper."""

    weight: type
    activation: type


METHODS = Registry("quantization method")
for _name, _weight, _activation in (
        ("ste", UniformFakeQuantize, UniformFakeQuantize), ("lsq", LSQFakeQuantize, LSQActivation),
        ("lsq+", LSQPlusWeight, LSQPlusFakeQuantize), ("pact", DoReFaWeight, PACTFakeQuantize),
        ("cgpact", DoReFaWeight, CGPACTFakeQuantize), ("dorefa", DoReFaWeight, DoReFaActivation),
        ("sat", SATWeight, CGPACTFakeQuantize), ("bnn", SignFakeQuantize, SignFakeQuantize)):
    METHODS.register(_name)(Method(_weight, _activation))

TRAINED_STEP = ("lsq", "lsq+")  # methods that train a step, as their papers name it

# what a configuration may set, beside the method: option -> (what it is, whether a value will do)
OPTIONS = {
    "alpha": ("the start of a trained clip, or a fixed one: a positive number",
              lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and v > 0),
    "scaling": ("SAT's scale adjustment: true or false", lambda v: isinstance(v, bool)),
    "gradient_bits": ("bits of the gradient of the layer's output (DoReFa): 1 to 8",
                      lambda v: isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= 8),
}


def check_options(options):
    """ConfigError for an option that does not exist or a value that it cannot have."""
    for name, value in options.items():
        if name not in OPTIONS:
            raise ConfigError("unknown option {!r}; known: {}{}".format(
                name, ", ".join(sorted(OPTIONS)), closest(name, OPTIONS)))
        what, fits = OPTIONS[name]
        if not fits(value):
            raise ConfigError(f"option {name!r} is {what}; got {value!r}")


def weight_spec(method: str, spec: QuantSpec) -> QuantSpec:
    """The spec that the method's weights have where a configuration asks for `spec`; SpecError when it cannot."""
    return METHODS.get(method).weight.adapt(spec)


def activation_spec(method: str, spec: QuantSpec, undecided: bool):
    """(method, spec, note) for an activation.

    A method that clips below zero is of no use for an input that can be negative. Where the configuration left the sign
    to the graph (`undecided`), such an input gets the method's signed counterpart (LSQ for PACT), and the note says so.
    """
    cls = METHODS.get(method).activation
    counterpart = getattr(cls, "signed_counterpart", None)
    if undecided and spec.signed and counterpart is not None:
        return counterpart, METHODS.get(counterpart).activation.adapt(spec), f"{method} clips below zero: {counterpart}"
    try:
        return method, cls.adapt(spec), ""
    except SpecError as error:
        if spec.signed and counterpart is not None:
            raise SpecError(f"{error}; or input_method {counterpart!r} for signed inputs") from None
        raise


def make_quantizer(cls: type, spec: QuantSpec, shape, prefix: str, options=()) -> FakeQuantize:
    """A quantizer of one of the classes above.

    Parameters
    ----------
    shape : tuple of int
        Of the scale.
    options : mapping
        Those that are the class's own are used.
    """
    return cls(spec, shape, prefix=prefix, **{name: options[name] for name in cls.options if name in options})
