# SPDX-License-Identifier: MIT
"""What a run of an INI file says, in N2D2's words."""

from typing import Any, Mapping, Sequence

from gluon_quantize.report.steps import step_text
from gluon_quantize.runs.fusion import Fused
from gluon_quantize.runs.n2d2 import METRICS, IniEpoch, IniOpened

WORDS = {value: key for key, value in METRICS.items()}


@step_text.register
def _opened(step: IniOpened, networks: bool = False) -> str:
    counts = ", ".join(f"{name} {count}" for name, count in step.database.get_partition_summary().items())
    lines = [f"{step.model.name}: {len(step.model.network.cells)} cells, batches of {step.model.batch_size} images; "
             f"{counts}"]
    if step.validated_on == "Test":
        lines.append("validation: on the test images, since [database] keeps none of its own")
    elif step.validated_on is None:
        lines.append("validation: none ([database] keeps no images for it): the last epoch counts")
    if step.read:
        lines.append(f"starts from the numbers of {len(step.read)} cells: {', '.join(step.read)}")
    if step.epochs_done:
        lines.append(f"goes on behind epoch {step.epochs_done - 1}")
    return "\n".join(lines)


@step_text.register
def _epoch(step: IniEpoch, networks: bool = False) -> str:
    record = step.record
    text = f"epoch {record['epoch']:>3}  loss {record['loss']:.4f}  {record['images_per_second']:.0f} images/s"
    if "top1" in record:
        text += f"  val success {record['top1']:.2%}"
        if step.metric != "top1":
            text += f"  {WORDS[step.metric]} {record[step.metric]:.2%}"
        text += "  best" if record["is_best"] else ""
    return text


def closing_text(scores: Mapping[str, Any]) -> str:
    """N2D2's closing lines."""
    def share(name: str) -> str:
        return f"{scores[name]:.2%}"
    return (f"Final recognition rate: {share('top1')}    (error rate: {1 - scores['top1']:.2%})\n"
            f"    Sensitivity: {share('sensitivity')} / Specificity: {share('specificity')} / "
            f"Precision: {share('precision')}\n"
            f"    Accuracy: {share('accuracy')} / F1-score: {share('f1')} / Informedness: {share('informedness')}")


def fused_text(found: Sequence[Fused]) -> str:
    """What each scaling of the fused network came to."""
    rows = [f"    {result.scaling:<13}{result.same / result.codes:>11.5%} of the codes as before fusion, "
            f"recognition rate {result.right / result.images:.2%}" for result in found]
    return "\n".join([f"Fused, {found[0].codes} codes of {found[0].images} images:", *rows])
