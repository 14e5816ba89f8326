import numpy as np

from parity_tests.harness.case import Case, Reference, images
from torch_impl.face.fomm import blur_kernel

POINTS = 3
SMALL = {"block_expansion": 4, "max_features": 16, "num_blocks": 3}


def points(rng, batch, *names):
    found = {}
    for name in names:
        found[f"{name}_value"] = rng.uniform(-0.8, 0.8, (batch, POINTS, 2))
        found[f"{name}_jacobian"] = np.eye(2) + rng.uniform(-0.3, 0.3, (batch, POINTS, 2, 2))
    return found


def scene(rng, batch):
    return {**images(32, 48, name="source")(rng, batch), **points(rng, batch, "source", "driving")}


def marked(rng, batch):
    return {**images(48, 64)(rng, batch), "value": rng.uniform(-0.8, 0.8, (batch, POINTS, 2))}


def blurred(name: str):
    """The seeded weights, with the blur as it is built."""
    return lambda weights: {**weights, name: np.tile(blur_kernel(4).astype(np.float32), (3, 1, 1, 1))}


PATCHES = {f"feature_maps_1.{i}": f"feature_{i}" for i in range(4)} | {"prediction_map_1": "prediction"}

CASES = [
    Case(
        "fomm_kp_detector",
        images(64, 80),
        options={"num_kp": POINTS, **SMALL, "scale_factor": 0.5},
        references=[
            Reference(
                "fomm_vox256_kp_detector",
                modules={"down": "down", "predictor": "predictor", "kp": "kp"},
                outputs={"value": "value", "jacobian": "jacobian"},
                inputs={"image": "images"},
                weights=blurred("down.weight"),
            )
        ],
    ),
    Case(
        "fomm_generator",
        scene,
        options={
            "num_kp": POINTS,
            "block_expansion": 4,
            "max_features": 12,
            "num_bottleneck_blocks": 1,
            "motion_expansion": 4,
            "motion_features": 16,
            "motion_blocks": 3,
            "scale_factor": 0.5,
        },
        references=[
            Reference(
                "fomm_vox256_generator",
                {"align_corners": False},
                modules={"first": "first", "down_blocks.1": "down_blocks.1", "bottleneck": "bottleneck"},
                outputs={
                    name: name
                    for name in ("mask", "sparse_deformed", "occlusion_map", "deformed", "prediction", "deformation")
                },
                inputs={
                    "source": "source",
                    "kp_source.value": "source_value",
                    "kp_source.jacobian": "source_jacobian",
                    "kp_driving.value": "driving_value",
                    "kp_driving.jacobian": "driving_jacobian",
                },
                weights=blurred("dense_motion_network.down.weight"),
            )
        ],
    ),
    Case(
        "fomm_discriminator",
        images(48, 64),
        options={"block_expansion": 4, "max_features": 16, "num_blocks": 3},
        references=[Reference("fomm_vox256_discriminator", training=PATCHES, inputs={"image": "images"})],
        without={"initial": "a random unit vector of one number is 1 or -1, and need not be the same in both"},
    ),
    Case(
        "fomm_discriminator_kp",
        marked,
        options={"block_expansion": 4, "max_features": 16, "num_blocks": 3, "num_kp": POINTS},
        references=[
            Reference("fomm_voxadv256_discriminator", training=PATCHES, inputs={"image": "images", "kp.value": "value"})
        ],
    ),
]
