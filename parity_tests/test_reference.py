"""Both panels give the numbers of the third-party implementation under the same seeded weights."""


def test_reference_agrees(case, proof, holds):
    assert holds("reference").applies == bool(proof.case.references)
