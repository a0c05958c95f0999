# SPDX-License-Identifier: MIT
"""Values of an INI section that cells share: fillers, solvers, activations, quantizers."""

from dataclasses import fields
from typing import Any, Callable, Dict, List, Optional, Sequence, cast

from quantize.errors import ConfigError
from quantize.interfaces.n2d2.activation import ACTIVATIONS, ActivationFunction
from quantize.interfaces.n2d2.filler import FILLERS, Filler
from quantize.interfaces.n2d2.ini.options import Options
from quantize.interfaces.n2d2.quantizer import MODES, ActQuantizer, CellQuantizer, LSQAct, LSQCell, SATAct, SATCell
from quantize.interfaces.n2d2.solver import SGD, Solver, solver_class

QUANTIZERS = ("SAT", "LSQ")


def camel(name: str) -> str:
    """``learning_rate`` as INI files write it."""
    special = {"lr": "LR"}
    return "".join(special.get(part, part.capitalize()) for part in name.split("_"))


def numbers_of(kind: type, options: Options) -> Dict[str, Any]:
    """What options say of a data class's fields, those that they name."""
    found: Dict[str, Any] = {}
    for field in fields(kind):
        key = camel(field.name)
        if key not in options:
            options.text(key, "")
            continue
        wanted = field.type if isinstance(field.type, str) else field.type.__name__
        read: Dict[str, Callable[[str], Any]] = {"int": options.whole, "float": options.number, "str": options.text}
        found[field.name] = read[wanted](key)
    return found


def filler(options: Options, name: str) -> Optional[Filler]:
    """The filler under a name, None where there is none."""
    if name not in options:
        options.text(name, "")
        options.refused(name, f"{name} is not set")
        return None
    kind = FILLERS[options.text(name, choices=tuple(FILLERS))]
    part = options.part(name)
    try:
        made = kind(**numbers_of(kind, part))
    except ConfigError as error:
        raise _at(options, name, error) from None
    part.finish()
    return made


def _at(options: Options, key: str, error: ConfigError) -> ConfigError:
    """The error with the place, which errors of values do not know."""
    return error if str(error).startswith(options.document.path) else options.error(key, str(error))


def solver(options: Options, names: Sequence[str], kind_key: str = "") -> Solver:
    """The solver under several prefixes, the last of which wins.

    Parameters
    ----------
    kind_key : str
        The key that names the solver's type; else the last prefix is that key, too.
    """
    kind: type = SGD
    for key in (*names, *([kind_key] if kind_key else [])):
        if options.text(key, ""):
            try:
                kind = solver_class(options.text(key))
            except ConfigError as error:
                raise _at(options, key, error) from None
    made = kind()
    for prefix in names:
        part = options.part(prefix)
        for name, value in numbers_of(kind, part).items():
            setattr(made, name, value)
        if part.text("Clamping", "0") not in ("0", ""):
            raise part.error("Clamping", "weights are clamped by QWeight=SAT here, not by solvers")
        part.finish()
    try:
        made.check()
        made.share(0)
    except ConfigError as error:
        raise options.document.error(options.section.line, f"[{options.section.name}] {names[-1]}: {error}") from None
    return made


def activation(options: Options, default: str) -> ActivationFunction:
    """ActivationFunction and the quantizer behind it (QAct)."""
    kind = ACTIVATIONS[options.text("ActivationFunction", default, tuple(ACTIVATIONS))]
    part = options.part("ActivationFunction")
    numbers = {}
    for field in fields(kind):
        if field.name != "quantizer":
            numbers[field.name] = part.number(camel(field.name), cast(float, field.default))
    part.finish()
    return kind(**numbers, quantizer=act_quantizer(options))


def act_quantizer(options: Options) -> Optional[ActQuantizer]:
    """QAct with all that belongs to it, None without one."""
    if "QAct" not in options:
        options.text("QAct", "")
        for prefix in ("QAct", "QActSolver"):
            options.refused(prefix, "there is no QAct")
        return None
    kind = options.text("QAct", choices=QUANTIZERS)
    part = options.part("QAct")
    own = solver(options, ["QActSolver"])
    chosen = part.text("Solver", "")
    if chosen:
        own = _of_kind(options, "QAct.Solver", own, chosen)
    steps = part.whole("Range", 255, 1)
    if kind == "SAT":
        made: ActQuantizer = SATAct(part.number("Alpha", 8.0), steps, own)
    else:
        made = LSQAct(steps, part.number("StepSize", 100.0), part.switch("StepOptInitStepSize", True), own)
    part.finish()
    return made


def _of_kind(options: Options, key: str, made: Solver, name: str) -> Solver:
    """The solver where it is of that kind already, else one with that kind's defaults and the same rate."""
    try:
        kind = solver_class(name)
    except ConfigError as error:
        raise _at(options, key, error) from None
    return made if isinstance(made, kind) else kind()


def cell_quantizer(options: Options) -> Optional[CellQuantizer]:
    """QWeight with all that belongs to it, None without one."""
    if "QWeight" not in options:
        options.text("QWeight", "")
        for prefix in ("QWeight", "QWeightSolver"):
            options.refused(prefix, "there is no QWeight")
        return None
    kind = options.text("QWeight", choices=QUANTIZERS)
    part = options.part("QWeight")
    own = solver(options, ["QWeightSolver"])
    chosen = part.text("Solver", "")
    if chosen:
        own = _of_kind(options, "QWeight.Solver", own, chosen)
    steps, mode = part.whole("Range", 255, 1), part.text("Mode", "Default", MODES)
    if kind == "SAT":
        made: CellQuantizer = SATCell(part.switch("ApplyScaling"), part.switch("ApplyQuantization", True), steps, mode,
                                      own)
    else:
        made = LSQCell(steps, part.number("StepSize", 100.0), part.switch("StepOptInitStepSize", True), mode, own)
        try:
            made.rule("")
        except ConfigError as error:
            raise part.error("Range", str(error)) from None
    part.finish()
    return made


def dims(options: Options, both: str, single: Sequence[str], default: Optional[int]) -> List[int]:
    """(x, y) of ``KernelSize`` or ``KernelDims``, or of ``KernelWidth`` and ``KernelHeight``."""
    least = 0 if both == "Padding" else 1
    for key in (both + "Dims", both + "Size" if both in ("Kernel", "Pool") else both):
        if key in options:
            found = options.wholes(key)
            found = found * 2 if len(found) == 1 else found
            if len(found) != 2 or min(found) < least:
                raise options.error(key, f"one number or two are wanted, from {least}")
            for other in single:
                if other in options:
                    raise options.error(other, f"{key} is set, too; leave one of them out")
            return found
        options.text(key, "")
    return [options.whole(key, default, least) for key in single]
