# SPDX-License-Identifier: MIT
"""From a float network to a fake-quantized one."""

from quantize.convert.convert import convert_model
from quantize.convert.converters import (
    default_convert_fn,
    gen_act_converter,
    gen_conv2d_converter,
    gen_dense_converter,
)
from quantize.convert.fake_bn import fake_bn, merge_fake_bn, remove_fake_bn
from quantize.convert.graph import trace
from quantize.convert.passes import bypass_bn, convert_to_relu6, mean_global_pooling, merge_bn
from quantize.convert.plan import Plan, PlanEntry

__all__ = ["Plan", "PlanEntry", "bypass_bn", "convert_model", "convert_to_relu6", "default_convert_fn", "fake_bn",
           "gen_act_converter", "gen_conv2d_converter", "gen_dense_converter", "mean_global_pooling", "merge_bn",
           "merge_fake_bn", "remove_fake_bn", "trace"]
