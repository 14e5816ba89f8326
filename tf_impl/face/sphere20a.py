"""SphereFace's network: twenty layers without normalisation, and a last one that only uses angles.

"SphereFace: Deep Hypersphere Embedding for Face Recognition", 2017, arXiv:1704.08063. Parameter names:
clcarwin/sphereface_pytorch ``net_sphere.py``; the network is that of wy1iu/sphereface (MIT). What to look at: the
residual is added after the activation, and the weights of the classes are columns of a kernel, of which only the
directions count.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- The last map is flattened as (C, H, W) in both.
"""

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.linear import Dense
from tf_impl.layers.model import Model
from tf_impl.layers.prelu import PReLU
from tf_impl.losses.margin import annealing, classify, encode, multiple_angle
from tf_impl.losses.pairwise import norms, similarities

__all__ = ["AngleCriterion", "AngleLinear", "Sphere20a", "annealing", "sphere20a"]


@keras.saving.register_keras_serializable("diptych")
class UnitColumns(keras.initializers.RandomUniform):
    """Uniform between -1 and 1, columns of unit length."""

    def __init__(self, seed=None):
        super().__init__(-1.0, 1.0, seed)

    def __call__(self, shape, dtype=None):
        return tf.math.l2_normalize(super().__call__(shape, dtype), 0)

    def get_config(self):
        return {"seed": super().get_config()["seed"]}


@keras.saving.register_keras_serializable("diptych")
class AngleLinear(keras.layers.Layer):
    """Cosines with the directions of the classes, and those with a margin, both times the length of the row.

    Args:
        classes: classes K.
        m: the angle is multiplied by it, 1 to 4.

    x: (N, D) -> two of (N, K): |x| cos(theta), |x| psi(theta).
    """

    def __init__(self, classes: int, m: int = 4, **kwargs):
        super().__init__(**kwargs)
        self.classes, self.m = classes, m

    def build(self, input_shape):
        shape = (input_shape[-1], self.classes)
        self.weight = self.add_weight(name="weight", shape=shape, initializer=UnitColumns())

    def call(self, x):
        cosines = tf.clip_by_value(similarities(x, tf.transpose(tf.convert_to_tensor(self.weight))), -1.0, 1.0)
        length = norms(x)
        return length * cosines, length * multiple_angle(cosines, self.m)


@keras.saving.register_keras_serializable("diptych")
class Sphere20a(Model):
    """The network from an aligned face to its embedding.

    Args:
        num_classes: persons K.
        layers: pairs of convolutions with a shortcut in each stage.
        planes: widths of the stages.
        size: height and width of the images.
        embedding_size: D.

    Inputs: (N, *size, 3) float, (RGB - 127.5) / 128, aligned.
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
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(shape=(None, *size, 3))
        self.layers_of = tuple(layers)
        for stage, (pairs, filters) in enumerate(zip(layers, planes, strict=True), start=1):
            for i in range(1, 2 * pairs + 2):
                setattr(self, f"conv{stage}_{i}", Conv2D(filters, 3, strides=2 if i == 1 else 1, padding=1))
                setattr(self, f"relu{stage}_{i}", PReLU(filters))
        self.fc5 = Dense(embedding_size)
        self.fc6 = AngleLinear(num_classes)

    def part(self, x, stage: int, i: int):
        """Convolution and PReLU."""
        return getattr(self, f"relu{stage}_{i}")(getattr(self, f"conv{stage}_{i}")(x))

    def call(self, images, training=False):
        x = images
        for stage, pairs in enumerate(self.layers_of, start=1):
            x = self.part(x, stage, 1)
            for i in range(2, 2 * pairs + 2, 2):
                x = x + self.part(self.part(x, stage, i), stage, i + 1)
        x = tf.transpose(x, (0, 3, 1, 2))  # mirror: NHWC
        x = self.fc5(tf.reshape(x, (-1, x.shape[1] * x.shape[2] * x.shape[3])))  # mirror: flattened
        cosines, margins = self.fc6(x)
        return {"embeddings": x, "cosines": cosines, "margins": margins}


@keras.saving.register_keras_serializable("diptych")
class AngleCriterion(keras.layers.Layer):
    """Cross-entropy of |x| cos(theta), where |x| psi(theta) replaces a share of the right class's logit.

    Args:
        blend: weight of the plain logit relative to that with the margin, see :func:`annealing`; may be set between
            steps.

    Inputs: ``outputs`` of :class:`Sphere20a`; ``targets["labels"]`` (N,) int, -1 does not count.
    Returns: dict of scalars: ``"angle"``, ``"total"`` (the same).
    """

    def __init__(self, blend: float = 5.0, **kwargs):
        super().__init__(**kwargs)
        self.blend = blend

    def call(self, outputs, targets):
        cosines = outputs["cosines"]
        target = encode(targets["labels"], cosines.shape[1], cosines.dtype)
        loss = classify(cosines + target * (outputs["margins"] - cosines) / (1 + self.blend), targets["labels"])
        return {"angle": loss, "total": loss}


def sphere20a(**options) -> Sphere20a:
    return Sphere20a(**options)
