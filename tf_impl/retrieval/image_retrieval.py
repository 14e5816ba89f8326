"""Descriptors for image retrieval: a trunk, a pool, and whitening as a linear layer.

"Fine-tuning CNN Image Retrieval with No Human Annotation", 2017, arXiv:1711.02512. Names: filipradenovic/
cnnimageretrieval-pytorch ``cirtorch/networks/imageretrievalnet.py`` (MIT). What to look at: every vector is divided by
its length plus 1e-6; images of several sizes are averaged with the power of the pool.

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow.
"""

import keras
import tensorflow as tf

from tf_impl.classification.resnet import BasicBlock, Bottleneck, ResNet
from tf_impl.layers.global_pooling import MAC, RMAC, CroW, GeM, RegionalPooling, SPoC, l2n
from tf_impl.layers.linear import Dense
from tf_impl.layers.model import Model
from tf_impl.layers.resize import resize_bilinear
from tf_impl.losses.pairwise import embeddings_of

__all__ = [
    "ImageRetrievalNet",
    "TupleContrastiveCriterion",
    "TupleTripletCriterion",
    "crow_resnet50",
    "gem_resnet50",
    "gem_resnet101",
    "mac_resnet50",
    "multi_scale",
    "rmac_resnet101",
    "spoc_resnet50",
]

BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}
POOLS = {"mac": MAC, "spoc": SPoC, "gem": GeM, "rmac": RMAC, "crow": CroW}
EPS = 1e-6  # added to every difference


