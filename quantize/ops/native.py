# SPDX-License-Identifier: MIT
"""The C++ operators: loaded on first use, called with a spec as attributes.

The extension interface never tells an operator to add to a gradient: it always overwrites. Where a gradient is
accumulated into a variable (`grad_req='add'`), an identity in between takes the addition over; where one tensor feeds
many operators, MXNet must not accumulate in place (`_IN_PLACE_CAP`).
"""

import os
from types import ModuleType
from typing import TYPE_CHECKING, Dict, Optional

from quantize.errors import ConfigError
from quantize.ops import allocator, build
from quantize.spec import PerGroup, PerTensor, QuantSpec

if TYPE_CHECKING:  # where MXNet is missing, `python -m quantize.ops` must still say so
    from quantize.ops.types import Tensor

_ROUNDINGS = {"half_away": 0, "half_even": 1}
# read by MXNet once, at the first backward pass: consumers above which gradients are summed in place
_IN_PLACE_CAP = "MXNET_EXEC_INPLACE_GRAD_SUM_CAP"
_state: Dict[str, Optional[str]] = {"reason": None}


def why_not() -> str:
    """Loads the library on the first call; "" when the operators are there, else the reason why not."""
    reason = _state["reason"]
    if reason is None:
        reason = _state["reason"] = _load()
    return reason


def _load() -> str:
    library = build.LIBRARY
    if not library.is_file():
        hint = "" if build.find_compiler() else " (needs a C++ compiler, for example g++)"
        return f"not built: run python -m quantize.ops build{hint}"
    built, wanted = build.built_from(library), build.fingerprint()
    # an operator library that was compiled against another MXNet reads its structures wrongly, and crashes
    if built != wanted:
        return (f"{library} was built for another MXNet or from other sources ({built or 'no mark'}, wanted {wanted}): "
                "run python -m quantize.ops build")
    if not build.is_whole(library):
        return f"{library} is cut off: run python -m quantize.ops build"
    import mxnet as mx
    # before the first backward pass, and only where the user has not decided
    os.environ.setdefault(_IN_PLACE_CAP, "100000")
    try:
        mx.library.load(str(library), verbose=False)
    except (mx.MXNetError, OSError) as error:
        return f"{library} cannot be loaded: {str(error).splitlines()[0]}"
    allocator.tune()
    return ""


def runs_on_gpu() -> bool:
    """Whether the operators are there for the GPU context too."""
    return not why_not() and build.has_cuda(build.LIBRARY)


def require() -> None:
    """ConfigError, with the reason, when the operators are not there."""
    if why_not():
        raise ConfigError("back end 'native': " + why_not())


def fake_quantize(F: ModuleType, x: "Tensor", scale: "Tensor", spec: QuantSpec, zero_point: Optional["Tensor"] = None,
                  multiplier: Optional["Tensor"] = None) -> "Tensor":
    """See `quantize.ops.entry.fake_quantize`."""
    inputs = [operand for operand in (zero_point, multiplier) if operand is not None]
    return F.fq_fixed(_guard(F, x), scale, *inputs, has_zero_point=int(zero_point is not None),
                      has_multiplier=int(multiplier is not None), **_grid(spec))


def online_fake_quantize(F: ModuleType, x: "Tensor", spec: QuantSpec) -> "Tensor":
    """See `quantize.ops.entry.online_fake_quantize`."""
    # the second output is the range, which the operator's own backward pass reads
    return F.fq_online(_guard(F, x), **_grid(spec))[0]


def tracking_fake_quantize(F: ModuleType, x: "Tensor", state: "Tensor", spec: QuantSpec, momentum: float) -> "Tensor":
    """See `quantize.ops.entry.tracking_fake_quantize`."""
    return F.fq_observed(_guard(F, x), state, momentum=momentum, **_grid(spec))[0]


def lsq(F: ModuleType, x: "Tensor", step: "Tensor", spec: QuantSpec, grad_scale: Optional[float] = None) -> "Tensor":
    """See `quantize.ops.entry.lsq`."""
    return F.fq_lsq(_guard(F, x), _guard(F, step), grad_scale=grad_scale or 0, **_grid(spec))


def pact(F: ModuleType, x: "Tensor", alpha: "Tensor", levels: int, calibrated: bool = False) -> "Tensor":
    """See `quantize.ops.entry.pact`."""
    return F.fq_pact(_guard(F, x), _guard(F, alpha), levels=levels, calibrated=int(calibrated))


def dorefa(F: ModuleType, w: "Tensor", levels: int) -> "Tensor":
    """See `quantize.ops.entry.dorefa`."""
    return F.fq_dorefa(_guard(F, w), levels=levels)


def quantize_gradient(F: ModuleType, x: "Tensor", bits: int) -> "Tensor":
    """See `quantize.ops.entry.quantize_gradient`."""
    # the noise comes from MXNet's generator, so that mx.random.seed repeats it
    return F.fq_gradient(_guard(F, x), F.random.uniform_like(x, -0.5, 0.5), levels=2 ** bits - 1)


def sign(F: ModuleType, x: "Tensor") -> "Tensor":
    """See `quantize.ops.entry.sign`."""
    return F.fq_sign(_guard(F, x))


def integer_codes(F: ModuleType, x: "Tensor", multiplier: "Tensor", qmax: int, run: int) -> "Tensor":
    """See `quantize.ops.entry.integer_codes`."""
    # an operator without a backward pass must not be asked for one
    return F.BlockGrad(F.fq_codes(x, multiplier, qmax=qmax, run=run))


def multiply_add(F: ModuleType, x: "Tensor", factor: "Tensor", term: "Tensor") -> "Tensor":
    """See `quantize.ops.entry.multiply_add`."""
    return F.BlockGrad(F.fq_multiply_add(x, factor, term))


def _grid(spec: QuantSpec) -> Dict[str, int]:
    attributes = {"qmin": spec.qmin, "qmax": spec.qmax, "asymmetric": int(not spec.symmetric),
                  "rounding": 2 if spec.grid == "mid_rise" else _ROUNDINGS[spec.rounding]}
    if not isinstance(spec.granularity, PerTensor):
        attributes["axis"] = spec.granularity.axis
    if isinstance(spec.granularity, PerGroup):
        attributes["groups"] = spec.granularity.groups
    return attributes


def _guard(F: ModuleType, x: "Tensor") -> "Tensor":
    """`x`, behind an identity where it is a variable that a gradient may be accumulated into."""
    import mxnet as mx
    # an identity costs a copy, so it stands only where a gradient could be added to: in front of variables
    is_variable = x.get_children() is None if isinstance(x, mx.sym.Symbol) else x.grad is not None
    return F.identity(x) if is_variable else x
