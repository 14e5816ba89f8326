"""SegNet: VGG-16 without its classifier, and its mirror image; maps are unpooled by putting values back where they
were.

"SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation", 2015, arXiv:1511.00561.
Layer names: the authors' prototxt files (alexgkendall/SegNet-Tutorial, CC BY-NC 4.0; names and shapes alone).
What to look at: an odd map is pooled with its last row and column alone, and is unpooled to its original size.

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
- Only dropout in training mode: a module's mode here, a flag of the model in TensorFlow.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.max_unpool import max_pool2d_with_indices, max_unpool2d
from torch_impl.layers.resize import map_size
from torch_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess

__all__ = [
    "SegNet",
    "SegNetBasic",
    "SegNetCriterion",
    "SegmentationPostProcess",
    "bayesian_segnet_vgg16",
    "pool",
    "segnet_basic",
    "segnet_vgg16",
    "uncertainty",
    "unpool",
]


DEPTHS = (2, 2, 3, 3, 3)  # convolutions of each stage of VGG-16


def pool(x):
    """Max pooling by 2, rounded up, and its indices.

    x: (N, C, H, W) -> two of (N, C, ceil(H / 2), ceil(W / 2)).
    """
    height, width = map_size(x)
    x = F.pad(x, (0, width % 2, 0, height % 2), value=torch.finfo(torch.float16).min)
    return max_pool2d_with_indices(x, 2)


def unpool(x, indices, size: tuple[int, int]):
    """Values put back where they were.  (N, C, h, w) -> (N, C, H, W)."""
    height, width = size
    x = max_unpool2d(x, indices, 2, output_size=(height + height % 2, width + width % 2))
    return x[:, :, :height, :width]


class SegNet(nn.Module):
    """The network on VGG-16 (section 3).

    Args:
        num_classes: classes K.
        widths: channels of the five stages.
        dropout: rate in the deep stages; Bayesian SegNet has 0.5 (arXiv:1511.02680), see :func:`uncertainty`.

    Inputs: (N, 3, H, W) float, BGR in [0, 255].
    Returns: dict: ``"logits"`` (N, K, H, W).
    """

    def __init__(self, num_classes: int = 11, widths: tuple[int, ...] = (64, 128, 256, 512, 512), dropout: float = 0.0):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        channels = 3
        for stage, (width, depth) in enumerate(zip(widths, DEPTHS, strict=True), start=1):
            for i in range(1, depth + 1):
                self.add_layer(f"conv{stage}_{i}", channels, width)
                channels = width
        for stage in range(5, 0, -1):
            for i in range(DEPTHS[stage - 1], 0, -1):
                last = stage == 1 and i == 1
                width = num_classes if last else widths[stage - 1] if i > 1 else widths[stage - 2]
                self.add_layer(f"conv{stage}_{i}_D", channels, width, norm=not last)
                channels = width

    def add_layer(self, name: str, in_channels: int, channels: int, norm: bool = True) -> None:
        """A 3x3 convolution and its normalisation."""
        conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        nn.init.kaiming_normal_(conv.weight)
        nn.init.zeros_(conv.bias)
        self.add_module(name, conv)
        if norm:
            self.add_module(f"{name}_bn", nn.BatchNorm2d(channels))

    def layer(self, name: str, x):
        """Convolution, normalisation and ReLU by name."""
        return F.relu(getattr(self, f"{name}_bn")(getattr(self, name)(x)))

    def forward(self, images):
        x, pooled = images, []
        for stage, depth in enumerate(DEPTHS, start=1):
            for i in range(1, depth + 1):
                x = self.layer(f"conv{stage}_{i}", x)
            size = map_size(x)
            x, indices = pool(x)
            pooled.append((indices, size))
            x = self.dropout(x) if stage >= 3 else x
        for stage in range(5, 0, -1):
            x = unpool(x, *pooled[stage - 1])
            for i in range(DEPTHS[stage - 1], 0, -1):
                name = f"conv{stage}_{i}_D"
                x = self.conv1_1_D(x) if name == "conv1_1_D" else self.layer(name, x)
            x = self.dropout(x) if stage >= 3 else x
        return {"logits": x}


class SegNetBasic(nn.Module):
    """The small network: four stages of one 7x7 convolution; the decoder has no ReLU.

    Args:
        num_classes: classes K.
        width: channels of every stage.

    Inputs: (N, 3, H, W) float, BGR in [0, 255].
    Returns: dict: ``"logits"`` (N, K, H, W).
    """

    def __init__(self, num_classes: int = 11, width: int = 64):
        super().__init__()
        for i in range(1, 5):
            self.add_module(f"conv{i}", nn.Conv2d(3 if i == 1 else width, width, 7, padding=3))
            self.add_module(f"conv{i}_bn", nn.BatchNorm2d(width))
        for i in range(4, 0, -1):
            self.add_module(f"conv_decode{i}", nn.Conv2d(width, width, 7, padding=3))
            self.add_module(f"conv_decode{i}_bn", nn.BatchNorm2d(width))
        self.conv_classifier = nn.Conv2d(width, num_classes, 1)

    def norm(self, x):
        """Local response normalisation over the 3 channels, which all lie in one window of 5."""
        return x / (1 + 1e-4 * x.square().sum(1, keepdim=True) / 5) ** 0.75

    def forward(self, images):
        x, pooled = self.norm(images), []
        for i in range(1, 5):
            x = F.relu(getattr(self, f"conv{i}_bn")(getattr(self, f"conv{i}")(x)))
            size = map_size(x)
            x, indices = pool(x)
            pooled.append((indices, size))
        for i in range(4, 0, -1):
            x = unpool(x, *pooled[i - 1])
            x = getattr(self, f"conv_decode{i}_bn")(getattr(self, f"conv_decode{i}")(x))
        return {"logits": self.conv_classifier(x)}


class SegNetCriterion(SegmentationCriterion):
    """Cross-entropy, with weights of the classes by their frequency (section 3.2).

    Args:
        ignore_index: label of pixels that do not count.
        class_weight: K weights, or None.

    Inputs and returns: as for :class:`SegmentationCriterion`; the one term is ``"ce"``.
    """

    def __init__(self, ignore_index: int = 11, class_weight=None):
        super().__init__((("ce", "logits", 1.0),), ignore_index, class_weight, avg_non_ignore=True)


@torch.no_grad()
def uncertainty(model: SegNet, images, samples: int = 40):
    """Mean and variance of a network's predictions under dropout.

    Args:
        model: with dropout; its mode is restored afterwards.
        images: (N, 3, H, W).
        samples: forward passes with different dropout and running statistics.

    Returns:
        probabilities: (N, K, H, W), the mean of all samples.
        variance: (N, H, W), of the samples' probabilities, the mean over all classes.

    Source: "Bayesian SegNet", 2015, arXiv:1511.02680, section 4.
    """
    modes = model.training, model.dropout.training
    model.eval()
    model.dropout.train()  # mirror: a module's mode
    found = torch.stack([model(images)["logits"].softmax(1) for _ in range(samples)])
    model.train(modes[0])
    model.dropout.train(modes[1])
    return found.mean(0), found.var(0, unbiased=False).mean(1)


def segnet_vgg16(**options) -> SegNet:
    return SegNet(**options)


def bayesian_segnet_vgg16(dropout: float = 0.5, **options) -> SegNet:
    return SegNet(dropout=dropout, **options)


def segnet_basic(**options) -> SegNetBasic:
    return SegNetBasic(**options)
