"""Fresh models start alike in both panels: the same constants, and random values of the same mean and deviation."""


def test_initial_values_have_the_same_distribution(case, holds):
    holds("initial")
