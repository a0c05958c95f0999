# SPDX-License-Identifier: MIT
"""Winograd-domain quantization on real data: what it costs without training, and that training makes up for it.

8-bit inputs with ranges calibrated on 200 training images, weights per channel where they are quantized directly,
BatchNorm merged; evaluated on all 10000 test images of CIFAR-10 (float 9173) or the 634 of `imagenet_val_sample` (466).
"""

import json

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

import simulate_quantization
import train_qat
from calib.tiles import calibrate_tiles
from quantize.convert import convert_model
from quantize.importers.onnx import import_onnx
from quantize.modes import quantize_input, update_ema
from quantize.train import start_training

pytestmark = pytest.mark.slow

FLOAT = 9173
HALF_A_POINT = 50
STEPS = 80


def simulate(shared_data, network, output, *options):
    """Top-1 count."""
    cifar = network.startswith("cifar")
    data = (["--data-dir", shared_data, "--num-sample", 20, "--batch-size", 100, "--merge-bn"] if cifar else
            ["--data-dir", shared_data / "imagenet_val_sample", "--calib-data-dir", shared_data / "imagenet_sample",
             "--resize", 0, "--num-calib-images", 100, "--batch-size", 50])
    arguments = ["--onnx", shared_data / network / "model.onnx", "--exclude-first-conv", "false", "--quant-type",
                 "channel", "--quantize-input-offline", "-j", 1, "--output", output, *data, *options]
    assert simulate_quantization.main([str(argument) for argument in arguments]) == 0
    return json.loads((output / "result.json").read_text())["quantized"]["top1_count"]


def winograd(variant, granularity, inputs=False):
    return ["--wino-quantize", variant, "--wino-granularity", granularity] + (["--wino-inputs"] if inputs else [])


@pytest.mark.parametrize("network, least", [("cifar_resnet20", 9140), ("squeezenet_v1.1", 450)])
def test_weights_alone_cost_nothing_at_8_bits(shared_data, tmp_path, network, least):
    for variant in ("F23", "F43", "F63"):
        assert simulate(shared_data, network, tmp_path, *winograd(variant, "position")) >= least, variant


def test_the_order_of_variants_and_granularities(shared_data, tmp_path):
    """Both sides at 8 bits: F23 is nearly free; one scale for all positions ruins F43, one for each repairs it."""
    found = {(variant, granularity): simulate(shared_data, "cifar_resnet20", tmp_path,
                                              *winograd(variant, granularity, inputs=True))
             for variant, granularity in (("F23", "channel"), ("F43", "channel"), ("F43", "position"),
                                          ("F63", "position"))}
    assert found["F23", "channel"] >= FLOAT - HALF_A_POINT
    assert found["F43", "channel"] < 6000
    assert found["F43", "position"] > found["F43", "channel"] + 1000
    assert found["F63", "position"] < found["F43", "position"]


MEAN, DEVIATION = (np.float32([[[[255 * value]]] for value in values]).reshape(1, 3, 1, 1)
                   for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def images_of(shared_data, name):
    """Images (n, 3, 32, 32) as the network wants them, and labels."""
    data = np.load(shared_data / name)
    return (data["x"].transpose(0, 3, 1, 2).astype(np.float32) - MEAN) / DEVIATION, data["y"].astype(np.float32)


def augmented(x, rng):
    """Images shifted by up to four pixels, half of them mirrored."""
    padded = np.pad(x, ((0, 0), (0, 0), (4, 4), (4, 4)))
    top, left = rng.randint(0, 9, 2)
    x = padded[:, :, top:top + 32, left:left + 32].copy()
    mirrored = rng.rand(len(x)) < 0.5
    x[mirrored] = x[mirrored, :, :, ::-1]
    return x


def top1_count(net, images, labels):
    return sum(int((net(mx.nd.array(images[i:i + 200])).asnumpy().argmax(axis=1) == labels[i:i + 200]).sum())
               for i in range(0, len(images), 200))


def test_a_few_steps_win_back_thousands_of_images(shared_data):
    """F43 with one scale for all positions, 8 bits on both sides: 3860 right without training."""
    net = import_onnx(shared_data / "cifar_resnet20" / "model.onnx")
    net(mx.nd.zeros((1, 3, 32, 32)))
    convert_model(net, config_list=[{"op_types": ["Conv2D", "Dense"], "weight": "int8/channel", "input": "auto8"},
                                    {"op_types": ["Conv2D"], "winograd": "F43/channel/inputs"}])
    start_training(net, ranges="ema")
    net.hybridize(static_alloc=True, static_shape=True)
    test = images_of(shared_data, "cifar10_test.npz")
    images, labels = images_of(shared_data, "cifar10_train_1.npz")
    parameters = {name: p for name, p in net.collect_params().items() if p.grad_req != "null"}
    trainer = gluon.Trainer(parameters, "sgd", {"learning_rate": 0.002, "momentum": 0.9, "wd": 1e-4})
    loss, rng = gluon.loss.SoftmaxCrossEntropyLoss(), np.random.RandomState(0)
    for _ in range(STEPS):
        chosen = rng.randint(0, len(images), 128)
        with autograd.record():
            error = loss(net(mx.nd.array(augmented(images[chosen], rng))), mx.nd.array(labels[chosen])).mean()
        error.backward()
        trainer.step(1)
    update_ema(net)
    quantize_input(net, online=False)
    calibrate_tiles(net, [mx.nd.array(images[:200])])
    net.hybridize(static_alloc=True, static_shape=True)
    count = top1_count(net, *test)
    assert count >= 5500, count


def test_training_recovers_f43_with_8_bits_on_both_sides(shared_data, tmp_path):
    """The four epochs of docs/measured/winograd.md (half an hour of one core): both sides in 8 bits."""
    rules = tmp_path / "ste_weights.json"
    rules.write_text(json.dumps([{"op_types": ["Conv2D", "Dense"], "weight_method": "ste"}]))
    assert train_qat.main([str(argument) for argument in (
        "--onnx", shared_data / "cifar_resnet20" / "model.onnx", "--data-dir", shared_data, "--wino-quantize", "F43",
        "--wino-granularity", "position", "--wino-inputs", "--method", "lsq", "--config", rules, "--distill", "1",
        "--lr", "0.004", "--quantizer-optimizer", "adam", "--quantizer-lr", "0.002", "--epochs", "4", "--no-plots",
        "--output", tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "result.json").read_text())["final"]["top1_count"]
    assert found >= FLOAT - HALF_A_POINT
