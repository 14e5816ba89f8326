"""The ResNets that the contrastive systems train, by name, so that small and published ones share one option.

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow.
"""

import tensorflow as tf

from tf_impl.classification.resnet import BasicBlock, Bottleneck, ResNet

__all__ = ["BLOCKS", "pooled", "resnet", "trunk", "width"]

BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


def width(block: str, planes) -> int:
    """Width of a trunk's features.

    Raises:
        ValueError: if ``block`` is unknown.
    """
    if block not in BLOCKS:
        raise ValueError(f"block={block!r} must be one of {sorted(BLOCKS)}")
    return planes[-1] * BLOCKS[block].expansion


def resnet(block: str, layers, planes, num_classes: int, zero_init_residual: bool = False) -> ResNet:
    """A ResNet whose ``fc`` returns ``num_classes`` numbers."""
    width(block, planes)
    return ResNet(
        BLOCKS[block], tuple(layers), num_classes, planes=tuple(planes), zero_init_residual=zero_init_residual
    )


def trunk(block: str, layers, planes) -> ResNet:
    """A ResNet without classifier, see :func:`pooled`."""
    width(block, planes)
    return ResNet(BLOCKS[block], tuple(layers), planes=tuple(planes), features_only=True, out_indices=(4,))


def pooled(network, images, training=False):
    """Features (N, D) of a :func:`trunk`: the mean of its last map."""
    return tf.reduce_mean(network(images, training=training)["c5"], (1, 2))  # mirror: NCHW
