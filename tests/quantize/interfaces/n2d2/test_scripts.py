# SPDX-License-Identifier: MIT
"""N2D2's Python tutorials with their imports changed, on a few images: LeNet in two parts, ResNet from ONNX."""

import math

import mxnet as mx
import numpy as np
import pytest

import quantize.interfaces.n2d2 as n2d2
import quantize.interfaces.n2d2 as n2d2_ip
from quantize.errors import ConfigError
from quantize.interfaces.n2d2.cells.nn import BatchNorm2d, Conv, Dropout, Fc, Pool2d
from quantize.interfaces.n2d2.quantizer import SATAct, SATCell

BATCH = 16


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder with mnist.npz: ten classes that differ in one bright square each."""
    random = np.random.RandomState(0)
    labels = np.arange(90) % 10
    images = random.randint(0, 60, (90, 28, 28)).astype(np.uint8)
    for number, label in enumerate(labels):
        images[number, 2 + 12 * (label % 2):12 + 12 * (label % 2), 1 + 5 * (label // 2):6 + 5 * (label // 2)] += 150
    folder = tmp_path_factory.mktemp("mnist")
    np.savez(folder / "mnist.npz", x_train=images[:70], y_train=labels[:70].astype(np.uint8), x_test=images[70:],
             y_test=labels[70:].astype(np.uint8))
    return folder


def provided(digits):
    database = n2d2.database.MNIST(data_path=digits, validation=0.1)
    provider = n2d2.provider.DataProvider(database, [32, 32, 1], batch_size=BATCH)
    provider.add_transformation(n2d2.transform.Rescale(width=32, height=32))
    return database, provider


def trained(model, database, provider, epochs, metric=None):
    """The text's loop; the last batch behind the loss, and the success of the last validation."""
    softmax = n2d2.cells.Softmax(with_loss=True)
    loss_function = n2d2.target.Score(provider)
    losses = []
    for _ in range(epochs):
        provider.set_partition("Learn")
        model.learn()
        for _ in range(math.ceil(database.get_nb_stimuli("Learn") / BATCH)):
            x = provider.read_random_batch()
            x = model(x)
            x = softmax(x)
            x = loss_function(x)
            x.back_propagate()
            x.update()
            losses.append(x[0])
        loss_function.clear_success()
        provider.set_partition("Validation")
        model.test()
        for i in range(math.ceil(database.get_nb_stimuli("Validation") / BATCH)):
            x = loss_function(softmax(model(provider.read_batch(i * BATCH))))
    return x, losses, loss_function.get_average_score(metric=metric) if metric else loss_function.get_average_success()


SOLVER = n2d2.ConfigSection(learning_rate=0.05, learning_rate_policy="None", momentum=0.0, decay=0.0)


def section(scaling, **quantized):
    return n2d2.ConfigSection(
        activation=n2d2.activation.Linear(), no_bias=True, weights_solver=n2d2.solver.SGD(**SOLVER),
        bias_solver=n2d2.solver.SGD(**SOLVER),
        quantizer=n2d2_ip.quantizer.SATCell(apply_scaling=scaling, **quantized))


def lenet(first, conv, fc, last, norm):
    return n2d2.cells.Sequence([
        Conv(1, 6, kernel_dims=[5, 5], **first()), BatchNorm2d(6, **norm()),
        Pool2d(pool_dims=[2, 2], stride_dims=[2, 2], pooling="Max"),
        Conv(6, 16, [5, 5], **conv()), BatchNorm2d(16, **norm()),
        Pool2d(pool_dims=[2, 2], stride_dims=[2, 2], pooling="Max"),
        Conv(16, 120, [5, 5], **conv()), Dropout(name="Conv3.Dropout"), BatchNorm2d(120, **norm()),
        Fc(120, 84, **fc()), Dropout(name="Fc1.Dropout"), Fc(84, 10, **last())])


def norm_section(activation):
    return lambda: n2d2.ConfigSection(activation=activation(), scale_solver=n2d2.solver.SGD(**SOLVER),
                                      bias_solver=n2d2.solver.SGD(**SOLVER))


