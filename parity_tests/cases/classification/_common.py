"""What the cases of the classifiers share: small configurations, and where their fingerprints are found."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from parity_tests.harness.case import SAME_GRAPH, Case, Reference, images, labels

SMALL_RESNET = {"layers": (1, 1, 1, 1), "planes": (16, 32, 64, 128), "num_classes": 10}


def stored_labels(expected):
    """The labels of a fingerprint with a loss."""
    return {"labels": np.asarray(expected["inputs"]["labels"]["data"], np.int64)}


def reference(file: str, maps, training: bool = False, loss: bool = False, **options) -> Reference:
    """Logits, feature maps, and where they are stored logits in training mode and the cross-entropy."""
    return Reference(
        file,
        options,
        modules={f"features.{i}": name for i, name in enumerate(maps)},
        outputs={"logits": ""},
        training={"train.logits": ""} if training else {},
        inputs={"image": "images"},
        losses={"cross_entropy": "cross_entropy"} if loss else {},
        targets=stored_labels if loss else None,
    )


def resnet(
    model: str,
    *files: str,
    variant: str = "",
    loss: bool = False,
    training: bool = False,
    published: Mapping | None = None,
    **options,
) -> Case:
    """A case of the ResNet family: one block a stage, an image that is odd and not square.

    ``published`` are the builder's options of the fingerprint's model.
    """
    maps = [f"layer{i}" for i in range(1, 5)]
    return Case(
        model,
        images(65, 49),
        labels(10),
        {**SMALL_RESNET, **options},
        variant=variant,
        references=[reference(file, maps, training, loss, **(published or {})) for file in files],
    )


def resnetv2(model: str, file: str, loss: bool = False, **options) -> Case:
    """A case of the pre-activated ResNets; the second stage has two blocks."""
    maps = [f"stages.{i}" for i in range(4)]
    small = {"layers": (1, 2, 1, 1), "channels": (32, 64, 128, 256), "num_classes": 10, "stem_channels": 16}
    return Case(model, images(65, 49), labels(10), {**small, **options}, references=[reference(file, maps, loss=loss)])


def efficientnet(model: str, file: str, size, training: bool = False, loss: bool = False, **options) -> Case:
    """A case of the EfficientNets: every kind of stage, one of them with a shortcut."""
    stages = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 1), (6, 3, 2, 80, 1), (6, 5, 2, 112, 1))
    maps = [f"blocks.{i}" for i in (1, 2, 4, 6)]
    plain = {"dropout": 0.0, "drop_path": 0.0}
    small = {"width": 0.35, "depth": 1.0, "stages": stages, "num_classes": 10, **plain}
    return Case(
        model,
        images(*size),
        labels(10),
        {**small, **options},
        references=[reference(file, maps, training, loss, **plain)],
    )


def hrnet(
    model: str, file: str, size, variant: str = "", loss: bool = False, training: bool = False, **options
) -> Case:
    """A case of the HRNets: one block a branch, one exchange a stage, a narrow head."""
    maps = [f"incre_modules.{i}" for i in range(4)]
    small = {"channels": 8, "modules": (1, 1, 1), "depth": 1, "stage1": (1, 16), "head_planes": (4, 6, 8, 10)}
    return Case(
        model,
        images(*size),
        labels(10),
        {**small, "num_classes": 10, **options},
        variant=variant,
        references=[reference(file, maps, training, loss)] if file else [],
    )


def inception(model: str, fingerprint: Reference, other: Reference) -> list[Case]:
    """Two cases of Inception v4 or Inception-ResNet-v2, one block of every kind: plain, and with frozen stages."""
    plain = Case(
        model,
        images(139, 122),
        labels(10),
        {"layers": (1, 1, 1), "width": 0.0625, "num_classes": 10},
        references=[fingerprint],
    )
    options = {**plain.options, "norm_eval": True, "frozen_stages": 2}
    return [plain, replace(plain, options=options, variant="frozen", references=[other], without=SAME_GRAPH)]


SHUFFLENET_V1 = [f"features.{i}" for i in (3, 11, 15)]
BLOCKS = ["features.3", "features.6", "features.13", "features.17"]
ROWS = (  # every kind of block
    (3, 16, 16, True, False, 2),
    (3, 24, 16, False, False, 2),
    (5, 40, 24, False, True, 2),
    (5, 48, 32, True, True, 2),
    (5, 64, 32, True, True, 1),
    (5, 64, 32, True, True, 1),
)
INCEPTION_V3 = ["Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"]
XCEPTION = ["block1", "block2", "block11", "block12"]
SMALL_XCEPTION = {"channels": (4, 8, 12, 16, 24, 28, 32, 40), "middle": 1, "num_classes": 10}
INCEPTION_V4 = ["features.3", "features.9", "features.17", "features.21"]
INCEPTION_RESNET_V2 = ["conv2d_4a", "repeat", "repeat_1", "conv2d_7b"]
GOOGLENET = ["conv3", "inception3b", "inception4e", "inception5b"]
SMALL_MOBILENET = {"num_classes": 10, "dropout": 0.0}
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 1, 2), (6, 64, 1, 2), (6, 96, 2, 2))  # of MobileNetV2
