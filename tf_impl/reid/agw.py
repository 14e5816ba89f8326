"""AGW and SBS of fast-reid: non-local blocks, generalised mean, weighted triplets; and its stronger variant.

"Deep Learning for Person Re-identification: A Survey and Outlook", 2020, arXiv:2001.04193; "FastReID: A Pytorch Toolbox
for General Instance Re-identification", 2020, arXiv:2006.02631. Names and numbers: JDAI-CV/fast-reid (Apache-2.0). What
to look at: its non-local blocks have one inner channel; its label smoothing leaves the right class out.

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow, which flattens positions for the matrix products.
- The pool keeps the border (ceil mode), which PyTorch cannot export at unknown sizes: after a ReLU, a row and a column
  of zeros give the same.
"""

import keras
import tensorflow as tf

from tf_impl.classification.resnet import BasicBlock, Bottleneck, ResNet
from tf_impl.layers.bnneck import BNNeck
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.global_pooling import GeM
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import MaxPooling2D
from tf_impl.losses.margin import encode
from tf_impl.losses.pairwise import similarities
from tf_impl.metric.circle import circle_logits
from tf_impl.metric.triplet import TripletCriterion

__all__ = [
    "FastReID",
    "FastReIDCriterion",
    "NonLocal",
    "agw_r50",
    "agw_r101",
    "sbs_r50",
    "smooth_cross_entropy",
]

BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


@keras.saving.register_keras_serializable("diptych")
class NonLocal(keras.layers.Layer):
    """Every position receives the mean of all positions, weighted by products of two embeddings; starts as the
    identity.

    Args:
        inter: inner channels: "fastreid" has 1, "half" C / 2.

    x: (N, H, W, C), the same shape out.
    """

    def __init__(self, inter: str = "fastreid", **kwargs):
        super().__init__(**kwargs)
        self.inter = inter

    def build(self, input_shape):
        channels = input_shape[-1]
        width = 1 if self.inter == "fastreid" else channels // 2
        self.g = Conv2D(width, 1)
        self.W = keras.Sequential([Conv2D(channels, 1), BatchNormalization(gamma_initializer="zeros")])
        self.theta, self.phi = Conv2D(width, 1), Conv2D(width, 1)

    def call(self, x, training=False):
        shape = tf.shape(x)
        g, theta, phi = (
            tf.reshape(y, (shape[0], -1, y.shape[-1])) for y in (self.g(x), self.theta(x), self.phi(x))
        )  # (N, H W, I)
        weights = tf.matmul(theta, phi, transpose_b=True) / tf.cast(tf.shape(phi)[1], x.dtype)
        y = tf.reshape(tf.matmul(weights, g), (*tf.unstack(shape[:3]), g.shape[-1]))  # mirror: matrix products
        return self.W(y, training=training) + x


@keras.saving.register_keras_serializable("diptych")
class NonLocalResNet(ResNet):
    """fast-reid's ResNet: a last stride of 1, a pool that keeps the border, non-local blocks after the last blocks.

    Args:
        block, layers, planes: of the ResNet.
        non_local: how many in each stage.
        inter: see :class:`NonLocal`.
    """

    def __init__(
        self,
        block,
        layers: tuple[int, ...],
        planes: tuple[int, ...],
        non_local: tuple[int, ...] = (0, 2, 3, 0),
        inter: str = "fastreid",
        **kwargs,
    ):
        super().__init__(block, layers, planes=planes, features_only=True, out_indices=(4,), **kwargs)
        self.known_strides = {"c5": 16}
        first = self.layer4.layers[0]
        first.downsample.layers[0].strides = (1, 1)
        convolution = first.conv1 if isinstance(first, BasicBlock) else first.conv2
        convolution.strides = (1, 1)
        self.maxpool = MaxPooling2D(3, 2, ceil_mode=True)  # mirror: a row and a column of zeros
        for i, count in enumerate(non_local, start=1):
            setattr(self, f"NL_{i}", [NonLocal(inter) for _ in range(count)])

    def forward_features(self, images, training=False) -> dict:
        x = self.forward_stem(images, training)
        for i, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), start=1):
            blocks = getattr(self, f"NL_{i}")
            for j, block in enumerate(stage.layers, start=len(blocks) - len(stage.layers)):
                x = block(x, training=training)
                x = blocks[j](x, training=training) if j >= 0 else x
        return {"c5": x}


@keras.saving.register_keras_serializable("diptych")
class EmbeddingHead(keras.layers.Layer):
    """Pool, neck, and logits of classes.

    Args:
        num_classes: K.
        learned_power: whether the power of the pool is a parameter.
        cosine: logits are cosines.

    x: (N, H, W, D) -> pooled (N, D), after the neck (N, D), logits (N, K).
    """

    def __init__(self, num_classes: int, learned_power: bool, cosine: bool, **kwargs):
        super().__init__(**kwargs)
        self.num_classes, self.cosine = num_classes, cosine
        self.weight = None  # created when the size is known
        self.pool_layer = GeM(learned=learned_power)
        self.bottleneck = keras.Sequential([BNNeck()])

    def build(self, input_shape):
        small = keras.initializers.RandomNormal(stddev=0.01)
        self.weight = self.add_weight(name="weight", shape=(self.num_classes, input_shape[-1]), initializer=small)

    def call(self, x, training=False):
        pooled = self.pool_layer(x)
        after = self.bottleneck(pooled, training=training)
        logits = similarities(after, self.weight) if self.cosine else tf.matmul(after, self.weight, transpose_b=True)
        return pooled, after, logits


