# SPDX-License-Identifier: MIT
"""What cells compute, against NumPy; fillers, solvers, transformations, databases, sizes."""

import gzip
import math
import struct

import mxnet as mx
import numpy as np
import pytest

from quantize.errors import ConfigError, DataError
from quantize.interfaces.n2d2 import activation, cells, database, filler, solver, transform
from quantize.interfaces.n2d2.network import CellNetwork
from quantize.interfaces.n2d2.provider import DataProvider
from quantize.interfaces.n2d2.quantizer import LSQAct, LSQCell, SATAct, SATCell
from quantize.interfaces.n2d2.stats import bytes_at, stats_of, totals

X = np.random.RandomState(0).normal(0, 1, (2, 3, 6, 4)).astype(np.float32)


def computed(cell, *arrays, inputs=("sp",)):
    """What a cell makes of images; several inputs are their halves, doubled images and so on."""
    cell.name, cell.inputs = "cell", list(inputs)
    net = CellNetwork([*arrays, cell], X.shape[1:]).build()
    return net(mx.nd.array(X)).asnumpy()


def relu(name="other"):
    return cells.Activation(name=name, inputs=["sp"], activation=activation.Rectifier())


def norm():
    """A cell with parameters, which changes nothing."""
    return cells.BatchNorm2d(3, name="norm", inputs=["sp"])


R = np.maximum(X, 0)


@pytest.mark.parametrize("cell, expected", [
    (cells.Scaling(0.5), 0.5 * X), (cells.Threshold(0.3), (X > 0.3) * 1.0),
    (cells.Threshold(0.3, operation="BinaryInverted", max_value=2.0), (X <= 0.3) * 2.0),
    (cells.Threshold(0.3, operation="Truncate"), np.minimum(X, 0.3)),
    (cells.Threshold(0.3, operation="ToZero"), X * (X > 0.3)),
    (cells.Threshold(0.3, operation="ToZeroInverted"), X * (X <= 0.3)),
    (cells.Padding(1, 2, 0, 1), np.pad(X, ((0, 0), (0, 0), (1, 2), (0, 1)))),
    (cells.Padding(-1, 0, 0, -2), X[:, :, 1:, :-2]),
    (cells.Reshape([12, 6, 1]), X.reshape(2, 1, 6, 12)), (cells.Transpose([1, 0, 2, 3]), X.transpose(0, 1, 3, 2)),
    (cells.Transpose([2, 0, 1, 3]), X.transpose(0, 2, 3, 1)),
    (cells.Unpool([2, 3]), np.repeat(np.repeat(X, 3, 2), 2, 3) / 6),
    (cells.Softmax(), np.exp(X) / np.exp(X).sum(1, keepdims=True)),
    (cells.GlobalPool2d("Average"), X.mean((2, 3), keepdims=True)),
    (cells.GlobalPool2d("Max"), X.max((2, 3), keepdims=True)),
    (cells.Pool2d([2, 2], stride_dims=[2, 2], pooling="Average"), X.reshape(2, 3, 3, 2, 2, 2).mean((3, 5))),
    (cells.Pool2d([2, 3], stride_dims=[2, 3]), X.reshape(2, 3, 2, 3, 2, 2).max((3, 5))),
    (cells.Dropout(), X), (cells.Activation(activation=activation.Tanh(alpha=2.0)), np.tanh(2 * X)),
    (cells.Activation(activation=activation.TanhLeCun()), np.tanh(1.7159 * 2 / 3 * X)),
    (cells.Activation(activation=activation.Logistic()), 1 / (1 + np.exp(-X))),
    (cells.Activation(activation=activation.Softplus()), np.log1p(np.exp(X))),
    (cells.Activation(activation=activation.Saturation()), np.clip(X, -1, 1)),
    (cells.Activation(activation=activation.Rectifier(leak_slope=0.1)), np.where(X > 0, X, 0.1 * X)),
    (cells.Activation(activation=activation.Rectifier(clipping=0.5)), np.clip(X, 0, 0.5)),
    (cells.Scaling(2.0, activation=activation.Rectifier()), 2 * R)])
def test_cells_of_one_input(cell, expected):
    assert np.allclose(computed(cell), expected, atol=1e-5)


