"""BYOL: an online network predicts what a slowly moving target network computes from the other view.

"Bootstrap your own latent: A new approach to self-supervised Learning", 2020, arXiv:2006.07733. Names: lightly (MIT).
What to look at: the target follows the parameters after every step; its running statistics come from its own calls.

Mirror notes:
- The target has no gradient: ``no_grad`` in PyTorch, ``tf.stop_gradient`` in TensorFlow.
"""

import functools

import keras
import tensorflow as tf

from tf_impl import state
from tf_impl.contrastive._trunk import pooled, trunk, width
from tf_impl.layers.linear import Dense
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.losses.contrastive import cosine_prediction
from tf_impl.training.averages import follow
from tf_impl.training.lars import LARS
from tf_impl.training.players import Player
from tf_impl.training.schedules import cosine, warmup_cosine
from tf_impl.training.sgd import set_learning_rate

__all__ = ["BYOL", "BYOLCriterion", "BYOLTrainer", "byol", "target_momentum"]


@keras.saving.register_keras_serializable("diptych")
class Head(keras.layers.Layer):
    """Linear layer without bias, batch normalisation, ReLU, linear layer.  x: (N, C) -> (N, dim)."""

    def __init__(self, hidden: int, dim: int, **kwargs):
        super().__init__(**kwargs)
        self.layers = keras.Sequential(
            [Dense(hidden, use_bias=False), BatchNormalization(), keras.layers.ReLU(), Dense(dim)]
        )

    def call(self, x, training=False):
        return self.layers(x, training=training)


@keras.saving.register_keras_serializable("diptych")
class BYOL(Model):
    """Online and target network.

    Args:
        block, layers, planes: of the ResNets: "basic" or "bottleneck", blocks of each stage, their nominal widths.
        hidden, dim: inner size and output of projector and predictor.

    Inputs: ``view1``, ``view2`` (N, H, W, 3) float.
    Returns: dict: ``"p1"``, ``"p2"`` (N, dim), predictions; ``"z1"``, ``"z2"`` (N, dim), the target's projections.
    """

    def __init__(
        self,
        block: str = "bottleneck",
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        hidden: int = 4096,
        dim: int = 256,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.backbone = trunk(block, layers, planes)
        self.projection_head = Head(hidden, dim)
        self.prediction_head = Head(hidden, dim)
        self.teacher_backbone = trunk(block, layers, planes)
        self.teacher_projection_head = Head(hidden, dim)
        features = {"x": ((width(block, planes),), self.compute_dtype)}
        for network in (self.backbone, self.teacher_backbone):
            state.build(network)
        for head in (self.projection_head, self.teacher_projection_head):
            state.build(head, features)
        state.build(self.prediction_head, {"x": ((dim,), self.compute_dtype)})
        self.update_target(0.0)  # the target starts from the same values

    def update_target(self, momentum: float) -> None:
        """Move the target's parameters towards the online network's."""
        follow(self.teacher_backbone, self.backbone, momentum)
        follow(self.teacher_projection_head, self.projection_head, momentum)

    def predictions(self, view, training):
        z = self.projection_head(pooled(self.backbone, view, training), training=training)
        return self.prediction_head(z, training=training)

    def targets(self, view, training):
        z = self.teacher_projection_head(pooled(self.teacher_backbone, view, training), training=training)
        return tf.stop_gradient(z)  # mirror: no gradient

    def call(self, view1, view2, training=False):
        p1, p2 = (self.predictions(view, training) for view in (view1, view2))
        z1, z2 = (self.targets(view, training) for view in (view1, view2))
        return {"p1": p1, "p2": p2, "z1": z1, "z2": z2}


@keras.saving.register_keras_serializable("diptych")
class BYOLCriterion(keras.layers.Layer):
    """2 - 2 cos between each prediction and the target of the other view; both directions added.

    Inputs: ``outputs`` of :class:`BYOL`; ``targets`` are not read.
    Returns: dict of scalars: ``"byol"``, ``"total"`` (the same).
    """

    def call(self, outputs, targets):
        first = cosine_prediction(outputs["p1"], outputs["z2"])
        second = cosine_prediction(outputs["p2"], outputs["z1"])
        loss = tf.reduce_mean(4 - 2 * first - 2 * second)
        return {"byol": loss, "total": loss}


def target_momentum(step: int, steps: int, first: float = 0.996) -> float:
    """Momentum of the target network: from ``first`` to 1 in ``steps`` steps, along half a cosine."""
    return 1 - (1 - first) * cosine(step, steps)


class BYOLTrainer:
    """Steps of LARS, each followed by one of the target.

    Args:
        model, criterion: :class:`BYOL`, :class:`BYOLCriterion`.
        learning_rate: 0.2 for every 256 images of a batch.
        weight_decay: not of biases and normalisation.
        momentum: of the target at first, see :func:`target_momentum`.
        steps, warmup: of the whole training; None for a constant rate and momentum.
    """

    def __init__(
        self,
        model,
        criterion=None,
        learning_rate: float = 0.2,
        weight_decay: float = 1.5e-6,
        momentum: float = 0.996,
        steps: int | None = None,
        warmup: int = 0,
    ):
        self.model, self.criterion = model, BYOLCriterion() if criterion is None else criterion
        self.learning_rate, self.momentum = learning_rate, momentum
        self.steps, self.warmup, self.done = steps, warmup, 0
        lars = functools.partial(LARS, lr=learning_rate, weight_decay=weight_decay)
        online = {name: getattr(model, name) for name in ("backbone", "projection_head", "prediction_head")}
        self.player = Player(online, lars)

    def step(self, inputs, targets) -> dict:
        """One step from ``inputs["view1"]`` and ``inputs["view2"]``."""
        factor, momentum = 1.0, self.momentum
        if self.steps is not None:
            factor = warmup_cosine(self.done, self.steps, self.warmup, warmup=self.warmup, first=0.0)
            momentum = target_momentum(self.done, self.steps, self.momentum)
        set_learning_rate(self.player.optimizer, self.learning_rate * factor)
        with tf.GradientTape() as tape:
            losses = self.criterion(self.model(inputs["view1"], inputs["view2"], training=True), targets)
        self.player.lower(losses["total"], tape)
        self.model.update_target(momentum)
        self.done += 1
        return losses


def byol(hidden: int = 4096, dim: int = 256, **options) -> BYOL:
    return BYOL(hidden=hidden, dim=dim, **options)
