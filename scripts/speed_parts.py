"""How fast parts of detectors are compared with torchvision's, as JSON: ``python -m scripts.speed_parts``.

torchvision is not among this project's packages; it needs an environment with both.
"""

import json
from collections.abc import Callable
from importlib.metadata import version

import numpy as np

from scripts.bench import ratio, spread, timed
from scripts.output import frameworks

THREADS, RUNS = 2, 20
IMAGE, PROPOSALS, CLASSES, MASKS = (800, 1088), 1000, 80, 100
CANDIDATES, KEPT = 4096, 100  # of the pairs of box and class


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) xyxy within the image, 8 to 400 pixels long."""
    size = np.exp(rng.uniform(np.log(8), np.log(400), (count, 2)))
    first = rng.uniform(0, 1, (count, 2)) * np.maximum(np.array(IMAGE[::-1]) - size, 0)
    return np.concatenate([first, first + size], 1).astype(np.float32)


def parts() -> dict[str, dict[str, Callable]]:
    """What is timed -> PyTorch's panel, torchvision, the TensorFlow panel as a compiled function."""
    import tensorflow as tf
    import torch
    import torchvision
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    import tf_impl.layers.nms
    import tf_impl.layers.roi_align
    import tf_impl.layers.top_k
    import tf_impl.rois.masks
    import torch_impl.layers.nms
    import torch_impl.layers.roi_align
    import torch_impl.layers.top_k
    import torch_impl.rois.masks

    rng = np.random.default_rng(0)
    features = rng.standard_normal((1, 256, IMAGE[0] // 4, IMAGE[1] // 4)).astype(np.float32)
    rois, image = boxes(rng, PROPOSALS), np.zeros(PROPOSALS, np.int64)
    pairs = np.repeat(rois, CLASSES, 0)[None] + rng.uniform(-4, 4, (1, PROPOSALS * CLASSES, 4)).astype(np.float32)
    scores = rng.uniform(0.05, 1, (1, PROPOSALS * CLASSES)).astype(np.float32)
    labels = np.tile(np.arange(CLASSES), PROPOSALS)[None]
    masks, own = rng.uniform(0, 1, (1, MASKS, 28, 28)).astype(np.float32), boxes(rng, MASKS)[None]

    def ours(panel, rows):
        def suppress(boxes, scores, labels):
            best, index = panel.layers.top_k.top_k(scores, CANDIDATES)
            boxes, labels = rows(boxes, index), rows(labels, index)
            return panel.layers.nms.batched_nms(boxes, best, labels, best > 0.05, 0.5, KEPT)

        align = panel.layers.roi_align.roi_align
        order = (0, 2, 3, 1) if panel is tf_impl else (0, 1, 2, 3)
        return {
            "RoIAlign": (lambda *x: align(*x, 7, 0.25, 2, False), [features.transpose(order), rois, image]),
            "suppression": (suppress, [pairs, scores, labels]),
            "pasting": (lambda *x: panel.rois.masks.paste_masks(*x, IMAGE, "torchvision"), [masks, own]),
        }

    theirs = {
        "RoIAlign": lambda x, rois, image: torchvision.ops.roi_align(
            x, torch.cat([image[:, None].float(), rois], 1), 7, 0.25, 2, False
        ),
        "suppression": lambda boxes, scores, labels: torchvision.ops.batched_nms(boxes[0], scores[0], labels[0], 0.5),
        "pasting": lambda masks, boxes: paste_masks_in_image(masks[0][:, None], boxes[0], IMAGE),
    }

    def pytorch_rows(values, index):
        return values[torch.arange(len(values))[:, None], index]

    def eager(function, arrays):
        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]

        def run():
            with torch.inference_mode():
                return function(*tensors)

        return run

    def compiled(function, arrays):
        tensors, function = [tf.constant(array) for array in arrays], tf.function(function, autograph=False)
        return lambda: function(*tensors)

    in_torch = ours(torch_impl, pytorch_rows)
    in_tensorflow = ours(tf_impl, lambda values, index: tf.gather(values, index, batch_dims=1))
    return {
        name: {
            "PyTorch": eager(*in_torch[name]),
            "torchvision": eager(theirs[name], in_torch[name][1]),
            "TensorFlow": compiled(*in_tensorflow[name]),
        }
        for name in theirs
    }


if __name__ == "__main__":
    frameworks(THREADS)
    found = {}
    for part, functions in parts().items():
        times = timed(functions, RUNS)
        found[part] = {name: spread(values) for name, values in times.items()}
        found[part]["PyTorch / torchvision"] = ratio(times["PyTorch"], times["torchvision"])
        found[part]["TensorFlow / PyTorch"] = ratio(times["TensorFlow"], times["PyTorch"])
    versions = {package: version(package) for package in ("tensorflow", "torch", "torchvision")}
    print(json.dumps({"versions": versions, "threads": THREADS, "runs": RUNS, "parts": found}, indent=2))
