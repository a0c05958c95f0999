# SPDX-License-Identifier: MIT
"""What a deployment prints and writes about itself."""

import json

from deploy.proof.certificate import share_text, table
from gluon_quantize.report import text as report
from quantize.files import write_whole


def verification_text(contents) -> str:
    """The certificate in a few lines."""
    rows = [("compared with the integer engine", "identical codes", "LSB", "first deviation", "same Top-1")]
    for side, facts in contents["sides"].items():
        rows.append((side, share_text(facts["codes"]), "{:g}".format(float(facts["codes"]["largest"])),
                     facts["first_deviation"] or "none", "{}/{}".format(facts["top1_agreement"], contents["images"])))
    lines = ["Every quantized blob of {} images".format(contents["images"]), table(rows)]
    if contents["float_export"] is not None:
        lines.append("float files in ncnn against the float network: {:.2g} relative".format(
            float(contents["float_export"]["relative"])))
    return "\n".join(lines)


def accuracy_text(before, after) -> str:
    """Top-1 in float and in each engine, and how often the class is that of the float network."""
    lines = [report.accuracy_text("float", before)]
    for name, predictions in after.items():
        images = len(predictions.labels)
        lines.append(f"{report.accuracy_text(name, predictions)}   same as float "
                     f"{predictions.agreement_count(before)}/{images}")
    return "\n".join(lines)


def weight_text(sizes, latency) -> str:
    """Sizes on disk and, where measured, latency."""
    lines = ["size       int8 {:,} bytes, float {:,}: {:.3f}".format(sizes["int8"], sizes["float"], sizes["ratio"])]
    if latency is not None:
        lines.append("latency    int8 {:.2f} ms, float {:.2f} ms: {:.2f} times as fast (one thread, medians of {} runs "
                     "in turn on this machine)".format(latency["int8"], latency["float"], latency["ratio"],
                                                       latency["runs"]))
    return "\n".join(lines)


def write_result(folder, settings, before, after, **more):
    """result.json."""
    def counts(predictions):
        return {"top1_count": predictions.top1_count, "top5_count": predictions.top5_count,
                "agreement_count": predictions.agreement_count(before)}
    contents = dict(more, settings=settings, images=len(before.labels), float=counts(before),
                    accuracy={name: counts(predictions) for name, predictions in after.items()})
    write_whole(folder / report.RESULT, json.dumps(contents, indent=2, sort_keys=True) + "\n")