@pytest.mark.parametrize("cell, expected", [
    (cells.ElemWise(), X + R), (cells.ElemWise("Sum", weights=[0.5, 2.0], shifts=[0.1, 0.0]), 0.5 * X + 0.1 + 2 * R),
    (cells.ElemWise("AbsSum", weights=[1.0, 3.0]), np.abs(X) + 3 * np.abs(R)),
    (cells.ElemWise("EuclideanSum"), np.sqrt(X ** 2 + R ** 2)), (cells.ElemWise("Prod"), X * R),
    (cells.ElemWise("Max"), np.maximum(X, R)), (cells.Concat(), np.concatenate([X, R], 1)),
    (cells.Scaling(2.0), np.concatenate([2 * X, 2 * R], 1))])
def test_cells_of_several_inputs(cell, expected):
    assert np.allclose(computed(cell, relu(), inputs=("sp", "other")), expected, atol=1e-5)


@pytest.mark.parametrize("function", [activation.Linear, activation.Rectifier])
def test_any_cell_carries_an_activation_quantizer(function):
    found = computed(cells.Scaling(2.0, activation=function(quantizer=SATAct(2.0, 3))), norm(), inputs=["norm"])
    assert np.allclose(np.unique(found), [0, 2 / 3, 4 / 3, 2])


def test_a_quantizer_stands_behind_another_function():
    found = computed(cells.Scaling(1.0, activation=activation.Logistic(quantizer=SATAct(1.0, 3))), norm(),
                     inputs=["norm"])
    wanted = np.floor(3 / (1 + np.exp(-X / math.sqrt(1 + 1e-5))) + 0.5) / 3
    assert np.allclose(found, wanted)


@pytest.mark.parametrize("made, shape", [
    (cells.Conv(None, 5, [2, 3], stride_dims=[1, 2], padding_dims=[0, 1]), (5, 3, 3)),
    (cells.Conv(3, 6, [1, 1], nb_groups=3), (6, 6, 4)), (cells.Deconv(None, 2, [2, 2], stride_dims=[2, 2]), (2, 12, 8)),
    (cells.Resize(8, 9), (3, 9, 8)), (cells.Fc(None, 7), (7,))])
def test_shapes(made, shape):
    assert computed(made).shape[1:] == shape


def test_networks_that_do_not_fit_are_said_with_the_cell():
    with pytest.raises(ConfigError, match="do not fit the cells"):
        CellNetwork([cells.Conv(4, 2, [3, 3])], (3, 8, 8)).build()
    with pytest.raises(ConfigError, match="puts out 3 feature maps, its NbOutputs says 5"):
        CellNetwork([cells.Pool2d(nb_outputs=5)], (3, 8, 8)).build()
    with pytest.raises(ConfigError, match="its input 'conv' is no cell before it; did you mean 'conv1'"):
        CellNetwork([cells.Conv(3, 2, name="conv1"), cells.Fc(None, 2, inputs=["conv"])], (3, 8, 8))
    with pytest.raises(ConfigError, match="is there already"):
        CellNetwork([cells.Conv(3, 2, name="a"), cells.Conv(2, 2, name="a")], (3, 8, 8))


def test_lsq_starts_from_the_batch_or_from_the_file():
    def network(opt):
        made = CellNetwork([cells.Conv(3, 4, [3, 3], quantizer=LSQCell(15, 0.25, opt), name="c",
                                       activation=activation.Linear(quantizer=LSQAct(7, 0.5, opt)))], (3, 6, 4))
        made.build()
        made.start(mx.nd.array(X))
        return made.net._children
    fixed, measured = network(False), network(True)
    assert fixed["c"].weight_quantizer.get_qparams().scale == 0.25
    assert fixed["c_activation"].output_quantizer.get_qparams().scale == 0.5
    weight = np.abs(measured["c"].weight.data().asnumpy()).mean()
    assert np.allclose(measured["c"].weight_quantizer.get_qparams().scale, 2 * weight / math.sqrt(7))
    assert measured["c"].weight_quantizer.spec.qmin == -8 and measured["c_activation"].output_quantizer.spec.qmax == 7


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 15, 255])
def test_lsq_rounds_weights_to_as_many_steps_as_its_range_says(steps):
    made = CellNetwork([cells.Conv(3, 4, [3, 3], quantizer=LSQCell(steps), name="c")], (3, 6, 4))
    made.build()
    made.start(mx.nd.array(X))
    layer = made.net._children["c"]
    spec = layer.weight_quantizer.spec
    values = np.unique(layer.rounded(mx.nd, layer.weight.data()).asnumpy())
    assert spec.qmax - spec.qmin == steps and 2 <= len(values) <= steps + 1 and values[0] < 0 < values[-1]


