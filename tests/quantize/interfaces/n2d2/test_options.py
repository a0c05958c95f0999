# SPDX-License-Identifier: MIT
"""The tables of options of N2D2's page: each is taken, has the default that the page says, and does something."""

import pytest

from quantize.interfaces.n2d2.ini.cells import made
from quantize.interfaces.n2d2.ini.environment import transformations
from quantize.interfaces.n2d2.ini.options import Options
from quantize.interfaces.n2d2.ini.reader import read_ini

# (the cell, its section's other lines, option, what the page says is its default, another value)
CONV = "Type=Conv\nInput=sp\nKernelSize=3\nNbOutputs=4\n"
SAT, LSQ = CONV + "QWeight=SAT\n", CONV + "QWeight=LSQ\n"
ACT_SAT, ACT_LSQ = CONV + "QAct=SAT\n", CONV + "QAct=LSQ\n"
QUANTIZERS = [
    *((text, f"QWeight.{key}", default, other) for text in (SAT, LSQ) for key, default, other in (
        ("Range", "255", "15"), ("Solver", "SGD", "ADAM"), ("Mode", "Default", "Integer"))),
    (LSQ, "QWeight.StepSize", "100", "2"), (LSQ, "QWeight.StepOptInitStepSize", "true", "false"),
    (SAT, "QWeight.ApplyQuantization", "true", "false"), (SAT, "QWeight.ApplyScaling", "false", "true"),
    *((text, f"QAct.{key}", default, other) for text in (ACT_SAT, ACT_LSQ) for key, default, other in (
        ("Range", "255", "1"), ("Solver", "SGD", "ADAM"))),
    (ACT_LSQ, "QAct.StepSize", "100", "2"), (ACT_LSQ, "QAct.StepOptInitStepSize", "true", "false"),
    (ACT_SAT, "QAct.Alpha", "8.0", "6.0"),
    # as the sections of the page write solvers
    (ACT_SAT, "QActSolver", "SGD", "ADAM"), (ACT_SAT, "QActSolver.LearningRatePolicy", "None", "StepDecay"),
    (ACT_SAT, "QActSolver.LearningRate", "0.01", "0.05"), (ACT_SAT, "QActSolver.Momentum", "0.0", "0.9"),
    (ACT_SAT, "QActSolver.Decay", "0.0", "0.00004"), (ACT_SAT, "QActSolver.MaxIterations", "0", "192175050"),
    (ACT_SAT, "QActSolver.IterationSize", "1", "2")]
# N2D2's manual
OTHERS = [
    *((CONV, f"Solvers.{key}", default, other) for key, default, other in (
        ("LearningRate", "0.01", "0.05"), ("LearningRatePolicy", "None", "StepDecay"), ("Momentum", "0.0", "0.9"),
        ("Decay", "0.0", "0.1"), ("IterationSize", "1", "2"), ("MaxIterations", "0", "9"), ("Power", "0.0", "0.75"),
        ("LearningRateStepSize", "1", "9"), ("LearningRateDecay", "0.1", "0.9"))),
    (CONV, "NoBias", "0", "1"), (CONV, "Stride", "1", "2"), (CONV, "Padding", "0", "1"), (CONV, "Dilation", "1", "2"),
    *((CONV + "WeightsFiller=XavierFiller\n", f"WeightsFiller.{key}", default, other) for key, default, other in (
        ("VarianceNorm", "FanIn", "FanOut"), ("Distribution", "Uniform", "Normal"), ("Scaling", "1.0", "2.0"))),
    (CONV + "WeightsFiller=HeFiller\n", "WeightsFiller.VarianceNorm", "FanIn", "FanOut"),
    (CONV + "WeightsFiller=NormalFiller\n", "WeightsFiller.Mean", "0.0", "1.0"),
    (CONV + "WeightsFiller=NormalFiller\n", "WeightsFiller.StdDev", "1.0", "0.1"),
    (CONV + "WeightsFiller=ConstantFiller\n", "WeightsFiller.Value", "0.0", "1.0"),
    (CONV + "Solvers=Adam\n", "Solvers.LearningRate", "0.001", "0.1"),
    (CONV + "Solvers=Adam\n", "Solvers.Beta1", "0.9", "0.8"),
    (CONV + "Solvers=Adam\n", "Solvers.Beta2", "0.999", "0.9"),
    ("Type=Pool\nInput=sp\nPoolWidth=2\nPoolHeight=2\n", "Stride", "1", "2"),
    ("Type=Pool\nInput=sp\nPoolWidth=2\nPoolHeight=2\n", "Pooling", "Max", "Average"),
    ("Type=Dropout\nInput=sp\n", "Dropout", "0.5", "0.2"),
    ("Type=BatchNorm\nInput=sp\n", "MovingAverageMomentum", "0.1", "0.2"),
    ("Type=ElemWise\nInput=sp\n", "Operation", "Sum", "Max"),
    ("Type=Softmax\nInput=sp\n", "WithLoss", "0", "1"),
    ("Type=Activation\nInput=sp\n", "ActivationFunction", "Linear", "Rectifier")]


