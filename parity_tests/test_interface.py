"""Names, shapes and order of all tensors are equal in both panels."""


def test_tensors_have_the_same_names_shapes_and_order(case, holds):
    assert holds("interface").applies
