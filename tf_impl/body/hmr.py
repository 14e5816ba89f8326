"""HMR: a body from one image, by a regressor that corrects its own estimate a few times.

"End-to-end Recovery of Human Shape and Pose", 2017, arXiv:1712.06584; losses: "Learning to Reconstruct 3D Human Pose
and Shape via Model-fitting in the Loop" (SPIN), 2019, arXiv:1909.12828. Parameter names: nkolot/SPIN
``models/hmr.py``; losses: ``train/trainer.py`` (BSD-3). What to look at: the same layers see the image's features and
the last estimate, three times; rotations are two columns of a matrix, made orthogonal afterwards.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- PyTorch fills the kernels of finished layers, Keras gives each layer its initial values.
- The mean body is buffers in PyTorch, non-trainable variables in Keras.
"""

import keras
import tensorflow as tf

from tf_impl.body.smpl import PARENTS, SMPL, VERTEX_JOINTS, rodrigues
from tf_impl.classification.resnet import Bottleneck, ResNet
from tf_impl.layers.linear import Dense
from tf_impl.losses.pairwise import l2_normalize

__all__ = ["HMR", "HMRCriterion", "hmr_resnet50", "project", "to_rotations"]

FOCAL = 5000.0  # focal length, pixels
IMAGE = 224  # size of the image, pixels
HIPS = (1, 2)  # joints of the body whose mean is the pelvis


