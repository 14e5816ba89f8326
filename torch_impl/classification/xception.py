"""Xception: depthwise separable convolutions in residual blocks.

"Xception: Deep Learning with Depthwise Separable Convolutions", 2016, arXiv:1610.02357.
Function: ``keras.applications.Xception`` (Apache-2.0); parameter names: timm ``models/xception.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow.
"""

import functools

import torch.nn.functional as F
from torch import nn

from torch_impl.layers.backbone import Backbone
from torch_impl.layers.initialization import kaiming_normal
from torch_impl.layers.pooling import max_pool2d
from torch_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "SeparableConv2d",
    "Xception",
    "XceptionBlock",
    "xception",
]

CHANNELS = (32, 64, 128, 256, 728, 1024, 1536, 2048)


def shrink(x, pad_mode: str):
    """Max pool 3x3 with stride 2, ceil(size / 2) long; "same" pads an even size at the end only."""
    if pad_mode == "torch":
        return max_pool2d(x, 3, 2, 1)
    _, _, height, width = x.shape
    return max_pool2d(x, 3, 2, (height % 2, width % 2), ceil_mode=True)


class SeparableConv2d(nn.Module):
    """3x3 depthwise convolution and 1x1 convolution with nothing in between.

    Args:
        in_channels, out_channels: widths.

    x: (N, in_channels, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, 1, 1, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x):
        return self.pointwise(self.conv1(x))


class XceptionBlock(nn.Module):
    """ReLU, separable convolution, normalisation, several times; a pool where the map shrinks; a shortcut.

    Args:
        widths: of the input and after every separable convolution.
        stride: 1 or 2.
        norm: makes the normalisation of a number of channels.
        pad_mode: of the pool, see :class:`Xception`.
        start_with_relu: whether there is a first ReLU.

    x: (N, C, H, W) -> (N, widths[-1], ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, widths: tuple[int, ...], stride: int, norm, pad_mode: str, start_with_relu: bool = True):
        super().__init__()
        self.stride, self.pad_mode = stride, pad_mode
        rep = []
        for i in range(len(widths) - 1):
            # the shortcut reads the input of the first ReLU, which therefore must not work in place
            rep += [nn.ReLU(inplace=i > 0), SeparableConv2d(widths[i], widths[i + 1]), norm(widths[i + 1])]
        self.skip = self.skipbn = None
        if stride != 1 or widths[0] != widths[-1]:
            self.skip = nn.Conv2d(widths[0], widths[-1], 1, stride, bias=False)
            self.skipbn = norm(widths[-1])
        self.rep = nn.Sequential(*(rep if start_with_relu else rep[1:]))

    def forward(self, x):
        y = self.rep(x)
        if self.stride == 2:
            y = shrink(y, self.pad_mode)
        return y + (x if self.skip is None else self.skipbn(self.skip(x)))


class Xception(Backbone):
    """The classifier.

    Args:
        channels: widths of the first two convolutions, of the entry flow's blocks, after the last block, and of the
            last two convolutions.
        middle: blocks of the middle flow.
        num_classes: classes K.
        in_chans: channels of the image.
        bn_eps, bn_momentum: of the normalisations (weight of the new batch); 1e-3 and 0.01 as in Keras, 1e-5 and 0.1 in
            timm.
        pad_mode: zeros of the pools, "same" as in Keras, or "torch" (the same on both sides) as in timm.
        dropout: rate before the last layer.
        norm: "batch", or "frozen" (a fixed scale and shift).
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no last convolutions and classifier; return the feature maps instead of logits.
        out_indices: which of the maps at strides 2, 4, 8, 16, 32 (0 to 4) are returned with ``features_only``.

    Inputs: (N, in_chans, H, W) float.
    Returns: logits (N, K); with ``features_only`` a dict of maps ``"c2"``, ``"c3"``, ... at strides 4, 8, .... The
        first convolutions do not pad, so the maps are a little smaller than the image divided by the stride.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = CHANNELS,
        middle: int = 8,
        num_classes: int = 1000,
        in_chans: int = 3,
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.01,
        pad_mode: str = "same",
        dropout: float = 0.0,
        norm: str = "batch",
        norm_eval: bool = False,
        frozen_stages: int = -1,
        features_only: bool = False,
        out_indices: tuple[int, ...] = (1, 2, 3, 4),
    ):
        super().__init__()
        if pad_mode not in ("same", "torch"):
            raise ValueError(f"pad_mode={pad_mode!r}; 'same' or 'torch' is allowed")
        self.features_only, self.out_indices = features_only, tuple(out_indices)
        make_norm = functools.partial(nn.BatchNorm2d, eps=bn_eps, momentum=bn_momentum)
        c1, c2, entry1, entry2, wide, c12, c3, c4 = channels
        self.conv1 = nn.Conv2d(in_chans, c1, 3, 2, bias=False)
        self.bn1 = make_norm(c1)
        self.conv2 = nn.Conv2d(c1, c2, 3, bias=False)
        self.bn2 = make_norm(c2)
        self.block1 = XceptionBlock((c2, entry1, entry1), 2, make_norm, pad_mode, start_with_relu=False)
        self.block2 = XceptionBlock((entry1, entry2, entry2), 2, make_norm, pad_mode)
        self.block3 = XceptionBlock((entry2, wide, wide), 2, make_norm, pad_mode)
        for i in range(middle):
            setattr(self, f"block{i + 4}", XceptionBlock((wide, wide, wide, wide), 1, make_norm, pad_mode))
        self.blocks = middle + 4
        setattr(self, f"block{self.blocks}", XceptionBlock((wide, wide, c12), 2, make_norm, pad_mode))
        if not features_only:
            self.conv3 = SeparableConv2d(c12, c3)
            self.bn3 = make_norm(c3)
            self.conv4 = SeparableConv2d(c3, c4)
            self.bn4 = make_norm(c4)
            self.dropout = nn.Dropout(dropout)
            self.fc = nn.Linear(c4, num_classes)
        kaiming_normal(self)
        self.freeze(norm_eval, frozen_stages, norm)

    def levels(self) -> list:
        blocks = [getattr(self, f"block{i}") for i in range(1, self.blocks + 1)]
        stem = [self.conv1, self.bn1, self.conv2, self.bn2]
        return [stem, blocks[:1], blocks[1:2], blocks[2:-1], blocks[-1:]]

    def _maps(self, images) -> list:
        """The last map at each stride, 2 to 32."""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        maps = [x]
        for i in range(1, self.blocks + 1):
            x = getattr(self, f"block{i}")(x)
            if i in (1, 2, self.blocks - 1, self.blocks):
                maps.append(x)
        return maps

    def forward_features(self, images) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        return {f"c{i + 1}": x for i, x in enumerate(self._maps(images)) if i in self.out_indices}

    def forward(self, images):
        if self.features_only:
            return self.forward_features(images)
        x = self._maps(images)[-1]
        x = F.relu(self.bn3(self.conv3(x)), inplace=True)
        x = F.relu(self.bn4(self.conv4(x)), inplace=True)
        return self.fc(self.dropout(x.mean((2, 3))))  # mirror: NCHW


def xception(**options) -> Xception:
    return Xception(**options)
