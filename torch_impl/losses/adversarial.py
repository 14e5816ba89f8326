"""Losses of generative adversarial networks.

Mirror notes:
- The cross-entropy is written out in both panels: the exporters turn the built-in one into wrong or missing operators.
"""

import torch.nn.functional as F

__all__ = ["adversarial_loss"]


def adversarial_loss(logits, real: bool, mode: str = "vanilla"):
    """How far a discriminator's answer is from a label, as the mean over all its values.

    Args:
        logits: any shape, before a sigmoid.
        real: the label.
        mode: "vanilla" (cross-entropy, arXiv:1406.2661), "lsgan" (squared distance to 0 or 1, arXiv:1611.04076) or
            "wgan" (the answer itself, negative for real, arXiv:1701.07875).

    Returns:
        Scalar.

    Raises:
        ValueError: if there is no such mode.
    """
    if mode == "vanilla":
        return (F.relu(logits) - logits * float(real) + F.softplus(-logits.abs())).mean()  # mirror: written out
    if mode == "lsgan":
        return (logits - float(real)).square().mean()
    if mode == "wgan":
        return -logits.mean() if real else logits.mean()
    raise ValueError(f"mode={mode!r} must be 'vanilla', 'lsgan' or 'wgan'")
