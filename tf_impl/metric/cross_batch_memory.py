"""Cross-batch memory: pairs between the batch and the embeddings of previous batches, which drift only slowly.

"Cross-Batch Memory for Embedding Learning", 2019, arXiv:1912.06798. What to look at: the batch enters the memory before
the loss, so every row must be kept from its own copy; and what happens at the end of the memory: a ring (buffer names
and rule of pytorch-metric-learning 2.9.0, MIT), or the last rows are overwritten and the pointer returns to 0 (the
first implementation). The loss itself changes nothing; :meth:`CrossBatchMemoryCriterion.update` stores what has been
seen.

Mirror notes:
- Rows are written by ``scatter`` in PyTorch, by ``tensor_scatter_nd_update`` in TensorFlow, into a copy in both.
"""

import keras
import tensorflow as tf

from tf_impl.losses.pairwise import (
    active_mean,
    distances,
    embeddings_of,
    l2_normalize,
    pair_masks,
    similarities,
    violations,
)
from tf_impl.metric.contrastive_pairs import contrastive_cosine, contrastive_pairs

__all__ = ["CrossBatchMemoryCriterion", "CrossBatchMemoryTrainer", "cross_batch_memory", "enqueue"]

LOSSES = ("anchor", "contrastive", "triplet")


def enqueue(memory, memory_labels, pointer, count, embeddings, labels, policy: str = "ring"):
    """Write a batch into the memory.

    Args:
        memory: (M, D).
        memory_labels: (M,) int.
        pointer: (1,) int, the index of the next row.
        count: (1,) int, how many rows are filled.
        embeddings: (N, D), N at most M.
        labels: (N,) int.
        policy: "ring" continues at the beginning; "reference" puts a batch that does not fit into the last N rows, and
            the next one at the beginning.

    Returns:
        memory, memory_labels, pointer, count: their new values.
        places: (N,) int64, where each row was written.

    Raises:
        ValueError: if ``policy`` is unknown, or the batch is larger than the memory.
    """
    size = memory.shape[0]
    if policy not in ("reference", "ring"):
        raise ValueError(f"policy={policy!r} must be 'reference' or 'ring'")
    rows = tf.shape(embeddings, tf.int64)[0]
    row = tf.range(rows)
    places = (pointer + row) % size
    after = (pointer + rows) % size
    if policy == "reference":
        full = pointer + rows > size
        places = tf.where(full, size - rows + row, pointer + row)
        after = tf.where(full, tf.zeros_like(pointer), pointer + rows)
    count = tf.minimum(tf.maximum(count, pointer + rows), size)
    embeddings = tf.cast(tf.stop_gradient(embeddings), memory.dtype)
    memory = tf.tensor_scatter_nd_update(memory, places[:, None], embeddings)  # mirror: Rows are written
    memory_labels = tf.tensor_scatter_nd_update(memory_labels, places[:, None], tf.cast(labels, memory_labels.dtype))
    return memory, memory_labels, after, count, places


def pair_loss(x, y, masks, loss: str):
    """One of the losses of :func:`cross_batch_memory` between rows (N, D) and (M, D)."""
    if loss == "triplet":
        values, valid = violations(distances(l2_normalize(x), l2_normalize(y)), *masks)
        return active_mean(tf.nn.relu(values + 0.1), valid)
    s = similarities(x, y)
    return contrastive_cosine(s, *masks) if loss == "anchor" else contrastive_pairs(-s, *masks, -1.0, -0.5)


