# SPDX-License-Identifier: MIT
"""The binarized VGG: its published shape, and what the recipe of `train_bnn.py` makes of each layer."""

import mxnet as mx
import numpy as np
import pytest

import train_bnn
from gluon_quantize.commands.train_options import build_parser, wanted
from gluon_quantize.models.loading import open_model
from gluon_quantize.models.request import NetworkRequest
from gluon_quantize.training.rules import build_rules
from quantize.convert import convert_model


def request_of(*options):
    parser = build_parser()
    return wanted(parser, parser.parse_args([*train_bnn.RECIPE, "--output", "out", *options])).request


@pytest.mark.parametrize(("name", "share"), [("cifar_vgg", 1), ("cifar_vgg_0.5", 0.5)])
def test_maps_and_units_are_the_published_ones(name, share):
    net = open_model(NetworkRequest(model=name)).net
    shapes = [p.shape for path, p in net.collect_params().items() if path.endswith("weight")]
    conv = [(128, 3), (128, 128), (256, 128), (256, 256), (512, 256), (512, 512)]
    expected = [(int(o * share), i if i == 3 else int(i * share), 3, 3) for o, i in conv]
    units = int(1024 * share)
    assert shapes == [*expected, (units, int(512 * share) * 16), (units, units), (10, units)]


def test_the_recipe_makes_signs_of_all_but_the_ends():
    request = request_of("--model", "cifar_vgg_0.5")
    model = open_model(request.network)
    net = convert_model(model.net, convert_fn={}, config_list=build_rules(request.formats, model.net))
    entries = {entry.path: entry for entry in net.plan.entries}
    weighted = [entry for entry in entries.values() if entry.weight is not None]
    assert [entry.weight.bits for entry in weighted] == [8, 1, 1, 1, 1, 1, 1, 1, 8]
    outputs = [entry.output for entry in entries.values() if entry.op_type == "Activation"]
    assert len(outputs) == 8 and all(spec.bits == 1 and spec.signed for spec in outputs)
    seen = []
    net.features[-1].register_forward_hook(lambda block, inputs, output: seen.append(output.asnumpy()))
    logits = net(mx.nd.random.normal(shape=(2, 3, 32, 32)))
    assert logits.shape == (2, 10)
    assert set(np.unique(seen[0])) == {-1, 1}


def test_further_options_count_more_than_the_recipe():
    request = request_of("--epochs", "3", "--resume")
    assert (request.schedule.epochs, request.resume, request.formats.method) == (3, True, "bnn")
    assert (request.network.model, request.start.from_scratch, request.optimizer.wd) == ("cifar_vgg", True, 0)