@pytest.mark.parametrize("between", [lambda: cells.Reshape([-1]), lambda: cells.FMP(1.4), lambda: cells.Unpool(
    [2, 2], pooling="Max", arg_max="pool")])
def test_cells_that_reshape_behind_quantized_layers_run_hybridized(between):
    """How many channels a layer reads it finds out by itself; checks of reshapes must know, too."""
    cell = between()
    before = [cells.Conv(None, 4, [3, 3], quantizer=SATCell(range=15), name="conv")]
    if isinstance(cell, cells.Unpool):
        before.append(cells.Pool2d([2, 2], stride_dims=[2, 2], name="pool"))
    made = CellNetwork([*before, cell, cells.Fc(None, 5, quantizer=SATCell(range=15))], (3, 8, 6))
    net = made.build()
    net.hybridize(static_alloc=True, static_shape=True)
    made.start(mx.nd.ones((2, 3, 8, 6)))
    assert net(mx.nd.ones((2, 3, 8, 6))).shape == (2, 5)


# ---- fillers and solvers


@pytest.mark.parametrize("made, mean, deviation", [
    (filler.Xavier(), 0, 1 / math.sqrt(40 * 9)), (filler.Xavier("FanOut", scaling=2.0), 0, 2 / math.sqrt(50 * 9)),
    (filler.Xavier("Average", "Normal"), 0, 1 / math.sqrt(45 * 9)), (filler.He(), 0, math.sqrt(2 / (40 * 9))),
    (filler.Normal(1.0, 0.2), 1, 0.2), (filler.Uniform(-1, 3), 1, 4 / math.sqrt(12)), (filler.Constant(3.0), 3, 0)])
def test_fillers(made, mean, deviation):
    found = made.fill((50, 40, 3, 3), np.random.RandomState(0))
    assert found.dtype == np.float32 and abs(found.mean() - mean) < 0.02
    assert found.std() == pytest.approx(deviation, rel=0.02, abs=1e-6)


@pytest.mark.parametrize("options, images, share", [
    ({}, 1000, 1), (dict(policy="StepDecay", learning_rate_step_size=100, learning_rate_decay=0.5), 250, 0.25),
    (dict(policy="ExponentialDecay", learning_rate_step_size=100, learning_rate_decay=0.5), 250, math.exp(-1)),
    (dict(policy="InvTDecay", learning_rate_step_size=100, learning_rate_decay=0.5), 250, 0.5),
    (dict(policy="InvDecay", learning_rate_decay=0.01, power=2.0), 100, 0.25),
    (dict(policy="PolyDecay", max_iterations=1000, power=2.0), 500, 0.25),
    (dict(policy="CosineDecay", max_iterations=1000), 0, 1),
    (dict(policy="CosineDecay", max_iterations=1000), 500, 0.5),
    (dict(policy="CosineDecay", max_iterations=1000), 2000, 0),
    (dict(policy="CosineDecay", max_iterations=1000, min_decay=0.2), 1000, 0.2),
    (dict(policy="CosineDecay", max_iterations=1100, warm_up_duration=100), 50, 0.625)])
def test_policies(options, images, share):
    options["learning_rate_policy"] = options.pop("policy", "None")
    assert solver.SGD(**options).share(images) == pytest.approx(share, abs=1e-12)


def test_solvers_by_all_their_names():
    for name in ("SGD", "SGDSolver", "SGDSolver_Frame", "SGDSolver_Frame_CUDA"):
        assert solver.solver_class(name) is solver.SGD
    assert solver.solver_class("ADAM") is solver.solver_class("AdamSolver_Frame") is solver.Adam
    with pytest.raises(ConfigError, match="did you mean 'Adam'"):
        solver.solver_class("Adan")


# ---- transformations


