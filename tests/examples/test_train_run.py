# SPDX-License-Identifier: MIT
"""A training as Python starts it: a request goes in, a result comes out, and nothing is printed."""

import dataclasses
import json

import mxnet as mx
import numpy as np
import pytest

import train_qat
from gluon_quantize.commands.train_options import Methods, build_parser, wanted
from gluon_quantize.data.request import ImagesRequest
from gluon_quantize.models.request import NetworkRequest
from gluon_quantize.progress import Silent
from gluon_quantize.runs.train import Begun, EpochDone, Opened, train
from gluon_quantize.training.request import (
    FormatsRequest,
    OptimizerRequest,
    ScheduleRequest,
    StartRequest,
    TrainingImagesRequest,
    TrainRequest,
)
from gluon_quantize.training.rules import check_method
from quantize.errors import ConfigError
from quantize.nn import METHODS

DIGITS = NetworkRequest("digits_lenet")


class Heard(Silent):
    """Keeps what it is told."""

    def __init__(self):
        self.steps = []

    def tell(self, step):
        self.steps.append(step)


def short(output, **changes):
    """One epoch on a few digits."""
    parts = dict(images=ImagesRequest(count=64, batch_size=64), training=TrainingImagesRequest(count=256),
                 formats=FormatsRequest(weight_bits=4, input_bits=4), schedule=ScheduleRequest(epochs=1))
    return TrainRequest(DIGITS, str(output), **dict(parts, **changes))


def test_three_lines(tmp_path, capfd):
    result = train(short(tmp_path / "out"))
    assert capfd.readouterr() == ("", "")
    assert result.final["top1"] > 0.9 and result.final["images"] == 64
    assert result.best_epoch == 0 and result.best["top1"] == result.history[0]["top1"]
    assert "int4/channel lsq" in str(result.plan) and result.rules[0]["method"] == "lsq"
    assert result.net(mx.nd.zeros((1, 1, 8, 8))).shape == (1, 10)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "best.params", "best.qnet", "checkpoints", "final.params", "final.qnet"}


def test_what_it_tells(tmp_path):
    heard = Heard()
    request = short(tmp_path, schedule=ScheduleRequest(epochs=2))
    result = train(request, heard)
    assert [type(step) for step in heard.steps] == [Begun, Opened, EpochDone, EpochDone]
    begun, opened, _, last = heard.steps
    assert begun.request is request
    assert (opened.name, opened.dataset, opened.images, opened.steps_per_epoch) == ("digits_lenet", "digits", 256, 4)
    assert last.record is last.history[-1] and last.history == result.history


def test_the_command_does_the_same(tmp_path):
    train(short(tmp_path / "python"))
    assert train_qat.main(["--model", "digits_lenet", "--batch-size", "64", "--num-train-images", "256", "--num-images",
                           "64", "--epochs", "1", "--no-plots", "--weight-bits", "4", "--input-bits", "4", "--output",
                           str(tmp_path / "command")]) == 0
    one, other = (mx.nd.load(str(tmp_path / name / "final.params")) for name in ("python", "command"))
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values.asnumpy(), other[name].asnumpy(), err_msg=name)


def test_resuming_compares_the_request(tmp_path):
    train(short(tmp_path))
    one_thread = ImagesRequest(count=64, batch_size=64, workers=1)  # changes nothing of what is computed
    assert len(train(short(tmp_path, resume=True, images=one_thread)).history) == 1
    with pytest.raises(ConfigError, match=r"--optimizer.lr 0\.01, now it is 0\.5"):
        train(short(tmp_path, resume=True, optimizer=OptimizerRequest(lr=0.5)))


def test_options_without_values_ask_for_the_request_s_defaults():
    """A default is written down twice, for the command line and for Python: both say the same."""
    parser = build_parser()
    asked = wanted(parser, parser.parse_args(["--model", "digits_lenet", "--output", "out"])).request
    assert dataclasses.replace(asked, options=None) == TrainRequest(DIGITS, "out")


def test_requests_are_values(tmp_path):
    request = short(tmp_path)
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.output = "elsewhere"
    assert json.loads(json.dumps(request.settings))["schedule.epochs"] == 1


@pytest.mark.parametrize("change, message", [
    (dict(schedule=ScheduleRequest(float_epochs=1), start=StartRequest(clamp_only=True)), "rounds nothing"),
    (dict(formats=FormatsRequest("bnn")), "--method bnn is binary: give --weight-bits 1 --input-bits 1"),
    (dict(formats=FormatsRequest("sat", granularity="channel")), "--method sat has one weight scale per layer"),
    (dict(start=StartRequest(clamp_only=True)), "--clamp-only is the first stage of --method sat"),
    (dict(formats=FormatsRequest("lsk")), "did you mean 'lsq'"),
])
def test_what_a_method_cannot_do(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        check_method(short(tmp_path, **change))


def test_a_method_that_is_registered_can_be_asked_for(monkeypatch):
    monkeypatch.setitem(METHODS._members, "brandnew", METHODS.get("ste"))
    assert set(Methods()) == {*METHODS.names(), "float"} and "brandnew" in Methods()
    args = build_parser().parse_args(["--method", "brandnew"])
    assert args.method == "brandnew" and "brandnew" in build_parser().format_help()
