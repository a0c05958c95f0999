# SPDX-License-Identifier: MIT
"""Whether ncnn's int8 Winograd could overflow in a deployed network, as text and as a file."""

import dataclasses
import json

from tqdm import tqdm

from deploy.proof.certificate import table
from deploy.targets.ncnn.headroom import HeadroomReport, headroom
from quantize.files import write_whole

FILE = "winograd.json"


def winograd_report(deployed, folder, images) -> str:
    """Count the sums on `images` (Batches), write winograd.json into the folder; returns the report as text."""
    bar = tqdm(images, desc="winograd", unit="batch", disable=None)
    found = headroom(deployed.quantized, deployed.floating,
                     ((deployed.ordered(part.asnumpy()), labels) for part, labels in bar))
    layers = {levels: [dict(dataclasses.asdict(layer), verdict=layer.verdict) for layer in of_levels]
              for levels, of_levels in found.layers.items()}
    contents = {"images": found.images, "layers": layers, "correct": found.correct, "cure": found.cure}
    write_whole(folder / FILE, json.dumps(contents, indent=2, sort_keys=True) + "\n")
    return headroom_text(found)


def headroom_text(found: HeadroomReport) -> str:
    """A line for each layer, then what each way of computing gets right."""
    rows = [("layer", "levels", "largest sum", "it can be", "beyond exact", "overflowing", "verdict")]
    for pair in zip(*found.layers.values()):
        for levels, layer in zip(found.layers, pair):
            rows.append((layer.name, str(levels), f"{layer.largest:,}", f"{layer.bound:,}",
                         f"{layer.inexact / layer.sums:.3%}", f"{layer.overflowing / layer.sums:.3%}",
                         layer.verdict))
    lines = [f"Sums of the convolutions that ncnn could compute by Winograd F(4,3), {found.images} images",
             table(rows)]
    lines += [f"{way:<24} right on {correct}/{found.images}" for way, correct in found.correct.items()]
    return "\n".join(lines + [f"better cure: {found.cure}"])