def test_transformations():
    image = np.random.RandomState(1).randint(0, 256, (6, 8, 3)).astype(np.uint8)
    nothing = np.random.RandomState(0)
    assert np.array_equal(transform.ColorSpace("RGB")(image, nothing), image[..., ::-1])
    assert transform.ColorSpace("Gray")(image, nothing).shape == (6, 8)
    assert transform.ColorSpace("RGB")(image[..., 0], nothing).shape == (6, 8, 3)
    made = transform.RangeAffine("Minus", [1.0, 2.0, 3.0], "Divides", 2.0)(image, nothing)
    assert np.allclose(made, (image - np.array([1, 2, 3])) / 2)
    assert transform.Rescale(4, 3, True, True)(image, nothing).shape == (3, 4, 3)
    assert transform.Rescale(4, 4, True, False)(image, nothing).shape == (4, 5, 3)
    assert np.array_equal(transform.PadCrop(8, 4)(image, nothing), image[1:5])
    padded = transform.PadCrop(8, 8, "ConstantBorder", 7)(image, nothing)
    assert np.array_equal(padded[1:7], image) and (padded[0] == 7).all()
    assert np.array_equal(transform.SliceExtraction(3, 2, 4, 1)(image, nothing), image[1:3, 4:7])
    with pytest.raises(DataError, match="reach beyond"):
        transform.SliceExtraction(3, 2, 7, 1)(image, nothing)
    with pytest.raises(DataError, match="does not fit into an image of 8x6"):
        transform.SliceExtraction(3, 9)(image, nothing)
    assert np.array_equal(transform.Flip(horizontal_flip=True)(image, nothing), image[:, ::-1])
    flipped = [transform.Flip(random_horizontal_flip=True)(image, np.random.RandomState(n)) for n in range(20)]
    assert {np.array_equal(one, image) for one in flipped} == {True, False}
    crop = transform.RandomResizeCrop(5, 4, 0.2, 1.0, 0.75, 1.33)
    assert crop(image, np.random.RandomState(0)).shape == (4, 5, 3) and crop.random
    with pytest.raises(ConfigError, match="divides by 0"):
        transform.RangeAffine("Divides", 0.0)


# ---- databases


def test_mnist_from_idx_files_packed_and_not(tmp_path):
    images = np.random.RandomState(0).randint(0, 256, (7, 28, 28)).astype(np.uint8)
    labels = np.arange(7).astype(np.uint8)
    for name, data in (("train-images-idx3", images), ("train-labels-idx1", labels), ("t10k-images-idx3", images[:2]),
                       ("t10k-labels-idx1", labels[:2])):
        content = struct.pack(f">BBBB{data.ndim}I", 0, 0, 8, data.ndim, *data.shape) + data.tobytes()
        if "images" in name:
            (tmp_path / f"{name}-ubyte.gz").write_bytes(gzip.compress(content))
        else:
            (tmp_path / f"{name}-ubyte").write_bytes(content)
    made = database.MNIST(data_path=tmp_path, random_partitioning=False, validation=0.3)
    assert made.get_partition_summary() == {"Learn": 5, "Validation": 2, "Test": 2}
    assert np.array_equal(made.part("Validation")[0], images[5:]) and list(made.part("Test")[1]) == [0, 1]
    provider = DataProvider(made, [28, 28, 1], 3)
    batch = provider.read_batch(0)
    assert np.allclose(batch.to_numpy()[:, 0], images[:3] / 255)  # bytes become 0 to 1
    provider.add_transformation(transform.RangeAffine("Divides", 255.0))
    assert np.allclose(provider.read_batch(0).to_numpy()[:, 0], images[:3] / 255)  # and not once more
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x09abc")
    with pytest.raises(DataError, match="says .9,. and holds 3 bytes"):
        database.MNIST(data_path=tmp_path)


def test_cifar_from_binary_files(tmp_path):
    rows = np.random.RandomState(0).randint(0, 256, (4, 3073)).astype(np.uint8)
    rows[:, 0] = range(4)
    (tmp_path / "data_batch_1.bin").write_bytes(rows.tobytes())
    (tmp_path / "test_batch.bin").write_bytes(rows[:1].tobytes())
    made = database.CIFAR10(data_path=tmp_path, random_partitioning=False)
    image = made.image("Learn", 2)
    assert image.shape == (32, 32, 3) and np.array_equal(image[..., ::-1].transpose(2, 0, 1).ravel(), rows[2, 1:])
    with pytest.raises(DataError, match="no such folder"):
        database.CIFAR10(data_path=tmp_path / "nowhere")


