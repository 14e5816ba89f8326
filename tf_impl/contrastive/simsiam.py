"""SimSiam: each view predicts the other; without negatives and without a second encoder, but with a stopped gradient.

"Exploring Simple Siamese Representation Learning", 2020, arXiv:2011.10566. Names and numbers: facebookresearch/simsiam
(CC BY-NC 4.0; only run). What to look at: the targets are constants, and the predictor's learning rate does not decay.

Mirror notes:
- A bias that is not trained: ``requires_grad`` in PyTorch, a non-trainable variable in TensorFlow.
"""

import functools

import keras
import tensorflow as tf

from tf_impl import state
from tf_impl.contrastive._trunk import resnet, width
from tf_impl.layers.linear import Dense
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.losses.contrastive import cosine_prediction
from tf_impl.training.players import Player
from tf_impl.training.schedules import cosine
from tf_impl.training.sgd import SGD, set_learning_rate

__all__ = ["SimSiam", "SimSiamCriterion", "SimSiamTrainer", "simsiam"]


@keras.saving.register_keras_serializable("diptych")
class FixedBias(Dense):
    """A linear layer whose bias keeps its initial value; the normalisation after it removes it."""

    def build(self, input_shape):
        super().build(input_shape)
        self.bias.trainable = False  # mirror: A bias that


@keras.saving.register_keras_serializable("diptych")
class SimSiam(Model):
    """Encoder with a head of three layers, and a predictor.

    Args:
        block, layers, planes: of the ResNet: "basic" or "bottleneck", blocks of each stage, their nominal widths.
        dim: size D of the head's output.
        pred_dim: inner size of the predictor.

    Inputs: ``x1``, ``x2`` (N, H, W, 3) float, two views.
    Returns: dict: ``"p1"``, ``"p2"`` (N, D), predictions; ``"z1"``, ``"z2"`` (N, D), outputs of the head.
    """

    def __init__(
        self,
        block: str = "bottleneck",
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        dim: int = 2048,
        pred_dim: int = 512,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.encoder = resnet(block, layers, planes, dim, zero_init_residual=True)
        size = width(block, planes)
        self.encoder.fc = keras.Sequential(
            [
                Dense(size, use_bias=False),
                BatchNormalization(),
                keras.layers.ReLU(),
                Dense(size, use_bias=False),
                BatchNormalization(),
                keras.layers.ReLU(),
                FixedBias(dim),
                BatchNormalization(center=False, scale=False),
            ]
        )
        self.predictor = keras.Sequential(
            [Dense(pred_dim, use_bias=False), BatchNormalization(), keras.layers.ReLU(), Dense(dim)]
        )
        state.build(self.encoder)  # a saved file only fills what is built
        state.build(self.predictor, {"x": ((dim,), self.compute_dtype)})

    def call(self, x1, x2, training=False):
        z1, z2 = (self.encoder(x, training=training) for x in (x1, x2))
        p1, p2 = (self.predictor(z, training=training) for z in (z1, z2))
        return {"p1": p1, "p2": p2, "z1": z1, "z2": z2}


@keras.saving.register_keras_serializable("diptych")
class SimSiamCriterion(keras.layers.Layer):
    """Negative cosine between each prediction and the other view's output, which is a constant.

    Inputs: ``outputs`` of :class:`SimSiam`; ``targets`` are not read.
    Returns: dict of scalars: ``"simsiam"``, ``"total"`` (the same).
    """

    def call(self, outputs, targets):
        first = cosine_prediction(outputs["p1"], outputs["z2"])
        second = cosine_prediction(outputs["p2"], outputs["z1"])
        loss = -(tf.reduce_mean(first) + tf.reduce_mean(second)) / 2
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
        with tf.GradientTape() as tape:
            losses = self.criterion(self.model(inputs["x1"], inputs["x2"], training=True), targets)
        count = len(self.encoder.parameters)
        parameters = [*self.encoder.parameters.values(), *self.predictor.parameters.values()]
        gradients = tape.gradient(losses["total"], parameters)
        self.encoder.optimizer.step(gradients[:count])
        self.predictor.optimizer.step(gradients[count:])
        self.done += 1
        return losses


def simsiam(dim: int = 2048, pred_dim: int = 512, **options) -> SimSiam:
    return SimSiam(dim=dim, pred_dim=pred_dim, **options)
