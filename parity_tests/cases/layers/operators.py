"""Cases of the shared layers and operators: odd maps that are not square, ties, borders, boxes outside the image."""

import numpy as np

from parity_tests.harness.case import Case, Reference, images

NO_GRADIENT = {"gradients": "a selection by index has no gradient"}


def maps(channels: int, height: int, width: int, name: str = "x"):
    return images(height, width, channels, name)


def pyramid(rng, batch):
    """Maps of odd sizes, each half as large as the one before, rounded up."""
    shapes = {"c3": (6, 11, 13), "c4": (8, 6, 7), "c5": (10, 3, 4)}
    return {name: rng.standard_normal((batch, *shape)) for name, shape in shapes.items()}


def ties(length: int, values: int):
    """Scores of which many are equal."""

    def make(rng, batch):
        return {"scores": rng.integers(0, values, (batch, length)).astype(np.float64)}

    return make


def boxes(count: int = 37):
    """Overlapping boxes with tied scores; the first are equal, without area, and at an IoU of exactly one half."""

    def make(rng, batch):
        corner, size = rng.uniform(0, 20, (batch, count, 2)), rng.uniform(1, 15, (batch, count, 2))
        found = np.concatenate([corner, corner + size], -1)
        found[:, 1] = found[:, 0]
        found[:, 2, 2:] = found[:, 2, :2]
        found[:, 3], found[:, 4] = (0, 0, 4, 4), (0, 0, 4, 2)
        return {"boxes_xyxy": found, "scores": rng.integers(1, 10, (batch, count)) / 10}

    return make


def labelled_boxes(rng, batch):
    found = boxes()(rng, batch)
    valid = rng.random((batch, 37)) < 0.7
    valid[-1] = False
    return {
        "boxes": found["boxes_xyxy"] - 15,
        "scores": found["scores"],
        "labels": rng.integers(0, 4, (batch, 37)),
        "valid": valid,
    }


def regions(rng, batch):
    """Features and boxes, among them the whole map, boxes without area, inverted, outside, and smaller than a bin."""
    special = [
        [0, 0, 44, 36],
        [4, 4, 4, 4],
        [10, 10, 8, 9],
        [-60, -60, -20, -20],
        [100, 100, 120, 120],
        [0, 0, 0.5, 0.5],
    ]
    corner, size = rng.uniform(-4, 30, (7, 2)), rng.uniform(2, 20, (7, 2))
    found = np.concatenate([np.concatenate([corner, corner + size], -1), special])
    return {
        **maps(3, 9, 11, "features")(rng, batch),
        "boxes_xyxy": found,
        "batch_index": rng.integers(0, batch, len(found)),
    }


def grid(rng, batch):
    """Positions inside, outside and exactly on the corners."""
    found = rng.uniform(-1.9, 1.9, (batch, 4, 6, 2))
    found[:, 0, :4] = [[-1, -1], [1, 1], [9, -9], [0, 0]]
    return {**maps(3, 5, 7)(rng, batch), "grid": found}


def pooled(rng, batch):
    """Values and the places that they came from, distinct within a map."""
    places = np.stack([np.sort(rng.choice(35, 6, replace=False)) for _ in range(batch * 3)])
    return {**maps(3, 2, 3)(rng, batch), "indices": places.reshape(batch, 3, 2, 3)}


def reassembly(rng, batch):
    """A map and the weights of four groups of neighbourhoods of 5 x 5 for twice its size."""
    return {**maps(8, 5, 6, "features")(rng, batch), **maps(100, 10, 12, "masks")(rng, batch)}


def tied_maps(rng, batch):
    return {"x": rng.integers(-2, 2, (batch, 4, 7, 9)).astype(np.float64)}


def operator(model: str, inputs, variant: str = "", dynamic=None, without=None, reference="", **options) -> Case:
    references = [Reference(reference, options, outputs={"y": "y"})] if reference else []
    return Case(
        model,
        inputs,
        options=options,
        variant=variant,
        dynamic=dynamic or {},
        without=without or {},
        references=references,
    )