def test_lenet_in_two_parts(digits, tmp_path):
    n2d2.global_variables.default_model = "Frame_CUDA"  # there is no GPU: the CPU serves
    database, provider = provided(digits)
    assert "Learn: 63, Validation: 7, Test: 20" in str(database) and "Rescale" in str(provider)

    def clamped(scaling):
        return lambda: section(scaling, apply_quantization=False)
    model = lenet(clamped(False), clamped(False), clamped(True), clamped(True), norm_section(n2d2.activation.Rectifier))
    assert "'Conv_0' Conv(nb_outputs=6" in str(model) and "'Conv3.Dropout' Dropout" in str(model)
    x, losses, _ = trained(model, database, provider, 6)
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    x.get_deepnet().export_network_free_parameters(tmp_path / "weights_clamped")
    assert (tmp_path / "weights_clamped" / "Conv_2_weights_quant.distrib.png").is_file()

    def quantized(scaling, steps):
        return lambda: section(scaling, apply_quantization=True, range=steps)
    second = lenet(quantized(False, 255), quantized(False, 15), quantized(True, 15), quantized(True, 255), norm_section(
        lambda: n2d2.activation.Linear(quantizer=n2d2_ip.quantizer.SATAct(alpha=6.0, range=15))))
    second.import_free_parameters(tmp_path / "weights_clamped", ignore_not_exists=True)
    weight = model.network.net._children["Conv_1"].weight.data().asnumpy()
    assert np.array_equal(second["Conv_1"].arrays["weight"], weight)
    x, losses, success = trained(second, database, provider, 4)
    assert losses[-1] < 2.3 and 0 <= success <= 1
    provider.set_partition("Test")
    second.test()
    out = second(provider.read_batch(0))
    assert out.shape == (BATCH, 10) and second.network.net._children["Conv_1"].weight_quantizer.levels == 15
    n2d2_ip.quantizer.fuse_qat(out.get_deepnet(), provider, "NONE")
    fused = second(provider.read_batch(0))
    assert np.array_equal(fused.to_numpy().argmax(axis=1), out.to_numpy().argmax(axis=1))
    out.get_deepnet().draw_graph(tmp_path / "lenet_quant.py")
    assert "BatchNorm" not in second.fused.dot()
    assert list(tmp_path.glob("lenet_quant.py.*"))
    second.log_stats(tmp_path / "stats")
    assert "QWeight" in "".join(map(str, second)) or "SATCell" in str(second)


def test_an_onnx_file_is_its_cells(resnet_file):
    from quantize.importers.onnx import import_onnx
    provider = n2d2.provider.DataProvider(n2d2.database.ILSVRC2012(), [16, 16, 3])
    model = n2d2.cells.DeepNetCell.load_from_ONNX(provider, resnet_file)
    kinds = {cell.name: cell.kind() for cell in model}
    assert kinds["resnetv15_stage1__plus0"] == "ElemWise" and kinds["resnetv15_pool1_fwd"] == "Pool"
    x = mx.nd.random.uniform(0, 1, (2, 3, 16, 16))
    model.network.build()
    assert np.allclose(model.network.net(x).asnumpy(), import_onnx(resnet_file)(x).asnumpy(), atol=1e-6)


def test_resnet_from_onnx_in_two_stages(resnet_file, images, tmp_path):
    database = n2d2.database.ILSVRC2012(learn=1.0, random_partitioning=True)
    database.load(images, label_path=None)
    provider = n2d2.provider.DataProvider(database=database, size=[16, 16, 3], batch_size=BATCH)
    provider.add_transformation(n2d2.transform.Composite([
        n2d2.transform.ColorSpace("RGB"), n2d2.transform.RangeAffine("Divides", 255.0),
        n2d2.transform.RandomResizeCrop(16, 16, scale_min=0.2, scale_max=1.0, ratio_min=0.75, ratio_max=1.33,
                                        apply_to="LearnOnly"),
        n2d2.transform.Rescale(18, 18, keep_aspect_ratio=True, resize_to_fit=False, apply_to="NoLearn"),
        n2d2.transform.PadCrop(18, 18, apply_to="NoLearn"),
        n2d2.transform.SliceExtraction(16, 16, offset_x=1, offset_y=1, apply_to="NoLearn")]))
    provider.add_on_the_fly_transformation(n2d2.transform.Flip(apply_to="LearnOnly", random_horizontal_flip=True))
    model = n2d2.cells.DeepNetCell.load_from_ONNX(provider, resnet_file)
    before = model["resnetv15_conv0_fwd"].arrays["weight"]
    for cell in model:
        if isinstance(cell, n2d2.cells.Conv):
            cell.set_weights_filler(n2d2.filler.Xavier(variance_norm="FanOut", scaling=1.0), refill=True)
            if cell.has_bias():
                cell.refill_bias()
            cell.quantizer = SATCell(apply_scaling=False, apply_quantization=False)
        if isinstance(cell, n2d2.cells.Fc):
            cell.set_weights_filler(n2d2.filler.Xavier(variance_norm="FanOut", scaling=1.0), refill=True)
            cell.set_bias_filler(n2d2.filler.Constant(value=0.0), refill=True)
            cell.quantizer = SATCell(apply_scaling=False, apply_quantization=False)
        if isinstance(cell, (n2d2.cells.Conv, n2d2.cells.Fc, n2d2.cells.BatchNorm2d)):
            for name, value in (("learning_rate_policy", "CosineDecay"), ("learning_rate", 0.05), ("momentum", 0.9),
                                ("decay", 0.00004), ("max_iterations", 192175050), ("iteration_size", 2)):
                cell.set_solver_parameter(name, value)
    _, _, success = trained(model, database, provider, 1, "Precision")
    model.network.pull()
    assert 0 <= success <= 1 and not np.array_equal(model["resnetv15_conv0_fwd"].arrays["weight"], before)
    model.get_embedded_deepnet().export_network_free_parameters(tmp_path / "resnet_weights_clamped")
    for cell in model:
        if isinstance(cell.activation, n2d2.activation.Rectifier):
            cell.activation = n2d2.activation.Linear(quantizer=SATAct(range=15, solver=n2d2.solver.SGD(
                learning_rate_policy="CosineDecay", learning_rate=0.05, momentum=0.9, decay=0.00004,
                max_iterations=115305030)))
        if isinstance(cell, (n2d2.cells.Conv, n2d2.cells.Fc)):
            cell.quantizer.set_quantization(True)
            cell.quantizer.set_range(15)
    model["resnetv15_conv0_fwd"].quantizer.set_range(255)
    model["resnetv15_dense0_fwd"].quantizer.set_range(255)
    clamped = model["resnetv15_conv0_fwd"].arrays["weight"].copy()
    model.learn()
    model._settle(mx.nd.zeros((1, 3, 16, 16)))
    assert np.array_equal(model.network.net._children["resnetv15_conv0_fwd"].weight.data().asnumpy(), clamped)
    x, _, _ = trained(model, database, provider, 1, "Precision")
    net = model.network.net._children
    assert net["resnetv15_stage1_conv0_fwd"].weight_quantizer.levels == 15
    assert net["resnetv15_conv0_fwd"].weight_quantizer.levels == 255
    assert net["resnetv15_relu0_fwd"].output_quantizer.alpha.data().asscalar() != 8.0
    x.get_deepnet().draw_graph(tmp_path / "resnet18v1_quant")
    x.get_deepnet().log_stats(tmp_path / "resnet18v1_quant_stats")
    assert list(tmp_path.glob("resnet18v1_quant.*")) and (tmp_path / "resnet18v1_quant_stats" / "stats.txt").is_file()
    x.get_deepnet().export_network_free_parameters(tmp_path / "resnet_weights_SAT")
    assert (tmp_path / "resnet_weights_SAT" / "resnetv15_conv0_fwd_quant.npz").is_file()


