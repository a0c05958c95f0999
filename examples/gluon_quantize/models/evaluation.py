# SPDX-License-Identifier: MIT
"""Run a network over images and count."""

import time
from dataclasses import dataclass
from typing import Any, Iterable

import mxnet as mx
import numpy as np

from gluon_quantize.progress import SILENT, Silent
from quantize.errors import DataError


@dataclass(frozen=True)
class Predictions:
    """What a network said about each image.

    Attributes
    ----------
    top5 : array of int, (images, up to 5)
        Classes of the largest outputs, the largest first.
    labels : array of int, (images,)
    seconds : float
        Time spent in the network, without the first batch (which builds the graph) where there are more.
    timed_images : int
    """

    top5: np.ndarray
    labels: np.ndarray
    seconds: float
    timed_images: int

    @property
    def top1_count(self) -> int:
        """Images whose largest output is the label's."""
        return int((self.top5[:, 0] == self.labels).sum())

    @property
    def top5_count(self) -> int:
        """Images whose label is among the five largest outputs."""
        return int((self.top5 == self.labels[:, None]).any(axis=1).sum())

    @property
    def top1(self) -> float:
        """Share of the images whose largest output is the label's."""
        return self.top1_count / len(self.labels)

    @property
    def mean_class_accuracy(self) -> float:
        """Mean over the classes that occur of each one's Top-1 share."""
        hit = self.top5[:, 0] == self.labels
        return float(np.mean([hit[self.labels == label].mean() for label in np.unique(self.labels)]))

    @property
    def images_per_second(self) -> float:
        """Throughput of the network alone, decoding not counted."""
        return self.timed_images / max(self.seconds, 1e-9)

    def agreement_count(self, other: "Predictions") -> int:
        """Images for which both networks name the same class first."""
        return int((self.top5[:, 0] == other.top5[:, 0]).sum())


def evaluate(net: mx.gluon.Block, batches: Iterable, ctx: mx.Context, description: str,
             progress: Silent = SILENT) -> Predictions:
    """Predictions of a network for all batches; `description` is what to call the network.

    Raises DataError for images the network cannot take, labels beyond its outputs, and NaN or infinity in the outputs.
    """
    top5, labels, times = [], [], []
    for images, batch_labels in progress.bar(batches, description):
        start = time.perf_counter()
        logits = _forward(net, images, ctx)
        times.append((time.perf_counter() - start, len(images)))
        _check(logits, batch_labels, description)
        top5.append(np.argsort(-logits, axis=1, kind="stable")[:, :5])
        labels.append(batch_labels)
    timed = times[1:] or times
    return Predictions(np.concatenate(top5), np.concatenate(labels), sum(t for t, _ in timed), sum(n for _, n in timed))


def first_output(out: Any) -> mx.nd.NDArray:
    """The first of what a network puts out, which may be several tensors."""
    return out if isinstance(out, mx.nd.NDArray) else first_output(out[0])


def _forward(net, images, ctx):
    try:
        out = first_output(net(images.as_in_context(ctx)))
        return out.asnumpy().reshape(len(images), -1)
    except (mx.MXNetError, ValueError, AssertionError) as error:
        raise DataError(f"the network cannot take images of shape {tuple(images.shape[1:])}: {_gist(error)}; check "
                        "--dataset, --resize and --crop") from None


def _gist(error):
    """The line of an MXNet error that says what is wrong (the rest is a stack trace)."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "Error in operator" in line or "Check failed" in line]
    return (told or lines or [type(error).__name__])[0]


def _check(logits, labels, description):
    if not np.isfinite(logits).all():
        raise DataError(f"the {description} network's outputs hold NaN or infinity; check the weights and the "
                        "preprocessing")
    if labels.max() >= logits.shape[1]:
        raise DataError(f"label {labels.max()} does not exist: the network has {logits.shape[1]} classes; check "
                        "--dataset")
