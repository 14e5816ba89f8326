"""Cases of VGG."""

from parity_tests.harness.case import SAME_GRAPH, Case, images, labels

SMALL = {"widths": (4, 6, 8, 10, 12), "hidden": 16, "bins": 2, "num_classes": 10, "dropout": 0.0}


def vgg(model: str, variant: str = "", without=None, **options) -> Case:
    options = {**SMALL, **options}
    return Case(model, images(65, 97), labels(10), options, variant=variant, without=without or {})


CASES = [
    vgg("vgg11"),
    vgg("vgg11_bn"),
    vgg("vgg13", without=SAME_GRAPH),
    vgg("vgg13_bn", without=SAME_GRAPH),
    vgg("vgg16", without=SAME_GRAPH),
    vgg("vgg16_bn", "frozen", SAME_GRAPH, frozen_stages=2),
    vgg("vgg19", without=SAME_GRAPH),
    vgg("vgg19_bn", without=SAME_GRAPH),
]
