# SPDX-License-Identifier: MIT
"""The Gluon network computing exactly what ncnn computes, element by element.

The quantized layers of a converted network compute with float operands that lie on a grid, and float32 rounds each of
their products and sums. An engine sums integers and rounds afterwards: results differ in the last bit, and now and
then an element close to the middle between two codes falls to the other side. `exact` puts blocks into the network
that round where the engine does; everything between them stays the network's own:

* codes and sums: integers in float32 arrays. Sums are exact in any order while no partial sum can reach 2^24; a weight
  for which one could is cut into parts whose sums are added in float64;
* real outputs: sum * scale + bias, rounded once or twice as the engine's kernel does it, with the numbers of the
  lowered model (BatchNorm absorbed);
* averages in the engine's order of additions, and BatchNorms that no convolution absorbed.

Additions of blobs, maxima, ReLU, clips, concatenation and shuffling are the same everywhere. What may still round
otherwise is logged: float convolutions and fully connected layers, sigmoid, tanh, exp and softmax, and averages and
factors that are no Gluon layers.
"""

from deploy.targets.ncnn.simulate.exact import exact, side

__all__ = ["exact", "side"]
