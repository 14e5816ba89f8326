"""SiamRPN: a region proposal network for one object, whose features are the network's last kernel.

"High Performance Visual Tracking with Siamese Region Proposal Network", 2018, 10.1109/CVPR.2018.00935. Parameter names
and numbers: STVIR/pysot ``models/backbone/alexnet.py``, ``models/head/rpn.py`` (Apache-2.0). What to look at: in the
published head the template's kernel has the channels of all outputs, in the later, lighter one those of a single
output.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- Keras infers the input widths.
"""

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.cross_correlation import cross_correlation
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.tracking._siamese import ANCHORS, VALUES, DepthwiseXCorr, SiamRPNCriterion

__all__ = [
    "AlexNetLegacy",
    "DepthwiseRPN",
    "SiamRPN",
    "SiamRPNCriterion",
    "UPChannelRPN",
    "siamrpn_alex_dwxcorr",
    "siamrpn_alex_up",
]


@keras.saving.register_keras_serializable("diptych")
class AlexNetLegacy(keras.layers.Layer):
    """The trunk: five convolutions with normalisation, without padding.

    Args:
        channels: of the convolutions.

    x: (N, H, W, 3) -> (N, H', W', channels[-1]).
    """

    def __init__(self, channels: tuple[int, ...] = (96, 256, 384, 384, 256), **kwargs):
        super().__init__(**kwargs)
        self.features = keras.Sequential()
        for i, filters in enumerate(channels):
            size, strides = {0: (11, 2), 1: (5, 1)}.get(i, (3, 1))
            self.features.add(Conv2D(filters, size, strides=strides))
            self.features.add(BatchNormalization())
            if i < 2:
                self.features.add(keras.layers.MaxPooling2D(3, 2))
            if i < 4:
                self.features.add(keras.layers.ReLU())

    def call(self, x, training=False):
        return self.features(x, training=training)


@keras.saving.register_keras_serializable("diptych")
class UPChannelRPN(keras.layers.Layer):
    """The published head: every output has its own kernel, computed from the template's map.

    Args:
        feature_in: channels of the search map.

    template: (N, h, w, C), search: (N, H, W, C) -> dict: ``"cls"`` (N, H', W', 2 A), ``"loc"`` (N, H', W', 4 A).
    """

    def __init__(self, feature_in: int = 256, **kwargs):
        super().__init__(**kwargs)
        self.feature_in = feature_in
        cls, loc = (n * ANCHORS for n in VALUES)
        self.template_cls_conv = Conv2D(feature_in * cls, 3)
        self.template_loc_conv = Conv2D(feature_in * loc, 3)
        self.search_cls_conv, self.search_loc_conv = Conv2D(feature_in, 3), Conv2D(feature_in, 3)
        self.loc_adjust = Conv2D(loc, 1)

    def kernel(self, x):
        """A map of all kernels, (N, h, w, C O), as (N, h, w, C, O); the outputs are the outer index."""
        answers = x.shape[3] // self.feature_in
        x = tf.reshape(x, (-1, *x.shape[1:3], answers, self.feature_in))
        return tf.transpose(x, (0, 1, 2, 4, 3))  # mirror: NHWC

    def call(self, template, search, training=False):
        cls = cross_correlation(self.search_cls_conv(search), self.kernel(self.template_cls_conv(template)))
        loc = cross_correlation(self.search_loc_conv(search), self.kernel(self.template_loc_conv(template)))
        return {"cls": cls, "loc": self.loc_adjust(loc)}


@keras.saving.register_keras_serializable("diptych")
class DepthwiseRPN(keras.layers.Layer):
    """The lighter head: depthwise correlation.

    Args:
        filters: of the maps that are correlated.

    template: (N, h, w, C), search: (N, H, W, C) -> dict: ``"cls"`` (N, H', W', 2 A), ``"loc"`` (N, H', W', 4 A).
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.cls, self.loc = (DepthwiseXCorr(filters, n * ANCHORS) for n in VALUES)

    def call(self, template, search, training=False):
        return {name: getattr(self, name)(template, search, training=training) for name in ("cls", "loc")}


@keras.saving.register_keras_serializable("diptych")
class SiamRPN(Model):
    """The tracker's network.

    Args:
        head: "up" or "depthwise".
        channels: of the trunk.

    Inputs: ``template`` (N, 127, 127, 3), ``search`` (N, H, W, 3) float, BGR in 0 to 255.
    Returns: dict: ``"cls"`` (N, H', W', 2 A), logits, classes (none, object) first, then anchors; ``"loc"``
        (N, H', W', 4 A), coordinates of the box first, then anchors.
    Raises: ValueError if ``head`` is unknown.
    """

    def __init__(self, head: str = "depthwise", channels: tuple[int, ...] = (96, 256, 384, 384, 256), **kwargs):
        super().__init__(**kwargs)
        heads = {"up": UPChannelRPN, "depthwise": DepthwiseRPN}
        if head not in heads:
            raise ValueError(f"head={head!r} must be one of {sorted(heads)}")
        self.backbone = AlexNetLegacy(channels)
        self.rpn_head = heads[head](channels[-1])

    def template(self, template, training=False):
        """The map of the object in the first frame."""
        return self.backbone(template, training=training)

    def track(self, template, search, training=False):
        """The head's predictions for a later frame."""
        return self.rpn_head(template, self.backbone(search, training=training), training=training)

    def call(self, template, search, training=False):
        return self.track(self.template(template, training), search, training)


def siamrpn_alex_up(**options) -> SiamRPN:
    return SiamRPN("up", **options)


def siamrpn_alex_dwxcorr(**options) -> SiamRPN:
    return SiamRPN("depthwise", **options)
