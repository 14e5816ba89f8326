"""SphereFace (A-Softmax): the angle to the right class is multiplied, and the class weights have unit length.

"SphereFace: Deep Hypersphere Embedding for Face Recognition", 2017, arXiv:1704.08063 (wy1iu/sphereface, MIT).

Mirror notes:
- PyTorch multiplies by the transposed weight, TensorFlow's matmul transposes it.
"""

import keras

from tf_impl.losses.margin import annealing, classify, encode, multiple_angle
from tf_impl.losses.pairwise import embeddings_of, norms, similarities

__all__ = ["SphereFaceCriterion", "annealing"]


@keras.saving.register_keras_serializable("diptych")
class SphereFaceCriterion(keras.layers.Layer):
    """Cross-entropy of |x| psi(theta) for the right class and |x| cos(theta) for the others.

    Args:
        num_classes, embedding_size: K and D.
        m: the angle is multiplied by it, 1 to 4.
        blend: weight of the right class's plain logit relative to that with a margin, see :func:`annealing`; training
            starts with a large one. May be set between steps.

    Inputs: ``outputs`` the embeddings (N, D), or a dict with ``"embeddings"``; ``targets["labels"]`` (N,) int, -1 does
        not count.
    Returns: dict of scalars: ``"sphereface"``, ``"total"`` (the same).
    """

    def __init__(self, num_classes: int, embedding_size: int, m: int = 4, blend: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.m, self.blend = m, blend
        self.weight = self.add_weight(
            name="weight", shape=(num_classes, embedding_size), initializer=keras.initializers.GlorotUniform()
        )

    def call(self, outputs, targets):
        x = embeddings_of(outputs)
        cosines = similarities(x, self.weight)  # mirror: transposed weight
        target = encode(targets["labels"], cosines.shape[1], x.dtype)
        wanted = multiple_angle(cosines, self.m)
        logits = norms(x) * (cosines + target * (wanted - cosines) / (1 + self.blend))
        loss = classify(logits, targets["labels"])
        return {"sphereface": loss, "total": loss}
