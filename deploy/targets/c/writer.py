# SPDX-License-Identifier: MIT
"""The source and its header. Names come from files of somebody else: see `deploy.targets.ncnn.programs`."""

import functools
import pathlib
import re
from dataclasses import replace
from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np

from deploy.image_steps import ImageSteps
from deploy.ir import Model, quantized
from deploy.ir.file import save
from deploy.target import raise_problems
from deploy.targets.c.arithmetic import FixedArithmetic
from deploy.targets.c.constraints import check_kinds
from deploy.targets.c.program import REAL, Program, build
from deploy.targets.c.scaling import NO_POWER, SCALINGS
from deploy.targets.c.simplify import simplified
from quantize.errors import DeployError
from quantize.escape import comment, cpp_text
from quantize.files import read_text, write_whole

TEMPLATES = pathlib.Path(__file__).resolve().parent / "templates"
SUFFIXES = (".c", ".h", ".model")
LINE = 110  # characters of constants


class Encoded(str):
    """Text that stands in the source as it is."""


def identifier(name: str) -> str:
    """A name that C knows, from the name of a file."""
    found = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lower() or "network"
    return found if found[0].isalpha() else "net_" + found


def write(model: Model, folder: Any, name: str, scaling: Optional[str]) -> Tuple[pathlib.Path, ...]:
    """The source, the header, and the model that they were made from; in float without a scaling."""
    paths = tuple(pathlib.Path(folder) / (name + suffix) for suffix in SUFFIXES)
    if scaling is None:  # what is in integers was simplified when it was settled
        model = simplified(model)
        raise_problems(check_kinds(model), "C source")
    model = replace(model, metadata=dict(model.metadata, scaling=scaling or REAL))
    for path, text in zip(paths, sources(model, name)):
        write_whole(path, text)
    save(model, paths[2])
    return paths


def sources(model: Model, name: str) -> Tuple[str, str]:
    """Texts of the source and the header of a model whose metadata state a scaling."""
    values = _values(model, *program_of(model), name)
    return rendered("network.c.txt", values), rendered("network.h.txt", values)


def program_of(model: Model) -> Tuple[Program, Optional[FixedArithmetic]]:
    """(Program, arithmetic; None in float) of a model whose metadata state a scaling; DeployError for another one."""
    scaling = model.metadata.get("scaling")
    if scaling != REAL and scaling not in SCALINGS:
        raise DeployError(f"a scaling {scaling!r}; known: {', '.join((REAL, *SCALINGS))}")
    arithmetic = None if scaling == REAL else FixedArithmetic(scaling).bound(model)
    return build(model, arithmetic), arithmetic


def _values(model: Model, program: Program, arithmetic: Optional[FixedArithmetic], name: str) -> Dict[str, Any]:
    fixed = arithmetic is not None and arithmetic.scaling.hold is not None
    lowest = -float(np.finfo(np.float32).max) if arithmetic is None else -(1 << 31)
    return {"title": model.metadata.get("name", name), "words": _words(model, arithmetic), "program": program,
            "prefix": identifier(name), "macro": identifier(name).upper(), "header": f"{name}.h",
            "guard": identifier(name).upper() + "_H", "cell": REAL if arithmetic is None else "int32_t",
            "integers": arithmetic is not None, "fixed": fixed, "lowest": lowest, "ram": program.arena,
            "shifts": arithmetic is not None and arithmetic.scaling.shifts > 0, "no_power": NO_POWER,
            "windows": any(step.kind in ("layer", "pooling") for step in program.steps),
            "bits": any("bits" in step.values for step in program.steps), "order": "bytes of a pixel side by side",
            "plane": int(np.prod(program.shape[1:]))}


def _words(model: Model, arithmetic: Optional[FixedArithmetic]) -> str:
    if arithmetic is None:
        return "All layers compute in float."
    return f"{len(quantized(model))} integer layers; scaling {arithmetic.scaling.name}: {arithmetic.scaling.help}."


def main_program(title: str, steps: ImageSteps, files: Sequence[str], names: Sequence[str]) -> Dict[str, str]:
    """`main.c`, which prints the classes of raw images in a file."""
    name = pathlib.Path(files[0]).stem
    order = ("one grey byte" if steps.colour_order == "L" else f"{steps.colour_order} bytes") + " for each of the"
    values = {"title": title, "source": files[0], "header": files[1], "prefix": identifier(name),
              "macro": identifier(name).upper(), "steps": order, "score": "int32_t",
              "names": [Encoded(cpp_text(name)) for name in names]}
    return {"main.c": rendered("main.c.txt", values)}


def rendered(template: str, values: Dict[str, Any]) -> str:
    """A template with values in it."""
    return str(_environment().from_string(read_text(TEMPLATES / template)).render(values))


@functools.lru_cache(maxsize=None)
def _environment() -> Any:
    import jinja2
    environment = jinja2.Environment(finalize=_literal, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters.update(comment=lambda text: Encoded(comment(text)), raw=Encoded,
                               block=lambda array: Encoded(_block(array)))
    return environment


def _literal(value: Any) -> str:
    """A literal of C; texts get through where a template says how only."""
    if isinstance(value, Encoded):
        return value
    if isinstance(value, (float, np.floating)):
        return repr(float(value))
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return str(int(value))
    raise TypeError(f"{value!r} has no place in the source")


def _block(array: np.ndarray) -> str:
    """The elements of an array, several in a line."""
    lines, line = [], ""
    for value in np.asarray(array).ravel().tolist():
        word = _literal(value) + ","
        if len(line) + len(word) + 1 > LINE:
            lines.append(line)
            line = ""
        line += (" " if line else "") + word
    return "\n".join([*lines, line])
