"""DANet: two parallel attentions, one between positions and one between channels.

"Dual Attention Network for Scene Segmentation", 2018, arXiv:1809.02983.
Parameter names: mmsegmentation ``decode_heads/da_head.py`` (Apache-2.0).
What to look at: channels attend to the least similar channels, because energies are subtracted from their maximum, as
in the reference.

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
"""

from torch import nn

from torch_impl.layers.scale import Scale
from torch_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from torch_impl.segmentation._encoder_decoder import DecodeHead, EncoderDecoder, auxiliary_head, conv_bn, dilated_resnet

__all__ = ["CAM", "PAM", "DAHead", "DANetCriterion", "SegmentationPostProcess", "danet_r50_d8", "danet_r101_d8"]


class PAM(nn.Module):
    """Position attention: every position receives a weighted sum over all positions (section 3.2).

    Args:
        channels: width C of the map.
        inner: channels of queries and keys.

    x: (N, C, H, W), the same shape out.
    """

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.key_project = nn.Conv2d(channels, inner, 1)
        self.query_project = nn.Conv2d(channels, inner, 1)
        self.value_project = nn.Conv2d(channels, channels, 1)
        self.gamma = Scale(0.0)

    def forward(self, x):
        queries, keys, values = (f(x).flatten(2) for f in (self.query_project, self.key_project, self.value_project))
        weights = (queries.transpose(1, 2) @ keys).softmax(-1)  # (N, HW, HW)
        return x + self.gamma((values @ weights.transpose(1, 2)).reshape(x.shape))


class CAM(nn.Module):
    """Channel attention: every channel receives a weighted sum over all channels (section 3.3).

    x: (N, C, H, W), the same shape out.
    """

    def __init__(self):
        super().__init__()
        self.gamma = Scale(0.0)

    def forward(self, x):
        channels = x.flatten(2)  # (N, C, HW)
        energy = channels @ channels.transpose(1, 2)
        weights = (energy.amax(-1, keepdim=True) - energy).softmax(-1)  # (N, C, C)
        return x + self.gamma((weights @ channels).reshape(x.shape))


class DAHead(DecodeHead):
    """Both attentions between two convolutions each, and the sum of their maps (section 3.1).

    Args:
        in_channels: of the map ``"c5"``.
        channels: of every convolution.
        num_classes, dropout: see :class:`DecodeHead`.
        pam_channels: of queries and keys of the position attention.

    Inputs: dict of maps (N, C, H, W).
    Returns: dict of logits (N, K, H, W): ``"logits"`` of the sum, ``"pam_logits"`` and ``"cam_logits"`` of the parts.
    """

    def __init__(
        self, in_channels: int, channels: int = 512, num_classes: int = 19, dropout: float = 0.1, pam_channels: int = 64
    ):
        super().__init__(channels, num_classes, dropout)
        self.pam_in_conv = conv_bn(in_channels, channels, 3, padding=1)
        self.pam = PAM(channels, pam_channels)
        self.pam_out_conv = conv_bn(channels, channels, 3, padding=1)
        self.pam_conv_seg = nn.Conv2d(channels, num_classes, 1)
        self.cam_in_conv = conv_bn(in_channels, channels, 3, padding=1)
        self.cam = CAM()
        self.cam_out_conv = conv_bn(channels, channels, 3, padding=1)
        self.cam_conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps):
        x = maps["c5"]
        of_places = self.pam_out_conv(self.pam(self.pam_in_conv(x)))
        of_channels = self.cam_out_conv(self.cam(self.cam_in_conv(x)))
        return {
            "logits": self.classify(of_places + of_channels),
            "pam_logits": self.pam_conv_seg(self.dropout(of_places)),
            "cam_logits": self.cam_conv_seg(self.dropout(of_channels)),
        }


class DANetCriterion(SegmentationCriterion):
    """Cross-entropy of the sum, of each part, and of the auxiliary head.

    Args:
        terms: see :class:`SegmentationCriterion`.
        options: of :class:`SegmentationCriterion`.

    Inputs and returns: as for :class:`SegmentationCriterion`.
    """

    def __init__(
        self,
        terms=(
            ("decode.pam_cam.loss_ce", "logits", 1.0),
            ("decode.pam.loss_ce", "pam_logits", 1.0),
            ("decode.cam.loss_ce", "cam_logits", 1.0),
            ("aux.loss_ce", "aux_logits", 0.4),
        ),
        **options,
    ):
        super().__init__(terms, **options)


def danet_r50_d8(
    depth: int = 50,
    num_classes: int = 19,
    channels: int = 512,
    aux_channels: int = 256,
    dropout: float = 0.1,
    pam_channels: int = 64,
    **options,
) -> EncoderDecoder:
    backbone = dilated_resnet(depth, **options)
    head = DAHead(backbone.channels["c5"], channels, num_classes, dropout, pam_channels)
    return EncoderDecoder(backbone, head, auxiliary_head(backbone, num_classes, aux_channels, dropout))


def danet_r101_d8(depth: int = 101, **options) -> EncoderDecoder:
    return danet_r50_d8(depth=depth, **options)
