"""MobileNet: depthwise convolutions that filter and 1x1 convolutions that mix, instead of full convolutions.

"MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017, arXiv:1704.04861.
Parameter names: the layer names of ``keras.applications.MobileNet`` (Apache-2.0), whose weights are used.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- The first convolution pads as TensorFlow's "same"; the strided depthwise ones always pad at the bottom and on the
  right.
- Dropout follows the framework's own generator.
"""

import torch.nn.functional as F
from torch import nn

from torch_impl.layers.backbone import Backbone
from torch_impl.layers.convolution import Conv2dSame
from torch_impl.layers.normalization import BatchNorm2d
from torch_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "MobileNetV1",
    "mobilenet_v1",
    "mobilenet_v1_025",
    "mobilenet_v1_050",
    "mobilenet_v1_075",
]

# width and stride of every depthwise separable block (table 1)
BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
)


def batch_norm(channels: int):
    """Batch normalisation with the constants of Keras."""
    return BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class MobileNetV1(Backbone):
    """The classifier.

    Args:
        width: multiplier of all channels, alpha in the paper.
        blocks: (width, stride) of every block, see ``BLOCKS``.
        num_classes: classes K.
        in_chans: channels of the image.
        dropout: rate before the classifier.
        norm: "batch", or "frozen" (a fixed scale and shift).
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no classifier; return the feature maps instead of logits.
        out_indices: which of the maps at strides 2, 4, 8, 16, 32 (0 to 4) are returned with ``features_only``.

    Inputs: (N, in_chans, H, W) float.
    Returns: logits (N, K); with ``features_only`` a dict of maps ``"c2"``, ``"c3"``, ... at strides 4, 8, ....
    """

    def __init__(
        self,
        width: float = 1.0,
        blocks: tuple[tuple[int, int], ...] = BLOCKS,
        num_classes: int = 1000,
        in_chans: int = 3,
        dropout: float = 1e-3,
        norm: str = "batch",
        norm_eval: bool = False,
        frozen_stages: int = -1,
        features_only: bool = False,
        out_indices: tuple[int, ...] = (1, 2, 3, 4),
    ):
        super().__init__()
        self.features_only, self.out_indices = features_only, tuple(out_indices)
        self.block_strides = [stride for _, stride in blocks]
        channels = int(32 * width)
        self.conv1 = Conv2dSame(in_chans, channels, 3, 2, bias=False)  # mirror: TensorFlow's "same"
        self.conv1_bn = batch_norm(channels)
        for i, (out, stride) in enumerate(blocks, start=1):
            out = int(out * width)
            padding = 1 if stride == 1 else 0
            setattr(
                self, f"conv_dw_{i}", nn.Conv2d(channels, channels, 3, stride, padding, groups=channels, bias=False)
            )
            setattr(self, f"conv_dw_{i}_bn", batch_norm(channels))
            setattr(self, f"conv_pw_{i}", nn.Conv2d(channels, out, 1, bias=False))
            setattr(self, f"conv_pw_{i}_bn", batch_norm(out))
            channels = out
        if not features_only:
            self.dropout = nn.Dropout(dropout)  # mirror: Dropout follows
            self.conv_preds = nn.Conv2d(channels, num_classes, 1)
        for module in self.modules():  # as Keras does
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.freeze(norm_eval, frozen_stages, norm)

    def levels(self) -> list:
        levels = [[self.conv1, self.conv1_bn]]
        for i, stride in enumerate(self.block_strides, start=1):
            if stride == 2:
                levels.append([])
            levels[-1] += [getattr(self, f"conv_{kind}_{i}{part}") for kind in ("dw", "pw") for part in ("", "_bn")]
        return levels

    def trunk(self, images) -> dict:
        """The last map at every stride by name, from an image batch."""
        x = F.relu6(self.conv1_bn(self.conv1(images)), inplace=True)
        maps, level = {}, 1
        for i, stride in enumerate(self.block_strides, start=1):
            if stride == 2:
                maps[f"c{level}"] = x
                level += 1
                x = F.pad(x, (0, 1, 0, 1))  # mirror: at the bottom and on the right
            x = F.relu6(getattr(self, f"conv_dw_{i}_bn")(getattr(self, f"conv_dw_{i}")(x)), inplace=True)
            x = F.relu6(getattr(self, f"conv_pw_{i}_bn")(getattr(self, f"conv_pw_{i}")(x)), inplace=True)
        maps[f"c{level}"] = x
        return maps

    def forward_features(self, images) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        return {name: x for i, (name, x) in enumerate(self.trunk(images).items()) if i in self.out_indices}

    def forward(self, images):
        if self.features_only:
            return self.forward_features(images)
        *_, x = self.trunk(images).values()
        return self.conv_preds(self.dropout(x.mean((2, 3), keepdim=True))).flatten(1)  # mirror: NCHW


def mobilenet_v1(**options) -> MobileNetV1:
    return MobileNetV1(**options)


def mobilenet_v1_025(width=0.25, **options) -> MobileNetV1:
    return MobileNetV1(width=width, **options)


def mobilenet_v1_050(width=0.5, **options) -> MobileNetV1:
    return MobileNetV1(width=width, **options)


def mobilenet_v1_075(width=0.75, **options) -> MobileNetV1:
    return MobileNetV1(width=width, **options)
