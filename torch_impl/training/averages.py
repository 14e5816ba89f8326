"""Networks whose parameters are moving averages of another network's.

Mirror notes:
- Both lists are in the order in which the layers were made, in both panels.
"""

import torch

__all__ = ["follow"]


@torch.no_grad()
def follow(network, leader, momentum: float) -> None:
    """Parameters = momentum * own + (1 - momentum) * the leader's; running statistics stay unchanged."""
    for own, other in zip(network.parameters(), leader.parameters(), strict=True):  # mirror: order
        own.mul_(momentum).add_((1 - momentum) * other)
