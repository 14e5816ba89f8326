"""Small configurations of the classification models."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from parity_tests.cases import SAME_GRAPH, Case, Reference, images, labels

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

CASES = [
    Case(
        "mobilenet_v2",
        images(65, 49),
        labels(10),
        {"width": 0.35, "stages": STAGES, **SMALL_MOBILENET},
        criterion={"label_smoothing": 0.1, "weight": tuple(0.5 + 0.1 * i for i in range(10))},
        references=[reference("torchvision_mobilenet_v2", BLOCKS, True, True, dropout=0.0)],
    ),
    Case(
        "mobilenet_v2_035",
        images(33, 41),
        labels(10),
        {"stages": STAGES, **SMALL_MOBILENET},
        references=[reference("torchvision_mobilenet_v2_w035", BLOCKS, dropout=0.0)],
    ),
    Case("mobilenet_v2_embedding", images(49, 65), options={"width": 0.35, "stages": STAGES}),
    resnet("resnet18", "torchvision_resnet18", loss=True, training=True),
    resnet("resnet18", variant="zero_init_residual", zero_init_residual=True, norm_eval=True, frozen_stages=1),
    resnet("resnet34", "torchvision_resnet34"),
    resnet("resnet50", "torchvision_resnet50", loss=True, training=True),
    resnet("resnet50", variant="stride_in_1x1", stride_in_1x1=True, output_stride=8),
    resnet("resnet50_dcn", deform_groups=2, planes=(8, 16, 16, 16)),
    resnet("resnet50_gcb", ratio=0.25),
    resnet("resnet50_attention", num_heads=4),
    resnet("wide_resnet50_2", "torchvision_wide_resnet50_2"),
    resnet("resnext50_32x4d", "torchvision_resnext50_32x4d", groups=4, base_width=16),
    resnet("resnet18d", "timm_resnet18d"),
    resnet("resnet50d", "timm_resnet50d", loss=True),
    resnet("resnet50c", "timm_resnet50c"),
    resnet("resnet50s", "timm_resnet50s"),
    resnet("resnet50_gn", "timm_resnet50_gn", planes=(32, 32, 64, 128)),
    resnetv2("resnetv2_18", "timm_resnetv2_18", channels=(16, 24, 32, 40)),
    resnetv2("resnetv2_50", "timm_resnetv2_50", loss=True),
    resnetv2("resnetv2_50d", "timm_resnetv2_50d"),
    resnetv2("resnetv2_50x1_bit", "timm_resnetv2_50x1_bit", groups=8),
    Case(
        "squeezenet1_0",
        images(65, 49),
        labels(10),
        {"stem": (16, 7), "stages": ((4, 6), (8,), (10,)), "num_classes": 10, "dropout": 0.0},
        references=[reference("torchvision_squeezenet1_0", [f"features.{i}" for i in (1, 5, 10, 12)], dropout=0.0)],
    ),
    Case(
        "squeezenet1_1",
        images(65, 70),
        labels(10),
        {"stages": ((4, 6), (8,), (10,)), "num_classes": 10, "dropout": 0.0},
        references=[
            reference("torchvision_squeezenet1_1", [f"features.{i}" for i in (1, 4, 7, 12)], loss=True, dropout=0.0)
        ],
    ),
    Case(
        "shufflenet_v2_x0_5",
        images(65, 49),
        labels(10),
        {"layers": (2, 1, 2), "channels": (8, 12, 24, 32, 40), "num_classes": 10},
        references=[
            reference("torchvision_shufflenet_v2_x0_5", ["stage2", "stage3", "stage4"], True, True),
        ],
    ),
    Case(
        "shufflenet_v2_x1_0",
        images(33, 47),
        labels(10),
        {"layers": (2, 2, 1), "channels": (8, 16, 24, 32, 48), "num_classes": 10},
        references=[reference("torchvision_shufflenet_v2_x1_0", ["stage2", "stage3", "stage4"])],
    ),
    Case(
        "mobilenet_v3_large",
        images(65, 49),
        labels(10),
        {"rows": ROWS, "last_channels": 40, **SMALL_MOBILENET},
        references=[
            reference(
                "torchvision_mobilenet_v3_large", [f"features.{i}" for i in (1, 6, 12, 15)], loss=True, dropout=0.0
            )
        ],
    ),
    Case(
        "mobilenet_v3_small",
        images(49, 65),
        labels(10),
        {"rows": ROWS, "last_channels": 40, "reduced_tail": True, "dilated": True, **SMALL_MOBILENET},
        references=[
            reference(
                "torchvision_mobilenet_v3_small", [f"features.{i}" for i in (1, 3, 8, 11)], training=True, dropout=0.0
            ),
            reference(
                "torchvision_mobilenet_v3_small_dilated",
                [f"features.{i}" for i in (1, 3, 8, 11)],
                reduced_tail=True,
                dilated=True,
                dropout=0.0,
            ),
        ],
    ),
    efficientnet("tf_efficientnet_b0", "timm_tf_efficientnet_b0", (65, 50), training=True, loss=True),
    efficientnet("tf_efficientnet_b1", "timm_tf_efficientnet_b1", (49, 65), depth=1.1, pad_mode="torch", bn_eps=1e-5),
    efficientnet("tf_efficientnet_lite0", "timm_tf_efficientnet_lite0", (65, 49)),
    Case(
        "googlenet",
        images(65, 49),
        labels(10),
        {"layers": (1, 4, 1), "width": 0.125, "num_classes": 10, "dropout": 0.0, "dropout_aux": 0.0},
        learning_rate=2.0**-10,
        references=[
            Reference(
                "torchvision_googlenet",
                {"dropout": 0.0, "dropout_aux": 0.0},
                modules={f"features.{i}": name for i, name in enumerate(GOOGLENET)},
                outputs={"logits": "logits"},
                training={"train.logits": "logits", "train.aux_logits1": "aux1", "train.aux_logits2": "aux2"},
                inputs={"image": "images"},
            )
        ],
    ),
    Case(
        "googlenet",
        images(49, 66),
        labels(10),
        {
            "layers": (1, 2, 1),
            "width": 0.125,
            "num_classes": 10,
            "aux_logits": False,
            "five_by_five": True,
            "dropout": 0.0,
        },
        criterion={"auxiliary": {}},
        variant="five_by_five",
        learning_rate=2.0**-10,
        references=[
            replace(
                reference(
                    "torchvision_googlenet_transform_input",
                    GOOGLENET,
                    loss=True,
                    aux_logits=False,
                    transform_input=True,
                    dropout=0.0,
                ),
                criterion={"auxiliary": {}},
            )
        ],
    ),
    Case(
        "mobilenet_v1",
        images(65, 50),
        labels(10),
        {"width": 0.25, "blocks": ((64, 1), (128, 2), (128, 1), (160, 2)), **SMALL_MOBILENET},
    ),
    Case(
        "shufflenet_v1_g3_x0_5",
        images(65, 49),
        labels(10),
        {"layers": (2, 2, 1), "channels": (12, 24, 48, 96), "num_classes": 10},
        references=[reference("megvii_shufflenet_v1_g3_x0_5", SHUFFLENET_V1, True, True)],
    ),
    Case(
        "shufflenet_v1_g8_x0_5",
        images(49, 70),
        labels(10),
        {"layers": (1, 2, 1), "channels": (16, 64, 128, 192), "num_classes": 10},
        references=[reference("megvii_shufflenet_v1_g8_x0_5", SHUFFLENET_V1)],
    ),
    Case(
        "inception_v3",
        images(299, 301),
        labels(10),
        {"layers": (1, 2, 2), "width": 0.0625, "num_classes": 10, "dropout": 0.0},
        learning_rate=2.0**-10,
        references=[
            Reference(
                "torchvision_inception_v3",
                {"dropout": 0.0},
                modules={f"features.{i}": name for i, name in enumerate(INCEPTION_V3)},
                outputs={"logits": "logits"},
                training={"train.logits": "logits", "train.aux_logits": "aux"},
                inputs={"image": "images"},
            )
        ],
    ),
    Case(
        "inception_v3",
        images(139, 122),
        labels(10),
        {
            "layers": (1, 2, 2),
            "width": 0.0625,
            "num_classes": 10,
            "aux_logits": False,
            "transform_input": True,
            "dropout": 0.0,
        },
        criterion={"auxiliary": {}},
        variant="transform_input",
        learning_rate=2.0**-10,
        references=[
            replace(
                reference(
                    "torchvision_inception_v3_transform_input",
                    INCEPTION_V3,
                    loss=True,
                    aux_logits=False,
                    transform_input=True,
                    dropout=0.0,
                ),
                criterion={"label_smoothing": 0.0, "auxiliary": {}},
            )
        ],
    ),
    Case(
        "xception",
        images(98, 83),
        labels(10),
        SMALL_XCEPTION,
        references=[
            reference("timm_legacy_xception", XCEPTION, training=True, bn_eps=1e-5, bn_momentum=0.1, pad_mode="torch"),
        ],
    ),
    Case(
        "xception",
        images(83, 96),
        labels(10),
        {**SMALL_XCEPTION, "bn_eps": 1e-5, "pad_mode": "torch"},
        variant="torch",
        references=[
            reference("timm_legacy_xception_10", XCEPTION, loss=True, num_classes=10, bn_eps=1e-5, pad_mode="torch"),
        ],
    ),
    resnet("se_resnet18", "timm_legacy_seresnet18", loss=True, training=True, stem=(16,)),
    resnet("se_resnet50", "timm_legacy_seresnet50", stem=(16,)),
    resnet("se_resnext26_32x4d", "timm_legacy_seresnext26_32x4d", loss=True, stem=(16,), groups=4, base_width=16),
    resnet(
        "senet154", "timm_legacy_senet154", published={"layers": (1, 2, 1, 1)}, stem=(8, 8, 16), groups=8, dropout=0.0
    ),
    *inception(
        "inception_v4",
        reference("timm_inception_v4", INCEPTION_V4),
        reference("timm_inception_v4_10", INCEPTION_V4, loss=True, num_classes=10),
    ),
    resnet("res2net50_26w_4s", "timm_res2net50_26w_4s", loss=True, layers=(1, 2, 1, 1)),
    resnet(
        "res2net50_26w_4s",
        "timm_res2net50_26w_4s_1211",
        variant="zero_init_residual",
        training=True,
        published={"layers": (1, 2, 1, 1)},
        zero_init_residual=True,
        norm_eval=True,
        frozen_stages=1,
    ),
    resnet("res2net50_14w_8s", "timm_res2net50_14w_8s", layers=(2, 1, 1, 1), base_width=16, scale=3),
    resnet("res2net50_v1b", "timm_res2net50d", layers=(1, 1, 2, 1), deep_stem=(8, 8, 16), output_stride=16),
    resnet("res2next50", "timm_res2next50", layers=(1, 2, 1, 1), base_width=8, groups=4, scale=2),
    *inception(
        "inception_resnet_v2",
        reference("timm_inception_resnet_v2", INCEPTION_RESNET_V2, training=True),
        reference("timm_inception_resnet_v2_10", INCEPTION_RESNET_V2, loss=True, num_classes=10),
    ),
    replace(
        resnet(
            "resnest14",
            "timm_resnest14d",
            loss=True,
            training=True,
            layers=(1, 2, 1, 1),
            deep_stem=(8, 8, 16),
            groups=2,
        ),
        learning_rate=2.0**-10,
    ),
    resnet("resnest14", variant="dilated", deep_stem=(8, 8, 16), output_stride=8, zero_init_residual=True),
    resnet("resnest50_fast_1s4x24d", "timm_resnest50d_1s4x24d", deep_stem=(8, 8, 16), base_width=32),
    resnet("resnest50_fast_4s2x40d", "timm_resnest50d_4s2x40d", deep_stem=(8, 8, 16), base_width=32),
    hrnet("hrnet_w18_small_v2", "timm_hrnet_w18_small_v2", (32, 64), loss=True, training=True),
    hrnet(
        "hrnet_w18",
        "timm_hrnet_w18",
        (65, 49),
        variant="bilinear",
        fuse_upsample="bilinear_corners",
        norm_eval=True,
        frozen_stages=2,
    ),
]
