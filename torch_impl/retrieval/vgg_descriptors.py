"""Descriptors for image retrieval and place recognition from VGG's last convolution: GeM and NetVLAD.

"Fine-tuning CNN Image Retrieval with No Human Annotation", 2017, arXiv:1711.02512: names of filipradenovic/
cnnimageretrieval-pytorch ``cirtorch/networks/imageretrievalnet.py`` (MIT). "NetVLAD: CNN architecture for weakly
supervised place recognition", 2015, arXiv:1511.07247: names of Nanne/pytorch-NetVlad (no licence; formulas only). What
to look at: GeM pools the output of the last ReLU, NetVLAD that of the convolution before it, negative values included;
neither has VGG's last max pooling.

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow.
"""

from torch import nn

from torch_impl.classification.vgg import VGG
from torch_impl.layers.global_pooling import GeM, l2n
from torch_impl.retrieval.image_retrieval import TupleContrastiveCriterion, TupleTripletCriterion
from torch_impl.retrieval.netvlad import NetVLAD

__all__ = [
    "GeMVGG",
    "NetVLADVGG",
    "TupleContrastiveCriterion",
    "TupleTripletCriterion",
    "gem_vgg16",
    "netvlad_vgg16",
]


class GeMVGG(nn.Module):
    """VGG up to its last ReLU, generalised mean, whitening.

    Args:
        depths, widths: convolutions and channels of VGG's five stages.
        whitening: a linear layer after the pool.

    Inputs: (N, 3, H, W) float.
    Returns: (N, D), of unit length.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        whitening: bool = True,
    ):
        super().__init__()
        trunk = VGG(tuple(depths), widths=tuple(widths), features_only=True)
        self.features = nn.Sequential(*list(trunk.features)[:-1])
        self.pool = GeM()
        self.whiten = nn.Linear(widths[-1], widths[-1]) if whitening else None

    def forward(self, images):
        x = l2n(self.pool(self.features(images)))
        return x if self.whiten is None else l2n(self.whiten(x))


class NetVLADVGG(nn.Module):
    """VGG up to its last convolution, NetVLAD.

    Args:
        depths, widths: convolutions and channels of VGG's five stages.
        num_clusters: K.
        vladv2: the assignment has a bias.

    Inputs: (N, 3, H, W) float.
    Returns: (N, K D), of unit length.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        num_clusters: int = 64,
        vladv2: bool = False,
    ):
        super().__init__()
        trunk = VGG(tuple(depths), widths=tuple(widths), features_only=True)
        self.encoder = nn.Sequential(*list(trunk.features)[:-2])
        self.pool = NetVLAD(num_clusters, widths[-1], vladv2)

    def forward(self, images):
        return self.pool(self.encoder(images))


def gem_vgg16(depths=(2, 2, 3, 3, 3), **options) -> GeMVGG:
    return GeMVGG(depths, **options)


def netvlad_vgg16(depths=(2, 2, 3, 3, 3), **options) -> NetVLADVGG:
    return NetVLADVGG(depths, **options)
