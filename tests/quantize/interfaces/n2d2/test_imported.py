# SPDX-License-Identifier: MIT
"""INI files about an ONNX file: base blocks for a type, sections for a cell, fillers or the file's weights."""

import numpy as np
import pytest

from quantize.errors import ConfigError
from quantize.interfaces.n2d2.activation import Linear, Rectifier
from quantize.interfaces.n2d2.ini.model import read_model

TEXT = """[database]
Type=ILSVRC2012_Database
[sp]
SizeX=16
SizeY=16
NbChannels=3
BatchSize=4
[onnx:Conv_def]
QWeight=SAT
QWeight.Range=15
WeightsFiller=XavierFiller
WeightsFiller.VarianceNorm=FanOut
ConfigSection=conv.config
[conv.config]
NoBias=1
Solvers.LearningRate=0.05
Solvers.IterationSize=2
[onnx:BatchNorm_def]
Solvers.LearningRate=0.5
[ReluQ_def]
ActivationFunction=Linear
QAct=SAT
QAct.Range=7
[resnetv15_relu0_fwd]ReluQ_def
[resnetv15_conv0_fwd]onnx:Conv_def
QWeight.Range=255
[onnx]
Input=sp
Type=ONNX
File=resnet18v1.onnx
ONNX_init=0
[soft1]
Input=resnetv15_dense0_fwd
Type=Softmax
NbOutputs=3
WithLoss=1
[soft1.Target]
"""


@pytest.fixture
def model_of(resnet_file):
    """function(old, new) -> what TEXT says with a change."""
    def read(old="", new=""):
        assert old in TEXT
        path = resnet_file.parent / "net.ini"
        path.write_text(TEXT.replace(old, new, 1) if old else TEXT)
        return read_model(path)
    return read


def test_base_blocks_and_sections_reach_their_cells(model_of):
    network = model_of().network
    cells = network.cells
    assert cells["resnetv15_conv0_fwd"].quantizer.range == 255
    assert cells["resnetv15_stage1_conv0_fwd"].quantizer.range == 15
    assert cells["resnetv15_dense0_fwd"].quantizer is None
    assert type(cells["resnetv15_relu0_fwd"].activation) is Linear
    assert cells["resnetv15_relu0_fwd"].activation.quantizer.range == 7
    assert type(cells["resnetv15_stage1_activation0"].activation) is Rectifier
    network.build()
    rates = {(group.lr, group.every): len(group.parameters) for group in network.groups().values()}
    assert rates == {(0.05, 2): 2, (0.5, 1): 4, (0.01, 1): 3}  # convolutions, batch norms, dense layer and alpha


def test_weights_are_the_files_or_filled_anew(model_of):
    filled, loaded = model_of().network, model_of("ONNX_init=0", "ONNX_init=1").network
    for network in (filled, loaded):
        network.build()
    one, other = (network.net._children["resnetv15_conv0_fwd"].weight.data().asnumpy() for network in (filled, loaded))
    assert np.abs(one).max() <= np.sqrt(3 / (4 * 9)) and not np.array_equal(one, other)
    assert np.abs(other).max() > np.sqrt(3 / (4 * 9))


@pytest.mark.parametrize("old, new, said", [
    ("[onnx:Conv_def]\nQ", "[onnx:Conw_def]\nQ", "base block [onnx:Conv_def] does not exist; did you mean"),
    ("[onnx:BatchNorm_def]", "[onnx:BatchNrm_def]", "is for no type of cell; did you mean 'BatchNorm_def'?"),
    ("[onnx:BatchNorm_def]", "[onnx:Deconv_def]", "the file has no cell of that type"),
    ("[resnetv15_relu0_fwd]", "[resnetv15_relu9_fwd]", "is no cell of resnet18v1.onnx; did you mean"),
    ("File=resnet18v1.onnx", "File=resnet.onnx", "File: 'resnet.onnx' is neither beside the INI file"),
    ("NoBias=1", "NoBias=2", "NoBias: '2' is none of 1, true"),
    ("Input=resnetv15_dense0_fwd", "Input=resnetv15_dense1_fwd", "is no cell; did you mean 'resnetv15_dense0_fwd'?"),
    ("QWeight.Range=255", "QWeight.Rnge=255", "QWeight.Rnge: unknown key; did you mean 'Range'?")])
def test_what_is_wrong_names_the_line_and_the_nearest_name(model_of, old, new, said):
    with pytest.raises(ConfigError) as found:
        model_of(old, new)
    assert said in str(found.value) and "net.ini:" in str(found.value)
