# SPDX-License-Identifier: MIT
"""Winograd's convolution F(m x m, 3 x 3): its transforms in exact arithmetic, and what can be quantized in its domain.

With n = m + 2, an input tile d (n, n) and a kernel g (3, 3), the m x m outputs of a stride 1 convolution are

    A^T [(G g G^T) * (B^T d B)] A,        * element by element: n^2 products in the place of 9 m^2.

Sources: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308; the matrices follow from
n - 1 points and infinity by Cook and Toom's interpolation, transposed.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Iterable, List, Tuple, Union

import numpy as np

from quantize.errors import ConfigError
from quantize.registry import closest

KERNEL = 3
# variant -> finite points of the interpolation, whose last point is infinity
POINTS = {
    "F23": (0, 1, -1),
    "F43": (0, 1, -1, 2, -2),
    "F63": (0, 1, -1, 2, -2, Fraction(1, 2), Fraction(-1, 2)),
}
GRANULARITIES = ("layer", "channel", "position")
NONE = "none"
MIN_BITS, MAX_BITS = 2, 8

Matrix = List[List[Fraction]]


@dataclass(frozen=True)
class WinogradSpec:
    """What is quantized in the Winograd domain.

    Parameters
    ----------
    variant : {"F23", "F43", "F63"}
        The tile has 2, 4 or 6 outputs on each side.
    granularity : {"layer", "channel", "position"}
        Weights: one scale, one for each output channel, or one for each output channel and position in the tile.
        Tiles of inputs: one scale, or with "position" one for each position.
    inputs : bool
        Also round the transformed input tiles; else weights alone, which are transformed back.
    """

    variant: str
    granularity: str = "channel"
    inputs: bool = False

    def __post_init__(self) -> None:
        for what, value, known in (("Winograd variant", self.variant, tuple(POINTS)),
                                   ("Winograd granularity", self.granularity, GRANULARITIES)):
            if value not in known:
                raise ConfigError(f"{what} must be one of {', '.join(known)}, got {value!r}{closest(value, known)}")

    @property
    def outputs(self) -> int:
        """m: outputs of a tile along one side."""
        return len(POINTS[self.variant]) - KERNEL + 2

    @property
    def tile(self) -> int:
        """n = m + 2: side of an input tile."""
        return len(POINTS[self.variant]) + 1

    def __str__(self) -> str:
        return f"{self.variant}/{self.granularity}{'/inputs' if self.inputs else ''}"


def parse_winograd(text: str, where: str = "winograd") -> Union[str, WinogradSpec]:
    """"F43", "F43/position", "F43/position/inputs" -> WinogradSpec; "none" stays. ConfigError says what is allowed."""
    if text == NONE:
        return NONE
    words = text.split("/") if isinstance(text, str) else []
    flags = [word for word in words[1:] if word == "inputs"]
    others = [word for word in words[1:] if word != "inputs"]
    if not words or len(flags) > 1 or len(others) > 1:
        raise ConfigError(f"{where}: {text!r:.60} is no Winograd format; write 'none', or one of {', '.join(POINTS)}, "
                          "then perhaps /layer, /channel or /position, then perhaps /inputs")
    try:
        return WinogradSpec(words[0], others[0] if others else "channel", inputs=bool(flags))
    except ConfigError as error:
        raise ConfigError(f"{where}: {text!r:.60}: {error}") from None


def exact_transforms(variant: str) -> Tuple[Matrix, Matrix, Matrix]:
    """(A^T (m, n), G (n, 3), B^T (n, n)) of a variant as rows of Fractions.

    With the points a_i, L_i(x) the product of x - a_k over all k but i, and f_i = L_i(a_i), the rows of G are
    (1, a_i, a_i^2) / f_i, those of B^T the coefficients of L_i, and the columns of A^T the powers of a_i. The point
    infinity adds the leading coefficient: the last rows are (0, 0, 1), the coefficients of the product of all x - a_k,
    and (0, ..., 0, 1). Where f_i < 0 for a_i = 0, the signs of both rows are turned: 1 reads better than -1.
    """
    points = [Fraction(point) for point in POINTS[variant]]
    size = len(points) + 1
    kernel_rows, input_rows = [], []
    for i, point in enumerate(points):
        others = points[:i] + points[i + 1:]
        factor = _product(point - other for other in others)
        sign = -1 if point == 0 and factor < 0 else 1
        kernel_rows.append([sign * point ** power / factor for power in range(KERNEL)])
        input_rows.append([sign * value for value in _coefficients(others)] + [Fraction(0)])
    kernel_rows.append([Fraction(int(power == KERNEL - 1)) for power in range(KERNEL)])
    input_rows.append(_coefficients(points))
    rows = size - KERNEL + 1
    output_rows = [[point ** power for point in points] + [Fraction(int(power == rows - 1))] for power in range(rows)]
    return output_rows, kernel_rows, input_rows


def _product(values: Iterable[Fraction]) -> Fraction:
    result = Fraction(1)
    for value in values:
        result *= value
    return result


def _coefficients(roots: Iterable[Fraction]) -> List[Fraction]:
    """Of the product of x - root, the constant first."""
    result = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0)] + result
        result = [high - root * low for high, low in zip(shifted, result + [Fraction(0)])]
    return result


def pseudo_inverse(matrix: Matrix) -> Matrix:
    """(M^T M)^-1 M^T of a matrix of full column rank: the least squares solution, exactly."""
    columns = list(zip(*matrix))
    square = [[sum(a * b for a, b in zip(left, right)) for right in columns] for left in columns]
    rows = [line + list(column) for line, column in zip(square, columns)]
    for i in range(len(rows)):  # Gauss and Jordan; M^T M is positive definite, so no pivot is 0
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for k in range(len(rows)):
            if k != i:
                rows[k] = [value - rows[k][i] * pivot for value, pivot in zip(rows[k], rows[i])]
    return [row[len(columns):] for row in rows]


def transforms(variant: str) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`exact_transforms` in float64."""
    outputs, kernels, inputs = (np.array(matrix, np.float64) for matrix in exact_transforms(variant))
    return outputs, kernels, inputs


def kernel_matrices(variant: str) -> Tuple[np.ndarray, np.ndarray]:
    """What takes kernels, as rows of 9, to the Winograd domain (9, n^2), and back (n^2, 9): float64.

    vec(G g G^T) = (G kron G) vec(g); the way back is the pseudo-inverse, so that what was rounded becomes the kernel
    whose transform is nearest to it.
    """
    _, kernel_rows, _ = exact_transforms(variant)
    there, back = (np.array(matrix, np.float64) for matrix in (kernel_rows, pseudo_inverse(kernel_rows)))
    return np.kron(there, there).T, np.kron(back, back).T


def tile_kernels(variant: str) -> Tuple[np.ndarray, np.ndarray]:
    """The other transforms as kernels of a convolution: inputs (n^2, n, n) and outputs (n^2, m, m), float64.

    Transformed tiles are the correlations of the input, at stride m, with the first; each position adds its product
    times the second to the m x m outputs.
    """
    output_rows, _, input_rows = transforms(variant)
    side = len(input_rows)
    inputs = np.kron(input_rows, input_rows).reshape(side * side, side, side)
    outputs = np.kron(output_rows, output_rows).T.reshape((side * side,) + output_rows.shape[:1] * 2)
    return inputs, outputs