def test_solvers_of_different_iteration_sizes_update_each_in_its_own_time():
    cells = [Fc(2, 2, no_bias=True, weights_solver=n2d2.solver.SGD(learning_rate=1.0, iteration_size=2), name="slow"),
             Fc(2, 2, no_bias=True, weights_solver=n2d2.solver.SGD(learning_rate=1.0), name="fast")]
    model = n2d2.cells.Sequence(cells)
    from quantize.interfaces.n2d2.tensor import Tensor
    softmax, values = n2d2.cells.Softmax(with_loss=True), []
    loss = n2d2.target.Score(None)
    for _ in range(4):
        x = loss(softmax(model(Tensor(mx.nd.ones((2, 2)), np.array([0, 1])))))
        x.back_propagate()
        x.update()
        model.network.pull()
        values.append({cell.name: cell.arrays["weight"].copy() for cell in cells})
    def moved(name):
        return [not np.array_equal(one[name], other[name]) for one, other in zip(values, values[1:])]
    assert moved("slow") == [True, False, True] and any(moved("fast"))


def test_a_refill_reaches_a_network_that_is_made_already():
    from quantize.interfaces.n2d2.tensor import Tensor
    model = n2d2.cells.Sequence([Fc(2, 3, name="fc")])
    x = Tensor(mx.nd.ones((1, 2)), np.array([0]))
    model(x)
    model["fc"].set_weights_filler(n2d2.filler.Constant(2.0), refill=True)
    model["fc"].set_bias_filler(n2d2.filler.Constant(1.0), refill=True)
    assert (model(x).to_numpy() == 5).all()


def test_scores_are_those_of_the_training(monkeypatch):
    from gluon_quantize.models.metrics import class_metrics
    matrix = np.random.RandomState(0).randint(0, 9, (5, 5))
    ours, theirs = n2d2.target.class_scores(matrix), class_metrics(matrix)
    for one, other in zip(ours.values(), theirs.values()):
        assert np.allclose(one, other)


def test_what_cannot_be_done_is_said():
    model = n2d2.cells.Sequence([Fc(2, 2, name="fc1")])
    with pytest.raises(ConfigError, match="no cell 'fc2'; did you mean 'fc1'"):
        model["fc2"]
    with pytest.raises(ConfigError, match="has no parameter 'momentun'.*did you mean 'momentum'"):
        model["fc1"].set_solver_parameter("momentun", 1)
    with pytest.raises(ConfigError, match="has no solver"):
        Dropout(name="d").set_solver_parameter("momentum", 0.9)
    with pytest.raises(ConfigError, match="apply_to .*did you mean 'LearnOnly'"):
        n2d2.transform.Flip(apply_to="LearnOnl")
    with pytest.raises(ConfigError, match="range must be a whole number"):
        SATCell().set_range(0)
    with pytest.raises(ConfigError, match="is not loaded yet"):
        n2d2.database.MNIST().get_nb_stimuli("Learn")
