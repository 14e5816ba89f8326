import numpy as np

from parity_tests.harness.case import Case, Reference, images

JOINTS, BETAS, POINTS = 5, 3, 7
BODY = {"num_vertices": 17, "num_betas": BETAS, "parents": (-1, 0, 1, 1, 3), "vertex_joints": (4, 16)}


def people(rng, batch):
    return {
        "pose": rng.standard_normal((batch, 3 * JOINTS)),
        "betas": rng.standard_normal((batch, BETAS)),
        "has_smpl": np.arange(batch) % 2 == 0,
        "keypoints_2d": np.concatenate(
            [rng.uniform(-1, 1, (batch, POINTS, 2)), rng.uniform(0, 1, (batch, POINTS, 1))], -1
        ),
        "keypoints_3d": np.concatenate(
            [rng.standard_normal((batch, POINTS, 3)), rng.uniform(0, 1, (batch, POINTS, 1))], -1
        ),
        "has_pose_3d": np.arange(batch) % 3 != 0,
    }


def stored_people(expected):
    return {
        "pose": 0.3 * np.sin(0.7 * np.arange(144).reshape(2, 72)),
        "betas": np.cos(0.9 * np.arange(20).reshape(2, 10)),
        "has_smpl": np.ones(2, bool),
        "keypoints_2d": np.zeros((2, 45, 3)),
        "keypoints_3d": np.zeros((2, 45, 4)),
        "has_pose_3d": np.ones(2, bool),
    }


CASES = [
    Case(
        "hmr_resnet50",
        images(64, 80),
        people,
        {
            "layers": (1, 1, 1, 1),
            "planes": (2, 3, 4, 5),
            "joints": JOINTS,
            "num_betas": BETAS,
            "hidden": 16,
            "drop": 0.0,
        },
        # the seeded camera's scale has either sign
        {**BODY, "shape_weight": 0.5, "steepness": 0.5},
        learning_rate=2.0**-20,
        references=[
            Reference(
                "spin_hmr_resnet50",
                modules={"layer1": "layer1", "layer4": "layer4", "pose": "decpose#2"},
                outputs={"rotations": "rotations", "betas": "betas", "camera": "camera"},
                inputs={"image": "images"},
                losses={"pose": "loss_regr_pose", "betas": "loss_regr_betas"},
                targets=stored_people,
                criterion={"betas_weight": 1.0, "keypoint_weight": 0.0, "scale": 1.0},
            )
        ],
    )
]
