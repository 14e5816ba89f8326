"""CenterNet on two hourglasses, each of which finds centres; the second one's are the results.

"Objects as Points", 2019, arXiv:1904.07850.
Parameter names: xingyizhou/CenterNet ``networks/large_hourglass.py`` (MIT).

Mirror notes:
- NHWC here, NCHW in PyTorch.
"""

import keras

from tf_impl.detection._hourglass import (
    DIMS,
    MODULES,
    PRIOR_BIAS,
    HourglassTrunk,
    maps_of_stacks,
    predictions,
)
from tf_impl.detection.centernet import CenterNetCriterion, CenterNetPostProcess

__all__ = [
    "CenterNetHourglass",
    "CenterNetPostProcess",
    "StackedCenterNetCriterion",
    "centernet_hourglass104",
]


@keras.saving.register_keras_serializable("diptych")
class CenterNetHourglass(HourglassTrunk):
    """Hourglasses and three maps of each.

    Args:
        stacks, dims, modules, stem, cnv_dim: of the trunk, see :class:`HourglassTrunk`.
        num_classes: classes K.
        hidden: width of the predictions' first convolutions.

    Inputs: (N, H, W, 3) float, normalised.
    Returns: dict: ``"hm"`` (N, H / 4, W / 4, K) logits, ``"wh"`` (N, H / 4, W / 4, 2) width and height of the box in
        cells, ``"reg"`` (N, H / 4, W / 4, 2) the centre's x and y offsets, in cells; of the last hourglass, and with
        ``"_0"`` after the key of the first, and so on.
    """

    def __init__(
        self,
        stacks: int = 2,
        dims: tuple[int, ...] = DIMS,
        modules: tuple[int, ...] = MODULES,
        stem: int = 128,
        cnv_dim: int = 256,
        num_classes: int = 80,
        hidden: int = 256,
        **kwargs,
    ):
        super().__init__(stacks, dims, modules, stem, cnv_dim, **kwargs)
        self.hm = predictions(stacks, hidden, num_classes, PRIOR_BIAS)
        self.wh = predictions(stacks, hidden, 2)
        self.reg = predictions(stacks, hidden, 2)

    def call(self, images, training=False):  # mirror: NHWC
        maps = self.stacked(images, training)
        heads = {"hm": self.hm, "wh": self.wh, "reg": self.reg}
        return maps_of_stacks({key: [head(x) for head, x in zip(of_key, maps)] for key, of_key in heads.items()})


@keras.saving.register_keras_serializable("diptych")
class StackedCenterNetCriterion(keras.layers.Layer):
    """The mean of CenterNet's losses of all hourglasses.

    Args:
        options: of :class:`CenterNetCriterion`.

    Inputs and returns: as there.
    """

    def __init__(self, **options):
        super().__init__()
        self.of_one = CenterNetCriterion(**options)

    def call(self, outputs, targets):
        stacks = [f"_{i}" for i in range(len(outputs) // 3 - 1)] + [""]
        found = [self.of_one({key: outputs[key + s] for key in ("hm", "wh", "reg")}, targets) for s in stacks]
        return {key: sum(losses[key] for losses in found) / len(found) for key in found[0]}


def centernet_hourglass104(stacks: int = 2, **options) -> CenterNetHourglass:
    return CenterNetHourglass(stacks, **options)
