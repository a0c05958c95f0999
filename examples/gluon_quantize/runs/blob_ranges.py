# SPDX-License-Identifier: MIT
"""Grids of blobs that no quantized layer reads, for engines that round those too: decided as those of layers are."""

from typing import Dict, Mapping

from deploy import engine
from deploy.ir import Model
from deploy.study import in_float
from deploy.target import Ranges
from gluon_quantize.runs.calibration import Calibration
from gluon_quantize.runs.methods import named_method
from quantize.errors import CalibrationError
from quantize.spec import QParams, QuantSpec

IMAGES = 128  # the first so many calibration images: these run through the engine that judges, which is not the fastest


def blob_ranges(calibration: Calibration) -> Ranges:
    """The function that `Target.settled` asks: observes blobs of the float network on the calibration images.

    Raises, when it is called, CalibrationError where there are no images.
    """
    def ranges(model: Model, specs: Mapping[str, QuantSpec]) -> Dict[str, QParams]:
        images, asked = calibration.task.calibration, calibration.request.calibration
        if images is None or asked is None:
            raise CalibrationError("this engine rounds blobs that no layer has ranges for, and there are no "
                                   "calibration images to find them; name some with --calib-dir or --data-dir")
        calibrator = named_method(asked.method).calibrator
        observers = {blob: calibrator.new_observer() for blob in specs}
        chosen, floating = images.of(images.indices[:IMAGES]), in_float(model)
        for part, _ in calibration.progress.bar(chosen, "ranges between layers"):
            found = engine.run(floating, part.asnumpy(), keep=specs).blobs
            for blob, observer in observers.items():
                observer.update(found[blob])
        return {blob: calibrator(observer, specs[blob]) for blob, observer in observers.items()}
    return ranges