def cross_batch_memory(
    embeddings,
    labels,
    memory,
    memory_labels,
    pointer,
    count,
    loss: str = "contrastive",
    policy: str = "ring",
):
    """The losses of a batch and the updated memory, as a pure function.

    Args:
        embeddings: (N, D).
        labels: (N,) int.
        memory, memory_labels, pointer, count, policy: see :func:`enqueue`.
        loss: "anchor" (the first implementation), "contrastive" or "triplet" (margin 0.1); see
            :func:`contrastive_cosine`, :func:`contrastive_pairs` and :func:`violations`.

    Returns:
        dict: ``"batch"`` and ``"memory_loss"``, scalars; ``"new_memory"``, ``"new_labels"``, ``"new_pointer"``,
            ``"new_count"``.

    Raises:
        ValueError: if ``loss`` or ``policy`` is unknown.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r} must be one of {LOSSES}")
    state = enqueue(memory, memory_labels, pointer, count, embeddings, labels, policy)
    memory, memory_labels, pointer, count, places = state
    own = None if loss == "anchor" else places
    filled = tf.range(memory.shape[0], dtype=count.dtype)[None] < count
    among = [mask & filled for mask in pair_masks(labels, tf.cast(memory_labels, labels.dtype), own)]
    return {
        "batch": pair_loss(embeddings, embeddings, pair_masks(labels), loss),
        "memory_loss": pair_loss(embeddings, memory, among, loss),
        "new_memory": memory,
        "new_labels": memory_labels,
        "new_pointer": pointer,
        "new_count": count,
    }


@keras.saving.register_keras_serializable("diptych")
class CrossBatchMemoryCriterion(keras.layers.Layer):
    """A pair loss over the batch, and between the batch and a memory.

    Args:
        memory_size, embedding_size: M and D.
        loss, policy: see :func:`cross_batch_memory`.
        batch_weight, weight: of the two losses in the total.

    Inputs: ``outputs`` the embeddings (N, D), or a dict with ``"embeddings"``; ``targets["labels"]`` (N,) int.
    Returns: dict of scalars: ``"batch"``, ``"memory"``, ``"total"``.
    Raises: ValueError if ``loss`` or ``policy`` is unknown.
    """

    def __init__(
        self,
        memory_size: int,
        embedding_size: int,
        loss: str = "contrastive",
        policy: str = "ring",
        batch_weight: float = 1.0,
        weight: float = 1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if loss not in LOSSES:
            raise ValueError(f"loss={loss!r} must be one of {LOSSES}")
        if policy not in ("reference", "ring"):
            raise ValueError(f"policy={policy!r} must be 'reference' or 'ring'")
        self.loss_name, self.policy, self.batch_weight, self.weight = loss, policy, batch_weight, weight
        self.embedding_memory = self.add_weight(
            name="embedding_memory", shape=(memory_size, embedding_size), initializer="zeros", trainable=False
        )
        whole = {"initializer": "zeros", "dtype": "int64", "trainable": False}
        self.label_memory = self.add_weight(name="label_memory", shape=(memory_size,), **whole)
        self.queue_idx = self.add_weight(name="queue_idx", shape=(1,), **whole)
        self.queue_count = self.add_weight(name="queue_count", shape=(1,), **whole)

    def memory(self) -> tuple:
        """Embeddings, labels, pointer and count, as :func:`enqueue` takes them."""
        kept = self.embedding_memory, self.label_memory, self.queue_idx, self.queue_count
        return tuple(tf.convert_to_tensor(value) for value in kept)

    def update(self, outputs, targets) -> None:
        """Store a batch, after its loss."""
        state = enqueue(*self.memory(), embeddings_of(outputs), targets["labels"], self.policy)
        kept = self.embedding_memory, self.label_memory, self.queue_idx, self.queue_count
        for variable, value in zip(kept, state[:4], strict=True):
            variable.assign(value)

    def call(self, outputs, targets):
        x, labels = embeddings_of(outputs), targets["labels"]
        found = cross_batch_memory(x, labels, *self.memory(), self.loss_name, self.policy)
        total = self.batch_weight * found["batch"] + self.weight * found["memory_loss"]
        return {"batch": found["batch"], "memory": found["memory_loss"], "total": total}


class CrossBatchMemoryTrainer:
    """Plain gradient steps that store every batch; until ``start`` the memory is neither used nor filled.

    Args:
        model: makes embeddings.
        criterion: a :class:`CrossBatchMemoryCriterion`.
        learning_rate: of stochastic gradient descent.
        start: steps before the memory is used (1,000 in the paper).
    """

    def __init__(self, model, criterion, learning_rate: float = 2.0**-7, start: int = 0):
        self.model, self.criterion, self.learning_rate, self.start = model, criterion, learning_rate, start
        self.steps = 0

    def step(self, inputs, targets) -> dict:
        """One step; the losses before it."""
        with tf.GradientTape() as tape:
            outputs = self.model(*inputs.values(), training=True)
            losses = self.criterion(outputs, targets)
            loss = losses["total"] if self.steps >= self.start else losses["batch"]
        variables = self.model.trainable_variables
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            variable.assign_sub(self.learning_rate * gradient)
        if self.steps >= self.start:
            self.criterion.update(outputs, targets)
        self.steps += 1
        return losses
