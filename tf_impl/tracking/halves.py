"""The halves of the Siamese trackers: one for the first frame, one for later ones; SiamMask has a third part.

Papers, names of parameters: see ``siamfc.py``, ``siamrpn.py``, ``siamrpnpp.py``, ``siammask.py``, ``siamfcpp.py``. What
to look at: the first frame's maps are inputs of the second half, so a tracker computes them once. A half holds the
parameters that it uses, under their names in the whole model.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- Keras infers the input widths.
"""

import functools

import keras

from tf_impl.layers.model import Model
from tf_impl.tracking._siamese import AtrousResNet
from tf_impl.tracking.siamfc import SiamFC
from tf_impl.tracking.siamfcpp import AlexNet, Conv, DenseboxHead, SiamFCPP
from tf_impl.tracking.siammask import Features, Refine, SiamMask
from tf_impl.tracking.siamrpn import AlexNetLegacy, SiamRPN
from tf_impl.tracking.siamrpnpp import AdjustAllLayer, SiamRPNPP
from weights.processing.tracking.siammask import WINDOWS

__all__ = [
    "SiamFCPPTemplate",
    "SiamFCPPTrack",
    "SiamMaskRefine",
    "SiamMaskTemplate",
    "SiamMaskTrack",
    "SiamRPNPPTemplate",
    "SiamRPNPPTrack",
    "SiamRPNTemplate",
    "siamfc_alexnet_v1_template",
    "siamfc_alexnet_v1_track",
    "siamfcpp_alexnet_template",
    "siamfcpp_alexnet_track",
    "siammask_sharp_refine",
    "siammask_sharp_track",
    "siammask_template",
    "siamrpn_alex_dwxcorr_track",
    "siamrpn_alex_template",
    "siamrpn_alex_up_track",
    "siamrpn_r50_l234_dwxcorr_template",
    "siamrpn_r50_l234_dwxcorr_track",
]

ADJUST = functools.partial(Conv, kernel_size=3, relu=False, std=0.01)


@keras.saving.register_keras_serializable("diptych")
class SiamRPNTemplate(Model):
    """The half of :class:`SiamRPN` for the first frame.

    Args:
        channels: see :class:`SiamRPN`.

    Inputs: ``template`` (N, 127, 127, 3).
    Returns: (N, 6, 6, channels[-1]).
    """

    def __init__(self, channels: tuple[int, ...] = (96, 256, 384, 384, 256), **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.backbone = AlexNetLegacy(channels)

    def call(self, template, training=False):
        return self.backbone(template, training=training)


@keras.saving.register_keras_serializable("diptych")
class SiamRPNPPTemplate(Model):
    """The half of :class:`SiamRPNPP` for the first frame.

    Args:
        layers, planes, channels: see :class:`SiamRPNPP`.

    Inputs: ``template`` (N, 127, 127, 3).
    Returns: dict of maps ``"c3"``, ``"c4"``, ``"c5"`` (N, 7, 7, C).
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        channels: tuple[int, ...] = (256, 256, 256),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.backbone = AtrousResNet(layers, planes)
        self.neck = AdjustAllLayer(channels)  # mirror: infers

    def call(self, template, training=False):
        return self.neck(self.backbone(template, training=training), training=training)


@keras.saving.register_keras_serializable("diptych")
class SiamRPNPPTrack(SiamRPNPP):
    """The half of :class:`SiamRPNPP` for later frames.

    Inputs: ``c3``, ``c4``, ``c5`` (N, 7, 7, C) of the first frame, ``search`` (N, H, W, 3).
    Returns: as for :class:`SiamRPNPP`.
    """

    def call(self, c3, c4, c5, search, training=False):
        return self.track({"c3": c3, "c4": c4, "c5": c5}, search, training)


@keras.saving.register_keras_serializable("diptych")
class SiamMaskTemplate(Model):
    """The half of :class:`SiamMask` for the first frame.

    Args:
        layers, planes, channels: see :class:`SiamMask`.

    Inputs: ``template`` (N, 127, 127, 3).
    Returns: (N, 7, 7, channels).
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 4, 6),
        planes: tuple[int, ...] = (64, 128, 256),
        channels: int = 256,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.features = Features(layers, planes, channels)

    def call(self, template, training=False):
        return self.features(template, training=training)[1]


