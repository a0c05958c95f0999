# SPDX-License-Identifier: MIT
"""The INI files of N2D2's two pages become networks; what they may not say is one line with the nearest name."""

import pathlib

import mxnet as mx
import numpy as np
import pytest

from quantize.errors import ConfigError
from quantize.interfaces.n2d2.ini.model import read_model
from quantize.nn import QActivation, QConv2D, QDense

FILES = pathlib.Path(__file__).parent / "files"
LENET = ("LeNet_clamp", "LeNet_8bits", "LeNet_4bits", "LeNet_bn_SAT_clamp", "LeNet_bn_SAT_v2", "LeNet_bn_SAT_4bits")
CLAMPED = ("LeNet_clamp", "LeNet_bn_SAT_clamp")
#: (conv1, the others, fc2, activations); None: no quantizer
RANGES = {"LeNet_clamp": (255, 255, 255, None), "LeNet_8bits": (255, 255, 255, 255), "LeNet_4bits": (255, 15, 255, 15),
          "LeNet_bn_SAT_clamp": (255, 255, 255, None), "LeNet_bn_SAT_v2": (255, 255, 255, 255),
          "LeNet_bn_SAT_4bits": (255, 15, 15, 15)}


@pytest.fixture(scope="module")
def models():
    found = {name: read_model(FILES / f"{name}.ini") for name in LENET}
    for model in found.values():
        model.network.build()
    return found


