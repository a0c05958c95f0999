# SPDX-License-Identifier: MIT
"""Whole networks: the engine on the lowered model equals MXNet's float output. Quick: those with unusual operators."""

import pytest
from mxnet.gluon import nn

from gluon_quantize.models import zoo
from gluon_quantize.models.nets import GroupNorm
from quantize.importers.onnx import import_onnx
from tests.quantize.importers.onnx.judge import arr, import_model, make_model, node

NAMES = sorted(zoo.classification_models())
# The rest takes 64x64. These end in a pooling of fixed size.
SIZES = {"cifar": 32, "densenet": 224, "googlenet": 224, "inceptionv3": 299, "residualattentionnet": 224,
         "squeezenet": 224}
QUICK = ("se_resnet18_v1", "resnest14", "shufflenet_v2", "squeezenet1.1", "mobilenetv3_small", "cifar_resnet20_v1",
         "nasnet_4_1056", "cifar_residualattentionnet56", "hrnet_w18_small_v1_c")
ONNX = ("cifar_resnet20", "squeezenet_v1.1", "mobilenet_v1_0.75_224", "mobilenet_v2_1.0_224_dequantized")


def check(name, random_net, agrees):
    size = next((size for start, size in SIZES.items() if name.startswith(start)), 64)
    model = agrees(random_net(zoo.build(name, {})[1], (3, size, size)), (3, size, size))
    names = [node.name for node in model.nodes]
    assert len(set(names)) == len(names) and not any(" " in name for name in names)
    return model


@pytest.mark.parametrize("name", QUICK)
def test_quick(name, random_net, agrees):
    check(name, random_net, agrees)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_network(name, random_net, agrees):
    check(name, random_net, agrees)


@pytest.mark.parametrize("name", ONNX)
def test_onnx(name, shared_data, agrees, kinds):
    net = import_onnx(str(shared_data / name / "model.onnx"))
    model = agrees(net, net.input_shape[1:])
    assert not {"BatchNorm", "Affine", "Crop", "ScalarOp"} & set(kinds(model))
    assert [node.name for node in model.nodes if type(node).__name__ == "Padding"] == (
        ["layer2_0_shortcut_pad_pad.pad", "layer3_0_shortcut_pad_pad.pad"] if name == "cifar_resnet20" else [])


def test_group_norms(chain, agrees):
    layers = [layer for _ in range(8) for layer in (nn.Conv2D(32, 3, padding=1), GroupNorm(8), nn.Activation("relu"))]
    net = chain((3, 16, 16), *layers)
    for _ in range(5):  # gamma and beta are computed in the graph, in the background
        agrees(net, (3, 16, 16))


def test_mobilenet_is_convolutions_alone(random_net, agrees, kinds):
    """BatchNorms, ReLUs, the dropout and the flattening are gone."""
    model = check("mobilenet0.25", random_net, agrees)
    assert kinds(model) == ["Convolution"] * 27 + ["Pooling", "InnerProduct"]
    assert {node.activation.kind for node in model.nodes[:27]} == {"relu"}


@pytest.mark.parametrize("outputs", [4, 8, 16, 24])
def test_averages_with_other_pads_on_both_sides_behind_a_convolution(outputs, agrees, tmp_path):
    """What each average counts is evaluated with MXNet, whose `slice` ends the process over channels in blocks of 8."""
    nodes = [node("Conv", "x w", "c", name="conv"),
             node("AveragePool", "c", "y", name="pool", kernel_shape=[3, 3], pads=[0, 0, 1, 1], count_include_pad=0)]
    model = make_model(nodes, ["N", 3, 9, 9], {"w": arr(outputs, 3, 3, 3, seed=1)}, 13)
    agrees(import_model(model, tmp_path), (3, 9, 9))