@keras.saving.register_keras_serializable("diptych")
class ImageRetrievalNet(Model):
    """Trunk, pool, whitening.

    Args:
        block, layers, planes: of the ResNet: "basic" or "bottleneck", blocks of each stage, their nominal widths.
        pool: "mac", "spoc", "gem", "rmac" or "crow".
        local_whitening: a linear layer at every position before the pool.
        regional: whether to pool the whole map and all regions, whitening each.
        whitening: a linear layer after the pool.

    Inputs: (N, H, W, 3) float.
    Returns: (N, D), of unit length.
    Raises: ValueError if the block or the pool is unknown.
    """

    def __init__(
        self,
        block: str = "bottleneck",
        layers: tuple[int, ...] = (3, 4, 23, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        pool: str = "gem",
        local_whitening: bool = False,
        regional: bool = False,
        whitening: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if block not in BLOCKS:
            raise ValueError(f"block={block!r} must be one of {sorted(BLOCKS)}")
        if pool not in POOLS:
            raise ValueError(f"pool={pool!r} must be one of {sorted(POOLS)}")
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        size = planes[-1] * BLOCKS[block].expansion
        trunk = ResNet(BLOCKS[block], tuple(layers), planes=tuple(planes), features_only=True)
        stages = trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4
        self.features = keras.Sequential([trunk.conv1, trunk.bn1, keras.layers.ReLU(), trunk.maxpool, *stages])
        self.lwhiten = Dense(size) if local_whitening else None
        self.pool = POOLS[pool]()
        if regional:
            self.pool = RegionalPooling(self.pool, Dense(size))
        self.whiten = Dense(size) if whitening else None

    def call(self, images, training=False):
        x = self.features(images, training=training)
        if self.lwhiten is not None:
            x = self.lwhiten(x)  # mirror: NCHW
        x = l2n(self.pool(x))
        return x if self.whiten is None else l2n(self.whiten(x))


def multi_scale(network, images, scales=(1.0, 2**-0.5, 0.5), power: float = 1.0):
    """Descriptors of images at several scales, combined to unit length.

    Args:
        network: an :class:`ImageRetrievalNet`, in evaluation mode.
        images: (N, H, W, 3) float.
        scales: factors of height and width.
        power: of the generalised mean; the pool's where there is no whitening.

    Returns:
        (N, D).
    """
    total = 0
    for scale in scales:
        size = [int(n * scale) for n in images.shape[1:3]]
        found = network(images if scale == 1 else resize_bilinear(images, size))
        total = total + tf.pow(found, power)
    total = tf.pow(total / len(scales), 1 / power)
    return total / tf.norm(total, axis=1, keepdims=True)


def tuples(outputs, targets, size: int):
    """Embeddings (T, size, D) of tuples, and the labels (T, size - 1) of all but their queries."""
    x, labels = embeddings_of(outputs), targets["labels"]
    x, labels = tf.reshape(x, (-1, size, x.shape[1])), tf.reshape(labels, (-1, size))
    return x, tf.cast(labels[:, 1:], x.dtype)


@keras.saving.register_keras_serializable("diptych")
class TupleContrastiveCriterion(keras.layers.Layer):
    """Half the squared distance of query and positive plus half of [margin - distance]+ squared of its negatives,
    summed.

    Args:
        size: images of a tuple: a query, a positive, negatives.
        margin: distance of negatives.

    Inputs: ``outputs`` the descriptors (T size, D), tuple by tuple; ``targets["labels"]`` (T size,) int: -1 the query,
        1 the positive, 0 a negative.
    Returns: dict of scalars: ``"contrastive"``, ``"total"`` (the same).
    """

    def __init__(self, size: int = 7, margin: float = 0.7, **kwargs):
        super().__init__(**kwargs)
        self.size, self.margin = size, margin

    def call(self, outputs, targets):
        x, positive = tuples(outputs, targets, self.size)
        square = tf.reduce_sum(tf.square(x[:, :1] - x[:, 1:] + EPS), 2)
        apart = tf.square(tf.nn.relu(self.margin - tf.sqrt(square)))
        loss = tf.reduce_sum(positive * square + (1 - positive) * apart) / 2
        return {"contrastive": loss, "total": loss}


@keras.saving.register_keras_serializable("diptych")
class TupleTripletCriterion(keras.layers.Layer):
    """[squared distance to the positive - that to a negative + margin]+, summed over negatives.

    Args:
        size: images of a tuple: a query, a positive, negatives, in this order.
        margin: see above.

    Inputs: as :class:`TupleContrastiveCriterion`.
    Returns: dict of scalars: ``"triplet"``, ``"total"`` (the same).
    """

    def __init__(self, size: int = 7, margin: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        self.size, self.margin = size, margin

    def call(self, outputs, targets):
        x, _ = tuples(outputs, targets, self.size)
        square = tf.reduce_sum(tf.square(x[:, :1] - x[:, 1:]), 2)
        loss = tf.reduce_sum(tf.nn.relu(square[:, :1] - square[:, 1:] + self.margin))
        return {"triplet": loss, "total": loss}


def gem_resnet50(layers=(3, 4, 6, 3), pool="gem", **options) -> ImageRetrievalNet:
    return ImageRetrievalNet(layers=layers, pool=pool, **options)


def gem_resnet101(layers=(3, 4, 23, 3), pool="gem", **options) -> ImageRetrievalNet:
    return ImageRetrievalNet(layers=layers, pool=pool, **options)


def mac_resnet50(layers=(3, 4, 6, 3), pool="mac", whitening=False, **options) -> ImageRetrievalNet:
    return ImageRetrievalNet(layers=layers, pool=pool, whitening=whitening, **options)


def spoc_resnet50(layers=(3, 4, 6, 3), pool="spoc", whitening=False, **options) -> ImageRetrievalNet:
    return ImageRetrievalNet(layers=layers, pool=pool, whitening=whitening, **options)


def crow_resnet50(layers=(3, 4, 6, 3), pool="crow", whitening=False, **options) -> ImageRetrievalNet:
    return ImageRetrievalNet(layers=layers, pool=pool, whitening=whitening, **options)


def rmac_resnet101(layers=(3, 4, 23, 3), pool="rmac", **options) -> ImageRetrievalNet:
    return ImageRetrievalNet(layers=layers, pool=pool, **options)
