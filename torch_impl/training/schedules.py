"""Learning rates that follow a table of factors, made by plain functions (``weights.processing.schedules``).

Mirror notes:
- In PyTorch a scheduler changes the optimiser that it is given; in Keras the optimiser is given the schedule.
"""

from torch.optim.lr_scheduler import LambdaLR

from weights.processing.schedules import cosine, warmup_cosine, warmup_multistep

__all__ = ["ScheduledRate", "cosine", "warmup_cosine", "warmup_multistep"]


class ScheduledRate(LambdaLR):
    """A learning rate that follows a table of factors, such as ``[warmup_multistep(t) for t in range(100)]``.

    Args:
        base: the optimiser, whose rates are multiplied.
        factors: one for each step from 0 on; the last one is kept.
    """

    def __init__(self, base, factors):
        super().__init__(base, lambda step: factors[min(step, len(factors) - 1)])  # mirror: a scheduler changes
