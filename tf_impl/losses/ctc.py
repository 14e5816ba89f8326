"""Connectionist temporal classification: the likelihood of a label sequence, summed over all its alignments.

"Connectionist Temporal Classification: Labelling Unsegmented Sequence Data with Recurrent Neural Networks", ICML 2006.
The recursion loops over time in Python and is vectorised over samples and label positions; it consists of ordinary
operations, so it is differentiable, works in every float type and exports. :func:`ctc_gradient` is the gradient in
closed form.

Mirror notes:
- TensorFlow refuses to gather a class that does not exist, PyTorch refuses to scatter it: labels after the end become
  blanks.
"""

import keras
import tensorflow as tf

from tf_impl.layers.top_k import argmax

__all__ = ["CTCCriterion", "ctc_gradient", "ctc_loss", "greedy_decode"]

# log(0): finite, because infinities become NaN in gradients and wherever a mask is multiplied
IMPOSSIBLE = -1e30


def logsumexp(x, axis: int):
    """log(sum(exp(.))) along an axis."""
    largest = tf.stop_gradient(tf.reduce_max(x, axis, keepdims=True))
    return tf.squeeze(largest, axis) + tf.math.log(tf.reduce_sum(tf.exp(x - largest), axis))


def interleave(labels, label_lengths, blank: int):
    """Labels (B, U) with blanks before, between and after them: (B, 2 U + 1); only blanks after its end."""
    inside = tf.range(labels.shape[1])[None] < tf.cast(label_lengths, tf.int32)[:, None]
    # mirror: labels after the end
    labels = tf.where(inside, labels, tf.fill(tf.shape(labels), tf.cast(blank, labels.dtype)))
    pairs = tf.stack([tf.fill(tf.shape(labels), tf.cast(blank, labels.dtype)), labels], -1)
    pairs = tf.reshape(pairs, (tf.shape(labels)[0], 2 * labels.shape[1]))
    return tf.concat([pairs, tf.fill((tf.shape(labels)[0], 1), tf.cast(blank, labels.dtype))], 1)


class Lattice:
    """Common part of the forward and the backward recursion.

    Args: those of :func:`ctc_loss`. S = 2 U + 1 label positions, blanks included.
    """

    def __init__(self, logits, labels, input_lengths, label_lengths, blank: int):
        self.log_p = tf.nn.log_softmax(logits, axis=-1)  # (T, B, K)
        self.labels = interleave(labels, label_lengths, blank)  # (B, S)
        by_class = tf.transpose(self.log_p, (1, 2, 0))  # (B, K, T)
        emitted = tf.gather(by_class, tf.cast(self.labels, tf.int32), axis=1, batch_dims=1)  # (B, S, T)
        self.emitted = tf.unstack(tf.transpose(emitted, (2, 0, 1)), logits.shape[0])  # T times (B, S)
        # a label may follow the one before it without a blank between them, unless they are the same
        different = tf.logical_and(self.labels[:, 2:] != self.labels[:, :-2], self.labels[:, 2:] != blank)
        penalty = self.masked(different, tf.zeros_like(self.emitted[0][:, 2:]))
        sides = [[min(2, self.labels.shape[1]), 0], [0, min(2, self.labels.shape[1])]]
        # added to the moves by two positions, by their end and by their start
        self.arriving, self.starting = (tf.pad(penalty, [[0, 0], side], constant_values=IMPOSSIBLE) for side in sides)
        self.input_lengths = tf.cast(input_lengths, tf.int32)[:, None]
        end = 2 * tf.cast(label_lengths, tf.int32)[:, None]
        self.position = tf.range(self.labels.shape[1])[None]
        self.final = tf.logical_or(self.position == end, self.position == end - 1)  # where an alignment may end

    def masked(self, condition, x):
        return tf.where(condition, x, tf.cast(IMPOSSIBLE, x.dtype))

    def forward(self) -> list:
        """log alpha of every step, (B, S): all prefixes of alignments that end at a position, its emission included."""
        start = self.position == 0  # before the first step: at the first blank
        alpha = self.masked(start, tf.zeros_like(self.emitted[0]))
        steps = []
        for t, emitted in enumerate(self.emitted):
            padded = tf.pad(alpha, [[0, 0], [2, 0]], constant_values=IMPOSSIBLE)
            moves = [alpha, padded[:, 1:-1], padded[:, :-2] + self.arriving]
            alpha = tf.where(t < self.input_lengths, emitted + logsumexp(tf.stack(moves), 0), alpha)
            steps.append(alpha)
        return steps

    def backward(self) -> list:
        """log beta of every step, (B, S): all suffixes of alignments that start at a position, without its emission."""
        final = self.masked(self.final, tf.zeros_like(self.emitted[0]))
        beta = final
        steps = [beta]
        for t in range(len(self.emitted) - 2, -1, -1):
            ahead = beta + self.emitted[t + 1]
            padded = tf.pad(ahead, [[0, 0], [0, 2]], constant_values=IMPOSSIBLE)
            moves = [ahead, padded[:, 1:-1], padded[:, 2:] + self.starting]
            beta = tf.where(t < self.input_lengths - 1, logsumexp(tf.stack(moves), 0), final)
            steps.insert(0, beta)
        return steps

    def losses(self, alpha):
        """From the last alpha: the losses (B,), about 1e30 without an alignment; and 1 where one exists, else 0."""
        losses = -logsumexp(self.masked(self.final, alpha), 1)
        return losses, tf.cast(losses < -0.1 * IMPOSSIBLE, losses.dtype)


