"""SMPL: a body as a mean mesh, deformed by shape and pose, and posed by a skeleton.

"SMPL: A Skinned Multi-Person Linear Model", 2015, 10.1145/2816795.2818013; offsets of every vertex (SMPL+D):
"Multi-Garment Net: Learning to Dress 3D People from Images", 2019, arXiv:1908.06903. Numbers: smplx 0.1.28, whose
licence forbids copies: this is written from the formulas. The arrays of the published bodies cannot be redistributed;
they are buffers under its names. What to look at: joints depend on the shape alone, so neither the pose's nor the
    clothes' offsets move them.

Mirror notes:
- The arrays of the body are buffers in PyTorch, non-trainable variables in Keras.
"""

import keras
import tensorflow as tf

from tf_impl.layers.model import Model

__all__ = ["PARENTS", "SMPL", "SMPLD", "VERTEX_JOINTS", "rodrigues"]

# the parent of every joint
PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
# vertices that count as joints: nose, eyes, ears; toes and heels; finger tips, left and right
VERTEX_JOINTS = (
    *(332, 6260, 2800, 4071, 583),
    *(3216, 3226, 3387, 6617, 6624, 6787),
    *(2746, 2319, 2445, 2556, 2673),
    *(6191, 5782, 5905, 6016, 6133),
)
EPS = 1e-8  # added to every component of a rotation before its norm is taken, as in the reference


def rodrigues(rotations):
    """Rotation matrices of axis times angle.  (..., 3) radians -> (..., 3, 3)."""
    angle = tf.sqrt(tf.reduce_sum(tf.square(rotations + EPS), -1, keepdims=True))
    x, y, z = tf.unstack(rotations / angle, axis=-1)
    zero = tf.zeros_like(x)
    cross = tf.stack([tf.stack(row, -1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))], -2)
    angle = angle[..., None]
    return tf.eye(3, dtype=x.dtype) + tf.sin(angle) * cross + (1 - tf.cos(angle)) * tf.matmul(cross, cross)


@keras.saving.register_keras_serializable("diptych")
class SMPL(Model):
    """The body's mesh and joints from shape and pose.

    Args:
        num_vertices: V.
        num_betas: number of shape coefficients B.
        parents: of the J joints, -1 for the first one.
        vertex_joints: E vertices that are joints too.

    Inputs: ``betas`` (N, B); ``pose`` (N, 3 J) axis times angle, radians, or (N, J, 3, 3) rotations, the first for the
        whole body; ``transl`` (N, 3) metres.
    Returns: dict: ``"vertices"`` (N, V, 3), ``"joints"`` (N, J + E, 3).
    """

    def __init__(
        self,
        num_vertices: int = 6890,
        num_betas: int = 10,
        parents: tuple[int, ...] = PARENTS,
        vertex_joints: tuple[int, ...] = VERTEX_JOINTS,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.parents, self.vertex_joints, joints = tuple(parents), tuple(vertex_joints), len(parents)
        shapes = {
            "v_template": (num_vertices, 3),
            "shapedirs": (num_vertices, 3, num_betas),
            "J_regressor": (joints, num_vertices),
            "posedirs": (9 * (joints - 1), 3 * num_vertices),
            "lbs_weights": (num_vertices, joints),
        }
        for name, shape in shapes.items():  # mirror: buffers
            setattr(self, name, self.add_weight(name=name, shape=shape, initializer="zeros", trainable=False))

    def transforms(self, rotations, joints):
        """Rotation (N, J, 3, 3) and position (N, J, 3) of every joint, from those relative to its parent."""
        turns, places = [rotations[:, 0]], [joints[:, 0]]
        for i, parent in enumerate(self.parents[1:], start=1):
            turns.append(tf.matmul(turns[parent], rotations[:, i]))
            bone = (joints[:, i] - joints[:, parent])[..., None]
            places.append(places[parent] + tf.matmul(turns[parent], bone)[..., 0])
        return tf.stack(turns, 1), tf.stack(places, 1)

    def skin(self, vertices, turns, places, joints, transl):
        """Vertices (N, V, 3) of the rest pose, moved by the bones that they are attached to."""
        count = len(self.parents)
        shifts = places - tf.matmul(turns, joints[..., None])[..., 0]  # of the rest pose's coordinates
        moves = tf.concat((tf.reshape(turns, (-1, count, 9)), shifts), 2)  # (N, J, 12)
        moves = tf.matmul(tf.cast(self.lbs_weights, moves.dtype)[None], moves)  # (N, V, 12)
        turned = tf.matmul(tf.reshape(moves[..., :9], (-1, vertices.shape[1], 3, 3)), vertices[..., None])[..., 0]
        return turned + moves[..., 9:] + transl[:, None]

    def rest(self, betas, pose):
        """Base of both bodies: rotations, joints, vertices of the rest pose."""
        dtype, count = betas.dtype, len(self.parents)
        matrices = pose if pose.shape.rank == 4 else rodrigues(tf.reshape(pose, (-1, count, 3)))
        directions = tf.transpose(tf.reshape(self.shapedirs, (-1, self.shapedirs.shape[2])))  # (B, 3 V)
        shaped = tf.reshape(tf.matmul(betas, directions), (-1, *self.v_template.shape)) + self.v_template
        joints = tf.matmul(tf.cast(self.J_regressor, dtype)[None], shaped)
        feature = tf.reshape(matrices[:, 1:] - tf.eye(3, dtype=dtype), (-1, 9 * (count - 1)))
        posed = shaped + tf.reshape(tf.matmul(feature, tf.convert_to_tensor(self.posedirs)), (-1, *shaped.shape[1:]))
        return matrices, joints, posed

    def all_joints(self, places, vertices, transl):
        """Joints (N, J + E, 3)."""
        chosen = tf.gather(vertices, tf.constant(self.vertex_joints, tf.int32), axis=1)
        return tf.concat((places + transl[:, None], chosen), 1)

    def call(self, betas, pose, transl, training=False):
        matrices, joints, posed = self.rest(betas, pose)
        turns, places = self.transforms(matrices, joints)
        vertices = self.skin(posed, turns, places, joints, transl)
        return {"vertices": vertices, "joints": self.all_joints(places, vertices, transl)}


@keras.saving.register_keras_serializable("diptych")
class SMPLD(SMPL):
    """The body with an offset per vertex: clothes and hair.

    Args:
        num_vertices, num_betas, parents, vertex_joints: see :class:`SMPL`.

    Inputs: those of :class:`SMPL`, and ``offsets`` (N, V, 3) in the rest pose.
    Returns: dict: ``"vertices"``, ``"joints"``, and ``"naked"`` (N, V, 3), the vertices without offsets.
    """

    def call(self, betas, pose, transl, offsets, training=False):
        matrices, joints, posed = self.rest(betas, pose)
        turns, places = self.transforms(matrices, joints)
        vertices = self.skin(posed + offsets, turns, places, joints, transl)
        naked = self.skin(posed, turns, places, joints, transl)
        return {"vertices": vertices, "joints": self.all_joints(places, naked, transl), "naked": naked}
