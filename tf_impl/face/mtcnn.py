"""MTCNN: three small networks find faces, each among the candidates that the previous one kept.

"Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks", 2016, arXiv:1604.02878.
Parameter names: timesler/facenet-pytorch ``models/mtcnn.py`` (MIT). What to look at: P-Net is fully convolutional, so
one pass covers every 12x12 window of an image; the cascade around the networks, which needs no tensors, is
``weights/processing/face/mtcnn.py``.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- Before a dense layer maps are flattened as (W, H, C) in both: the weights come from Caffe's columns.
- The project's PReLU in Keras expects maps, so a row becomes a map of one cell.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.linear import Dense
from tf_impl.layers.model import Model
from tf_impl.layers.pooling import MaxPooling2D
from tf_impl.layers.prelu import PReLU

__all__ = ["MTCNNCriterion", "ONet", "PNet", "RNet", "mtcnn_onet", "mtcnn_pnet", "mtcnn_rnet"]

POOL = functools.partial(MaxPooling2D, strides=2, ceil_mode=True)


def columns(x):
    """Maps (N, H, W, C) as rows (N, W H C)."""
    return tf.reshape(tf.transpose(x, (0, 2, 1, 3)), (-1, x.shape[1] * x.shape[2] * x.shape[3]))  # mirror: flattened


def answers(logits, box, **others) -> dict:
    """The outputs of every network; classes are the last axis of the logits."""
    return {"logits": logits, "prob": tf.nn.softmax(logits, -1), "box": box, **others}


@keras.saving.register_keras_serializable("diptych")
class PNet(Model):
    """The proposal network.

    Inputs: (N, H, W, 3) float, (RGB - 127.5) / 128; at least 12 x 12. A cell of the maps sees 12 x 12 pixels, and
        neighbouring cells are two pixels apart.
    Returns: dict of maps (N, H', W', ...): ``"logits"`` and ``"prob"`` (2 channels: none, face), ``"box"`` (4 channels:
        shifts of left, top, right, bottom in sides of the window).
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.conv1, self.prelu1 = Conv2D(10, 3), PReLU(10)
        self.pool1 = POOL(2)
        self.conv2, self.prelu2 = Conv2D(16, 3), PReLU(16)
        self.conv3, self.prelu3 = Conv2D(32, 3), PReLU(32)
        self.conv4_1, self.conv4_2 = Conv2D(2, 1), Conv2D(4, 1)

    def call(self, images, training=False):
        x = self.pool1(self.prelu1(self.conv1(images)))
        x = self.prelu2(self.conv2(x))
        x = self.prelu3(self.conv3(x))
        return answers(self.conv4_1(x), self.conv4_2(x))  # mirror: NHWC


