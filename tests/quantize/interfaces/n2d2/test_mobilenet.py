# SPDX-License-Identifier: MIT
"""MobileNet-v1 as an INI file, with a Range for 1x1 kernels, one for 3x3 kernels and one for activations."""

import pytest

from quantize.interfaces.n2d2.ini.model import read_model
from quantize.interfaces.n2d2.stats import stats_of, totals

HEAD = """$Steps1x1={0} ; (2^bits - 1) of 1x1 kernels
$Steps3x3={1} ; of 3x3 kernels
$StepsAct={2} ; of activations
[database]
Type=ILSVRC2012_Database
[sp]
SizeX=32
SizeY=32
NbChannels=3
BatchSize=4
[Conv3x3_def]
Type=Conv
KernelSize=3
Padding=1
QWeight=SAT
QWeight.Range=${{Steps3x3}}
NoBias=1
[Conv1x1_def]
Type=Conv
KernelSize=1
QWeight=SAT
QWeight.Range=${{Steps1x1}}
NoBias=1
[Bn_def]
Type=BatchNorm
QAct=SAT
QAct.Range=${{StepsAct}}
[conv1]Conv3x3_def
Input=sp
Stride=2
NbOutputs=32
QWeight.Range=255
[bn1]Bn_def
Input=conv1
NbOutputs=[conv1]NbOutputs
"""
PAIR = """[dw{0}]Conv3x3_def
Input={1}
Stride={2}
NbOutputs=[{1}]NbOutputs
Mapping.NbGroups=[{1}]NbOutputs
[dwbn{0}]Bn_def
Input=dw{0}
NbOutputs=[dw{0}]NbOutputs
[pw{0}]Conv1x1_def
Input=dwbn{0}
NbOutputs={3}
[bn{0}]Bn_def
Input=pw{0}
NbOutputs={3}
"""
TAIL = """[fc]
Type=Fc
Input=bn14
NbOutputs=1000
QWeight=SAT
QWeight.ApplyScaling=1
[softmax]
Type=Softmax
Input=fc
WithLoss=1
[softmax.Target]
"""
STAGES = [(1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), *[(1, 512)] * 5, (2, 1024), (1, 1024)]


@pytest.mark.parametrize("bits", [(1, 4, 3)])
def test_one_line_for_the_bits_of_each_kernel_shape(tmp_path, bits):
    steps = [2 ** count - 1 for count in bits]
    text = HEAD.format(*steps) + "".join(PAIR.format(number, f"bn{number - 1}", stride, outputs)
                                         for number, (stride, outputs) in enumerate(STAGES, 2)) + TAIL
    (tmp_path / "net.ini").write_text(text)
    network = read_model(tmp_path / "net.ini").network
    network.build()
    net = network.net._children
    assert {net[f"pw{number}"].weight_quantizer.levels for number in range(2, 15)} == {steps[0]}
    assert {net[f"dw{number}"].weight_quantizer.levels for number in range(2, 15)} == {steps[1]}
    assert net["conv1"].weight_quantizer.levels == net["fc"].weight_quantizer.levels == 255
    assert {net[f"{norm}{number}_activation"].output_quantizer.spec.qmax for number in range(2, 15)
            for norm in ("bn", "dwbn")} == {steps[2]}
    found = totals(stats_of(network))
    assert found["weights"] == 4209088  # as N2D2's table has it, and its memory at 8, 4, 3, 2 and 1 bits:
    assert [round(found[f"bytes_at_{count}_bits"] / 1e6, 2) for count in (8, 4, 3, 2, 1)] == [
        4.21, 2.62, 2.22, 1.82, 1.42]
