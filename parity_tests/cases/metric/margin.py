from parity_tests.cases.metric import labels, loss


def sampled(rng, batch):
    found = labels(rng, batch)
    return {**found, "uniform": rng.random((len(found["labels"]), 1))}


CASES = [
    loss("margin_loss"),
    loss("margin_loss", "learned", num_classes=4, nu=0.1),
    loss("margin_loss", "sampled", sampled, num_classes=4, samples_per_class=2),
    loss("margin_loss", "triplets", sampled, samples_per_class=2, form="triplet"),
]
