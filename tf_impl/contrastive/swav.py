"""SwAV: predict the cluster assignment of one crop from the other crops of the same image.

"Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", 2020, arXiv:2006.09882. Names and
numbers: facebookresearch/swav (CC BY-NC 4.0; only run). What to look at: crops of one size pass the trunk together, so
batch statistics are per size; the head sees all crops at once; prototypes are scaled to unit length before every step,
outside the gradient; the queue adds embeddings of earlier batches to the assignment problem.

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow.
"""

import functools

import keras
import tensorflow as tf

from tf_impl import state
from tf_impl.classification.resnet import ResNet
from tf_impl.contrastive._trunk import BLOCKS, width
from tf_impl.layers.linear import Dense
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.losses.contrastive import sinkhorn, swapped_prediction
from tf_impl.losses.pairwise import l2_normalize
from tf_impl.training.lars import LARS
from tf_impl.training.schedules import warmup_cosine
from tf_impl.training.sgd import set_learning_rate

__all__ = ["SwAV", "SwAVCriterion", "SwAVTrainer", "swav"]


@keras.saving.register_keras_serializable("diptych")
class SwAV(ResNet):
    """ResNet, head and prototypes.

    Args:
        block, layers, planes: "basic" or "bottleneck", blocks of each stage, their nominal widths.
        hidden_mlp, output_dim: inner size and output D of the head.
        nmb_prototypes: K.

    Inputs: ``large``, ``small`` (N, v, h, w, 3) float, the crops of each size, V together.
    Returns: dict: ``"embedding"`` (N, V, D) of unit length, large crops first; ``"scores"`` (N, V, K), products with
        the prototypes.
    """

    def __init__(
        self,
        block: str = "bottleneck",
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        hidden_mlp: int = 2048,
        output_dim: int = 128,
        nmb_prototypes: int = 3000,
        **kwargs,
    ):
        width(block, planes)  # rejects an unknown block
        super().__init__(
            BLOCKS[block],
            tuple(layers),
            planes=tuple(planes),
            zero_init_residual=True,
            features_only=True,
            out_indices=(4,),
            **kwargs,
        )
        self.input_spec = None
        self.projection_head = keras.Sequential(
            [Dense(hidden_mlp), BatchNormalization(), keras.layers.ReLU(), Dense(output_dim)]
        )
        self.prototypes = Dense(nmb_prototypes, use_bias=False)
        # a saved file only fills what is built
        keras.layers.Lambda(self.forward_features)(keras.Input((None, None, 3), dtype=self.compute_dtype))
        state.build(self.projection_head, {"x": ((self.known_channels["c5"],), self.compute_dtype)})
        state.build(self.prototypes, {"x": ((output_dim,), self.compute_dtype)})

    def normalize_prototypes(self) -> None:
        """Scale the prototypes to unit length; called before every step."""
        kernel = tf.transpose(self.prototypes.kernel)
        self.prototypes.kernel.assign(tf.transpose(l2_normalize(kernel)))

    def call(self, large, small, training=False):
        features = []
        for crops in (large, small):
            images = tf.reshape(tf.transpose(crops, (1, 0, 2, 3, 4)), (-1, *crops.shape[2:]))  # crop by crop
            features.append(tf.reduce_mean(self.forward_features(images, training)["c5"], (1, 2)))  # mirror: NCHW
        embedding = l2_normalize(self.projection_head(tf.concat(features, 0), training=training))
        crops = large.shape[1] + small.shape[1]  # the head sees all crops at once
        found = {"embedding": embedding, "scores": self.prototypes(embedding)}
        return {n: tf.transpose(tf.reshape(x, (crops, -1, x.shape[1])), (1, 0, 2)) for n, x in found.items()}


