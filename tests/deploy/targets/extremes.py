# SPDX-License-Identifier: MIT
"""Ranges of blobs for targets that round them: what the float network has on some images."""

from calib.calibrators import CALIBRATORS
from deploy import engine
from deploy.study import in_float


def extremes(model, specs, images):
    """Minima and maxima in float: blob -> QParams."""
    blobs = engine.run(in_float(model), images, keep=specs).blobs
    calibrator, found = CALIBRATORS.get("minmax")(), {}
    for blob, spec in specs.items():
        observer = calibrator.new_observer()
        observer.update(blobs[blob])
        found[blob] = calibrator(observer, spec)
    return found
