"""Networks that follow another one as a moving average of its parameters.

Mirror notes:
- The two lists are in the order in which layers were made, in both panels.
"""

import torch

__all__ = ["follow"]


@torch.no_grad()
def follow(network, leader, momentum: float) -> None:
    """Parameters = momentum * own + (1 - momentum) * the leader's; running statistics stay as they are."""
    for own, other in zip(network.parameters(), leader.parameters(), strict=True):  # mirror: order
        own.mul_(momentum).add_((1 - momentum) * other)
