"""Attention between two maps, as in ANN and OCRNet.

Parameter names: mmsegmentation ``models/utils/self_attention_block.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
"""

from torch import nn

from torch_impl.segmentation._encoder_decoder import conv_bn

__all__ = ["SelfAttentionBlock"]


def flat(x):
    """(N, C, H, W) -> (N, C, HW)."""
    return x.flatten(2)


class SelfAttentionBlock(nn.Module):
    """Every position of one map receives a weighted sum over the positions of another.

    Args:
        key_channels, query_channels: of the map that is summed over, and of the one that receives.
        inner: channels of keys, queries and values.
        out_channels: of the result.
        shared: whether keys and queries share one projection.
        key_pool: makes the positions that are summed over, (N, C, P), from a map; all by default.
        num_convs: convolutions of the projections of keys and queries.
        value_norm: whether the projections of values and result have normalisation and ReLU.

    Inputs: the query map (N, Cq, H, W), the key map (N, Ck, h, w).
    Returns: (N, out_channels, H, W).
    """

    def __init__(
        self,
        key_channels: int,
        query_channels: int,
        inner: int,
        out_channels: int,
        shared: bool = False,
        key_pool=flat,
        num_convs: int = 1,
        value_norm: bool = False,
    ):
        super().__init__()
        self.scale, self.key_pool = inner**-0.5, key_pool

        def projection(in_channels):
            convs = [conv_bn(in_channels if i == 0 else inner, inner, 1) for i in range(num_convs)]
            return convs[0] if num_convs == 1 else nn.Sequential(*convs)

        conv = conv_bn if value_norm else nn.Conv2d
        self.key_project = projection(key_channels)
        self.query_project = self.key_project if shared else projection(query_channels)
        self.value_project = conv(key_channels, inner, 1)
        self.out_project = conv(inner, out_channels, 1)
        if not value_norm:
            nn.init.zeros_(self.out_project.weight)
            nn.init.zeros_(self.out_project.bias)

    def forward(self, query, key):
        queries = self.query_project(query).flatten(2).transpose(1, 2)  # (N, HW, C)
        keys, values = self.key_pool(self.key_project(key)), self.key_pool(self.value_project(key))
        weights = (queries @ keys * self.scale).softmax(-1)  # (N, HW, P)
        context = (weights @ values.transpose(1, 2)).transpose(1, 2)
        return self.out_project(context.reshape(query.shape[0], -1, *query.shape[2:]))
