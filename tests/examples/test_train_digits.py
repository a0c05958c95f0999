# SPDX-License-Identifier: MIT
"""The training script, quickly, and the weights it left."""

import numpy as np
import pytest

import train_digits
from gluon_quantize.data.datasets import open_dataset
from gluon_quantize.models.loading import open_model
from gluon_quantize.models.request import NetworkRequest


def test_one_epoch(tmp_path, capsys):
    output = tmp_path / "new" / "net.params"
    train_digits.main(["--epochs", "1", "--output", str(output)])
    printed, _ = capsys.readouterr()
    assert str(output) in printed and "364 test images" in printed
    assert [path.name for path in output.parent.iterdir()] == ["net.params"]
    model = open_model(NetworkRequest(model="digits_lenet", params=str(output)))
    trained = train_digits.accuracy(model.net, open_dataset("digits"))
    assert trained > 0.5 and f"{trained:.2%}" in printed


def test_same_seed_same_weights(tmp_path):
    outputs = [tmp_path / "1.params", tmp_path / "2.params"]
    for output in outputs:
        train_digits.main(["--epochs", "1", "--batch-size", "256", "--seed", "5", "--output", str(output)])
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_embedded_weights():
    net = open_model(NetworkRequest(model="digits_lenet")).net
    assert train_digits.accuracy(net, open_dataset("digits")) >= 0.985
    size = sum(int(np.prod(parameter.shape)) for parameter in net.collect_params().values())
    assert 10000 <= size <= 60000


@pytest.mark.parametrize("arguments", [["--epochs", "0"], ["--batch-size", "x"]])
def test_bad_options(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        train_digits.parse_args(arguments)
    assert caught.value.code == 2
    capsys.readouterr()


def test_the_embedded_weights_are_replaced_by_name_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train_digits.parse_args([]).output.resolve() == tmp_path / "digits_lenet.params"
