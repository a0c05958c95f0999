# SPDX-License-Identifier: MIT
"""From the formats that are asked for to rules for layers. What a method can do, its classes declare."""

import dataclasses
import json
from typing import Any, Dict, List

from mxnet.gluon import Block

from gluon_quantize.training.request import FLOAT, FormatsRequest, TrainRequest
from quantize.config import Rule, load_config, rules_from_config
from quantize.convert import trace
from quantize.convert.graph import batchnorm_partners
from quantize.convert.layers import WEIGHTED
from quantize.errors import ConfigError
from quantize.files import read_text
from quantize.nn import METHODS
from quantize.winograd import NONE, parse_winograd


def check_method(request: TrainRequest) -> None:
    """ConfigError for what the method cannot do."""
    formats, name = request.formats, request.formats.method
    method = None if name == FLOAT else METHODS.get(name)
    if request.start.clamp_only and (method is None or not method.clamp_stage):
        able = " or ".join(other for other in METHODS.names() if METHODS.get(other).clamp_stage)
        raise ConfigError(f"--clamp-only is the first stage of --method {able}")
    if method is None:
        return
    if method.per_tensor and formats.granularity not in (None, "layer"):
        raise ConfigError(f"--method {name} has one weight scale per layer; leave out --quant-type "
                          f"{formats.granularity}")
    bits = method.only_bits
    if bits is not None and (formats.weight_bits, formats.input_bits) != (bits, bits):
        kind = "binary" if bits == 1 else f"for {bits} bits"
        raise ConfigError(f"--method {name} is {kind}: give --weight-bits {bits} --input-bits {bits}")


def build_rules(request: FormatsRequest, net: Block) -> List[Dict[str, Any]]:
    """The config list that a request stands for."""
    graph, method = trace(net), METHODS.get(request.method)
    if method.replaces_activation:
        rules: List[Dict[str, Any]] = [
            {"op_types": WEIGHTED, "weight": f"int{request.weight_bits}", "input": "float", "method": request.method},
            {"op_types": ["Activation"], "output": f"int{request.input_bits}", "method": request.method}]
    else:
        rules = [{"op_types": WEIGHTED, "weight": _weight(request, request.weight_bits),
                  "input": f"auto{request.input_bits}", "method": request.method}]
    if "scaling" in method.options:
        # elsewhere batch norm makes up for the scale of the weights
        partners = batchnorm_partners(graph)
        alone = [path for path in graph.calls if path not in partners and path not in set(partners.values())]
        if alone:
            rules.append({"op_names": alone, "op_types": WEIGHTED, "options": {"scaling": True}})
    if parse_winograd(request.winograd) != NONE:
        rules.append({"op_types": ["Conv2D"], "winograd": request.winograd})
    rules.append(_ends(request, sorted(set(graph.first_layers() + graph.last_layers()))))
    return rules + ([] if not request.config else _as_dicts(request.config))


def named_rules(request: FormatsRequest, config_list: List[Dict[str, Any]]) -> List[Rule]:
    """The rules of `build_rules` with the reasons that a Plan shows: options, or the entries of the user's file."""
    rules = rules_from_config(config_list)
    own = load_config(request.config) if request.config else []
    options = rules[:len(rules) - len(own)]
    return [dataclasses.replace(rule, reason="command line") for rule in options] + own


def _weight(request, bits):
    method = METHODS.get(request.method)
    default = "layer" if method.per_tensor else "channel"
    # LSQ's grid (arXiv 1902.08153, section 2) has all 2^b codes; at 2 bits the lowest is a quarter of them
    codes = "/full" if bits == 2 and method.trains_step else ""
    return f"int{bits}/{request.granularity or default}{codes}"


def _ends(request, paths):
    bits = request.first_last_bits
    if not bits:
        return {"op_names": paths, "exclude": True}
    rule = {"op_names": paths, "weight": _weight(request, bits), "input": f"auto{bits}"}
    # behind a sign there are negative values whatever activation the float network has
    replaced = METHODS.get(request.method).replaces_activation
    return dict(rule, method="ste", input=f"int{bits}") if replaced else rule


def _as_dicts(path):
    load_config(path)  # checks it, and says where it is wrong
    return json.loads(read_text(path))
