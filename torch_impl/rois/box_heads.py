"""Classes and boxes from the features of boxes, under the names of torchvision and of mmdet.

Names: torchvision ``detection/faster_rcnn.py`` (BSD-3); mmdet ``bbox_heads/convfc_bbox_head.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow, which transposes the input of the first linear layer: its weights are for NCHW.
- Initial values are given to the layers in Keras, filled in afterwards in PyTorch.
"""

import itertools

import torch.nn.functional as F
from torch import nn

from torch_impl.layers.conv_module import ConvModule

__all__ = ["ConvFCBBoxHead", "FastRCNNPredictor", "TwoMLPHead"]

BINS = 7  # of the features in each direction


class TwoMLPHead(nn.Module):
    """Two linear layers with ReLU (torchvision).

    Args:
        in_features: number of a box's features.
        units: width of both layers.

    x: (R, C, 7, 7) -> (R, units).
    """

    def __init__(self, in_features: int, units: int):
        super().__init__()
        self.fc6 = nn.Linear(in_features, units)
        self.fc7 = nn.Linear(units, units)

    def forward(self, x):
        return F.relu(self.fc7(F.relu(self.fc6(x.flatten(1)))))  # mirror: transposes


class FastRCNNPredictor(nn.Module):
    """Class logits and box deltas, background included (torchvision).

    Args:
        in_features: width of the input.
        num_classes: classes K, background included.

    x: (R, D) -> (R, K), (R, K * 4).
    """

    def __init__(self, in_features: int, num_classes: int):
        super().__init__()
        self.cls_score = nn.Linear(in_features, num_classes)
        self.bbox_pred = nn.Linear(in_features, num_classes * 4)

    def forward(self, x):
        return self.cls_score(x), self.bbox_pred(x)


class ConvFCBBoxHead(nn.Module):
    """3x3 convolutions, linear layers with ReLU, class logits and box deltas (mmdet).

    Args:
        in_channels: channels of the features.
        num_classes: classes K; the background is one more logit, the last.
        num_convs, conv_channels: number and width of the convolutions.
        num_fcs: linear layers, at least one.
        units: their width.
        class_agnostic: four deltas for a box instead of four for each class.
        norm, norm_groups, conv: of the convolutions, see :class:`ConvModule`.

    x: (R, C, 7, 7) -> (R, K + 1), (R, 4 * K) or (R, 4).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        num_convs: int = 0,
        conv_channels: int = 256,
        num_fcs: int = 2,
        units: int = 1024,
        class_agnostic: bool = False,
        norm=None,
        norm_groups: int = 32,
        conv=nn.Conv2d,
    ):
        super().__init__()
        self.fc_cls = nn.Linear(units, num_classes + 1)
        self.fc_reg = nn.Linear(units, 4 if class_agnostic else 4 * num_classes)
        convs = [
            ConvModule(c, conv_channels, 3, 1, 1, norm=norm, norm_groups=norm_groups, conv=conv)
            for c in [in_channels, *[conv_channels] * num_convs][:num_convs]
        ]
        self.shared_convs = nn.ModuleList(convs)
        widths = [(conv_channels if convs else in_channels) * BINS**2] + [units] * num_fcs
        self.shared_fcs = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        for layer in self.shared_fcs:
            nn.init.xavier_uniform_(layer.weight)
        for layer, std in ((self.fc_cls, 0.01), (self.fc_reg, 0.001)):
            nn.init.normal_(layer.weight, std=std)
        for layer in (*self.shared_fcs, self.fc_cls, self.fc_reg):
            nn.init.zeros_(layer.bias)  # mirror: filled in afterwards

    def features(self, x):
        """(R, C, 7, 7) -> (R, units)."""
        for conv in self.shared_convs:
            x = conv(x)
        x = x.flatten(1)
        for layer in self.shared_fcs:
            x = F.relu(layer(x))
        return x

    def forward(self, x):
        x = self.features(x)
        return self.fc_cls(x), self.fc_reg(x)
