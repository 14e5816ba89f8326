"""What PyTorch calls things, and what Keras calls them: the one table of both vocabularies.

Cases and fingerprints speak PyTorch's words; the TensorFlow panel's layers take Keras'. The mirror test compares blocks
through it, models and criteria without.
"""

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
    "ModuleList": "list",
    "ReLU": "ReLU",
}

POOLING = {"kernel_size": "pool_size"}


def to_keras(options: Mapping) -> dict:
    """The arguments of a layer in Keras' words: input widths are dropped, and momentum m is the weight of the new value
    in PyTorch, 1 - m that of the old one in Keras."""
    names = {**ARGUMENTS, "channels": "channels"}
    found = {
        names.get(name, name): value
        for name, value in options.items()
        if name == "channels" or name not in INPUT_WIDTHS
    }
    if "momentum" in found:
        found["momentum"] = 1 - found["momentum"]
    if "affine" in found:
        found["center"] = found["scale"] = found.pop("affine")
    return found
