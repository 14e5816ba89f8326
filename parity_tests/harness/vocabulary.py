"""What PyTorch calls things, and what Keras calls them: the one table of both vocabularies.

Cases and fingerprints speak PyTorch's words; the TensorFlow panel's layers take Keras'. The mirror test compares blocks
through it, models and criteria without.
"""

import inspect
from collections.abc import Mapping

__all__ = ["ARGUMENTS", "CLASSES", "INPUT_WIDTHS", "to_keras"]

ARGUMENTS = {  # PyTorch -> Keras
    "out_channels": "filters",
    "channels": "filters",
    "out_features": "units",
    "stride": "strides",
    "dilation": "dilation_rate",
    "bias": "use_bias",
    "eps": "epsilon",
    "num_groups": "groups",
    "num_embeddings": "input_dim",
    "embedding_dim": "output_dim",
}

# Keras infers them
INPUT_WIDTHS = (
    "in_channels",
    "channels",
    "in_features",
    "in_chans",
    "key_channels",
    "query_channels",
    "num_features",
    "num_channels",
    "normalized_shape",
)

CLASSES = {  # torch.nn, or ours with PyTorch's arguments -> tf_impl.layers, or keras.layers
    "Conv1d": "Conv1D",
    "Conv2d": "Conv2D",
    "Conv3d": "Conv3D",
    "ConvTranspose2d": "Conv2DTranspose",
    "StdConv2d": "StandardizedConv2D",
    "BatchNorm2d": "BatchNormalization",
    "BatchNorm1d": "BatchNormalization",
    "FrozenBatchNorm2d": "FrozenBatchNormalization",
    "GroupNorm": "GroupNormalization",
    "InstanceNorm2d": "InstanceNormalization",
    "LayerNorm": "LayerNormalization",
    "Linear": "Dense",
    "Embedding": "Embedding",
    "MaxPool2d": "MaxPooling2D",
    "AvgPool2d": "AveragePooling2D",
    "AdaptiveAvgPool2d": "AdaptiveAveragePooling2D",
    "ModuleList": "list",
    "ReLU": "ReLU",
}


def to_keras(layer, options: Mapping) -> dict:
    """The arguments of one of Keras' layers in its words.

    Input widths are dropped, unless the layer has them; momentum m is the weight of the new value in PyTorch, 1 - m
    that of the old one in Keras.
    """
    own, found = inspect.signature(layer).parameters, {}
    for name, value in options.items():
        if name == "momentum":
            found[name] = 1 - value
        elif name == "affine":
            found["center"] = found["scale"] = value
        elif name in own:
            found[name] = value
        elif name not in INPUT_WIDTHS:
            found[ARGUMENTS.get(name, name)] = value
    return found
