"""The strong baseline of person re-identification: triplet and centre loss before a batch normalisation, softmax after
it.

"Bag of Tricks and A Strong Baseline for Deep Person Re-identification", 2019, arXiv:1903.07071; IBN-a: "Two at Once:
Enhancing Learning and Generalization Capacities via IBN-Net", 2018, arXiv:1807.09441. Names and numbers:
michuanhaohao/reid-strong-baseline (MIT). What to look at: the neck between the two kinds of losses, the last stride of
1, and that the reference's plain ResNet has no ReLU after the first normalisation.

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow.
- Weight decay is part of PyTorch's Adam; TensorFlow adds it to the gradients.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.classification.resnet import BasicBlock, Bottleneck, ResNet
from torch_impl.layers.bnneck import BNNeck
from torch_impl.losses.cross_entropy import cross_entropy
from torch_impl.metric.center import CenterCriterion
from torch_impl.metric.triplet import TripletCriterion
from torch_impl.training.optimizers import Adam

__all__ = [
    "IBN",
    "ReIDBaseline",
    "ReIDCriterion",
    "ReIDTrainer",
    "reid_baseline_resnet18",
    "reid_baseline_resnet50",
    "reid_baseline_resnet50_ibn_a",
    "reid_baseline_resnet101",
]


class IBN(nn.Module):
    """Instance normalisation of the first half of the channels, batch normalisation of the rest; the same shape out."""

    def __init__(self, channels: int):
        super().__init__()
        self.half = channels // 2
        self.IN = nn.InstanceNorm2d(self.half, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.half)

    def forward(self, x):
        return torch.cat([self.IN(x[:, : self.half].contiguous()), self.BN(x[:, self.half :].contiguous())], 1)


class IBNBottleneck(Bottleneck):
    """A bottleneck with :class:`IBN` after its first convolution, except in the last stage.

    Args:
        last: width of the last stage.
    """

    def __init__(self, in_channels: int, planes: int, *args, last: int = 512, **options):
        super().__init__(in_channels, planes, *args, **options)
        if planes != last:
            self.bn1 = IBN(planes)


class Trunk(ResNet):
    """A ResNet with a last stride of 1 or 2, with or without ReLU in the stem.

    Args:
        block, layers, planes: of the ResNet.
        last_stride: of the last stage.
        stem_relu: see the module.
        features_only: without ImageNet's classifier, which the IBN variant keeps unused.
    """

    def __init__(
        self,
        block,
        layers: tuple[int, ...],
        planes: tuple[int, ...],
        last_stride: int = 1,
        stem_relu: bool = True,
        features_only: bool = True,
    ):
        super().__init__(block, layers, planes=planes, output_stride=32, features_only=features_only, out_indices=(4,))
        self.stem_relu = stem_relu
        if last_stride == 1:
            self.known_strides = {"c5": 16}
            first = self.layer4[0]
            first.downsample[0].stride = (1, 1)
            convolution = first.conv1 if isinstance(first, BasicBlock) else first.conv2
            convolution.stride = (1, 1)

    def forward_stem(self, images):
        x = self.bn1(self.conv1(images))
        return self.maxpool(F.relu(x) if self.stem_relu else x)


class ReIDBaseline(nn.Module):
    """Trunk, mean of the last map, neck, classifier.

    Args:
        num_classes: identities K.
        block: "basic", "bottleneck" or "ibn_a".
        layers, planes: blocks of each stage, their nominal widths.
        last_stride: of the last stage.
        neck: whether there is a batch normalisation before the classifier.
        neck_feat: whether the descriptor is the feature "after" or "before" the neck.
        stem_relu: whether the stem has a ReLU; the reference's plain ResNets have none.

    Inputs: (N, 3, H, W) float.
    Returns: dict: ``"feature"`` (N, D) before the neck; ``"embedding"`` (N, D), the descriptor, compared by its cosine;
        ``"logits"`` (N, K).
    Raises: ValueError if the block or ``neck_feat`` is unknown.
    """

    def __init__(
        self,
        num_classes: int = 751,
        block: str = "bottleneck",
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        last_stride: int = 1,
        neck: bool = True,
        neck_feat: str = "after",
        stem_relu: bool = False,
    ):
        super().__init__()
        blocks = {"basic": BasicBlock, "bottleneck": Bottleneck}
        blocks["ibn_a"] = functools.partial(IBNBottleneck, last=planes[-1])
        if block not in blocks:
            raise ValueError(f"block={block!r} must be one of {sorted(blocks)}")
        if neck_feat not in ("after", "before"):
            raise ValueError(f"neck_feat={neck_feat!r} must be 'after' or 'before'")
        self.neck_feat = neck_feat
        self.base = Trunk(
            blocks[block],
            tuple(layers),
            tuple(planes),
            last_stride,
            stem_relu=stem_relu,
            features_only=block != "ibn_a",
        )
        size = self.base.channels["c5"]
        self.bottleneck = BNNeck(size) if neck else nn.Identity()
        self.classifier = nn.Linear(size, num_classes, bias=False)
        nn.init.normal_(self.classifier.weight, 0.0, 0.001)

    def forward(self, images):
        feature = self.base.forward_features(images)["c5"].mean((2, 3))  # mirror: NCHW
        after = self.bottleneck(feature)
        embedding = after if self.neck_feat == "after" else feature
        return {"feature": feature, "embedding": embedding, "logits": self.classifier(after)}


class ReIDCriterion(nn.Module):
    """Smoothed cross-entropy, hard triplets and centres.

    Args:
        num_classes, embedding_size: K and D.
        label_smoothing: share of the target that is spread over all classes.
        margin: of the triplets; Euclidean distance before the neck.
        center_weight: of the centre loss.

    Inputs: ``outputs`` of :class:`ReIDBaseline`; ``targets["labels"]`` (N,) int.
    Returns: dict of scalars: ``"cross_entropy"``, ``"triplet"``, ``"center"`` (weighted), ``"total"``, their sum.
    """

    def __init__(
        self,
        num_classes: int = 751,
        embedding_size: int = 2048,
        label_smoothing: float = 0.1,
        margin: float = 0.3,
        center_weight: float = 0.0005,
    ):
        super().__init__()
        self.label_smoothing = label_smoothing
        self.triplet = TripletCriterion(margin=margin)
        self.center = CenterCriterion(num_classes, embedding_size, form="sum", weight=center_weight)

    def forward(self, outputs, targets):
        losses = {
            "cross_entropy": cross_entropy(outputs["logits"], targets["labels"], label_smoothing=self.label_smoothing),
            "triplet": self.triplet(outputs["feature"], targets)["total"],
            "center": self.center(outputs["feature"], targets)["total"],
        }
        return {**losses, "total": sum(losses.values())}


class ReIDTrainer:
    """Adam for the model, plain gradient descent with the unweighted gradient for the centres.

    Args:
        model, criterion: :class:`ReIDBaseline`, :class:`ReIDCriterion`.
        learning_rate: of Adam, see :func:`warmup_multistep`.
        weight_decay: added to the model's gradients.
        center_rate: learning rate of the centres.
    """

    def __init__(
        self,
        model,
        criterion,
        learning_rate: float = 3.5e-4,
        weight_decay: float = 5e-4,
        center_rate: float = 0.5,
    ):
        self.model, self.criterion = model, criterion
        self.weight_decay, self.center_rate = weight_decay, center_rate
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = Adam(self.parameters, learning_rate, weight_decay=weight_decay)

    def step(self, inputs, targets) -> dict:
        """One step from ``inputs["images"]`` and ``targets["labels"]``."""
        self.model.train()
        losses = self.criterion(self.model(inputs["images"]), targets)
        centers = self.criterion.center.centers
        *gradients, of_centers = torch.autograd.grad(losses["total"], [*self.parameters, centers], allow_unused=True)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()  # mirror: Weight decay
        with torch.no_grad():
            centers -= self.center_rate / self.criterion.center.weight * of_centers
        return losses


def reid_baseline_resnet18(block="basic", layers=(2, 2, 2, 2), **options) -> ReIDBaseline:
    return ReIDBaseline(block=block, layers=layers, **options)


def reid_baseline_resnet50(layers=(3, 4, 6, 3), **options) -> ReIDBaseline:
    return ReIDBaseline(layers=layers, **options)


def reid_baseline_resnet101(layers=(3, 4, 23, 3), **options) -> ReIDBaseline:
    return ReIDBaseline(layers=layers, **options)


def reid_baseline_resnet50_ibn_a(block="ibn_a", layers=(3, 4, 6, 3), stem_relu=True, **options) -> ReIDBaseline:
    return ReIDBaseline(block=block, layers=layers, stem_relu=stem_relu, **options)
