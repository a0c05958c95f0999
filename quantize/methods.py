# SPDX-License-Identifier: MIT
"""Quantization methods by name, without loading one: the table that `quantize.nn.methods` makes classes of.

Who only lists them, as a command's help does, need not wait for MXNet.
"""

from typing import Dict, Tuple

# name -> (quantizer of weights, quantizer of activations), each as module.Class of `quantize.nn`
ROWS: Dict[str, Tuple[str, str]] = {
    "ste": ("uniform.UniformFakeQuantize", "uniform.UniformFakeQuantize"),
    "lsq": ("lsq.LSQFakeQuantize", "lsq.LSQActivation"),
    "lsq+": ("lsq.LSQPlusWeight", "lsqplus.LSQPlusFakeQuantize"),
    "pact": ("dorefa.DoReFaWeight", "pact.PACTFakeQuantize"),
    "cgpact": ("dorefa.DoReFaWeight", "pact.CGPACTFakeQuantize"),
    "dorefa": ("dorefa.DoReFaWeight", "pact.DoReFaActivation"),
    "sat": ("sat.SATWeight", "pact.CGPACTFakeQuantize"),
    "bnn": ("sign.SignFakeQuantize", "sign.SignFakeQuantize"),
}
