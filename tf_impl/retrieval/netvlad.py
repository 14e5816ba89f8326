"""NetVLAD: residuals to cluster centres, summed with soft assignments.

"NetVLAD: CNN architecture for weakly supervised place recognition", 2015, arXiv:1511.07247. Names:
Nanne/pytorch-NetVlad (no licence; formulas only). Initial values: ``weights.processing.retrieval.netvlad``.

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow: positions are the last axis there, the middle one here.
"""

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D
from tf_impl.losses.pairwise import l2_normalize

__all__ = ["NetVLAD", "netvlad_v1", "netvlad_v2"]


@keras.saving.register_keras_serializable("diptych")
class NetVLAD(keras.layers.Layer):
    """Vector of locally aggregated descriptors.

    Args:
        num_clusters: K.
        dim: channels D of the map.
        vladv2: the assignment has a bias.

    x: (N, H, W, D) -> (N, K D) of unit length.
    """

    def __init__(self, num_clusters: int = 64, dim: int = 128, vladv2: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.centroids = self.add_weight(
            name="centroids", shape=(num_clusters, dim), initializer=keras.initializers.RandomUniform(0.0, 1.0)
        )
        self.conv = Conv2D(num_clusters, 1, use_bias=vladv2)

    def call(self, x):
        x = l2_normalize(x)
        clusters, dim = self.centroids.shape
        assignment = tf.nn.softmax(tf.reshape(self.conv(x), (tf.shape(x)[0], -1, clusters)))  # (N, H W, K)
        places = tf.reshape(x, (tf.shape(x)[0], -1, dim))  # mirror: positions are
        sums = tf.reduce_sum(assignment, 1)[:, :, None]
        vlad = tf.matmul(assignment, places, transpose_a=True) - sums * self.centroids
        return l2_normalize(tf.reshape(l2_normalize(vlad), (-1, clusters * dim)))


def netvlad_v1(num_clusters: int = 64, dim: int = 512) -> NetVLAD:
    return NetVLAD(num_clusters, dim)


def netvlad_v2(num_clusters: int = 64, dim: int = 512) -> NetVLAD:
    return NetVLAD(num_clusters, dim, vladv2=True)
