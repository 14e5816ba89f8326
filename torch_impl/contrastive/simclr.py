"""SimCLR: two views of an image should be closer than any other views in the batch.

"A Simple Framework for Contrastive Learning of Visual Representations", 2020, arXiv:2002.05709; "Big Self-Supervised
Models are Strong Semi-Supervised Learners" (deeper head), 2020, arXiv:2006.10029. Numbers: google-research/simclr
(Apache-2.0), whose head drops the biases before batch normalisation and the last shift; names: lightly (MIT).

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow; batches are concatenated along the first axis in both.
"""

import functools

import torch
from torch import nn

from torch_impl.contrastive._trunk import pooled, trunk, width
from torch_impl.layers.bnneck import BNNeck
from torch_impl.losses.contrastive import nt_xent
from torch_impl.training.lars import LARS
from torch_impl.training.players import Player
from torch_impl.training.schedules import warmup_cosine
from torch_impl.training.sgd import set_learning_rate

__all__ = ["SimCLR", "SimCLRCriterion", "SimCLRTrainer", "simclr_v1", "simclr_v2"]


class ProjectionHead(nn.Module):
    """Linear layers without bias, each with batch normalisation, ReLU between.

    Args:
        in_features: size of the input.
        hidden, dim: size of the inner layers and of the output.
        depth: how many layers.

    x: (N, C) -> (N, dim).
    """

    def __init__(self, in_features: int, hidden: int, dim: int, depth: int = 2):
        super().__init__()
        layers = []
        for _ in range(depth - 1):
            layers += [nn.Linear(in_features, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
            in_features = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(in_features, dim, bias=False), BNNeck(dim))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0.0, 0.01)

    def forward(self, x):
        return self.layers(x)


class SimCLR(nn.Module):
    """Trunk and head over both views as one batch.

    Args:
        block, layers, planes: of the ResNet: "basic" or "bottleneck", blocks of each stage, their nominal widths.
        hidden, dim, depth: see :class:`ProjectionHead`.

    Inputs: ``view1``, ``view2`` (N, 3, H, W) float.
    Returns: dict: ``"z1"``, ``"z2"`` (N, dim), not normalised.
    """

    def __init__(
        self,
        block: str = "bottleneck",
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        hidden: int = 2048,
        dim: int = 128,
        depth: int = 2,
    ):
        super().__init__()
        self.backbone = trunk(block, layers, planes)
        self.projection_head = ProjectionHead(width(block, planes), hidden, dim, depth)

    def forward(self, view1, view2):
        z = self.projection_head(pooled(self.backbone, torch.cat([view1, view2])))
        z1, z2 = z[: view1.shape[0]], z[view1.shape[0] :]
        return {"z1": z1, "z2": z2}


class SimCLRCriterion(nn.Module):
    """NT-Xent.

    Args:
        temperature: of the cosines.
        reduction: "official" adds the means of both directions, "mean" averages all 2N losses (half of it).

    Inputs: ``outputs`` of :class:`SimCLR`; ``targets`` are not read.
    Returns: dict of scalars: ``"nt_xent"``, ``"total"`` (the same).
    Raises: ValueError if ``reduction`` is unknown.
    """

    def __init__(self, temperature: float = 0.1, reduction: str = "official"):
        super().__init__()
        if reduction not in ("official", "mean"):
            raise ValueError(f"reduction={reduction!r} must be 'official' or 'mean'")
        self.temperature, self.reduction = temperature, reduction

    def forward(self, outputs, targets):
        losses = nt_xent(outputs["z1"], outputs["z2"], self.temperature)
        loss = losses.mean() * (2 if self.reduction == "official" else 1)
        return {"nt_xent": loss, "total": loss}


class SimCLRTrainer:
    """Steps of LARS.

    Args:
        model, criterion: :class:`SimCLR`, :class:`SimCLRCriterion`.
        learning_rate: 0.3 for every 256 images of a batch.
        weight_decay: not of biases and normalisation.
        steps, warmup: half a cosine over this many steps after a linear warm-up; None for a constant rate.
    """

    def __init__(
        self,
        model,
        criterion=None,
        learning_rate: float = 0.3,
        weight_decay: float = 1e-6,
        steps: int | None = None,
        warmup: int = 0,
    ):
        self.model, self.criterion = model, SimCLRCriterion() if criterion is None else criterion
        self.learning_rate, self.steps, self.warmup, self.done = learning_rate, steps, warmup, 0
        lars = functools.partial(LARS, lr=learning_rate, weight_decay=weight_decay)
        self.player = Player({"backbone": model.backbone, "projection_head": model.projection_head}, lars)

    def step(self, inputs, targets) -> dict:
        """One step from ``inputs["view1"]`` and ``inputs["view2"]``."""
        factor = 1.0
        if self.steps is not None:
            factor = warmup_cosine(self.done, self.steps, self.warmup, warmup=self.warmup, first=0.0)
        set_learning_rate(self.player.optimizer, self.learning_rate * factor)
        self.model.train()
        losses = self.criterion(self.model(inputs["view1"], inputs["view2"]), targets)
        self.player.lower(losses["total"])
        self.done += 1
        return losses


def simclr_v1(depth: int = 2, **options) -> SimCLR:
    return SimCLR(depth=depth, **options)


def simclr_v2(depth: int = 3, **options) -> SimCLR:
    return SimCLR(depth=depth, **options)
