"""Learning rates that follow a table of factors, made by plain functions (``weights.processing.schedules``).

Mirror notes:
- In PyTorch a scheduler changes the optimiser that it is given; in Keras the optimiser is given the schedule.
"""

import keras
import tensorflow as tf

from weights.processing.schedules import cosine, warmup_cosine, warmup_multistep

__all__ = ["ScheduledRate", "cosine", "warmup_cosine", "warmup_multistep"]


@keras.saving.register_keras_serializable("diptych")
class ScheduledRate(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that follows a table of factors, such as ``[warmup_multistep(t) for t in range(100)]``.

    Args:
        base: the rate that is multiplied.
        factors: one for each step from 0 on; the last one is kept.
    """

    def __init__(self, base, factors):
        self.base, self.factors = base, [float(factor) for factor in factors]

    def __call__(self, step):  # mirror: a scheduler changes
        index = tf.minimum(tf.cast(step, tf.int64), len(self.factors) - 1)
        return self.base * tf.gather(tf.constant(self.factors), index)

    def get_config(self):
        return {"base": self.base, "factors": self.factors}
