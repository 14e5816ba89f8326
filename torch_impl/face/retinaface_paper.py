"""RetinaFace as its paper has it: five levels, three anchors in a cell, deformable context modules, shared heads.

"RetinaFace: Single-stage Dense Face Localisation in the Wild", 2019, arXiv:1905.00641, sections 3.1, 3.2 and 4.2. No
public code has this layout, so names follow ``retinaface.py``. What to look at: sizes grow by a third of an octave, so
102,300 anchors of an image of 640 pixels cover faces of 16 to 406; between face and background lies a gap.

Mirror notes:
- NCHW here, NHWC in TensorFlow: here maps are transposed before they become rows of anchors.
- Keras infers the input widths.
"""

import functools

import torch
from torch import nn

from torch_impl.boxes.anchors import cell_anchors, grid_anchors
from torch_impl.boxes.iou import pairwise_iou
from torch_impl.classification.resnet import Bottleneck, ResNet
from torch_impl.face.retinaface import SSH, RetinaFaceCriterion, RetinaFacePostProcess, conv_bn
from torch_impl.layers.deform_conv import DeformConv2dPack
from torch_impl.layers.resize import map_size, resize_nearest
from torch_impl.layers.top_k import argmax

__all__ = [
    "PaperRetinaFace",
    "PaperRetinaFaceCriterion",
    "RetinaFacePostProcess",
    "retinaface_resnet152_p2p6",
]

STEPS = (4, 8, 16, 32, 64)  # pixels from cell to cell in each level
SCALES = 3  # anchors of a cell
SMALLEST = 16  # size of the smallest anchor, pixels
NUMBERS = {"boxes": 4, "classes": 2, "landmarks": 10}  # values per anchor


def deform_bn(in_channels: int, out_channels: int, kernel_size: int, slope: float | None):
    """A deformable convolution, normalisation, leaky ReLU unless the slope is None."""
    conv = DeformConv2dPack(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), *([] if slope is None else [nn.LeakyReLU(slope)]))


class DeformablePyramid(nn.Module):
    """Lateral 1x1 convolutions, addition from the top down, deformable convolutions of the finer sums; P6 from C5.

    Args:
        in_channels: of the four maps.
        out_channels: channels of the levels.

    maps: four (N, C_i, H_i, W_i) -> five (N, out_channels, H_i, W_i), fine to coarse.
    """

    def __init__(self, in_channels: list[int], out_channels: int):
        super().__init__()
        self.outputs = nn.ModuleList(conv_bn(width, out_channels, 1, 0.0) for width in in_channels)
        self.merges = nn.ModuleList(deform_bn(out_channels, out_channels, 3, 0.0) for _ in in_channels[1:])
        self.coarsest = conv_bn(in_channels[-1], out_channels, 3, 0.0, 2)

    def forward(self, maps):
        *laterals, level = (lateral(x) for lateral, x in zip(self.outputs, maps, strict=True))
        levels = [level, self.coarsest(maps[-1])]
        for merge, lateral in zip(reversed(self.merges), reversed(laterals), strict=True):
            level = merge(lateral + resize_nearest(level, map_size(lateral)))
            levels.insert(0, level)
        return levels


class PaperRetinaFace(nn.Module):
    """The detector.

    Args:
        layers, planes: of the residual network, see :class:`ResNet`.
        out_channels: channels of the levels.

    Inputs: (N, 3, H, W) float, BGR minus (104, 117, 123).
    Returns: dict: ``"boxes"`` (N, A, 4) and ``"landmarks"`` (N, A, 10) relative to the anchors, ``"classes"`` (N, A, 2)
        logits (none, face), ``"anchors"`` (A, 4) xyxy in pixels.
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 8, 36, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        out_channels: int = 256,
    ):
        super().__init__()
        self.body = ResNet(Bottleneck, layers, planes=planes, features_only=True, out_indices=(1, 2, 3, 4))
        self.fpn = DeformablePyramid(list(self.body.channels.values()), out_channels)
        self.context = nn.ModuleList(SSH(out_channels, out_channels, 0.0, deform_bn) for _ in STEPS)
        head = functools.partial(nn.Conv2d, out_channels, kernel_size=1)
        self.heads = nn.ModuleDict({name: head(out_channels=SCALES * k) for name, k in NUMBERS.items()})

    def forward(self, images):
        levels = self.fpn(list(self.body(images).values()))
        levels = [context(x) for context, x in zip(self.context, levels, strict=True)]
        outputs = {}
        for name, numbers in NUMBERS.items():
            rows = [self.heads[name](x).permute(0, 2, 3, 1) for x in levels]  # mirror: NCHW
            outputs[name] = torch.cat([x.reshape(x.shape[0], -1, numbers) for x in rows], 1)
        anchors = [
            grid_anchors(cell_anchors(sizes_of(i), (1.0,)), map_size(x), (step, step), 0.5)
            for i, (step, x) in enumerate(zip(STEPS, levels, strict=True))
        ]
        return {**outputs, "anchors": torch.cat([torch.from_numpy(x).to(images) for x in anchors])}


def sizes_of(level: int) -> tuple[float, ...]:
    """Sizes of the square anchors of a cell of a level, pixels."""
    return tuple(SMALLEST * 2 ** (level + k / SCALES) for k in range(SCALES))


class PaperRetinaFaceCriterion(RetinaFaceCriterion):
    """The paper's losses: anchors that overlap a face a little are neither face nor background.

    Args:
        overlap: from which on an anchor is a face.
        background: below which it is background.
        negatives, box_weight, landmark_weight: see :class:`RetinaFaceCriterion`.

    Inputs and returns: those of :class:`RetinaFaceCriterion`.
    """

    def __init__(
        self,
        overlap: float = 0.5,
        background: float = 0.3,
        negatives: int = 3,
        box_weight: float = 0.25,
        landmark_weight: float = 0.1,
    ):
        super().__init__(overlap, negatives, box_weight, landmark_weight)
        self.background = background

    def assign(self, boxes, valid, anchors):
        """See :meth:`RetinaFaceCriterion.assign`; no face takes an anchor that overlaps it less."""
        iou = pairwise_iou(boxes, anchors)
        iou = torch.where(valid[..., None], iou, -torch.ones_like(iou))  # (N, M, A)
        highest = iou.amax(1)
        return argmax(iou, 1), highest >= self.overlap, highest < self.background


def retinaface_resnet152_p2p6(**options) -> PaperRetinaFace:
    return PaperRetinaFace(**options)
