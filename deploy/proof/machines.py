# SPDX-License-Identifier: MIT
"""The certificates of several machines for one deployment, kept beside the first one, and a table of them."""

import contextlib
import hashlib
import json
import pathlib
import re
from typing import Any, Dict, List, Mapping, Sequence

from deploy.proof.certificate import JSON, UNEXPLAINED, share_text, table
from deploy.proof.stored import read_certificate
from quantize.errors import DataError
from quantize.files import PathLike, write_whole

FOLDER, TABLE = "certificates", "machines.md"
SIMULATION = "simulation"
REAL_TOLERANCE = 1e-5  # relative: float sums in another order
TELLING = ("architecture", "cpu", "flags")  # what tells two machines apart


def machine_name(machine: Mapping[str, Any]) -> str:
    """A file name for a machine: its architecture, its processor, and a digest that tells instruction sets apart."""
    words = re.sub(r"[^a-z0-9]+", "-", f"{machine.get('architecture', '')} {machine.get('cpu', '')}".lower()).strip("-")
    facts = json.dumps([machine.get(name) for name in TELLING], sort_keys=True)
    return f"{words[:60]}-{hashlib.sha256(facts.encode()).hexdigest()[:6]}"


def keep_certificate(folder: PathLike, contents: Mapping[str, Any]) -> pathlib.Path:
    """The certificate in the folder of a deployment under its machine's name, and the table; its path.

    Raises
    ------
    DataError
        Where it cannot be written.
    """
    path = pathlib.Path(folder) / FOLDER / (machine_name(contents["machine"]) + ".json")
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise DataError(f"{path.parent}: cannot be made: {error.strerror}; --output DIR takes the certificate "
                        "elsewhere") from None
    write_whole(path, json.dumps(contents, indent=1, allow_nan=False) + "\n")
    write_whole(path.parent / TABLE, "# Machines\n\n" + machines_text(certificates(folder)) + "\n")
    return path


def certificates(folder: PathLike) -> List[Dict[str, Any]]:
    """The certificate of the machine that deployed, and those that were kept, by name; what is none is left out."""
    folder = pathlib.Path(folder)
    found = []
    for path in [folder / JSON] + sorted((folder / FOLDER).glob("*.json")):
        with contextlib.suppress(DataError):
            found.append(read_certificate(path))
    return found


def machines_text(found: Sequence[Mapping[str, Any]]) -> str:
    """A row for each machine: what each side of its certificate says of all codes."""
    # the simulation is the same on every machine
    sides = [side for side in dict.fromkeys(side for contents in found for side in contents["sides"])
             if side != SIMULATION]
    rows = [tuple(["machine", "versions", "images"] + [f"{side}: {what}" for side in sides
                                                       for what in ("identical, LSB", "same Top-1")])]
    for contents in found:
        machine = contents["machine"]
        row = [f"{machine.get('architecture')}, {machine.get('cpu')}",
               ", ".join(f"{name} {machine[name]}" for name in ("ncnn", "numpy") if name in machine),
               str(contents["images"])]
        for side in sides:
            facts = contents["sides"].get(side)
            row += ["-", "-"] if facts is None else [
                f"{share_text(facts['codes'])}, {float(facts['codes']['largest']):g}",
                f"{facts['top1_agreement']}/{contents['images']}"]
        rows.append(tuple(row))
    return table(rows)


def changes(first: Mapping[str, Any], here: Mapping[str, Any]) -> List[str]:
    """What differs between two machines' facts that decides how an engine computes, in sentences.

    Parameters
    ----------
    first, here : dict
        As a certificate has them under `machine`; `first` is that of the deployment.
    """
    found = [f"{name} is {here[name]} here, the certificate was made with {first[name]}"
             for name in sorted(set(first) & set(here) - {"cpu", "python", "numpy", "mxnet", *TELLING})
             if first[name] != here[name]]
    missing = sorted(set(first.get("flags") or ()) - set(here.get("flags") or ()))
    if missing and first.get("architecture") == here.get("architecture"):
        found.append("this processor has no " + ", ".join(missing) + ", which the certificate's had: the engine takes "
                     "other kernels here")
    return found


def reproduced(contents: Mapping[str, Any], side: str) -> bool:
    """Whether a side of a certificate has every code of the integer engine, but for those of which it says why not."""
    codes, whole = contents["sides"][side], contents["images"]
    unexplained = any(layer["reasons"].get(side, {}).get("why") == UNEXPLAINED for layer in contents["layers"])
    explained = any(side in layer["reasons"] for layer in contents["layers"])
    if unexplained or not explained and codes["codes"]["identical"] != codes["codes"]["elements"]:
        return False
    worst = codes["largest_real_difference"]
    return explained or codes["top1_agreement"] == whole and (
        worst is None or float(worst["relative"]) <= REAL_TOLERANCE)
