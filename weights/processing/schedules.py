"""Learning rates over time, as plain functions of a step or an epoch that return a factor.

Warm-up: michuanhaohao/reid-strong-baseline ``solver/lr_scheduler.py`` (MIT), JDAI-CV/fast-reid
``solver/lr_scheduler.py`` (Apache-2.0).
"""

import math

__all__ = ["cosine", "warmup_cosine", "warmup_multistep"]


def warm_up(t: float, length: float, first: float, form: str) -> float:
    """Factor during the first ``length`` steps: from ``first`` on to 1.

    Args:
        form: "linear", "constant" (``first`` until the end) or "exp".
    """
    if form not in ("linear", "constant", "exp"):
        raise ValueError(f"form={form!r} must be 'linear', 'constant' or 'exp'")
    if t >= length:
        return 1.0
    share = t / length
    return {"linear": first * (1 - share) + share, "constant": first, "exp": first ** (1 - share)}[form]


def warmup_multistep(
    t: float,
    milestones=(40, 70),
    gamma: float = 0.1,
    first: float = 0.01,
    length: float = 10,
    form: str = "linear",
) -> float:
    """Warm-up, and one more power of ``gamma`` from each milestone on (by default those of the strong baseline)."""
    return warm_up(t, length, first, form) * gamma ** sum(milestone <= t for milestone in milestones)


def cosine(t: float, length: float, last: float = 0.0) -> float:
    """Half a cosine from 1 to ``last`` in ``length`` steps, and ``last`` from then on."""
    return last + (1 - last) * (1 + math.cos(math.pi * min(t, length) / length)) / 2


def warmup_cosine(
    t: float,
    length: float,
    delay: float = 0,
    last: float = 0.0,
    warmup: float = 0,
    first: float = 0.1,
    form: str = "linear",
) -> float:
    """Warm-up, 1 until ``delay``, then half a cosine to ``last`` at ``length`` (fast-reid's SBS: 60, 30, 7e-7 / lr)."""
    return warm_up(t, warmup, first, form) * (1.0 if t < delay else cosine(t - delay, length - delay, last))
