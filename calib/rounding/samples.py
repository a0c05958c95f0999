# SPDX-License-Identifier: MIT
"""What a convolution reads at some of its output positions."""

from typing import Dict, List, Tuple

import numpy as np


def _whole(text: str, count: int, default: int) -> Tuple[int, ...]:
    numbers = tuple(int(part) for part in text.strip("()[] ").split(",") if part.strip())
    return numbers or (default,) * count


def patches(x: np.ndarray, attrs: Dict[str, str], positions: np.ndarray, shape: Tuple[int, ...]) -> np.ndarray:
    """(images, positions, channels, *kernel): the inputs of a convolution's outputs.

    Parameters
    ----------
    x : array, (images, channels, *spatial)
    attrs : dict
        Of MXNet's Convolution: kernel, stride, pad, dilate.
    positions : array of int, (images, positions)
        Indices into the flattened spatial axes of the output.
    shape : tuple of int
        Those axes.
    """
    kernel = _whole(attrs["kernel"], 0, 1)
    count = len(kernel)
    stride, pad, dilate = (_whole(attrs.get(name, "()"), count, default)
                           for name, default in (("stride", 1), ("pad", 0), ("dilate", 1)))
    if any(pad):
        x = np.pad(x, [(0, 0), (0, 0)] + [(p, p) for p in pad])
    window = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilate))
    views = np.lib.stride_tricks.sliding_window_view(x, window, axis=tuple(range(2, 2 + count)))  # type: ignore[call-overload]
    views = views[(Ellipsis,) + tuple(slice(None, None, d) for d in dilate)]
    places = [place * s for place, s in zip(np.unravel_index(positions, shape), stride)]
    return views[(np.arange(len(x))[:, None], slice(None)) + tuple(places)]


def random_positions(images: int, available: int, wanted: int, random: np.random.RandomState) -> np.ndarray:
    """(images, at most `wanted`) different positions of each image."""
    if wanted >= available:
        return np.broadcast_to(np.arange(available), (images, available))
    return np.stack([random.permutation(available)[:wanted] for _ in range(images)])


class MomentSums:
    """Sums of which a layer's means and covariances are made, and some samples."""

    def __init__(self, groups: int, keep: int, random: np.random.RandomState):
        self._groups, self._keep, self._random = groups, keep, random
        self._count = 0
        # they get their shapes from the first samples
        self._inputs, self._outputs, self._squares, self._gram, self._cross = (np.zeros(()) for _ in range(5))
        self._kept: List[Tuple[np.ndarray, np.ndarray]] = []

    def update(self, inputs: np.ndarray, outputs: np.ndarray) -> None:
        """Take in samples, (samples, groups * columns) and (samples, groups * rows); `keep` of them stay."""
        x, y = (np.ascontiguousarray(values.reshape(len(values), self._groups, -1).swapaxes(0, 1), np.float32)
                for values in (inputs, outputs))
        self._count += x.shape[1]
        self._inputs = self._inputs + x.sum(1, dtype=np.float64)
        self._outputs = self._outputs + y.sum(1, dtype=np.float64)
        self._squares = self._squares + np.square(y, dtype=np.float64).sum(1)
        self._gram = self._gram + (x.swapaxes(1, 2) @ x).astype(np.float64)
        self._cross = self._cross + (y.swapaxes(1, 2) @ x).astype(np.float64)
        if self._keep:
            chosen = self._random.permutation(x.shape[1])[:self._keep]
            self._kept.append((x[:, chosen], y[:, chosen]))

    def moments(self) -> Dict[str, np.ndarray]:
        """The fields of a `Problem` that tell of the images."""
        x, y = self._inputs / self._count, self._outputs / self._count
        return {"gram": self._gram / self._count - x[:, :, None] * x[:, None, :],
                "cross": self._cross / self._count - y[:, :, None] * x[:, None, :],
                "input_mean": x, "output_mean": y,
                "output_variance": np.maximum(self._squares / self._count - y ** 2, 0)}

    def samples(self) -> Dict[str, np.ndarray]:
        """The samples that stayed, (groups, samples, columns or rows); empty where none were wanted."""
        if not self._keep:
            return {}
        inputs, outputs = zip(*self._kept)
        return {"inputs": np.concatenate(inputs, 1), "outputs": np.concatenate(outputs, 1)}
