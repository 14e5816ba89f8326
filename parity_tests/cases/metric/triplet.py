from parity_tests.cases.metric import loss

CASES = [
    loss("triplet_hard"),
    loss("triplet_hard", "soft", soft=True, margin=0.0, normalize=True),
    loss("triplet_facenet"),
    loss("triplet_all"),
    loss("triplet_all", "semihard", mining="semihard_all", normalize=True, reduction="mean"),
    loss("triplet_all", "swap", swap=True, soft=True, squared=True),
    loss("triplet_weighted"),
]