@keras.saving.register_keras_serializable("diptych")
class SiamMaskTrack(SiamMask):
    """The half of :class:`SiamMask` for later frames; :class:`SiamMaskRefine` draws the mask of the best cell.

    Args:
        layers, planes, channels: see :class:`SiamMask`.

    Inputs: ``template`` (N, 7, 7, channels) of the first frame, ``search`` (N, H, W, 3).
    Returns: dict: ``"cls"``, ``"loc"``, ``"mask"`` as for :class:`SiamMask`; ``"correlated"`` (N, H', W', channels);
        the trunk's maps ``"c1"``, ``"c2"``, ``"c3"`` (N, H, W, C).
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 4, 6),
        planes: tuple[int, ...] = (64, 128, 256),
        channels: int = 256,
        **kwargs,
    ):
        super().__init__(layers, planes, channels, refine=False, **kwargs)

    def call(self, template, search, training=False):
        outputs, correlated, maps = self.look(template, search, training)
        return {**outputs, "correlated": correlated, **{name: maps[name] for name in WINDOWS}}


@keras.saving.register_keras_serializable("diptych")
class SiamMaskRefine(Model):
    """The refinement of :class:`SiamMask` alone, of one cell.

    Args:
        planes, channels: see :class:`SiamMask`.

    Inputs: ``column`` (N, channels) of the correlated map; ``c1``, ``c2``, ``c3`` (N, size, size, C), the windows
        of the cell in the trunk's maps, see :data:`WINDOWS`.
    Returns: (N, 127 * 127) logits.
    """

    def __init__(self, planes: tuple[int, ...] = (64, 128, 256), channels: int = 256, **kwargs):  # mirror: infers
        super().__init__(**kwargs)
        self.refine_model = Refine()

    def call(self, column, c1, c2, c3, training=False):
        return self.refine_model(column, {"c1": c1, "c2": c2, "c3": c3})


@keras.saving.register_keras_serializable("diptych")
class SiamFCPPTemplate(Model):
    """The half of :class:`SiamFCPP` for the first frame.

    Args:
        basemodel: see :class:`SiamFCPP`.

    Inputs: ``template`` (N, 127, 127, 3).
    Returns: dict: ``"cls_kernel"``, ``"box_kernel"`` (N, 4, 4, C).
    """

    def __init__(self, basemodel, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.basemodel = basemodel
        self.r_z_k, self.c_z_k = (ADJUST(basemodel.channels) for _ in range(2))  # mirror: infers

    def call(self, template, training=False):
        x = self.basemodel(template, training=training)
        return {"cls_kernel": self.c_z_k(x, training=training), "box_kernel": self.r_z_k(x, training=training)}


@keras.saving.register_keras_serializable("diptych")
class SiamFCPPTrack(Model):
    """The half of :class:`SiamFCPP` for later frames.

    Args:
        basemodel, norms: see :class:`SiamFCPP`.

    Inputs: ``cls_kernel``, ``box_kernel`` (N, 4, 4, C) of the first frame, ``search`` (N, H, W, 3).
    Returns: as for :class:`SiamFCPP`.
    """

    track = SiamFCPP.track

    def __init__(self, basemodel, norms: tuple[bool, ...] = (False, False, True), **kwargs):
        super().__init__(**kwargs)
        self.basemodel, self.head = basemodel, DenseboxHead(basemodel.channels, norms)
        self.r_x, self.c_x = (ADJUST(basemodel.channels) for _ in range(2))

    def call(self, cls_kernel, box_kernel, search, training=False):
        return self.track((cls_kernel, box_kernel), search, training)


def siamfc_alexnet_v1_template(**options) -> SiamFC:
    return SiamFC(**options)


def siamfc_alexnet_v1_track(**options) -> SiamFC:
    return SiamFC(**options)


def siamrpn_alex_template(**options) -> SiamRPNTemplate:
    return SiamRPNTemplate(**options)


def siamrpn_alex_up_track(**options) -> SiamRPN:
    return SiamRPN("up", **options)


def siamrpn_alex_dwxcorr_track(**options) -> SiamRPN:
    return SiamRPN("depthwise", **options)


def siamrpn_r50_l234_dwxcorr_template(**options) -> SiamRPNPPTemplate:
    return SiamRPNPPTemplate(**options)


def siamrpn_r50_l234_dwxcorr_track(**options) -> SiamRPNPPTrack:
    return SiamRPNPPTrack(**options)


def siammask_template(**options) -> SiamMaskTemplate:
    return SiamMaskTemplate(**options)


def siammask_sharp_track(**options) -> SiamMaskTrack:
    return SiamMaskTrack(**options)


def siammask_sharp_refine(planes: tuple[int, ...] = (64, 128, 256), channels: int = 256) -> SiamMaskRefine:
    return SiamMaskRefine(planes, channels)


def siamfcpp_alexnet_template(channels: tuple[int, ...] = (96, 256, 384, 384, 256)) -> SiamFCPPTemplate:
    return SiamFCPPTemplate(AlexNet(channels))


def siamfcpp_alexnet_track(
    channels: tuple[int, ...] = (96, 256, 384, 384, 256), norms: tuple[bool, ...] = (False, False, True)
) -> SiamFCPPTrack:
    return SiamFCPPTrack(AlexNet(channels), norms)
