"""AGW and SBS of fast-reid: non-local blocks, generalised mean, weighted triplets; and its stronger variant.

"Deep Learning for Person Re-identification: A Survey and Outlook", 2020, arXiv:2001.04193; "FastReID: A Pytorch Toolbox
for General Instance Re-identification", 2020, arXiv:2006.02631. Names and numbers: JDAI-CV/fast-reid (Apache-2.0). What
to look at: its non-local blocks have one inner channel; its label smoothing leaves the right class out.

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow, which flattens positions for the matrix products.
- The pool keeps the border (ceil mode), which PyTorch cannot export at unknown sizes: after a ReLU, a row and a column
  of zeros give the same.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.classification.resnet import BasicBlock, Bottleneck, ResNet
from torch_impl.layers.bnneck import BNNeck
from torch_impl.layers.global_pooling import GeM
from torch_impl.losses.margin import encode
from torch_impl.losses.pairwise import similarities
from torch_impl.metric.circle import circle_logits
from torch_impl.metric.triplet import TripletCriterion

__all__ = [
    "FastReID",
    "FastReIDCriterion",
    "NonLocal",
    "agw_r50",
    "agw_r101",
    "sbs_r50",
    "smooth_cross_entropy",
]

BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


class NonLocal(nn.Module):
    """Every position receives the mean of all positions, weighted by products of two embeddings; starts as the
    identity.

    Args:
        channels: C.
        inter: inner channels: "fastreid" has 1, "half" C / 2.

    x: (N, C, H, W), the same shape out.
    """

    def __init__(self, channels: int, inter: str = "fastreid"):
        super().__init__()
        width = 1 if inter == "fastreid" else channels // 2
        self.g = nn.Conv2d(channels, width, 1)
        self.W = nn.Sequential(nn.Conv2d(width, channels, 1), nn.BatchNorm2d(channels))
        nn.init.zeros_(self.W[1].weight)
        self.theta, self.phi = nn.Conv2d(channels, width, 1), nn.Conv2d(channels, width, 1)

    def forward(self, x):
        g, theta, phi = (layer(x).flatten(2) for layer in (self.g, self.theta, self.phi))  # (N, I, H W)
        weights = theta.mT @ phi / phi.shape[2]
        y = (weights @ g.mT).mT.reshape(-1, g.shape[1], *x.shape[2:])  # mirror: matrix products
        return self.W(y) + x


class NonLocalResNet(ResNet):
    """fast-reid's ResNet: a last stride of 1, a pool that keeps the border, non-local blocks after the last blocks.

    Args:
        block, layers, planes: of the ResNet.
        non_local: how many in each stage.
        inter: see :class:`NonLocal`.
    """

    def __init__(
        self,
        block,
        layers: tuple[int, ...],
        planes: tuple[int, ...],
        non_local: tuple[int, ...] = (0, 2, 3, 0),
        inter: str = "fastreid",
    ):
        super().__init__(block, layers, planes=planes, features_only=True, out_indices=(4,))
        self.known_strides = {"c5": 16}
        first = self.layer4[0]
        first.downsample[0].stride = (1, 1)
        convolution = first.conv1 if isinstance(first, BasicBlock) else first.conv2
        convolution.stride = (1, 1)
        # mirror: a row and a column of zeros
        self.maxpool = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(3, 2))
        for i, count in enumerate(non_local, start=1):
            channels = planes[i - 1] * block.expansion
            setattr(self, f"NL_{i}", nn.ModuleList(NonLocal(channels, inter) for _ in range(count)))

    def forward_features(self, images) -> dict:
        x = self.forward_stem(images)
        for i, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), start=1):
            blocks = getattr(self, f"NL_{i}")
            for j, block in enumerate(stage, start=len(blocks) - len(stage)):
                x = block(x)
                x = blocks[j](x) if j >= 0 else x
        return {"c5": x}


class EmbeddingHead(nn.Module):
    """Pool, neck, and logits of classes.

    Args:
        in_features: channels D.
        num_classes: K.
        learned_power: whether the power of the pool is a parameter.
        cosine: logits are cosines.

    x: (N, D, H, W) -> pooled (N, D), after the neck (N, D), logits (N, K).
    """

    def __init__(self, in_features: int, num_classes: int, learned_power: bool, cosine: bool):
        super().__init__()
        self.cosine = cosine
        self.weight = nn.Parameter(torch.empty(num_classes, in_features))
        nn.init.normal_(self.weight, 0.0, 0.01)
        self.pool_layer = GeM(learned=learned_power)
        self.bottleneck = nn.Sequential(BNNeck(in_features))

    def forward(self, x):
        pooled = self.pool_layer(x)
        after = self.bottleneck(pooled)
        logits = similarities(after, self.weight) if self.cosine else F.linear(after, self.weight)
        return pooled, after, logits


class FastReID(nn.Module):
    """A trunk with non-local blocks and an embedding head.

    Args:
        num_classes: identities K.
        block, layers, planes: of the ResNet: "basic" or "bottleneck", blocks of each stage, their nominal widths.
        non_local: non-local blocks of each stage, after its last blocks.
        inter: see :class:`NonLocal`.
        learned_power: whether the pool's power is a parameter.
        cosine: logits are cosines (with a margin in the criterion).
        neck_feat: whether triplets use the feature "before" or "after" the neck.

    Inputs: (N, 3, H, W) float.
    Returns: dict: ``"feature"`` (N, D) for triplets; ``"embedding"`` (N, D), the descriptor; ``"logits"`` (N, K).
    Raises: ValueError if the block, ``inter`` or ``neck_feat`` is unknown.
    """

    def __init__(
        self,
        num_classes: int = 751,
        block: str = "bottleneck",
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        non_local: tuple[int, ...] = (0, 2, 3, 0),
        inter: str = "fastreid",
        learned_power: bool = False,
        cosine: bool = False,
        neck_feat: str = "before",
    ):
        super().__init__()
        if block not in BLOCKS:
            raise ValueError(f"block={block!r} must be one of {sorted(BLOCKS)}")
        if inter not in ("fastreid", "half"):
            raise ValueError(f"inter={inter!r} must be 'fastreid' or 'half'")
        if neck_feat not in ("before", "after"):
            raise ValueError(f"neck_feat={neck_feat!r} must be 'before' or 'after'")
        self.neck_feat = neck_feat
        self.backbone = NonLocalResNet(BLOCKS[block], tuple(layers), tuple(planes), tuple(non_local), inter)
        self.heads = EmbeddingHead(self.backbone.channels["c5"], num_classes, learned_power, cosine)

    def forward(self, images):
        pooled, after, logits = self.heads(self.backbone(images)["c5"])
        feature = pooled if self.neck_feat == "before" else after
        return {"feature": feature, "embedding": after, "logits": logits}


def smooth_cross_entropy(logits, labels, epsilon: float = 0.1, alpha: float = 0.2):
    """Cross-entropy with 1 - epsilon for the right class and epsilon / (K - 1) for each other one.

    Args:
        logits: (N, K).
        labels: (N,) int.
        epsilon: below 0, every row has alpha times its probability of the right class instead.
        alpha: see ``epsilon``.

    Returns:
        Scalar: the sum over the rows divided by the number of rows with a loss.
    """
    classes = logits.shape[1]
    log_p = F.log_softmax(logits, dim=1)
    target = F.one_hot(labels, classes).to(logits.dtype)
    if epsilon < 0:
        epsilon = alpha * (log_p.detach().exp() * target).sum(1, keepdim=True)
    wanted = target * (1 - epsilon) + (1 - target) * epsilon / (classes - 1)
    losses = -(wanted * log_p).sum(1)
    return losses.sum() / (losses != 0).to(losses.dtype).sum().clamp(min=1)


class FastReIDCriterion(nn.Module):
    """Smoothed cross-entropy and soft triplets.

    Args:
        epsilon: see :func:`smooth_cross_entropy`.
        mining: "weighted" (AGW) or "hard" (SBS), see :class:`TripletCriterion`.
        circle_scale, circle_margin: of the circle's logits, on cosines; a scale of 0 takes the logits as they are.

    Inputs: ``outputs`` of :class:`FastReID`; ``targets["labels"]`` (N,) int.
    Returns: dict of scalars: ``"cross_entropy"``, ``"triplet"``, ``"total"``, their sum.
    """

    def __init__(
        self,
        epsilon: float = 0.1,
        mining: str = "weighted",
        circle_scale: float = 0.0,
        circle_margin: float = 0.35,
    ):
        super().__init__()
        self.epsilon, self.circle_scale, self.circle_margin = epsilon, circle_scale, circle_margin
        self.triplet = TripletCriterion(mining, margin=0.0, soft=True)

    def class_outputs(self, logits, labels):
        """Logits (N, K) with the circle's margin for labels (N,)."""
        if not self.circle_scale:
            return logits
        together, apart = circle_logits(logits, self.circle_margin, self.circle_scale)
        return apart - encode(labels, logits.shape[1], logits.dtype) * (together + apart)

    def forward(self, outputs, targets):
        labels = targets["labels"]
        found = smooth_cross_entropy(self.class_outputs(outputs["logits"], labels), labels, self.epsilon)
        triplet = self.triplet(outputs["feature"], targets)["total"]
        return {"cross_entropy": found, "triplet": triplet, "total": found + triplet}


def agw_r50(layers=(3, 4, 6, 3), **options) -> FastReID:
    return FastReID(layers=layers, **options)


def agw_r101(layers=(3, 4, 23, 3), non_local=(0, 2, 9, 0), **options) -> FastReID:
    return FastReID(layers=layers, non_local=non_local, **options)


def sbs_r50(layers=(3, 4, 6, 3), learned_power=True, cosine=True, neck_feat="after", **options) -> FastReID:
    return FastReID(layers=layers, learned_power=learned_power, cosine=cosine, neck_feat=neck_feat, **options)