@keras.saving.register_keras_serializable("diptych")
class RNet(Model):
    """The refinement network.

    Inputs: (N, 24, 24, 3) float, see :class:`PNet`.
    Returns: dict of rows: ``"logits"``, ``"prob"`` (N, 2), ``"box"`` (N, 4).
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(shape=(None, 24, 24, 3))
        self.conv1, self.prelu1 = Conv2D(28, 3), PReLU(28)
        self.pool1 = POOL(3)
        self.conv2, self.prelu2 = Conv2D(48, 3), PReLU(48)
        self.pool2 = POOL(3)
        self.conv3, self.prelu3 = Conv2D(64, 2), PReLU(64)
        self.dense4, self.prelu4 = Dense(128), PReLU(128)
        self.dense5_1, self.dense5_2 = Dense(2), Dense(4)

    def call(self, images, training=False):
        x = self.pool1(self.prelu1(self.conv1(images)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.dense4(columns(self.prelu3(self.conv3(x))))
        x = self.prelu4(x[:, None, None])[:, 0, 0]  # mirror: expects maps
        return answers(self.dense5_1(x), self.dense5_2(x))


@keras.saving.register_keras_serializable("diptych")
class ONet(Model):
    """The output network.

    Inputs: (N, 48, 48, 3) float, see :class:`PNet`.
    Returns: dict of rows: ``"logits"``, ``"prob"`` (N, 2), ``"box"`` (N, 4), ``"landmarks"`` (N, 10): x of the left
        eye, the right eye, the nose, the left and the right corner of the mouth, then their y, in sides of the box.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(shape=(None, 48, 48, 3))
        self.conv1, self.prelu1 = Conv2D(32, 3), PReLU(32)
        self.pool1 = POOL(3)
        self.conv2, self.prelu2 = Conv2D(64, 3), PReLU(64)
        self.pool2 = POOL(3)
        self.conv3, self.prelu3 = Conv2D(64, 3), PReLU(64)
        self.pool3 = POOL(2)
        self.conv4, self.prelu4 = Conv2D(128, 2), PReLU(128)
        self.dense5, self.prelu5 = Dense(256), PReLU(256)
        self.dense6_1, self.dense6_2, self.dense6_3 = Dense(2), Dense(4), Dense(10)

    def call(self, images, training=False):
        x = self.pool1(self.prelu1(self.conv1(images)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.pool3(self.prelu3(self.conv3(x)))
        x = self.dense5(columns(self.prelu4(self.conv4(x))))
        x = self.prelu5(x[:, None, None])[:, 0, 0]
        return answers(self.dense6_1(x), self.dense6_2(x), landmarks=self.dense6_3(x))


def by_sample(losses):
    """The mean over the cells of a map; a row stays as it is.  (N, ...) -> (N,)."""
    return tf.reduce_mean(losses, list(range(1, losses.shape.rank)))


def masked_mean(losses, counted):
    """The mean of the values that count, 0 if there are none."""
    return tf.reduce_sum(losses * counted) / tf.maximum(tf.reduce_sum(counted), 1.0)


@keras.saving.register_keras_serializable("diptych")
class MTCNNCriterion(keras.layers.Layer):
    """Cross-entropy of the hardest samples, squared distances of boxes and of landmarks (equations 1 to 5).

    Args:
        weights: of the class, the box and the landmarks: (1, 0.5, 0.5), for O-Net (1, 0.5, 1).
        keep: share of the samples with a class whose losses count, largest first.

    Inputs: ``outputs`` of a network; ``targets["types"]`` (N,) int: 1 face, 0 none, -1 part of a face, -2 face with
        landmarks; ``targets["boxes"]`` (N, 4) shifts, counted for 1 and -1; for O-Net ``targets["landmarks"]`` (N, 10),
        counted for -2. All cells of a map have the same target.
    Returns: dict of scalars, weighted: ``"det"``, ``"box"``, ``"landmark"`` (O-Net), ``"total"``, their sum.
    """

    def __init__(self, weights: tuple[float, float, float] = (1.0, 0.5, 0.5), keep: float = 0.7, **kwargs):
        super().__init__(**kwargs)
        self.parts, self.keep = tuple(weights), keep

    def hardest(self, losses, counted):
        """The mean of the largest losses among those that count; ties go to the first."""
        losses = tf.where(counted, losses, -tf.ones_like(losses))
        above = (losses[None] > losses[:, None]) | (
            (losses[None] == losses[:, None]) & (tf.range(tf.size(losses))[None] < tf.range(tf.size(losses))[:, None])
        )
        rank = tf.reduce_sum(tf.cast(above, losses.dtype), 1)
        count = tf.reduce_sum(tf.cast(counted, losses.dtype))
        kept = tf.maximum(tf.floor(self.keep * count + 1e-4), 1.0)  # 0.7 * 10 must be 7 whatever the rounding
        return masked_mean(losses, tf.cast(counted & (rank < kept), losses.dtype))

    def call(self, outputs, targets):
        types = targets["types"]
        dtype = outputs["box"].dtype

        def spread(rows):
            """Make rows (N, D) broadcast to maps (N, H, W, D)."""
            return tf.reshape(rows, (-1, *(1,) * (outputs["box"].shape.rank - 2), rows.shape[-1]))

        face = tf.one_hot(tf.cast(tf.equal(types, 1), tf.int32), 2, dtype=dtype)
        det = by_sample(-tf.reduce_sum(spread(face) * tf.nn.log_softmax(outputs["logits"], -1), -1))
        losses = {"det": self.parts[0] * self.hardest(det, (types == 0) | (types == 1))}
        wanted = tf.cast(targets["boxes"], dtype)
        box = by_sample(tf.reduce_sum(tf.square(outputs["box"] - spread(wanted)), -1))
        losses["box"] = self.parts[1] * masked_mean(box, tf.cast((types == 1) | (types == -1), dtype))
        if "landmarks" in outputs:
            wanted = tf.cast(targets["landmarks"], dtype)
            landmarks = tf.reduce_sum(tf.square(outputs["landmarks"] - wanted), 1)
            losses["landmark"] = self.parts[2] * masked_mean(landmarks, tf.cast(types == -2, dtype))
        return {**losses, "total": sum(losses.values())}


def mtcnn_pnet(**options) -> PNet:
    return PNet(**options)


def mtcnn_rnet(**options) -> RNet:
    return RNet(**options)


def mtcnn_onet(**options) -> ONet:
    return ONet(**options)