def facts(value):
    """All that a cell holds, however deep, as plain values."""
    if isinstance(value, dict):
        return {key: facts(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [facts(entry) for entry in value]
    if hasattr(value, "__dict__"):
        return type(value).__name__, facts(vars(value))
    return value


def cell(tmp_path, lines):
    (tmp_path / "net.ini").write_text(f"[cell]\n{lines}")
    document = read_ini(tmp_path / "net.ini")
    return facts(made(Options(document, document.sections["cell"])))


@pytest.mark.parametrize("text, option, default, other", QUANTIZERS + OTHERS)
def test_options_of_cells(tmp_path, text, option, default, other):
    found = cell(tmp_path, text)
    assert found == cell(tmp_path, text + f"{option}={default}\n") != cell(tmp_path, text + f"{option}={other}\n")


TRANSFORMATIONS = [
    ("RescaleTransformation\nWidth=4\nHeight=4\n", "KeepAspectRatio", "0", "1"),
    ("RescaleTransformation\nWidth=4\nHeight=4\n", "ResizeToFit", "1", "0"),
    ("RescaleTransformation\nWidth=4\nHeight=4\n", "ApplyTo", "All", "LearnOnly"),
    ("RangeAffineTransformation\nFirstOperator=Divides\nFirstValue=2\n", "SecondOperator", "Plus", "Minus"),
    ("RangeAffineTransformation\nFirstOperator=Divides\nFirstValue=2\n", "SecondValue", "0.0", "1.0"),
    *((f"RandomResizeCropTransformation\nWidth=4\nHeight=4\n{more}", key, "1.0", other) for key, other, more in (
        ("ScaleMin", "0.2", ""), ("RatioMin", "0.75", ""), ("RatioMax", "1.33", ""), ("ScaleMax", "2.0", ""))),
    ("PadCropTransformation\nWidth=4\nHeight=4\n", "BorderType", "MinusOneReflectBorder", "ConstantBorder"),
    *(("SliceExtractionTransformation\nWidth=4\nHeight=4\n", key, "0", "1") for key in (
        "OffsetX", "OffsetY", "RandomOffsetX", "RandomOffsetY", "AllowPadding")),
    *(("FlipTransformation\n", key, "0", "1") for key in (
        "HorizontalFlip", "VerticalFlip", "RandomHorizontalFlip", "RandomVerticalFlip"))]


@pytest.mark.parametrize("text, option, default, other", TRANSFORMATIONS)
def test_options_of_transformations(tmp_path, text, option, default, other):
    def found(lines):
        (tmp_path / "net.ini").write_text(f"[sp.Transformation-1]\nType={lines}")
        return str(facts(transformations(read_ini(tmp_path / "net.ini"))))
    assert found(text) == found(text + f"{option}={default}\n") != found(text + f"{option}={other}\n")