def ctc_loss(logits, labels, input_lengths, label_lengths, blank: int = 0, zero_infinity: bool = False):
    """Negative log-likelihood of label sequences.

    Args:
        logits: (T, B, K) float, not normalised; T and K are static.
        labels: (B, U) int, 0-based classes without blanks; entries after the length of a sample are ignored.
        input_lengths: (B,) int, steps that count, 0 to T.
        label_lengths: (B,) int, 0 to U.
        blank: class of the blank.
        zero_infinity: 0 instead of infinity where the input is too short for the labels. The gradient is 0 either way
            (without it, PyTorch's ``F.ctc_loss`` gives NaN).

    Returns:
        (B,) float.

    Source: equations 5 to 8 of the paper.
    """
    lattice = Lattice(logits, labels, input_lengths, label_lengths, blank)
    losses, feasible = lattice.losses(lattice.forward()[-1])
    losses = losses * feasible
    return losses if zero_infinity else losses + (1 / feasible - 1)  # 1 / 0 is the infinity


def ctc_gradient(logits, labels, input_lengths, label_lengths, blank: int = 0):
    """Gradient of the sum of :func:`ctc_loss` with respect to the logits, in closed form: softmax minus occupancy.

    Args: those of :func:`ctc_loss`.

    Returns:
        (T, B, K) float; 0 after the length of a sample and where there is no alignment.

    Source: equations 14 to 16 of the paper.
    """
    lattice = Lattice(logits, labels, input_lengths, label_lengths, blank)
    alpha, beta = lattice.forward(), lattice.backward()
    losses, feasible = lattice.losses(alpha[-1])
    occupancy = tf.exp(tf.stack(alpha, 1) + tf.stack(beta, 1) + losses[:, None, None])  # (B, T, S)
    classes = tf.one_hot(lattice.labels, logits.shape[-1], dtype=logits.dtype)
    expected = tf.transpose(tf.matmul(occupancy, classes), (1, 0, 2))  # (T, B, K)
    counted = tf.range(logits.shape[0])[:, None] < lattice.input_lengths[:, 0]
    return (tf.exp(lattice.log_p) - expected) * (tf.cast(counted, logits.dtype) * feasible)[..., None]


def greedy_decode(logits, blank: int = 0):
    """The labels of the best alignment: best class of every step, repetitions merged, blanks dropped.

    Args:
        logits: (T, B, K) float; of equal classes the lowest wins.
        blank: class of the blank.

    Returns:
        ids: (B, T) int64, -1 after the end.
        lengths: (B,) int64.
    """
    best = tf.transpose(argmax(logits))  # (B, T)
    previous = tf.pad(best[:, :-1], [[0, 0], [1, 0]], constant_values=-1)
    kept = tf.cast(tf.logical_and(best != blank, best != previous), tf.int64)
    slot = tf.cumsum(kept, 1) - 1  # where a kept step is written
    moved = tf.cast(slot[:, None] == tf.range(best.shape[1], dtype=tf.int64)[:, None], tf.int64) * kept[:, None]
    return tf.reduce_sum(moved * (best[:, None] + 1), -1) - 1, tf.reduce_sum(kept, 1)


@keras.saving.register_keras_serializable("diptych")
class CTCCriterion(keras.layers.Layer):
    """Connectionist temporal classification over a batch.

    Args:
        blank: class of the blank.
        reduction: "mean" divides every loss by its number of labels and averages (PyTorch's rule); "sum" adds them up;
            "mean_batch" averages them.
        zero_infinity: see :func:`ctc_loss`.

    Inputs: ``outputs`` the logits (T, B, K); ``targets``: ``"labels"`` (B, U) int, ``"input_lengths"`` (B,) int,
        ``"label_lengths"`` (B,) int.
    Returns: dict of scalars: ``"ctc"``, ``"total"`` (the same).
    Raises: ValueError if ``reduction`` is unknown.
    """

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False, **kwargs):
        super().__init__(**kwargs)
        if reduction not in ("mean", "sum", "mean_batch"):
            raise ValueError(f"reduction must be 'mean', 'sum' or 'mean_batch', got {reduction!r}")
        self.blank, self.reduction, self.zero_infinity = blank, reduction, zero_infinity

    def call(self, outputs, targets):
        lengths = targets["label_lengths"]
        losses = ctc_loss(outputs, targets["labels"], targets["input_lengths"], lengths, self.blank, self.zero_infinity)
        if self.reduction == "mean":
            losses = losses / tf.cast(tf.maximum(lengths, 1), losses.dtype)
        total = tf.reduce_sum(losses) if self.reduction == "sum" else tf.reduce_mean(losses)
        return {"ctc": total, "total": total}
