"""Losses of generative adversarial networks.

Mirror notes:
- The cross-entropy is written out in both panels: the exporters replace the built-in one by wrong or missing operators.
- A gradient that is differentiated again: an inner tape in TensorFlow, ``create_graph`` in PyTorch.
"""

import tensorflow as tf

__all__ = ["adversarial_loss", "gradient_penalty", "input_gradient", "interpolate", "r1_penalty"]


def adversarial_loss(logits, real: bool, mode: str = "vanilla"):
    """Loss of a discriminator's answer given a label, averaged over all its values.

    Args:
        logits: any shape, before a sigmoid.
        real: the label.
        mode: "vanilla" (cross-entropy, arXiv:1406.2661), "lsgan" (squared distance to 0 or 1, arXiv:1611.04076) or
            "wgan" (the answer itself, negative for real, arXiv:1701.07875).

    Returns:
        Scalar.

    Raises:
        ValueError: if ``mode`` is unknown.
    """
    if mode == "vanilla":
        # mirror: written out
        return tf.reduce_mean(tf.nn.relu(logits) - logits * float(real) + tf.nn.softplus(-tf.abs(logits)))
    if mode == "lsgan":
        return tf.reduce_mean(tf.square(logits - float(real)))
    if mode == "wgan":
        return -tf.reduce_mean(logits) if real else tf.reduce_mean(logits)
    raise ValueError(f"mode={mode!r} must be 'vanilla', 'lsgan' or 'wgan'")


def interpolate(a, b, share):
    """Interpolate between two batches of images: ``share`` a + (1 - ``share``) b, without a gradient.

    Args:
        a, b: (N, H, W, C).
        share: (N,) in [0, 1], one for each image.

    Returns:
        (N, H, W, C)
    """
    share = tf.reshape(share, (-1, *(1,) * (len(a.shape) - 1)))
    return tf.stop_gradient(share * a + (1 - share) * b)


def input_gradient(critic, images):
    """Gradient of the sum of all answers with respect to the images, itself differentiable.

    Args:
        critic: from images to answers of any shape.
        images: (N, H, W, C); constants.

    Returns:
        (N, H, W, C)
    """
    with tf.GradientTape() as tape:  # mirror: differentiated again
        tape.watch(images)
        total = tf.reduce_sum(critic(images))
    return tape.gradient(total, images)


def gradient_penalty(critic, images):
    """Mean squared distance from 1 of the norm of each image's gradient (arXiv:1704.00028, equation 3).

    The norm is over all values of an image, and the root has no epsilon: its own gradient does not exist at 0.

    Args:
        critic, images: see :func:`input_gradient`.

    Returns:
        Scalar.
    """
    gradient = input_gradient(critic, images)
    squares = tf.reduce_sum(tf.square(gradient), list(range(1, len(gradient.shape))))
    return tf.reduce_mean(tf.square(tf.sqrt(squares) - 1))


def r1_penalty(critic, images):
    """Mean squared norm of each image's gradient (arXiv:1801.04406, equation 9, without its factor).

    Args:
        critic, images: see :func:`input_gradient`.

    Returns:
        Scalar.
    """
    gradient = input_gradient(critic, images)
    return tf.reduce_mean(tf.reduce_sum(tf.square(gradient), list(range(1, len(gradient.shape)))))
