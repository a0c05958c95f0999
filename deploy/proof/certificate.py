# SPDX-License-Identifier: MIT
"""The certificate: what was compared, on which machine, with which files, and what came out; as JSON and as a table."""

import json
import math
import pathlib
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, Mapping, Optional, Sequence, Tuple

from deploy.engine.integer import bound
from deploy.ir import Convolution, Model, Node, integers, producers, quantized
from deploy.proof.compare import Difference
from deploy.proof.verify import Verification
from quantize.escape import markdown
from quantize.files import PathLike, size_and_digest, write_whole

FORMAT = "certificate 1"
JSON, TEXT = "certificate.json", "certificate.md"
FLOAT_EXACT = 2 ** 24  # a float32 holds every whole number up to here
INT32 = 2 ** 31
HANDED_ON, UNEXPLAINED = "handed on from layers before", "unexplained"


@dataclass(frozen=True)
class Circumstances:
    """What a certificate states beside the comparison.

    Parameters
    ----------
    name : str
        Of the network.
    machine : dict
        Version of the engine, and what `deploy.proof.machine.machine` says.
    files : dict
        See `file_facts`.
    data : str
        Fingerprint of the images.
    options : dict
        Side -> the options it ran with.
    limits : dict
        Node -> (largest |integer sum| that its kernel computes exactly, why); others have int32's.
    reasons : dict
        Side -> {node that is known to compute differently there: why}.
    """

    name: str
    machine: Mapping[str, object]
    files: Mapping[str, Mapping[str, object]]
    data: str = "-"
    options: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    limits: Mapping[str, Tuple[int, str]] = field(default_factory=dict)
    reasons: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def certificate(model: Model, found: Verification, stated: Circumstances,
                export: Optional[Difference] = None) -> Dict[str, object]:
    """The contents of `certificate.json`.

    Parameters
    ----------
    export : Difference, optional
        Outputs of the float files in the engine against those of the float network.
    """
    sides = [side for side in found.top1 if side in stated.options]
    return {
        "format": FORMAT, "network": stated.name, "machine": dict(stated.machine),
        "files": {name: dict(facts) for name, facts in stated.files.items()},
        "images": found.images, "data": stated.data,
        "sides": {side: _side(found, side, stated) for side in sides},
        "layers": [_layer(model, node, found, stated, sides) for node in quantized(model)],
        "reals": {blob: {side: _difference(d, relative=True) for side, d in of_sides.items()}
                  for blob, of_sides in found.reals.items()},
        "float_export": None if export is None else _difference(export, relative=True)}


def _side(found, side, stated):
    """One side's summary."""
    worst = found.worst_real(side)
    return {"options": dict(stated.options[side]), "codes": _difference(found.total(side)),
            "first_deviation": found.first_deviation(side), "top1_agreement": found.agreement(side),
            "largest_real_difference": None if worst is None else
            dict(_difference(found.reals[worst][side], relative=True), blob=worst)}


def _layer(model, node, found, stated, sides):
    """One layer's row."""
    codes = found.codes[node.name]
    return {"node": node.name, "path": node.path, "kind": kind(node), "input": node.inputs[0],
            "levels": node.quantization.weight_qmax, "headroom": _headroom(node, found, stated),
            "codes": {side: _difference(codes[side]) for side in sides},
            "reasons": {side: reason for side in sides for reason in [_reason(model, node, found, side, stated)]
                        if reason}}


def kind(node: Node) -> str:
    """What a layer is, in a few words."""
    if not isinstance(node, Convolution):
        return type(node).__name__
    rows, columns = node.weight.shape[2:]
    prefix = "depthwise " if node.depthwise else "grouped " if node.groups > 1 else ""
    return f"{prefix}{rows}x{columns} stride {max(node.stride)}"


def _difference(difference, relative=False):
    numbers = {"elements": difference.elements, "identical": difference.identical, "share": difference.share,
               "largest": _finite(difference.largest)}
    return dict(numbers, relative=_finite(difference.relative)) if relative else numbers


def _finite(value):
    """JSON has no infinity."""
    return value if math.isfinite(value) else "inf"


def _headroom(node, found, stated):
    """Largest integer sums, seen and possible with these weights, beside what the kernel and a float32 hold."""
    limit, why = stated.limits.get(node.name, (INT32, "int32"))
    largest = found.accumulators[node.name]
    return {"largest_sum": largest, "largest_possible": bound(node), "limit": limit, "limit_of": why,
            "used": largest / limit, "exact_in_float32": largest <= FLOAT_EXACT}


def _reason(model, node, found, side, stated):
    """Why a layer's input codes deviate, as far as that is known: {from: node, why: text}; None where they do not."""
    if found.codes[node.name][side].exact:
        return None
    first = found.first_deviation(side)
    known = stated.reasons.get(side, {})
    writer = _source(model, node, known)
    # a float operation behind a deviation has rounded what deviated before
    # behind the first deviation a known cause explains nothing by itself: numbers differ already
    if writer and (writer in found.codes or node.name == first):
        return {"from": writer, "why": known[writer]}
    return {"from": first, "why": HANDED_ON} if node.name != first else {"from": node.inputs[0], "why": UNEXPLAINED}


