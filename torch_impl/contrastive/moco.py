"""MoCo: contrast with the keys of many past batches, from a slowly moving encoder that keeps them comparable.

"Momentum Contrast for Unsupervised Visual Representation Learning", 2019, arXiv:1911.05722; "Improved Baselines with
Momentum Contrastive Learning", 2020, arXiv:2003.04297. Names: facebookresearch/moco (MIT). What to look at: in training
a call moves the key encoder before it is used and enqueues the keys after the logits; keys pass their encoder in
shuffled order, in groups with separate batch statistics (shuffled batch normalisation).

Mirror notes:
- Keys have no gradient: ``no_grad`` in PyTorch, ``tf.stop_gradient`` in TensorFlow.
- Columns of the queue are written by slices of a copy in PyTorch, by ``tensor_scatter_nd_update`` in TensorFlow.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.contrastive._trunk import resnet, width
from torch_impl.losses.cross_entropy import cross_entropy
from torch_impl.losses.pairwise import l2_normalize
from torch_impl.training.averages import follow
from torch_impl.training.players import Player
from torch_impl.training.schedules import cosine
from torch_impl.training.sgd import SGD, set_learning_rate

__all__ = ["MoCo", "MoCoCriterion", "MoCoTrainer", "moco_v1", "moco_v2", "step_decay"]


def encoder(block: str, layers, planes, dim: int, mlp: bool):
    """A ResNet with a linear head, or one of two layers."""
    found = resnet(block, layers, planes, dim)
    if mlp:
        size = width(block, planes)
        found.fc = nn.Sequential(nn.Linear(size, size), nn.ReLU(), found.fc)
    return found


class MoCo(nn.Module):
    """Query encoder, key encoder, queue.

    Args:
        block, layers, planes: of the ResNets: "basic" or "bottleneck", blocks of each stage, their nominal widths.
        dim: size D of queries and keys.
        queue_size: keys K in the queue; batches must divide it.
        momentum: of the key encoder.
        temperature: of the cosines.
        mlp: a head of two layers.
        bn_groups: groups of keys with separate batch statistics, as on that many devices.

    Inputs: ``im_q``, ``im_k`` (N, 3, H, W) float, two views; ``order`` (N,) int, the order in which keys are
        encoded in training, or None.
    Returns: dict: ``"logits"`` (N, 1 + K), the right key first; ``"q"``, ``"k"`` (N, D) of unit length.
    Raises: ValueError if the batch does not divide the queue in training.
    """

    def __init__(
        self,
        block: str = "bottleneck",
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        dim: int = 128,
        queue_size: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.07,
        mlp: bool = False,
        bn_groups: int = 1,
    ):
        super().__init__()
        self.momentum, self.temperature, self.bn_groups = momentum, temperature, bn_groups
        self.register_buffer("queue", F.normalize(torch.randn(dim, queue_size), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.int64))
        self.encoder_q = encoder(block, layers, planes, dim, mlp)
        self.encoder_k = encoder(block, layers, planes, dim, mlp)
        self.encoder_k.load_state_dict(self.encoder_q.state_dict())
        self.encoder_k.requires_grad_(False)

    @torch.no_grad()
    def enqueue(self, keys) -> None:
        """Write keys (N, D) over the oldest ones."""
        count, size = keys.shape[0], self.queue.shape[1]
        if size % count:
            raise ValueError(f"queue_size={size} must be a multiple of the batch, {count}")
        places = (self.queue_ptr + torch.arange(count, device=keys.device)) % size
        self.queue[:, places] = keys.T  # mirror: Columns of the queue
        self.queue_ptr.copy_((self.queue_ptr + count) % size)

    @torch.no_grad()
    def keys(self, images, order=None):
        """Keys (N, D) of images; in training shuffled and in groups."""
        if not self.training:
            return l2_normalize(self.encoder_k(images))
        follow(self.encoder_k, self.encoder_q, self.momentum)
        shuffled = images if order is None else images[order]
        found = torch.cat([l2_normalize(self.encoder_k(part)) for part in shuffled.chunk(self.bn_groups)])
        return found if order is None else found[order.argsort()]

    def forward(self, im_q, im_k, order=None):
        q = l2_normalize(self.encoder_q(im_q))
        k = self.keys(im_k, order)  # mirror: Keys have no gradient
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ self.queue.clone()], 1) / self.temperature
        if self.training:
            self.enqueue(k)
        return {"logits": logits, "q": q, "k": k}


class MoCoCriterion(nn.Module):
    """Cross-entropy of the right key among all keys.

    Inputs: ``outputs["logits"]`` of :class:`MoCo`; ``targets`` are not read.
    Returns: dict of scalars: ``"contrastive"``, ``"total"`` (the same).
    """

    def forward(self, outputs, targets):
        logits = outputs["logits"]
        labels = torch.zeros(logits.shape[0], dtype=torch.int64, device=logits.device)
        loss = cross_entropy(logits, labels)
        return {"contrastive": loss, "total": loss}


def step_decay(epoch: int, milestones=(120, 160), gamma: float = 0.1) -> float:
    """Factor of the learning rate in version 1; version 2 uses half a cosine over 200 epochs."""
    return gamma ** sum(milestone <= epoch for milestone in milestones)


class MoCoTrainer:
    """Gradient steps of the query encoder.

    Args:
        model, criterion: :class:`MoCo`, :class:`MoCoCriterion`.
        learning_rate: for a batch of 256.
        momentum, weight_decay: of the optimiser.
        steps: half a cosine over this many steps; None for a constant rate.
    """

    def __init__(
        self,
        model,
        criterion=None,
        learning_rate: float = 0.03,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        steps: int | None = None,
    ):
        self.model, self.criterion = model, MoCoCriterion() if criterion is None else criterion
        self.learning_rate, self.steps, self.done = learning_rate, steps, 0
        sgd = functools.partial(SGD, lr=learning_rate, momentum=momentum, weight_decay=weight_decay)
        self.player = Player({"encoder_q": model.encoder_q}, sgd)

    def step(self, inputs, targets) -> dict:
        """One step from ``inputs["im_q"]``, ``inputs["im_k"]`` and, optionally, ``targets["order"]``."""
        factor = 1.0 if self.steps is None else cosine(self.done, self.steps)
        set_learning_rate(self.player.optimizer, self.learning_rate * factor)
        self.model.train()
        losses = self.criterion(self.model(inputs["im_q"], inputs["im_k"], targets.get("order")), targets)
        self.player.lower(losses["total"])
        self.done += 1
        return losses


def moco_v1(temperature: float = 0.07, mlp: bool = False, **options) -> MoCo:
    return MoCo(temperature=temperature, mlp=mlp, **options)


def moco_v2(temperature: float = 0.2, mlp: bool = True, **options) -> MoCo:
    return MoCo(temperature=temperature, mlp=mlp, **options)