def test_shares_of_a_folder(tmp_path):
    from PIL import Image
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(10):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / label / f"{number}.png")
    made = database.DIR(0.5, 0.2, data_path=tmp_path)
    assert made.get_partition_summary() == {"Learn": 10, "Validation": 4, "Test": 6}
    assert made.image("Learn", 0).shape == (4, 4, 3)
    (tmp_path / "a" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="0.png: cannot be decoded"):
        for part in ("Learn", "Validation", "Test"):
            for number in range(made.get_nb_stimuli(part)):
                made.image(part, number)


# ---- sizes


@pytest.mark.parametrize("first, rest, last, bits, megabytes", [
    (864, 3184224, 1024000, 4, 2.62), (864, 3184224, 1024000, 3, 2.22), (864, 3184224, 1024000, 2, 1.82),
    (864, 3184224, 1024000, 1, 1.42),  # MobileNet-v1: 4 209 088 weights
    (9408, 10985472, 512000, 4, 6.01), (9408, 10985472, 512000, 1, 1.89)])  # ResNet-18: 11 506 880 in N2D2's table
def test_bytes_of_n2d2s_tables(first, rest, last, bits, megabytes):
    assert round(bytes_at([first, rest, last], bits) / 1e6, 2) == megabytes


def test_sizes_of_a_network():
    network = CellNetwork([cells.Conv(3, 4, [3, 3], name="c", quantizer=LSQCell(15)), cells.BatchNorm2d(4),
                           cells.Fc(None, 5, name="f", activation=activation.Linear(quantizer=SATAct(6.0, 15)))],
                          (3, 6, 4))
    network.build()
    found = {cell.name: cell for cell in stats_of(network)}
    assert (found["c"].weights, found["c"].parameters, found["c"].macs) == (108, 112, 108 * 4 * 2)
    assert (found["c"].weight_bits, found["c"].weight_bytes, found["f"].weight_bits) == (4, 54, 32)
    assert (found["f"].macs, found["f"].output_bits, found["BatchNorm_0"].parameters) == (160, 4, 8)
    assert totals(list(found.values()))["bytes_at_8_bits"] == 108 + 160


@pytest.mark.parametrize("window", [(2, 2), (3, 2), (1, 4)])
def test_unpooling_puts_values_where_the_maxima_were(window):
    """Against a loop over windows; equal values count as the first."""
    width, height = window
    x = np.round(np.random.RandomState(3).normal(0, 1, (2, 3, 8, 6)), 1).astype(np.float32)  # with equal ones
    net = CellNetwork([cells.Pool2d(list(window), stride_dims=list(window), name="pool"),
                       cells.Scaling(2.0, name="twice"),
                       cells.Unpool(list(window), pooling="Max", arg_max="pool", name="unpool")], (3, 8, 6)).build()
    want = np.zeros_like(x)
    for n, c, i, j in np.ndindex(2, 3, 8 // height, 6 // width):
        part = x[n, c, i * height:(i + 1) * height, j * width:(j + 1) * width]
        a, b = np.unravel_index(part.argmax(), part.shape)
        want[n, c, i * height + a, j * width + b] = 2 * part.max()
    for hybrid in (False, True):
        if hybrid:
            net.hybridize()
        np.testing.assert_array_equal(net(mx.nd.array(x)).asnumpy(), want)


def test_unpooling_needs_its_pool():
    pool = cells.Pool2d([2, 2], stride_dims=[1, 1], name="pool")
    with pytest.raises(ConfigError, match="arg_max 'pool' is no cell before it that takes the maximum of windows of"):
        CellNetwork([pool, cells.Unpool([2, 2], pooling="Max", arg_max="pool")], (3, 8, 6))
    with pytest.raises(ConfigError, match="pooling=Max needs arg_max"):
        cells.Unpool([2, 2], pooling="Max")
    with pytest.raises(ConfigError, match="arg_max belongs to pooling=Max"):
        cells.Unpool([2, 2], arg_max="pool")
