# SPDX-License-Identifier: MIT
"""Losses against labels and against a teacher's answers, compared with NumPy."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from scipy.special import log_softmax

from gluon_quantize.training.distillation import Distillation, LabelLoss

LABELS = np.array([2, 0, 1, 1])


@pytest.fixture
def outputs():
    """(images, a teacher's answers, a network's outputs) for 4 images and 3 classes."""
    random = np.random.RandomState(0)
    return tuple(random.normal(scale=3, size=shape).astype(np.float32) for shape in ((4, 2), (4, 3), (4, 3)))


def cross_entropy(output):
    return -log_softmax(output.astype(np.float64), axis=1)[np.arange(4), LABELS]


def divergence(answers, output, temperature):
    wanted, given = (log_softmax(x.astype(np.float64) / temperature, axis=1) for x in (answers, output))
    return temperature ** 2 * (np.exp(wanted) * (wanted - given)).sum(axis=1)


def test_labels(outputs):
    x, _, output = map(mx.nd.array, outputs)
    loss = LabelLoss()(x, output, mx.nd.array(LABELS))
    np.testing.assert_allclose(loss.asnumpy(), cross_entropy(outputs[2]), rtol=1e-5)


@pytest.mark.parametrize("share, temperature", [(1, 1), (1, 4), (0.3, 2)])
def test_teacher(outputs, share, temperature):
    """The loss, and its gradient in closed form: share * T * (student at T - teacher at T) + that of cross entropy."""
    x, answers, output = map(mx.nd.array, outputs)
    asked = []

    def teacher(images):
        assert images is x and not autograd.is_recording() and not autograd.is_training()
        asked.append(images)
        return answers
    output.attach_grad()
    with autograd.record():
        loss = Distillation(teacher, share, temperature)(x, output, mx.nd.array(LABELS))
    loss.backward()
    assert len(asked) == 1
    expected = share * divergence(*outputs[1:], temperature) + (1 - share) * cross_entropy(outputs[2])
    np.testing.assert_allclose(loss.asnumpy(), expected, rtol=1e-4, atol=1e-5 * temperature ** 2)
    wanted, given = (np.exp(log_softmax(values / temperature, axis=1)) for values in outputs[1:])
    labels = np.exp(log_softmax(outputs[2], axis=1)) - np.eye(3)[LABELS]
    np.testing.assert_allclose(output.grad.asnumpy(), share * temperature * (given - wanted) + (1 - share) * labels,
                               rtol=1e-4, atol=1e-6)


def test_nothing_to_learn_from_a_teacher_of_the_same_opinion(outputs):
    x, answers, _ = map(mx.nd.array, outputs)
    np.testing.assert_allclose(Distillation(lambda _: answers, 1, 4)(x, answers, None).asnumpy(), 0, atol=1e-5)
