from parity_tests.cases.retrieval.image_retrieval import POWER, SIZES, TUPLE, labels, tuple_images
from parity_tests.harness.case import Case

SMALL = {"depths": (1, 1, 2, 1, 1), "widths": (4, 6, 8, 10, 12)}


def descriptor(model: str, bounds=None, **options) -> Case:
    options = {**SMALL, **options}
    return Case(model, tuple_images, labels, options, {"size": TUPLE}, dynamic=SIZES, bounds=bounds or {})


CASES = [descriptor("gem_vgg16", POWER), descriptor("netvlad_vgg16", num_clusters=5)]
