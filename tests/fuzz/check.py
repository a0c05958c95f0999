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
BITS = 8  # last bits of the input that a longer way through float32 may be worth
Outcome = collections.namedtuple("Outcome", "kind text")
EXACT, DEVIATES, UNCERTAIN = "exact", "deviates where named", "float32 itself is further off than 1e-5"
REFUSED, FAILS = "refused", "fails"


class Disagreement(AssertionError):
    """Two computations of one network that should be the same."""


def judged(model, images):
    """ONNX Runtime's outputs, its own rewriting of the graph switched off."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": images})


class Judge:
    """ONNX Runtime's outputs for images, and how far they are to be trusted.

    Attributes
    ----------
    want : list of array
    noise : list of float, or None
        What was needed of `uncertainty`; None where everything was within the limit.
    """

    def __init__(self, model, images):
        self.model, self.images, self.want, self.noise = model, images, judged(model, images), None

    def compare(self, name, found):
        """Disagreement where outputs differ by more than the share of their largest value.

        Where values of a hundred meet a sigmoid, the last bits of float32 are more than that share of what comes out,
        in ONNX Runtime as in all others. How much more is what images that differ by their last bits say.
        """
        for number, (have, want) in enumerate(zip(found, self.want)):
            have = np.asarray(have)
            if have.size != want.size:
                raise Disagreement(f"{name}, output {number}: shape {have.shape}, ONNX Runtime has {want.shape}")
            differs = _apart(have.reshape(want.shape), want)
            if not differs <= RELATIVE and not differs <= BITS * self.uncertainty(number):
                raise Disagreement(f"{name}, output {number}: {differs:.2g} of the largest value apart")

    def uncertainty(self, number):
        """Relative change of an output where each image is changed by a last bit, three times at random."""
        if self.noise is None:
            rng, self.noise = np.random.RandomState(0), [0.0] * len(self.want)
            for _ in range(3):
                signs = rng.choice([-1, 0, 1], self.images.shape).astype(np.float32)
                moved = judged(self.model, self.images * (1 + signs * np.finfo(np.float32).eps))
                self.noise = [max(pair) for pair in zip(self.noise, map(_apart, moved, self.want))]
        return self.noise[number]


def _apart(have, want):
    return float(np.abs(have - want).max()) / max(float(np.abs(want).max()), 1e-3)


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
    judge = Judge(model, images)
    onnx.save(model, str(scratch / "net.onnx"))
    net = import_onnx(scratch / "net.onnx")
    judge.compare("MXNet", arrays(net(mx.nd.array(images))))
    lowered = lower(net, recipe.shape, arithmetic=TARGET.arithmetic_here(), quantized=False)
    judge.compare("lowered", engine.run(lowered, images).outputs)
    session = TARGET.engine.open(writer.write(lowered, scratch, "float", integers=False), TARGET.engine.float_way)
    found = session.run(images, lowered.outputs, lowered.shapes)
    judge.compare("ncnn in float", [found[name] for name in lowered.outputs])
    outcome = _integers(recipe, net, scratch)
    return outcome if judge.noise is None else Outcome(UNCERTAIN, outcome.text)


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
    result = verify(model, TARGET.arithmetic_here(), {"ncnn": side(model, session)}, [images])
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
    apart = max((found["ncnn"].relative for blob, found in result.reals.items() if blob in model.outputs), default=0.0)
    return Outcome(DEVIATES, f"codes by {worst:g}" + (f" from {where}" if where else "")
                   + f", outputs by {apart:.2g} of the largest; " + "; ".join(sorted(set(reasons.values()))))