def _source(model, node, known):
    """The nearest node in front whose deviation is known, through nodes without integers in them; or None."""
    writers = producers(model)
    todo, seen = [node.inputs[0]], set()
    while todo:
        writer = writers.get(todo.pop())
        if writer is None or writer.name in seen:
            continue
        if writer.name in known:
            return writer.name
        seen.add(writer.name)
        if integers(writer) is None:
            todo += list(writer.inputs)
    return None


def file_facts(paths: Iterable[PathLike]) -> Dict[str, Dict[str, object]]:
    """File name -> its size in bytes and its SHA-256."""
    return {path.name: size_and_digest(path) for path in map(pathlib.Path, paths)}


def write_certificate(folder: PathLike, contents: Mapping[str, Any]) -> None:
    """`certificate.json` and `certificate.md` in a folder."""
    write_whole(pathlib.Path(folder) / JSON, json.dumps(contents, indent=1, allow_nan=False) + "\n")
    write_whole(pathlib.Path(folder) / TEXT, certificate_text(contents))


def certificate_text(contents: Mapping[str, Any]) -> str:
    """The certificate as Markdown that also reads well as it is."""
    parts = [_head(contents), _summary(contents), _layers(contents), _reasons(contents), _files(contents)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(contents):
    machine = dict(contents["machine"])
    flags = machine.pop("flags", [])
    facts = markdown(", ".join(f"{name} {value}" for name, value in machine.items()))
    return "\n".join([
        f"# Certificate for {markdown(contents['network'])}", "",
        f"{contents['images']} images (data {markdown(contents['data'])}); {facts}.", "",
        f"Instruction sets: {markdown(' '.join(flags)) or 'not told by the system'}"])


def _summary(contents):
    images = contents["images"]
    rows = [("against the integer engine", "identical codes", "largest difference", "first deviation", "same Top-1",
             "real blobs")]
    for side, facts in contents["sides"].items():
        codes = facts["codes"]
        rows.append((side, share_text(codes), f"{float(codes['largest']):g} LSB",
                     facts["first_deviation"] or "none", f"{facts['top1_agreement']}/{images}",
                     _real_text(facts["largest_real_difference"])))
    text = table(rows)
    export = contents["float_export"]
    if export is not None:
        text += ("\n\nFloat files in the engine against the float network: largest difference "
                 f"{float(export['relative']):.2g} relative.")
    options = ["* " + markdown(side + ": " + " ".join(f"{name}={value}" for name, value in facts["options"].items()))
               for side, facts in contents["sides"].items() if facts["options"]]
    return text + ("\n\nOptions\n\n" + "\n".join(options) if options else "")


def _real_text(worst):
    if worst is None:
        return "-"
    if float(worst["largest"]) == 0:
        return "identical"
    return f"{float(worst['relative']):.2g} relative in {worst['blob']}"


def _layers(contents):
    sides = list(contents["sides"])
    rows = [tuple(["layer", "kind", "codes"] + [f"{side}: {what}" for side in sides
                                                for what in ("identical", "LSB")] + ["largest sum", "of its limit"])]
    for layer in contents["layers"]:
        cells = [layer["node"], layer["kind"], str(next(iter(layer["codes"].values()))["elements"])]
        for side in sides:
            codes = layer["codes"][side]
            mark = " (!)" if side in layer["reasons"] else ""
            cells += [share_text(codes) + mark, f"{float(codes['largest']):g}"]
        headroom = layer["headroom"]
        rows.append(tuple(cells + [str(headroom["largest_sum"]), f"{headroom['used']:.3%} of {headroom['limit_of']}"]))
    return "## Codes of each quantized layer's input\n\n" + table(rows)


def _reasons(contents):
    """Each reason once, with the layers where it shows."""
    seen: Dict[Tuple[str, str], list] = {}
    for layer in contents["layers"]:
        for side, reason in layer["reasons"].items():
            where = layer["node"] if reason["why"] == HANDED_ON else f"{reason['from']} to {layer['node']}"
            seen.setdefault((side, reason["why"]), []).append(markdown(where))
    lines = [f"* {markdown(side)}, {why}: {', '.join(where)}" for (side, why), where in seen.items()]
    return "## Deviations (!)\n\n" + "\n".join(lines) if lines else ""


def _files(contents):
    rows = [("file", "bytes", "SHA-256")]
    rows += [(name, str(facts["bytes"]), facts["sha256"]) for name, facts in contents["files"].items()]
    return "## Files\n\n" + table(rows)


def share_text(difference: Mapping[str, Any]) -> str:
    """A share in percent, never rounded up to 100 %."""
    if difference["identical"] == difference["elements"]:
        return "100 %"
    # one code of a million must not read as 100 %
    return f"{min(100 * difference['share'], 99.9999):.4f} %"


def table(rows: Sequence[Tuple[str, ...]]) -> str:
    """A Markdown table with aligned columns; the first row is its head. Cells are words, whatever stands in them."""
    rows = [tuple(map(markdown, row)) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
