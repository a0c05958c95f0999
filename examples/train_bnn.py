# SPDX-License-Identifier: MIT
"""Train the binarized VGG on CIFAR-10: `gluon-quantize train` with the recipe, behind which further options count.

    python examples/train_bnn.py --data-dir DATA --output out             # go on after a kill: with --resume
    python examples/train_bnn.py --model cifar_vgg_0.5 --data-dir DATA --output out

Weights and activations are signs; the first layer reads, and the last one multiplies with, 8 bits, as NNI's
BNN_quantizer_cifar10.py keeps them float. 86.93 % is what NNI reports, after 400 epochs.
"""

import sys

from gluon_quantize.commands.train import main

RECIPE = ["--model", "cifar_vgg", "--dataset", "cifar10", "--method", "bnn", "--weight-bits", "1", "--input-bits", "1",
          "--from-scratch", "--calib-mode", "none", "--optimizer", "adam", "--lr", "0.005", "--wd", "0",
          "--epochs", "100"]

if __name__ == "__main__":
    sys.exit(main(RECIPE + sys.argv[1:]))
