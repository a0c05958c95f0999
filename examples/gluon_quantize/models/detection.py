# SPDX-License-Identifier: MIT
"""gluoncv's networks that do not classify: detection, segmentation, poses. They are compared with their float selves.

SSD keeps its backbone in an embedded network (a SymbolBlock), which no rule could reach: layers are made of it.
"""

import json
import pathlib
import tempfile
from typing import Callable, Dict, List, Tuple

import mxnet as mx

from gluon_quantize.data.preprocess import Preprocessing, imagenet
from gluon_quantize.data.steps import with_origin
from quantize.errors import ConfigError, ModelFileError
from quantize.tree import replace_blocks, walk

# beginning of the name -> size of the images; (height, width) where it is no square
SIZES = {"ssd_300": 300, "ssd_512": 512, "yolo3": 416, "fcn": 480, "deeplab": 480, "simple_pose": (256, 192),
         "center_net": 512}


class RandomWeights(mx.init.Xavier):
    """Xavier's for matrices and kernels; what embedded networks do not call by its role is told by its name."""

    def _init_weight(self, name, arr):
        if arr.ndim > 1:
            super()._init_weight(name, arr)
        else:
            arr[:] = 1 if str(name).endswith(("gamma", "var")) else 0


def other_models() -> Dict[str, Callable[..., mx.gluon.HybridBlock]]:
    """Name -> constructor; those with classes of one's own and those that are int8 already are left out."""
    try:
        from gluoncv.model_zoo import model_zoo
    except ImportError as error:
        raise ConfigError(f"gluoncv cannot be imported ({error}): pip install -r requirements.txt") from None
    return {name: build for name, build in model_zoo._models.items()
            if name.startswith(tuple(SIZES)) and not name.endswith(("_int8", "_custom"))}


def build_other(name: str) -> mx.gluon.HybridBlock:
    """The network, without parameters."""
    constructor = other_models()[name]
    try:
        return constructor(pretrained=False, pretrained_base=False)
    except TypeError:  # some know no pretrained backbone
        return constructor(pretrained=False)


def preset_of(name: str) -> Tuple[Preprocessing, Tuple[int, int, int]]:
    """(preprocessing, shape of its images) of one of `other_models`."""
    size = next(size for start, size in SIZES.items() if name.startswith(start))
    height, width = size if isinstance(size, tuple) else (size, size)
    numbers = imagenet(224)
    steps = Preprocessing("RGB", numbers.scale, numbers.mean, numbers.std, max(height, width), (height, width))
    return with_origin(steps, f"gluoncv, for {name.partition('_')[0]}"), (3, height, width)


def layers_of_embedded(net: mx.gluon.HybridBlock, ctx: mx.Context) -> List[str]:
    """Make layers of every embedded network (SymbolBlock), in place; returns their paths.

    Raises ModelFileError where one holds an operator that cannot be imported.
    """
    found = [(path, block) for path, block in walk(net) if isinstance(block, mx.gluon.SymbolBlock) and path]
    for path, block in found:
        try:
            replace_blocks(net, {id(block): _imported(block, ctx)})
        except ModelFileError as error:
            raise ModelFileError(f"{path}: the embedded network cannot be taken apart: {error}") from None
    return [path for path, _ in found]


def _imported(block, ctx):
    """What `import_symbol` makes of an embedded network."""
    from quantize.importers.symbol import import_symbol
    inputs, outputs = block._cached_graph
    known = set(outputs.list_auxiliary_states())
    names = set(outputs.list_inputs())
    arrays = {("aux:" if parameter.name in known else "arg:") + parameter.name: parameter.data(ctx)
              for parameter in block.collect_params().values() if parameter.name in names}
    with tempfile.TemporaryDirectory() as folder:
        symbol, params = pathlib.Path(folder) / "net-symbol.json", pathlib.Path(folder) / "net.params"
        symbol.write_text(json.dumps(json.loads(outputs.tojson())))
        mx.nd.save(str(params), arrays)
        return import_symbol(str(symbol), str(params), ctx=ctx)
