# SPDX-License-Identifier: MIT
"""What the numbers of a report mean, in words: verdicts, warnings with what to do, layers better left in float."""

from typing import Any, Dict, List, Mapping, Optional

POOR_DB = 15.0  # less: an error of more than 18 % of the signal's deviation
CLIPPED = 0.01
MOVES = 0.1  # as `calib.stability` warns
FULL = 0.5  # of the accumulator
LOST = 0.01  # of Top-1


def glance(contents: Mapping[str, Any]) -> List[Dict[str, str]]:
    """The page's first facts: each a title, a value, and what stands below it in small letters."""
    result, cards = contents["result"], []
    images = result.get("images")
    for title, counts in _accuracies(result):
        share = counts["top1_count"] / images if images else 0
        same = counts.get("agreement_count")
        below = f"{counts['top1_count']} of {images} images"
        below += f", {same} as float" if same is not None and title != "float" else ""
        cards.append({"title": f"Top-1 {title}", "value": f"{share:.2%}", "below": below})
    for title in ("best", "final"):
        scores = result.get(title)
        if isinstance(scores, dict) and "top1" in scores:
            cards.append({"title": f"Top-1 {title}", "value": f"{scores['top1']:.2%}",
                          "below": f"{scores['top1_count']} of {scores['images']} images"})
    sizes, latency = result.get("sizes"), result.get("latency_ms")
    if sizes:
        cards.append({"title": "size", "value": f"{sizes['int8']:,} bytes",
                      "below": f"{sizes['ratio']:.1%} of float's {sizes['float']:,}"})
    if latency:
        cards.append({"title": "latency", "value": f"{latency['int8']:.2f} ms",
                      "below": f"float {latency['float']:.2f} ms: {latency['ratio']:.2f} times as fast (one thread, "
                               f"medians of {latency['runs']} runs)"})
    return cards


def _accuracies(result: Mapping[str, Any]) -> List[Any]:
    found = [("float", result["float"])] if isinstance(result.get("float"), dict) else []
    found += [("quantized", result["quantized"])] if isinstance(result.get("quantized"), dict) else []
    return found + list((result.get("accuracy") or {}).items())


def machines(contents: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """A row for each machine and each way of computing: what the proof says there."""
    rows = []
    for certificate in contents["certificates"]:
        machine = certificate.get("machine", {})
        for side, found in certificate.get("sides", {}).items():
            codes = found["codes"]
            exact = codes["identical"] == codes["elements"]
            rows.append({"machine": " ".join(str(machine.get(key, "")) for key in ("cpu", "architecture")).strip(),
                         "side": side, "share": codes["share"], "largest": codes["largest"], "exact": exact,
                         "first": found.get("first_deviation") or "none",
                         "same": f"{found['top1_agreement']}/{certificate.get('images')}"})
    return rows


def warnings(contents: Mapping[str, Any]) -> List[str]:
    """What the owner of the network should know, each with what to do."""
    said = list(contents["notes"])
    said += _accuracy_warnings(contents["result"])
    said += [f"{row['side']} on {row['machine']}: {1 - row['share']:.2%} of the codes differ from the integer engine, "
             f"first at {row['first']}; the certificate names the reason, where it is known"
             for row in machines(contents) if not row["exact"]]
    for row in contents["layers"]:
        said += list(_layer_warnings(row))
    return said


def _accuracy_warnings(result: Mapping[str, Any]) -> List[str]:
    accuracies, images = dict(_accuracies(result)), result.get("images") or 1
    if "float" not in accuracies:
        return []
    lost = {name: (accuracies["float"]["top1_count"] - counts["top1_count"]) / images
            for name, counts in accuracies.items()}
    return [f"{name} loses {share:.1%} of Top-1 against float: look for layers with a low SQNR below, leave the worst "
            "of them float (a rule with \"exclude\": true), try another --calib-mode, or retrain"
            for name, share in lost.items() if share > LOST]


def _layer_warnings(row: Mapping[str, Any]) -> List[str]:
    said = []
    if row["alone"] is not None and row["alone"] < POOR_DB:
        said.append(f"{row['name']}: quantized alone it keeps {row['alone']:.1f} dB; leave it float, or give it more "
                    "bits or a scale for each channel")
    if row["clipped"] is not None and row["clipped"] > CLIPPED:
        said.append(f"{row['name']}: {row['clipped']:.1%} of its input lies beyond the threshold; calibrate with more "
                    "images, or with minmax")
    if row["movement"] is not None and row["movement"] > MOVES:
        said.append(f"{row['name']}: its threshold moves by {row['movement']:.0%} between halves of the calibration "
                    "images; take more of them (--calib-images)")
    if row["headroom"] is not None and row["headroom"] < 1 / FULL:
        said.append(f"{row['name']}: its largest sum is within a factor of {row['headroom']:.1f} of 32 bits; use fewer "
                    "bits")
    return said


def better_float(rows: List[Mapping[str, Any]]) -> List[str]:
    """Layers that lose most for the multiplications they save: the worst of those below `POOR_DB`, three at most."""
    poor = [row for row in rows if row["alone"] is not None and row["alone"] < POOR_DB]
    return [row["name"] for row in sorted(poor, key=lambda row: row["alone"])[:3]]


def cost_class(decibels: Optional[float]) -> int:
    """0 (unknown), 1 (costs nothing that matters) to 4 (costs much): the colour of a layer."""
    if decibels is None:
        return 0
    return 1 if decibels >= 35 else 2 if decibels >= 25 else 3 if decibels >= POOR_DB else 4