def convolution(variant: str = "", in_channels: int = 4, **options) -> Case:
    shape = {"in_channels": in_channels, "out_channels": 8, "kernel_size": 3}
    return operator("conv2d", maps(in_channels, 7, 9), variant, **{**shape, **options})


PACK = {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "stride": 2, "padding": 1, "groups": 2}
REGIONS = {"boxes_xyxy": ("R",), "batch_index": ("R",)}

CASES = [
    convolution(padding=1, stride=2),
    convolution("rectangular", kernel_size=(1, 5), padding=(0, 2), stride=(2, 1), bias=False),
    convolution("groups", groups=2, padding=1),
    convolution("groups_dilation", groups=2, padding=2, dilation=2),
    convolution("depthwise", groups=4, stride=2, padding=1),
    convolution("depthwise_dilation", groups=4, out_channels=4, padding=2, dilation=2),
    convolution("depthwise_rectangular", groups=4, stride=(2, 1), padding=(1, 0)),
    convolution("dilation", padding=2, dilation=2),
    convolution("dilation_stride", padding=(2, 3), dilation=(2, 3), stride=2),
    operator("conv_transpose2d", maps(4, 7, 9), in_channels=4, out_channels=6, kernel_size=4, stride=2, padding=1),
    operator(
        "conv_transpose2d",
        maps(4, 7, 9),
        "output_padding",
        in_channels=4,
        out_channels=6,
        kernel_size=3,
        stride=(2, 3),
        padding=1,
        output_padding=1,
        bias=False,
    ),
    operator("std_conv2d", maps(4, 7, 9), in_channels=4, out_channels=6, kernel_size=3, padding=1, groups=2),
    operator("batch_norm2d", maps(4, 7, 9), num_features=4, momentum=0.3, eps=1e-3),
    operator("frozen_batch_norm2d", maps(4, 7, 9), num_features=4),
    operator("group_norm", maps(4, 7, 9), num_groups=2, num_channels=4),
    operator("instance_norm2d", maps(4, 7, 9), num_features=4, affine=True),
    operator(
        "layer_norm", lambda rng, batch: {"x": rng.standard_normal((batch, 7, 12))}, normalized_shape=12, eps=1e-12
    ),
    operator("max_pool2d", maps(4, 7, 9), kernel_size=3, stride=2, padding=1),
    operator("max_pool2d", tied_maps, "ceil_mode", kernel_size=(2, 3), stride=2, ceil_mode=True),
    operator("avg_pool2d", maps(4, 7, 9), kernel_size=3, stride=2, padding=1),
    operator("avg_pool2d", maps(4, 8, 9), "ceil_mode", kernel_size=2, stride=2, ceil_mode=True),
    operator("avg_pool2d", maps(4, 8, 9), "not_counted", kernel_size=3, stride=2, padding=1, count_include_pad=False),
    operator("adaptive_avg_pool2d", maps(4, 7, 9), output_size=(3, 4)),
    operator("resize_nearest", maps(4, 5, 7), size=(10, 13)),
    operator("resize_nearest", maps(4, 5, 7), "smaller", size=(3, 4)),
    operator("resize_bilinear", maps(4, 5, 7), size=(10, 13)),
    operator("resize_bilinear", maps(4, 5, 7), "align_corners", size=(3, 13), align_corners=True),
    operator("resize_bicubic", maps(4, 5, 7), size=(10, 13)),
    operator("resize_bicubic", maps(4, 5, 7), "align_corners", size=(3, 13), align_corners=True),
    operator("top_k", ties(17, 4), k=5),
    operator("top_k", ties(2000, 50), "long", k=1000),
    operator("nms", boxes(), without=NO_GRADIENT, iou_threshold=0.5, max_outputs=10),
    operator("nms", boxes(), "all", without=NO_GRADIENT, iou_threshold=0.0, max_outputs=37),
    operator(
        "nms", boxes(), "score_threshold", without=NO_GRADIENT, iou_threshold=0.3, max_outputs=50, score_threshold=0.25
    ),
    operator("batched_nms", labelled_boxes, without=NO_GRADIENT, iou_threshold=0.5, max_outputs=10),
    operator("roi_align", regions, dynamic=REGIONS, output_size=(3, 4), spatial_scale=0.25, sampling_ratio=2),
    operator("roi_align", regions, "adaptive", REGIONS, output_size=(3, 2), spatial_scale=0.25, aligned=True),
    operator("deform_conv2d", maps(4, 7, 9), **PACK, deform_groups=2),
    operator("modulated_deform_conv2d", maps(4, 7, 9), **PACK, deform_groups=2, bias=True),
    *(
        operator("grid_sample", grid, f"{mode}_{padding}", mode=mode, padding_mode=padding, align_corners=aligned)
        for mode, padding, aligned in (
            ("bilinear", "zeros", False),
            ("bilinear", "border", True),
            ("bilinear", "reflection", False),
            ("nearest", "zeros", True),
            ("nearest", "reflection", True),
        )
    ),
    operator("max_pool2d_with_indices", tied_maps, kernel_size=2),
    operator("max_pool2d_with_indices", tied_maps, "padding", kernel_size=3, stride=2, padding=1),
    operator("max_unpool2d", pooled, kernel_size=2, output_size=(5, 7)),
    operator("context_block", maps(16, 5, 7), reference="mmcv_context_block", in_channels=16, ratio=0.25),
    operator(
        "context_block",
        maps(16, 5, 7),
        "both",
        reference="mmcv_context_block_both",
        in_channels=16,
        ratio=0.5,
        pooling_type="avg",
        fusion_types=("channel_add", "channel_mul"),
    ),
    operator("context_block", maps(16, 5, 7), "mul", in_channels=16, ratio=0.25, fusion_types=("channel_mul",)),
    *(
        operator("non_local2d", maps(16, 5, 7), variant, in_channels=16, mode=mode, **options)
        for mode, variant, options in (
            ("embedded_gaussian", "", {"reference": "mmcv_nonlocal_embedded_gaussian"}),
            ("embedded_gaussian", "sub_sample", {"sub_sample": True, "use_scale": False, "reduction": 4}),
            ("gaussian", "gaussian", {"norm": "batch", "reference": "mmcv_nonlocal_gaussian"}),
            ("gaussian", "gaussian_sub_sample", {"sub_sample": True}),
            ("dot_product", "dot_product", {"sub_sample": True, "reference": "mmcv_nonlocal_dot_product"}),
            ("concatenation", "concatenation", {}),
        )
    ),
    operator("carafe", reassembly, kernel_size=5, group_size=4, scale_factor=2),
    operator("carafe_pack", maps(16, 5, 6), channels=16, scale_factor=2, compressed_channels=8),
    operator(
        "carafe_pack",
        maps(16, 5, 6),
        "groups",
        channels=16,
        scale_factor=3,
        up_kernel=3,
        up_group=2,
        encoder_dilation=2,
        compressed_channels=8,
    ),
    operator("fpn_carafe", pyramid, in_channels=(6, 8, 10), out_channels=12, num_outs=5),
    *(
        operator("generalized_attention", maps(16, 6, 7), variant, **{"in_channels": 16, "num_heads": 4, **options})
        for variant, options in (
            ("", {"reference": "mmcv_attention_1111"}),
            ("saliency", {"attention_type": "0010", "reference": "mmcv_attention_0010"}),
            ("appearance", {"attention_type": "1000", "num_heads": 3}),
            ("position", {"attention_type": "0100"}),
            ("biases", {"attention_type": "0011", "position_embedding_dim": 8}),
            ("stride", {"attention_type": "1101", "q_stride": 2, "reference": "mmcv_attention_1101"}),
            ("magnitude", {"attention_type": "1110", "kv_stride": 1, "position_magnitude": 2}),
            ("range", {"spatial_range": 2, "kv_stride": 1}),
        )
    ),
]
