# SPDX-License-Identifier: MIT
"""What a comparison with the engine prints; it loads no MXNet."""

from typing import Any, Dict, Sequence

from deploy.proof.certificate import share_text, table
from deploy.proof.machines import machines_text


def verification_text(contents: Dict[str, Any], engine: str = "the engine") -> str:
    """The certificate in a few lines."""
    rows = [("compared with the integer engine", "identical codes", "LSB", "first deviation", "same Top-1")]
    for side, facts in contents["sides"].items():
        rows.append((side, share_text(facts["codes"]), f"{float(facts['codes']['largest']):g}",
                     facts["first_deviation"] or "none", f"{facts['top1_agreement']}/{contents['images']}"))
    lines = [f"Every quantized blob of {contents['images']} images", table(rows)]
    if contents["float_export"] is not None:
        lines.append(f"float files in {engine} against the float network: "
                     f"{float(contents['float_export']['relative']):.2g} relative")
    return "\n".join(lines)


def recheck_text(contents: Dict[str, Any], machines: Sequence[Dict[str, Any]], notes: Sequence[str]) -> str:
    """The certificate of this machine, what is to be known of it, and all machines' in a table.

    Parameters
    ----------
    machines : sequence of dict
        Certificates; the table is left out where there is only one.
    notes : sequence of str
    """
    parts = [verification_text(contents)] + ["note: " + note for note in notes]
    return "\n".join(parts) + ("\n\n" + machines_text(machines) if len(machines) > 1 else "")
