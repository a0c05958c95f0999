# SPDX-License-Identifier: MIT
"""All that must agree about a random network, and what is known to deviate."""

import collections
import pathlib
import tempfile

import mxnet as mx
import numpy as np
import onnx
import onnxruntime

from calib.calibrators import CALIBRATORS
from calib.collect import calibrate, observe
from deploy import engine, ir
from deploy.lower import lower
from deploy.proof.verify import verify
from deploy.targets.ncnn import TARGET, writer
from deploy.targets.ncnn.side import side
from quantize.convert import convert_model
from quantize.errors import QuantizeError
from quantize.importers.onnx import import_onnx
from quantize.modes import fix_params

RELATIVE = 1e-5
Outcome = collections.namedtuple("Outcome", "kind text")
EXACT, DEVIATES, REFUSED, FAILS = "exact", "deviates where named", "refused", "fails"


class Disagreement(AssertionError):
    """Two computations of one network that should be the same."""


def judged(model, images):
    """ONNX Runtime's outputs, its own rewriting of the graph switched off."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": images})


def compare(name, found, wanted):
    """Disagreement where outputs differ by more than the share of their largest value."""
    for number, (have, want) in enumerate(zip(found, wanted)):
        have = np.asarray(have)
        if have.size != want.size:
            raise Disagreement(f"{name}, output {number}: shape {have.shape}, ONNX Runtime has {want.shape}")
        largest = max(float(np.abs(want).max()), 1e-3)
        differs = float(np.abs(have.reshape(want.shape) - want).max()) / largest
        if not differs <= RELATIVE:
            raise Disagreement(f"{name}, output {number}: {differs:.2g} of the largest value apart")


def arrays(outputs):
    """Outputs of a Gluon network as NumPy arrays."""
    return [out.asnumpy() for out in (outputs if isinstance(outputs, (list, tuple)) else [outputs])]


def check(recipe):
    """Import, MXNet, the lowered network and ncnn in float against ONNX Runtime; integers in the engine and ncnn.

    Returns
    -------
    Outcome
    """
    with tempfile.TemporaryDirectory() as scratch:
        try:
            return _check(recipe, pathlib.Path(scratch))
        except QuantizeError as error:
            return Outcome(REFUSED, " ".join(str(error).split()))
        except Disagreement as error:
            return Outcome(FAILS, str(error))
        except Exception as error:  # whatever else it is, it is a fault
            return Outcome(FAILS, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _check(recipe, scratch):
    model, images = recipe.model(), recipe.images(2)
    want = judged(model, images)
    onnx.save(model, str(scratch / "net.onnx"))
    net = import_onnx(scratch / "net.onnx")
    compare("MXNet", arrays(net(mx.nd.array(images))), want)
    lowered = lower(net, recipe.shape, arithmetic=TARGET.arithmetic, quantized=False)
    compare("lowered", engine.run(lowered, images).outputs, want)
    session = TARGET.engine.open(writer.write(lowered, scratch, "float", integers=False), TARGET.engine.float_way)
    found = session.run(images, lowered.outputs, lowered.shapes)
    compare("ncnn in float", [found[name] for name in lowered.outputs], want)
    return _integers(recipe, net, scratch)


def _integers(recipe, net, scratch):
    """The quantized network: engine and ncnn, with exact options, to the last code."""
    images = recipe.images(4, part=1)
    try:
        converted = convert_model(net, target="ncnn")
    except QuantizeError as error:
        if "nothing to quantize" not in str(error):
            raise
        return Outcome(EXACT, "nothing to quantize")
    calibrator = CALIBRATORS.get("minmax")()
    calibrate(converted, observe(converted, [mx.nd.array(images)], calibrator), calibrator)
    converted.quantize_input(enable=True, online=False)
    fix_params(converted)
    model = lower(converted, recipe.shape, arithmetic=TARGET.arithmetic)
    if not ir.quantized(model):
        return Outcome(EXACT, "nothing to quantize")
    way = TARGET.engine.ways[0]
    session = TARGET.engine.open(TARGET.write(model, scratch), way)
    result = verify(model, TARGET.arithmetic, {"ncnn": side(model, session)}, [images])
    where = result.first_deviation("ncnn")
    reals = {blob: sides["ncnn"] for blob, sides in result.reals.items() if blob in model.outputs}
    if where is None and all(found.exact for found in reals.values()):
        return Outcome(EXACT, "")
    return _explained(model, result, TARGET.engine.deviations(model, way), where)


def _explained(model, result, reasons, where):
    """DEVIATES where every blob that differs comes from nodes that are known to; Disagreement elsewhere."""
    differing = {blob for blob, sides in result.reals.items() if not sides["ncnn"].exact}
    tainted = set()
    for node in model.nodes:
        if node.name in reasons or tainted.intersection(node.inputs):
            tainted.update(node.outputs)
    for node in model.nodes:
        odd = differing.intersection(node.outputs) - tainted
        if odd:
            raise Disagreement(f"int8: {type(node).__name__} {node.name} writes {sorted(odd)[0]}, "
                               f"{result.reals[sorted(odd)[0]]['ncnn']}, and no reason is named")
    for node in ir.quantized(model):
        codes = result.codes[node.name]["ncnn"]
        if not codes.exact and node.inputs[0] not in tainted:
            raise Disagreement(f"int8: codes of {node.name} differ, {codes}, and no reason is named")
    worst = max((found["ncnn"].largest for found in result.codes.values()), default=0.0)
    return Outcome(DEVIATES, f"{where}, {worst:g} codes; " + "; ".join(sorted(set(reasons.values()))))
