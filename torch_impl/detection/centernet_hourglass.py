"""CenterNet on two hourglasses, each of which finds centres; the second one's are the results.

"Objects as Points", 2019, arXiv:1904.07850.
Parameter names: xingyizhou/CenterNet ``networks/large_hourglass.py`` (MIT).

Mirror notes:
- NCHW here, NHWC in TensorFlow.
"""

from torch import nn

from torch_impl.detection._hourglass import (
    DIMS,
    MODULES,
    PRIOR_BIAS,
    HourglassTrunk,
    maps_of_stacks,
    predictions,
)
from torch_impl.detection.centernet import CenterNetCriterion, CenterNetPostProcess

__all__ = [
    "CenterNetHourglass",
    "CenterNetPostProcess",
    "StackedCenterNetCriterion",
    "centernet_hourglass104",
]


class CenterNetHourglass(HourglassTrunk):
    """Hourglasses and three maps of each.

    Args:
        stacks, dims, modules, stem, cnv_dim: of the trunk, see :class:`HourglassTrunk`.
        num_classes: classes K.
        hidden: width of the predictions' first convolutions.

    Inputs: (N, 3, H, W) float, normalised.
    Returns: dict: ``"hm"`` (N, K, H / 4, W / 4) logits, ``"wh"`` (N, 2, H / 4, W / 4) width and height of the box in
        cells, ``"reg"`` (N, 2, H / 4, W / 4) the centre's x and y offsets, in cells; of the last hourglass, and with
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
    ):
        super().__init__(stacks, dims, modules, stem, cnv_dim)
        self.hm = predictions(stacks, cnv_dim, hidden, num_classes, PRIOR_BIAS)
        self.wh = predictions(stacks, cnv_dim, hidden, 2)
        self.reg = predictions(stacks, cnv_dim, hidden, 2)

    def forward(self, images):  # mirror: NCHW
        maps = self.stacked(images)
        heads = {"hm": self.hm, "wh": self.wh, "reg": self.reg}
        return maps_of_stacks({key: [head(x) for head, x in zip(of_key, maps)] for key, of_key in heads.items()})


class StackedCenterNetCriterion(nn.Module):
    """The mean of CenterNet's losses of all hourglasses.

    Args:
        options: of :class:`CenterNetCriterion`.

    Inputs and returns: as there.
    """

    def __init__(self, **options):
        super().__init__()
        self.of_one = CenterNetCriterion(**options)

    def forward(self, outputs, targets):
        stacks = [f"_{i}" for i in range(len(outputs) // 3 - 1)] + [""]
        found = [self.of_one({key: outputs[key + s] for key in ("hm", "wh", "reg")}, targets) for s in stacks]
        return {key: sum(losses[key] for losses in found) / len(found) for key in found[0]}


def centernet_hourglass104(stacks: int = 2, **options) -> CenterNetHourglass:
    return CenterNetHourglass(stacks, **options)
