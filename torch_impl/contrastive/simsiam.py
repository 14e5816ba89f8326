"""SimSiam: each view predicts the other; without negatives and without a second encoder, but with a stopped gradient.

"Exploring Simple Siamese Representation Learning", 2020, arXiv:2011.10566. Names and numbers: facebookresearch/simsiam
(CC BY-NC 4.0; only run). What to look at: the targets are constants, and the predictor's learning rate does not decay.

Mirror notes:
- A bias that is not trained: ``requires_grad`` in PyTorch, a non-trainable variable in TensorFlow.
"""

import functools

from torch import nn

from torch_impl.contrastive._trunk import resnet, width
from torch_impl.losses.contrastive import cosine_prediction
from torch_impl.training.players import Player
from torch_impl.training.schedules import cosine
from torch_impl.training.sgd import SGD, set_learning_rate

__all__ = ["SimSiam", "SimSiamCriterion", "SimSiamTrainer", "simsiam"]


class SimSiam(nn.Module):
    """Encoder with a head of three layers, and a predictor.

    Args:
        block, layers, planes: of the ResNet: "basic" or "bottleneck", blocks of each stage, their nominal widths.
        dim: size D of the head's output.
        pred_dim: inner size of the predictor.

    Inputs: ``x1``, ``x2`` (N, 3, H, W) float, two views.
    Returns: dict: ``"p1"``, ``"p2"`` (N, D), predictions; ``"z1"``, ``"z2"`` (N, D), outputs of the head.
    """

    def __init__(
        self,
        block: str = "bottleneck",
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        dim: int = 2048,
        pred_dim: int = 512,
    ):
        super().__init__()
        self.encoder = resnet(block, layers, planes, dim, zero_init_residual=True)
        size = width(block, planes)
        self.encoder.fc = nn.Sequential(
            nn.Linear(size, size, bias=False),
            nn.BatchNorm1d(size),
            nn.ReLU(),
            nn.Linear(size, size, bias=False),
            nn.BatchNorm1d(size),
            nn.ReLU(),
            self.encoder.fc,
            nn.BatchNorm1d(dim, affine=False),
        )
        self.encoder.fc[6].bias.requires_grad_(False)  # mirror: A bias that
        self.predictor = nn.Sequential(
            nn.Linear(dim, pred_dim, bias=False), nn.BatchNorm1d(pred_dim), nn.ReLU(), nn.Linear(pred_dim, dim)
        )

    def forward(self, x1, x2):
        z1, z2 = self.encoder(x1), self.encoder(x2)
        return {"p1": self.predictor(z1), "p2": self.predictor(z2), "z1": z1, "z2": z2}


class SimSiamCriterion(nn.Module):
    """Negative cosine between each prediction and the other view's output, which is a constant.

    Inputs: ``outputs`` of :class:`SimSiam`; ``targets`` are not read.
    Returns: dict of scalars: ``"simsiam"``, ``"total"`` (the same).
    """

    def forward(self, outputs, targets):
        first = cosine_prediction(outputs["p1"], outputs["z2"])
        second = cosine_prediction(outputs["p2"], outputs["z1"])
        loss = -(first.mean() + second.mean()) / 2
        return {"simsiam": loss, "total": loss}


class SimSiamTrainer:
    """Gradient steps of encoder and predictor.

    Args:
        model, criterion: :class:`SimSiam`, :class:`SimSiamCriterion`.
        learning_rate: 0.05 for every 256 images of a batch.
        momentum, weight_decay: of the optimisers.
        steps: half a cosine over this many steps; None for a constant rate.
        fix_pred_lr: whether the predictor's rate stays constant.
    """

    def __init__(
        self,
        model,
        criterion=None,
        learning_rate: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        steps: int | None = None,
        fix_pred_lr: bool = True,
    ):
        self.model, self.criterion = model, SimSiamCriterion() if criterion is None else criterion
        self.learning_rate, self.steps, self.fix_pred_lr, self.done = learning_rate, steps, fix_pred_lr, 0
        sgd = functools.partial(SGD, lr=learning_rate, momentum=momentum, weight_decay=weight_decay)
        self.encoder = Player({"encoder": model.encoder}, sgd)
        self.predictor = Player({"predictor": model.predictor}, sgd)

    def step(self, inputs, targets) -> dict:
        """One step from ``inputs["x1"]`` and ``inputs["x2"]``."""
        factor = 1.0 if self.steps is None else cosine(self.done, self.steps)
        set_learning_rate(self.encoder.optimizer, self.learning_rate * factor)
        set_learning_rate(self.predictor.optimizer, self.learning_rate * (1.0 if self.fix_pred_lr else factor))
        self.model.train()
        losses = self.criterion(self.model(inputs["x1"], inputs["x2"]), targets)
        parameters = [*self.encoder.parameters.values(), *self.predictor.parameters.values()]
        for parameter in parameters:
            parameter.grad = None
        losses["total"].backward()
        self.encoder.optimizer.step()
        self.predictor.optimizer.step()
        self.done += 1
        return losses


def simsiam(dim: int = 2048, pred_dim: int = 512, **options) -> SimSiam:
    return SimSiam(dim=dim, pred_dim=pred_dim, **options)
