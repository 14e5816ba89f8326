"""A small network that makes embeddings of grey pictures, and a sum of losses, in both frameworks."""

import keras
import tensorflow as tf
import torch.nn.functional as F
from torch import nn

import tf_impl.state
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.linear import Dense
from tf_impl.layers.model import Model

__all__ = ["KerasEmbedding", "KerasSum", "TorchEmbedding", "TorchSum"]


class TorchEmbedding(nn.Module):
    """Three convolutions, the largest values over all places, a linear layer.  (N, 1, H, W) -> (N, size)."""

    def __init__(self, size: int):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3)
        self.conv2 = nn.Conv2d(16, 32, 3, 2)
        self.conv3 = nn.Conv2d(32, 32, 3)
        self.fc = nn.Linear(32, size)

    def forward(self, images):
        x = F.relu(self.conv1(images))
        x = F.relu(self.conv2(x))
        x = F.relu(self.conv3(x))
        return self.fc(x.amax((2, 3)))


@keras.saving.register_keras_serializable("diptych")
class KerasEmbedding(Model):
    """Three convolutions, the largest values over all places, a linear layer.  (N, H, W, 1) -> (N, size)."""

    def __init__(self, size: int, **kwargs):
        super().__init__(**kwargs)
        self.conv1 = Conv2D(16, 3)
        self.conv2 = Conv2D(32, 3, strides=2)
        self.conv3 = Conv2D(32, 3)
        self.fc = Dense(size)
        tf_impl.state.build(self, {"images": ((None, None, 1), self.compute_dtype)})

    def call(self, images, training=False):
        x = tf.nn.relu(self.conv1(images))
        x = tf.nn.relu(self.conv2(x))
        x = tf.nn.relu(self.conv3(x))
        return self.fc(tf.reduce_max(x, (1, 2)))


class TorchSum(nn.Module):
    """Criteria whose totals are added up."""

    def __init__(self, parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, outputs, targets):
        return {"total": sum(part(outputs, targets)["total"] for part in self.parts)}


@keras.saving.register_keras_serializable("diptych")
class KerasSum(keras.layers.Layer):
    """Criteria whose totals are added up."""

    def __init__(self, parts, **kwargs):
        super().__init__(**kwargs)
        self.parts = list(parts)

    def call(self, outputs, targets):
        return {"total": sum(part(outputs, targets)["total"] for part in self.parts)}
