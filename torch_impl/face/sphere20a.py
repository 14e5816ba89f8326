"""SphereFace's network: twenty layers without normalisation, and a last one that only uses angles.

"SphereFace: Deep Hypersphere Embedding for Face Recognition", 2017, arXiv:1704.08063. Parameter names:
clcarwin/sphereface_pytorch ``net_sphere.py``; the network is that of wy1iu/sphereface (MIT). What to look at: the
residual is added after the activation, and the weights of the classes are columns of a kernel, of which only the
directions count.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- The last map is flattened as (C, H, W) in both.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.losses.margin import annealing, classify, encode, multiple_angle
from torch_impl.losses.pairwise import norms, similarities

__all__ = ["AngleCriterion", "AngleLinear", "Sphere20a", "annealing", "sphere20a"]


class AngleLinear(nn.Module):
    """Cosines with the directions of the classes, and those with a margin, both times the length of the row.

    Args:
        in_features: D.
        classes: classes K.
        m: the angle is multiplied by it, 1 to 4.

    x: (N, D) -> two of (N, K): |x| cos(theta), |x| psi(theta).
    """

    def __init__(self, in_features: int, classes: int, m: int = 4):
        super().__init__()
        self.m = m
        self.weight = nn.Parameter(F.normalize(torch.empty(in_features, classes).uniform_(-1, 1), dim=0))

    def forward(self, x):
        cosines = similarities(x, self.weight.t()).clamp(-1.0, 1.0)
        length = norms(x)
        return length * cosines, length * multiple_angle(cosines, self.m)


class Sphere20a(nn.Module):
    """The network from an aligned face to its embedding.

    Args:
        num_classes: persons K.
        layers: pairs of convolutions with a shortcut in each stage.
        planes: widths of the stages.
        size: height and width of the images.
        embedding_size: D.

    Inputs: (N, 3, *size) float, (RGB - 127.5) / 128, aligned.
    Returns: dict: ``"embeddings"`` (N, D), compared by the cosine; ``"cosines"``, ``"margins"`` (N, K), see
        :class:`AngleLinear`.
    """

    def __init__(
        self,
        num_classes: int = 10574,
        layers: tuple[int, ...] = (1, 2, 4, 1),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        size: tuple[int, int] = (112, 96),
        embedding_size: int = 512,
    ):
        super().__init__()
        self.layers_of = tuple(layers)
        width, (height, columns) = 3, size
        for stage, (pairs, filters) in enumerate(zip(layers, planes, strict=True), start=1):
            for i in range(1, 2 * pairs + 2):
                setattr(self, f"conv{stage}_{i}", nn.Conv2d(width, filters, 3, 2 if i == 1 else 1, 1))
                setattr(self, f"relu{stage}_{i}", nn.PReLU(filters))
                width = filters
            height, columns = -(-height // 2), -(-columns // 2)
        self.fc5 = nn.Linear(width * height * columns, embedding_size)
        self.fc6 = AngleLinear(embedding_size, num_classes)

    def part(self, x, stage: int, i: int):
        """Convolution and PReLU."""
        return getattr(self, f"relu{stage}_{i}")(getattr(self, f"conv{stage}_{i}")(x))

    def forward(self, images):
        x = images
        for stage, pairs in enumerate(self.layers_of, start=1):
            x = self.part(x, stage, 1)
            for i in range(2, 2 * pairs + 2, 2):
                x = x + self.part(self.part(x, stage, i), stage, i + 1)
        x = self.fc5(x.flatten(1))  # mirror: NCHW; mirror: flattened
        cosines, margins = self.fc6(x)
        return {"embeddings": x, "cosines": cosines, "margins": margins}


class AngleCriterion(nn.Module):
    """Cross-entropy of |x| cos(theta), where |x| psi(theta) replaces a share of the right class's logit.

    Args:
        blend: weight of the plain logit relative to that with the margin, see :func:`annealing`; may be set between
            steps.

    Inputs: ``outputs`` of :class:`Sphere20a`; ``targets["labels"]`` (N,) int, -1 does not count.
    Returns: dict of scalars: ``"angle"``, ``"total"`` (the same).
    """

    def __init__(self, blend: float = 5.0):
        super().__init__()
        self.blend = blend

    def forward(self, outputs, targets):
        cosines = outputs["cosines"]
        target = encode(targets["labels"], cosines.shape[1], cosines.dtype)
        loss = classify(cosines + target * (outputs["margins"] - cosines) / (1 + self.blend), targets["labels"])
        return {"angle": loss, "total": loss}


def sphere20a(**options) -> Sphere20a:
    return Sphere20a(**options)
