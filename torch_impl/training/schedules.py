"""Learning rates that follow a table of factors, which plain functions make (``weights.processing.schedules``).

Mirror notes:
- A scheduler is given the optimiser in PyTorch, and changes it; an optimiser is given the schedule in Keras.
"""

from torch.optim.lr_scheduler import LambdaLR

from weights.processing.schedules import cosine, warmup_cosine, warmup_multistep

__all__ = ["ScheduledRate", "cosine", "warmup_cosine", "warmup_multistep"]


class ScheduledRate(LambdaLR):
    """A learning rate that follows a table of factors, such as ``[warmup_multistep(t) for t in range(100)]``.

    Args:
        base: the optimiser, whose rates are multiplied.
        factors: one for each step from 0 on; the last one stays.
    """

    def __init__(self, base, factors):
        super().__init__(base, lambda step: factors[min(step, len(factors) - 1)])  # mirror: is given the optimiser