@keras.saving.register_keras_serializable("diptych")
class FastReID(Model):
    """A trunk with non-local blocks and an embedding head.

    Args:
        num_classes: identities K.
        block, layers, planes: of the ResNet: "basic" or "bottleneck", blocks of each stage, their nominal widths.
        non_local: non-local blocks of each stage, after its last blocks.
        inter: see :class:`NonLocal`.
        learned_power: whether the pool's power is a parameter.
        cosine: logits are cosines (with a margin in the criterion).
        neck_feat: whether triplets use the feature "before" or "after" the neck.

    Inputs: (N, H, W, 3) float.
    Returns: dict: ``"feature"`` (N, D) for triplets; ``"embedding"`` (N, D), the descriptor; ``"logits"`` (N, K).
    Raises: ValueError if the block, ``inter`` or ``neck_feat`` is unknown.
    """

    def __init__(
        self,
        num_classes: int = 751,
        block: str = "bottleneck",
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        non_local: tuple[int, ...] = (0, 2, 3, 0),
        inter: str = "fastreid",
        learned_power: bool = False,
        cosine: bool = False,
        neck_feat: str = "before",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if block not in BLOCKS:
            raise ValueError(f"block={block!r} must be one of {sorted(BLOCKS)}")
        if inter not in ("fastreid", "half"):
            raise ValueError(f"inter={inter!r} must be 'fastreid' or 'half'")
        if neck_feat not in ("before", "after"):
            raise ValueError(f"neck_feat={neck_feat!r} must be 'before' or 'after'")
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.neck_feat = neck_feat
        self.backbone = NonLocalResNet(BLOCKS[block], tuple(layers), tuple(planes), tuple(non_local), inter)
        self.heads = EmbeddingHead(num_classes, learned_power, cosine)

    def call(self, images, training=False):
        maps = self.backbone(images, training=training)
        pooled, after, logits = self.heads(maps["c5"], training=training)
        feature = pooled if self.neck_feat == "before" else after
        return {"feature": feature, "embedding": after, "logits": logits}


def smooth_cross_entropy(logits, labels, epsilon: float = 0.1, alpha: float = 0.2):
    """Cross-entropy with 1 - epsilon for the right class and epsilon / (K - 1) for each other one.

    Args:
        logits: (N, K).
        labels: (N,) int.
        epsilon: below 0, every row has alpha times its probability of the right class instead.
        alpha: see ``epsilon``.

    Returns:
        Scalar: the sum over the rows divided by the number of rows with a loss.
    """
    classes = logits.shape[1]
    log_p = tf.nn.log_softmax(logits, axis=1)
    target = tf.one_hot(labels, classes, dtype=logits.dtype)
    if epsilon < 0:
        epsilon = alpha * tf.reduce_sum(tf.exp(tf.stop_gradient(log_p)) * target, 1, keepdims=True)
    wanted = target * (1 - epsilon) + (1 - target) * epsilon / (classes - 1)
    losses = -tf.reduce_sum(wanted * log_p, 1)
    return tf.reduce_sum(losses) / tf.maximum(tf.reduce_sum(tf.cast(tf.not_equal(losses, 0), losses.dtype)), 1)


@keras.saving.register_keras_serializable("diptych")
class FastReIDCriterion(keras.layers.Layer):
    """Smoothed cross-entropy and soft triplets.

    Args:
        epsilon: see :func:`smooth_cross_entropy`.
        mining: "weighted" (AGW) or "hard" (SBS), see :class:`TripletCriterion`.
        circle_scale, circle_margin: of the circle's logits, on cosines; a scale of 0 takes the logits as they are.

    Inputs: ``outputs`` of :class:`FastReID`; ``targets["labels"]`` (N,) int.
    Returns: dict of scalars: ``"cross_entropy"``, ``"triplet"``, ``"total"``, their sum.
    """

    def __init__(
        self,
        epsilon: float = 0.1,
        mining: str = "weighted",
        circle_scale: float = 0.0,
        circle_margin: float = 0.35,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.epsilon, self.circle_scale, self.circle_margin = epsilon, circle_scale, circle_margin
        self.triplet = TripletCriterion(mining, margin=0.0, soft=True)

    def class_outputs(self, logits, labels):
        """Logits (N, K) with the circle's margin for labels (N,)."""
        if not self.circle_scale:
            return logits
        together, apart = circle_logits(logits, self.circle_margin, self.circle_scale)
        return apart - encode(labels, logits.shape[1], logits.dtype) * (together + apart)

    def call(self, outputs, targets):
        labels = targets["labels"]
        found = smooth_cross_entropy(self.class_outputs(outputs["logits"], labels), labels, self.epsilon)
        triplet = self.triplet(outputs["feature"], targets)["total"]
        return {"cross_entropy": found, "triplet": triplet, "total": found + triplet}


def agw_r50(layers=(3, 4, 6, 3), **options) -> FastReID:
    return FastReID(layers=layers, **options)


def agw_r101(layers=(3, 4, 23, 3), non_local=(0, 2, 9, 0), **options) -> FastReID:
    return FastReID(layers=layers, non_local=non_local, **options)


def sbs_r50(layers=(3, 4, 6, 3), learned_power=True, cosine=True, neck_feat="after", **options) -> FastReID:
    return FastReID(layers=layers, learned_power=learned_power, cosine=cosine, neck_feat=neck_feat, **options)