@pytest.mark.parametrize("name", LENET)
def test_the_printed_files_make_the_network_they_draw(models, name):
    model = models[name]
    assert (model.size, model.batch_size, model.target) == ((32, 32, 1), 256, "softmax")
    shapes = model.network.shapes
    assert [shapes[cell] for cell in ("conv1", "pool1", "conv2", "pool2", "conv3", "fc1", "fc2")] == [
        (6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (120, 1, 1), (84,), (10,)]
    layers = {path: block for path, block in model.network.net._children.items()}
    assert all(type(layers[cell]) is QConv2D and layers[cell].bias is None for cell in ("conv1", "conv2", "conv3"))
    assert all(type(layers[cell]) is QDense and layers[cell].bias is None for cell in ("fc1", "fc2"))


@pytest.mark.parametrize("name", LENET)
def test_ranges_stages_and_scales_are_those_of_the_file(models, name):
    cells = models[name].network.cells
    first, middle, last, activations = RANGES[name]
    weights = {cell: cells[cell].quantizer for cell in ("conv1", "conv2", "conv3", "fc1", "fc2")}
    assert {cell: found.range for cell, found in weights.items()} == {
        "conv1": first, "conv2": middle, "conv3": middle, "fc1": middle, "fc2": last}
    assert {found.apply_quantization for found in weights.values()} == {name not in CLAMPED}
    assert [found.apply_scaling for found in weights.values()] == [False, False, False, True, True]
    for cell in ("bn1", "bn2", "bn3"):
        found = cells[cell].activation.quantizer
        assert (found is None) if activations is None else (found.range, found.alpha) == (activations, 6.0)
    net = models[name].network.net._children
    assert net["conv2"].weight_quantizer.levels == middle
    assert net["conv2"].weight_quantizer.clamp_only == (name in CLAMPED)
    if activations:
        assert isinstance(net["bn1_activation"], QActivation)
        assert net["bn1_activation"].output_quantizer.spec.qmax == activations


def test_everything_moves_by_the_solvers_of_the_file(models):
    groups = models["LeNet_4bits"].network.groups()
    assert {(group.optimizer, group.lr, group.every) for group in groups.values()} == {("sgd", 0.05, 1)}
    assert sum(len(group.parameters) for group in groups.values()) == 5 + 2 * 3 + 3  # weights, batch norm, alphas


def test_fillers_start_from_the_seed_alone():
    def weights(seed):
        model = read_model(FILES / "LeNet_clamp.ini", seed)
        model.network.build()
        return model.network.net._children["conv2"].weight.data().asnumpy()
    first = weights(3)
    assert np.array_equal(first, weights(3)) and not np.array_equal(first, weights(4))
    assert abs(first.std() - 0.05) < 0.005  # N2D2's default: a normal distribution of 0.05


def test_activations_lie_on_their_grid(models):
    network = models["LeNet_4bits"].network
    network.start(mx.nd.zeros((2, 1, 32, 32)))
    net = network.net
    seen = {}
    handle = net._children["bn1_activation"].register_forward_hook(lambda block, x, y: seen.update(y=y))
    net(mx.nd.random.uniform(0, 1, (2, 1, 32, 32)))
    handle.detach()
    codes = seen["y"].asnumpy() / (6.0 / 15)
    assert np.allclose(codes, np.rint(codes), atol=1e-5) and codes.min() == 0 and codes.max() <= 15


@pytest.mark.parametrize("old, new, said", [
    ("KernelWidth=5", "KernelWidht=5", "[conv1] KernelWidth: is missing; is it written 'KernelWidht'?"),
    ("Mapping.Size=1", "Mapping.Sise=1", "[pool1] Mapping.Sise: unknown key; did you mean 'Size'?"),
    ("Mapping.Size=1", "Mapping.Size=2", "[pool1] Mapping.Size: connects maps in a pattern"),
    ("Type=Pool", "Type=Pol", "[pool1] Type: 'Pol' is none of"),
    ("Input=bn1", "Input=bn7", "[pool1] Input: 'bn7' is no cell; did you mean 'bn"),
    ("[bn1] Bn_def", "[bn1] Bn_deff", "base block [Bn_deff] does not exist; did you mean 'Bn_def'?"),
    ("Type=MNIST_IDX_Database", "", "[softmax.Target]"),
    ("[env.Transformation_0]", "[env.Transformtion_0]", "section [env.Transformtion_0] is no cell"),
    ("DefaultModel=", "DefaultModle=", "unknown global key 'DefaultModle'; did you mean 'DefaultModel'?"),
    ("QWeight=SAT", "QWeight=SATT", "QWeight: 'SATT' is none of SAT, LSQ; did you mean 'SAT'?"),
    ("QWeight.ApplyScaling=0", "QWeight.ApplyScalling=0", "QWeight.ApplyScalling: unknown key; did you mean "
                                                          "'ApplyScaling'?"),
    ("Solvers.Momentum=0.0", "Solvers.Momentun=0.0", "Momentun: unknown key; did you mean 'Momentum'?"),
    ("LearningRatePolicy=None", "LearningRatePolicy=Cosine", "learning_rate_policy must be one of"),
    ("LearningRatePolicy=None", "LearningRatePolicy=CosineDecay", "CosineDecay needs max_iterations (MaxIterations)"),
    ("[softmax.Target]", "[softmax.Targt]", "section [softmax.Targt] is no cell"),
    ("WithLoss=1", "WithLoss=0", "cross entropy is what is trained here"),
    ("Width=32", "Widht=32", "[env.Transformation_0] Width: is missing; is it written 'Widht'?"),
])
def test_what_is_wrong_is_one_line_with_file_line_and_nearest_name(tmp_path, old, new, said):
    text = (FILES / "LeNet_clamp.ini").read_text()
    assert old in text
    path = tmp_path / "bad.ini"
    changed = text.replace(old, new, 1)
    if not new:  # the whole section of the target goes
        changed = text.replace("[softmax.Target]\n", "")
        said = "one section [NAME.Target]"
    path.write_text(changed)
    with pytest.raises(ConfigError) as found:
        read_model(path)
    assert str(found.value).startswith(f"{path}:") and said in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(("name", "printed"), [
    ("LeNet_8bits_cosine", "LeNet_8bits"), ("LeNet_4bits_cosine", "LeNet_4bits")])
def test_the_measured_files_differ_from_the_printed_ones_in_their_solvers_alone(name, printed):
    measured = FILES.parents[4] / "docs" / "measured" / "n2d2" / f"{name}.ini"
    lines = [[line for line in path.read_text().splitlines() if "olver" not in line]
             for path in (measured, FILES / f"{printed}.ini")]
    assert lines[0] == lines[1]
    network = read_model(measured).network
    network.build()
    groups = network.groups().values()
    assert {group.lr for group in groups} == {0.05}
    # half of the rate in the middle of ten epochs
    assert {round(group.share(300000), 6) for group in groups if group.share} == {0.5}