def to_rotations(numbers):
    """Rotation matrices whose first two columns are the given ones, made orthonormal.

    Args:
        numbers: (N, 6 J): per joint a 3 x 2 matrix, row by row (arXiv:1812.07035).

    Returns:
        (N, J, 3, 3).
    """
    first, second = tf.unstack(tf.reshape(numbers, (-1, numbers.shape[1] // 6, 3, 2)), axis=-1)
    first = l2_normalize(first)
    second = l2_normalize(second - tf.reduce_sum(first * second, -1, keepdims=True) * first)
    (a, b, c), (x, y, z) = tf.unstack(first, axis=-1), tf.unstack(second, axis=-1)
    third = tf.stack((b * z - c * y, c * x - a * z, a * y - b * x), -1)
    return tf.stack((first, second, third), -1)


def project(points, camera):
    """Project points into the image.

    Args:
        points: (N, E, 3) metres.
        camera: (N, 3), scale and shift of a weak perspective, for an image of 224 pixels.

    Returns:
        (N, E, 2), -1 to 1 from border to border.
    """
    depth = 2 * FOCAL / (IMAGE * camera[:, :1] + 1e-9)
    points = points + tf.concat((camera[:, 1:], depth), 1)[:, None]
    return FOCAL / (IMAGE / 2) * points[..., :2] / points[..., 2:]


@keras.saving.register_keras_serializable("diptych")
class HMR(ResNet):
    """Residual network and regressor.

    Args:
        block, layers, planes: of the residual network, see :class:`ResNet`.
        joints: of the body, J.
        num_betas: number of shape coefficients, B.
        hidden: width of the regressor.
        drop: rate of dropout in the regressor.
        iterations: of the regressor.

    Inputs: (N, 224, 224, 3) float, normalised.
    Returns: dict: ``"rotations"`` (N, J, 3, 3), ``"betas"`` (N, B), ``"camera"`` (N, 3), see :func:`project`.
    """

    def __init__(
        self,
        block=Bottleneck,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        joints: int = 24,
        num_betas: int = 10,
        hidden: int = 1024,
        drop: float = 0.5,
        iterations: int = 3,
        **kwargs,
    ):
        super().__init__(block, layers, planes=planes, features_only=True, out_indices=(4,), **kwargs)
        self.iterations = iterations
        sizes = {"pose": 6 * joints, "shape": num_betas, "cam": 3}
        self.fc1, self.drop1 = Dense(hidden), keras.layers.Dropout(drop)
        self.fc2, self.drop2 = Dense(hidden), keras.layers.Dropout(drop)
        for name, size in sizes.items():
            small = keras.initializers.VarianceScaling(0.01**2, "fan_avg", "uniform")  # mirror: initial values
            setattr(self, f"dec{name}", Dense(size, kernel_initializer=small))
        for name, size in sizes.items():  # mirror: non-trainable
            weight = self.add_weight(name=f"init_{name}", shape=(1, size), initializer="zeros", trainable=False)
            setattr(self, f"init_{name}", weight)

    def call(self, images, training=False):
        x = tf.reduce_mean(self.forward_features(images, training)["c5"], (1, 2))
        zeros = tf.zeros_like(x[:, :1])
        pose, shape, cam = (zeros + tf.cast(x, zeros.dtype) for x in (self.init_pose, self.init_shape, self.init_cam))
        for _ in range(self.iterations):
            y = self.drop1(self.fc1(tf.concat((x, pose, shape, cam), 1)), training=training)
            y = self.drop2(self.fc2(y), training=training)
            pose, shape, cam = pose + self.decpose(y), shape + self.decshape(y), cam + self.deccam(y)
        return {"rotations": to_rotations(pose), "betas": shape, "camera": cam}


@keras.saving.register_keras_serializable("diptych")
class HMRCriterion(keras.layers.Layer):
    """Squared differences of the body's parameters and of its joints in the image and in space.

    Args:
        num_vertices, num_betas, parents, vertex_joints: of the body, see :class:`SMPL`.
        pose_weight, betas_weight, keypoint_weight, shape_weight: of the terms in the total.
        steepness: of the loss that keeps the camera's scale positive.
        scale: of the total.

    Inputs: ``outputs`` of :class:`HMR`; ``targets``: ``"pose"`` (N, 3 J) axis times angle and ``"betas"`` (N, B), which
        count where ``"has_smpl"`` (N,) bool; ``"keypoints_2d"`` (N, E, 3), -1 to 1 in the image, and confidence;
        ``"keypoints_3d"`` (N, E, 4) metres, and confidence, which count where ``"has_pose_3d"`` (N,) bool. E joints are
        those of the body.
    Returns: dict of scalars, unweighted: ``"loss_regr_pose"``, ``"loss_regr_betas"``, ``"loss_keypoints"``,
        ``"loss_keypoints_3d"``, ``"loss_shape"`` of the vertices, ``"loss_camera"``; ``"total"``.
    """

    def __init__(
        self,
        num_vertices: int = 6890,
        num_betas: int = 10,
        parents: tuple[int, ...] = PARENTS,
        vertex_joints: tuple[int, ...] = VERTEX_JOINTS,
        pose_weight: float = 1.0,
        betas_weight: float = 0.001,
        keypoint_weight: float = 5.0,
        shape_weight: float = 0.0,
        steepness: float = 10.0,
        scale: float = 60.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.smpl = SMPL(num_vertices, num_betas, parents, vertex_joints)
        self.pose_weight, self.betas_weight, self.keypoint_weight = pose_weight, betas_weight, keypoint_weight
        self.shape_weight, self.steepness, self.scale = shape_weight, steepness, scale

    def mean(self, values, counted):
        """Mean over the samples that count, 0 if there are none."""
        by_sample = tf.reduce_mean(values, list(range(1, values.shape.rank)))
        found = tf.reduce_sum(tf.where(counted, by_sample, tf.zeros_like(by_sample)))
        return found / tf.maximum(tf.reduce_sum(tf.cast(counted, found.dtype)), 1.0)

    def centred(self, points):
        """Points relative to the middle of the hips."""
        return points - tf.reduce_mean(tf.gather(points, HIPS, axis=1), 1, keepdims=True)

    def call(self, outputs, targets):
        rotations, betas, camera = outputs["rotations"], outputs["betas"], outputs["camera"]
        known, posed = targets["has_smpl"], targets["has_pose_3d"]
        pose = tf.cast(targets["pose"], betas.dtype)
        wanted_betas, origin = tf.cast(targets["betas"], betas.dtype), tf.zeros_like(camera)
        body, wanted = self.smpl(betas, rotations, origin), self.smpl(wanted_betas, pose, origin)
        flat, space = (tf.cast(targets[name], betas.dtype) for name in ("keypoints_2d", "keypoints_3d"))
        away = tf.square(project(body["joints"], camera) - flat[..., :2])
        off = tf.square(self.centred(body["joints"]) - self.centred(space[..., :3]))
        matrices = rodrigues(tf.reshape(pose, (-1, rotations.shape[1], 3)))
        losses = {
            "loss_regr_pose": self.mean(tf.square(rotations - matrices), known),
            "loss_regr_betas": self.mean(tf.square(betas - wanted_betas), known),
            "loss_keypoints": tf.reduce_mean(flat[..., 2:] * away),
            "loss_keypoints_3d": self.mean(space[..., 3:] * off, posed),
            "loss_shape": self.mean(tf.abs(body["vertices"] - wanted["vertices"]), known),
            "loss_camera": tf.reduce_mean(tf.exp(-2 * self.steepness * camera[:, 0])),
        }
        total = (
            self.pose_weight * losses["loss_regr_pose"]
            + self.betas_weight * losses["loss_regr_betas"]
            + losses["loss_camera"]
        )
        total = total + self.keypoint_weight * (losses["loss_keypoints"] + losses["loss_keypoints_3d"])
        return {**losses, "total": self.scale * (total + self.shape_weight * losses["loss_shape"])}


def hmr_resnet50(**options) -> HMR:
    return HMR(**options)
