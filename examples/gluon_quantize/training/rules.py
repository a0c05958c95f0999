# SPDX-License-Identifier: MIT
"""From the formats that are asked for to rules for layers. What a method can do, its classes declare."""

import dataclasses
import json
from typing import Any, Dict, List

from mxnet.gluon import Block

from gluon_quantize.training.request import FLOAT, FormatsRequest, TrainRequest
from quantize.config import Rule, load_config, rules_from_config
from quantize.convert import trace
from quantize.convert.graph import batchnorm_partners, inputs_non_negative
from quantize.convert.layers import WEIGHTED
from quantize.errors import ConfigError
from quantize.files import read_text
from quantize.nn import METHODS
from quantize.winograd import NONE, parse_winograd


def check_method(request: TrainRequest) -> None:
    """ConfigError for what the method cannot do."""
    if request.keep_formats:
        return  # those of the checkpoint
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
    if request.target is not None:
        return _target_rules(request, graph) + ([] if not request.config else _as_dicts(request.config))
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


def _target_rules(request, graph):
    """What is left to say where a target has rules of its own, which come first: methods, and fewer bits.

    Engines take signed 8-bit inputs. Fewer codes of them may be unsigned: a method that clips at zero has the 128 that
    are not negative. The first and the last layer keep the target's formats, unless they are to have fewer bits, too.
    """
    ends = sorted(set(graph.first_layers() + graph.last_layers()))
    layers = inputs_non_negative(graph)
    middle = [path for path in layers if path not in ends and path not in set(batchnorm_partners(graph).values())]
    rules = [{"op_types": WEIGHTED, "method": request.method}]
    for paths, weight_bits, input_bits in ((middle, request.weight_bits, request.input_bits),
                                           (ends, request.first_last_bits, request.first_last_bits)):
        if not weight_bits:
            rules.append({"op_names": paths, "exclude": True})
        elif paths:
            rules += _weight_rules(request, paths, weight_bits, paths is ends)
            rules += _input_rules(request, paths, input_bits, layers)
    return rules


def _weight_rules(request, paths, bits, are_ends):
    weight = METHODS.get(request.method).weight
    if bits == 8 and are_ends and not weight.keeps_size:
        # without a level at zero, 8 bits are one more than engines hold
        return [{"op_names": paths, "weight_method": "lsq"}]
    if bits < 8 or weight.per_tensor or request.granularity:
        return [{"op_names": paths, "op_types": WEIGHTED, "weight": _weight(request, bits)}]
    return []


def _input_rules(request, paths, bits, non_negative):
    activation = METHODS.get(request.method).activation
    if bits < 8:
        return [{"op_names": paths, "op_types": WEIGHTED, "input": f"auto{bits}"}]
    if activation.signed_counterpart is None:
        return []
    kinds = ({"input": "uint7"}, {"input_method": activation.signed_counterpart})
    chosen = ([path for path in paths if non_negative[path]], [path for path in paths if not non_negative[path]])
    return [{"op_names": names, "op_types": WEIGHTED, **rule} for names, rule in zip(chosen, kinds) if names]


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
