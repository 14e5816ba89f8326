"""Losses of generative adversarial networks.

Mirror notes:
- The cross-entropy is written out in both panels: the exporters replace the built-in one by wrong or missing operators.
- A gradient that is differentiated again: an inner tape in TensorFlow, ``create_graph`` in PyTorch.
"""

import torch
import torch.nn.functional as F

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
        return (F.relu(logits) - logits * float(real) + F.softplus(-logits.abs())).mean()  # mirror: written out
    if mode == "lsgan":
        return (logits - float(real)).square().mean()
    if mode == "wgan":
        return -logits.mean() if real else logits.mean()
    raise ValueError(f"mode={mode!r} must be 'vanilla', 'lsgan' or 'wgan'")


def interpolate(a, b, share):
    """Interpolate between two batches of images: ``share`` a + (1 - ``share``) b, without a gradient.

    Args:
        a, b: (N, C, H, W).
        share: (N,) in [0, 1], one for each image.

    Returns:
        (N, C, H, W)
    """
    share = share.reshape(-1, *(1,) * (a.ndim - 1))
    return (share * a + (1 - share) * b).detach()


def input_gradient(critic, images):
    """Gradient of the sum of all answers with respect to the images, itself differentiable.

    Args:
        critic: from images to answers of any shape.
        images: (N, C, H, W); constants.

    Returns:
        (N, C, H, W)
    """
    images = images.detach().requires_grad_()
    return torch.autograd.grad(critic(images).sum(), images, create_graph=True)[0]  # mirror: differentiated again


def gradient_penalty(critic, images):
    """Mean squared distance from 1 of the norm of each image's gradient (arXiv:1704.00028, equation 3).

    The norm is over all values of an image, and the root has no epsilon: its own gradient does not exist at 0.

    Args:
        critic, images: see :func:`input_gradient`.

    Returns:
        Scalar.
    """
    gradient = input_gradient(critic, images)
    return (gradient.square().flatten(1).sum(1).sqrt() - 1).square().mean()


def r1_penalty(critic, images):
    """Mean squared norm of each image's gradient (arXiv:1801.04406, equation 9, without its factor).

    Args:
        critic, images: see :func:`input_gradient`.

    Returns:
        Scalar.
    """
    gradient = input_gradient(critic, images)
    return gradient.square().flatten(1).sum(1).mean()
