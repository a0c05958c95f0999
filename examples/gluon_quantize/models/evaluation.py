# SPDX-License-Identifier: MIT
"""Run a network over images and count."""

import time
from typing import Any, Iterable, List, Tuple

import mxnet as mx
import numpy as np

from gluon_quantize.models.predictions import Answers, Predictions, largest
from gluon_quantize.models.responses import Sampler
from gluon_quantize.progress import SILENT, Silent
from quantize.errors import DataError

__all__ = ["Answers", "Predictions", "evaluate", "first_output"]


def evaluate(net: mx.gluon.Block, batches: Iterable, ctx: mx.Context, description: str,
             progress: Silent = SILENT, classes: bool = True) -> Answers:
    """Predictions of a network for all batches; `description` is what to call the network.

    Parameters
    ----------
    batches : iterable
        Of (images, labels). Its attributes `classes` (how many the data have) and `metric` (see
        `gluon_quantize.data.loader`), where it has them, are heeded.
    classes : bool
        False: the network is no classifier of these images, and `Responses` come out, as for data with a metric of
        their own.

    Raises
    ------
    DataError
        For images the network cannot take, outputs that do not fit the labels, and NaN or infinity in the outputs.
    """
    metric = getattr(batches, "metric", None)
    sampler = None if classes and metric is None else Sampler(metric)
    answers: List[Tuple[np.ndarray, np.ndarray]] = []
    labels, times = [], []
    for images, batch_labels in progress.bar(batches, description):
        start = time.perf_counter()
        outputs = forward(net, images, ctx)
        times.append((time.perf_counter() - start, len(images)))
        _check_rows(outputs, len(images), sampler is not None)
        if not all(np.isfinite(output).all() for output in outputs):
            raise DataError(f"the {description} network's outputs hold NaN or infinity; check the weights and the "
                            "preprocessing")
        labels.append(batch_labels)
        if sampler is not None:
            sampler.add(outputs, batch_labels)
            continue
        logits = _scores(outputs, batch_labels, getattr(batches, "classes", None))
        answers.append(largest(logits))
    timed = times[1:] or times
    spent = sum(t for t, _ in timed), sum(n for _, n in timed)
    if sampler is not None:
        return sampler.responses(np.concatenate(labels), spent)
    top5, shares = map(np.concatenate, zip(*answers))
    return Predictions(top5, np.concatenate(labels), *spent, outputs=logits.shape[1], shares=shares)


def first_output(out: Any) -> mx.nd.NDArray:
    """The first of what a network puts out, which may be several tensors."""
    return out if isinstance(out, mx.nd.NDArray) else first_output(out[0])


def _flat(out: Any) -> List[mx.nd.NDArray]:
    """Everything that a network puts out."""
    return [out] if isinstance(out, mx.nd.NDArray) else [part for item in out for part in _flat(item)]


def forward(net: mx.gluon.Block, images: mx.nd.NDArray, ctx: mx.Context) -> List[np.ndarray]:
    """All outputs for a batch; DataError where the network cannot take it."""
    try:
        return [output.asnumpy() for output in _flat(net(images.as_in_context(ctx)))]
    except (mx.MXNetError, ValueError, AssertionError) as error:
        raise DataError(f"the network cannot take images of shape {tuple(images.shape[1:])}: {_gist(error)}; check "
                        "--dataset, --resize and --crop") from None


def _gist(error):
    """The line of an MXNet error that says what is wrong (the rest is a stack trace)."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "Error in operator" in line or "Check failed" in line]
    return (told or lines or [type(error).__name__])[0]


def _check_rows(outputs, images, every):
    """Each image must have an answer of its own: a reshape inside can mix them up."""
    for number, output in enumerate(outputs if every else outputs[:1]):
        if output.ndim == 0 or len(output) != images:
            raise DataError(f"output {number} has the shape {output.shape} for {images} images: a reshape in the "
                            "network mixes them. Give it images of the size that it was made for, or --batch-size 1")


def _scores(outputs, labels, classes):
    """(images, classes) of a classifier's first output; DataError for outputs that do not fit the labels."""
    shape, scores = outputs[0].shape, outputs[0].reshape(len(outputs[0]), -1)
    advice = "; --metric agreement compares with the float network instead"
    if np.prod(shape[1:]) != max(shape[1:], default=1):
        raise DataError(f"the network puts out {len(outputs)} tensors, the first of shape {shape[1:]} for each image, "
                        f"and no scores of classes that labels could be compared with{advice}")
    if labels.max() >= scores.shape[1]:
        raise DataError(f"label {labels.max()} does not exist: the network has {scores.shape[1]} classes; check "
                        f"--dataset, and that the labels are those it was trained with{advice}")
    if classes is not None and classes != scores.shape[1]:
        raise DataError(f"the network has {scores.shape[1]} classes, the data set {classes}: they are not those it was "
                        f"trained with; check --dataset{advice}")
    return scores
