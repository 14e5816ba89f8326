"""GCN: large kernels, each as two thin ones, score every map of a ResNet; small residual blocks sharpen the borders.

"Large Kernel Matters - Improve Semantic Segmentation by Global Convolutional Network", 2017, arXiv:1703.02719.
Parameter names: zijundeng/pytorch-semantic-segmentation ``models/gcn.py`` (MIT).
What to look at: everything is resized with aligned corners.

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
"""

import torch.nn.functional as F
from torch import nn

from torch_impl.classification.resnet import Bottleneck, ResNet
from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess

__all__ = [
    "GCN",
    "BoundaryRefinement",
    "GCNCriterion",
    "GlobalConvolution",
    "SegmentationPostProcess",
    "gcn_resnet50",
    "gcn_resnet152",
]


class GlobalConvolution(nn.Module):
    """k x 1 then 1 x k, and 1 x k then k x 1, added (section 3.1).

    Args:
        in_channels, out_channels: of the map, and of the result.
        kernel_size: k, odd.

    x: (N, C, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        k, p = kernel_size, kernel_size // 2
        self.conv_l1 = nn.Conv2d(in_channels, out_channels, (k, 1), padding=(p, 0))
        self.conv_l2 = nn.Conv2d(out_channels, out_channels, (1, k), padding=(0, p))
        self.conv_r1 = nn.Conv2d(in_channels, out_channels, (1, k), padding=(0, p))
        self.conv_r2 = nn.Conv2d(out_channels, out_channels, (k, 1), padding=(p, 0))

    def forward(self, x):
        return self.conv_l2(self.conv_l1(x)) + self.conv_r2(self.conv_r1(x))


class BoundaryRefinement(nn.Module):
    """Two 3x3 convolutions and the map (section 3.2).  x: (N, C, H, W), the same shape out."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(x)))


class GCN(nn.Module):
    """The network (figure 2).

    Args:
        layers: blocks of the stages of the residual network.
        num_classes: classes K.
        kernel_size: of the large kernels.
        planes: nominal widths of the stages.

    Inputs: (N, 3, H, W) float, normalised.
    Returns: dict: ``"logits"`` (N, K, H, W).
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        num_classes: int = 21,
        kernel_size: int = 7,
        planes: tuple[int, ...] = (64, 128, 256, 512),
    ):
        super().__init__()
        resnet = ResNet(Bottleneck, layers, planes=planes, features_only=True)
        self.layer0 = nn.Sequential(resnet.conv1, resnet.bn1, nn.ReLU())
        self.layer1 = nn.Sequential(resnet.maxpool, resnet.layer1)
        self.layer2, self.layer3, self.layer4 = resnet.layer2, resnet.layer3, resnet.layer4
        for i, width in enumerate(reversed(resnet.channels.values()), start=1):
            self.add_module(f"gcm{i}", GlobalConvolution(width, num_classes, kernel_size))
        for i in range(1, 10):
            self.add_module(f"brm{i}", BoundaryRefinement(num_classes))

    def forward(self, images):
        stem = self.layer0(images)
        c2 = self.layer1(stem)
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        c5 = self.layer4(c4)
        x = self.brm1(self.gcm1(c5))
        x = self.brm5(up(x, c4) + self.brm2(self.gcm2(c4)))
        x = self.brm6(up(x, c3) + self.brm3(self.gcm3(c3)))
        x = self.brm7(up(x, c2) + self.brm4(self.gcm4(c2)))
        return {"logits": self.brm9(up(self.brm8(up(x, stem)), images))}


def up(x, like):
    """Resize a map to the size of another, corners aligned."""
    return resize_bilinear(x, map_size(like), align_corners=True)


class GCNCriterion(SegmentationCriterion):
    """Mean cross-entropy of the pixels that count.

    Args:
        ignore_index: label of pixels that do not.

    Inputs and returns: as for :class:`SegmentationCriterion`; the one term is ``"ce"``.
    """

    def __init__(self, ignore_index: int = 255):
        super().__init__((("ce", "logits", 1.0),), ignore_index, avg_non_ignore=True)


def gcn_resnet152(layers=(3, 8, 36, 3), **options) -> GCN:
    return GCN(layers, **options)


def gcn_resnet50(layers=(3, 4, 6, 3), **options) -> GCN:
    return GCN(layers, **options)