@keras.saving.register_keras_serializable("diptych")
class SwAVCriterion(keras.layers.Layer):
    """Swapped prediction.

    Args:
        assigning: crops from which assignments are made.
        temperature: of the scores.
        epsilon, iterations: see :func:`sinkhorn`.

    Inputs: ``outputs["scores"]`` (N, V, K); ``targets``: optionally ``"queue_scores"`` (assigning, L, K), the scores of
        earlier embeddings.
    Returns: dict of scalars: ``"swav"``, ``"total"`` (the same).
    Raises: ValueError if an assigning crop does not exist.
    """

    def __init__(
        self,
        assigning: tuple[int, ...] = (0, 1),
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.assigning, self.temperature = tuple(assigning), temperature
        self.epsilon, self.iterations = epsilon, iterations

    def call(self, outputs, targets):
        scores, crops = outputs["scores"], outputs["scores"].shape[1]
        if not all(0 <= crop < crops for crop in self.assigning):
            raise ValueError(f"assigning={self.assigning} must be of the {crops} crops, counted from 0")
        loss = 0
        for i, crop in enumerate(self.assigning):
            problem = scores[:, crop]
            count = tf.shape(problem)[0]
            if "queue_scores" in targets:
                problem = tf.concat([targets["queue_scores"][i], problem], 0)
            assignments = sinkhorn(problem, self.epsilon, self.iterations)[-count:]
            others = [view for view in range(crops) if view != crop]
            losses = [swapped_prediction(scores[:, view], assignments, self.temperature) for view in others]
            loss = loss + sum(losses) / len(others)
        loss = loss / len(self.assigning)
        return {"swav": loss, "total": loss}


class SwAVTrainer:
    """Steps of LARC, with prototypes of unit length and a queue.

    Args:
        model, criterion: :class:`SwAV`, :class:`SwAVCriterion`.
        learning_rate: 4.8 for 4096 images.
        momentum, weight_decay: of the optimiser.
        frozen: number of first steps in which the prototypes do not move.
        queue_length: embeddings of earlier batches for each assigning crop, a multiple of the batch; 0 for none.
        queue_start: steps before the queue begins to fill.
        steps, warmup: half a cosine over this many steps after a linear warm-up; None for a constant rate.
    """

    def __init__(
        self,
        model,
        criterion=None,
        learning_rate: float = 4.8,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        frozen: int = 313,
        queue_length: int = 0,
        queue_start: int = 0,
        steps: int | None = None,
        warmup: int = 0,
    ):
        self.model, self.criterion = model, SwAVCriterion() if criterion is None else criterion
        self.learning_rate, self.frozen = learning_rate, frozen
        self.queue_length, self.queue_start, self.queue, self.queued = queue_length, queue_start, None, 0
        self.steps, self.warmup, self.done = steps, warmup, 0
        larc = functools.partial(LARS, lr=learning_rate, momentum=momentum, weight_decay=weight_decay)
        larc = functools.partial(larc, form="larc", exclude_vectors=False)
        self.parameters = [variable.value for variable in model.trainable_variables]
        self.optimizer = larc(self.parameters)

    def waiting(self) -> dict:
        """Scores of the queue, once it is full."""
        if self.queue is None or self.queued < self.queue_length:
            return {}
        return {"queue_scores": self.model.prototypes(self.queue)}

    def enqueue(self, embedding) -> None:
        """Put the assigning crops' part of the embeddings (N, V, D) before the oldest ones."""
        if not self.queue_length or self.done < self.queue_start:
            return
        fresh = tf.gather(tf.transpose(embedding, (1, 0, 2)), self.criterion.assigning)
        if self.queue is None:
            self.queue = tf.zeros((fresh.shape[0], self.queue_length, embedding.shape[2]), fresh.dtype)
        self.queue = tf.concat([fresh, self.queue[:, : -fresh.shape[1]]], 1)
        self.queued += fresh.shape[1]

    def step(self, inputs, targets) -> dict:
        """One step from the crops."""
        factor = 1.0
        if self.steps is not None:
            factor = warmup_cosine(self.done, self.steps, self.warmup, warmup=self.warmup, first=0.0)
        set_learning_rate(self.optimizer, self.learning_rate * factor)
        self.model.normalize_prototypes()
        with tf.GradientTape() as tape:
            outputs = self.model(*inputs.values(), training=True)
            losses = self.criterion(outputs, {**targets, **self.waiting()})
        gradients = tape.gradient(losses["total"], self.parameters)
        if self.done < self.frozen:
            kernel = self.model.prototypes.kernel.value
            gradients = [None if p is kernel else g for p, g in zip(self.parameters, gradients, strict=True)]
        self.optimizer.step(gradients)
        self.enqueue(outputs["embedding"])
        self.done += 1
        return losses


def swav(nmb_prototypes: int = 3000, **options) -> SwAV:
    return SwAV(nmb_prototypes=nmb_prototypes, **options)
