"""How fast parts of systems are, against other implementations and between the panels.

``python -m scripts.speed_parts``, with names of groups, these only; those of ``scripts.speed_repositories`` need
``--repositories FOLDER``. speed_parts.json keeps what is found; ``python -m scripts.readme`` tabulates it. torchvision,
effdet, transformers, smplx, facenet-pytorch and pytorch-metric-learning are not among this project's packages: an
environment that has them, and all of those, is needed.
"""

import functools
import json
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np

from scripts import speed_repositories
from scripts.answer import ENGINES
from scripts.files import example, export_files, model_of, twins
from scripts.output import Problem, frameworks, written
from scripts.timing import FEW_RUNS, RUNS, THREADS, Part, Twins, compiled, eager, forward, measured, training_step
from weights import catalog, onnx_file, store

__all__ = ["GROUPS", "SAVED", "main"]

SAVED = Path(__file__).with_suffix(".json")
PACKAGES = (
    *("tensorflow", "torch", "onnxruntime", "faiss-cpu"),
    *("torchvision", "effdet", "transformers", "smplx", "facenet-pytorch", "pytorch-metric-learning"),
)
IMAGE = (800, 1088)


def of_arrays(arrays: Mapping[str, np.ndarray]) -> tuple[list, list]:
    """PyTorch's and TensorFlow's tensors."""
    import tensorflow as tf
    import torch

    return [torch.from_numpy(np.ascontiguousarray(x)) for x in arrays.values()], [
        tf.constant(x) for x in arrays.values()
    ]


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) xyxy within the image, 8 to 400 pixels long."""
    size = np.exp(rng.uniform(np.log(8), np.log(400), (count, 2)))
    first = rng.uniform(0, 1, (count, 2)) * np.maximum(np.array(IMAGE[::-1]) - size, 0)
    return np.concatenate([first, first + size], 1).astype(np.float32)


def operators() -> Iterator[Part]:
    """Those of two-stage detectors: 1,000 proposals, the best 4,096 of 80,000 pairs of box and class, 100 masks."""
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
    rois = {"boxes": random_boxes(rng, 1000), "image": np.zeros(1000, np.int64)}
    in_torch, in_tensorflow = of_arrays({"features": features, **rois})
    tiled = torch.cat([in_torch[2][:, None].float(), in_torch[1]], 1)
    in_tensorflow[0] = tf.constant(features.transpose(0, 2, 3, 1))
    yield Part(
        "RoIAlign, 1,000 boxes of 800x1088",
        eager(lambda *x: torch_impl.layers.roi_align.roi_align(*x, 7, 0.25, 2, False), *in_torch),
        compiled(lambda *x: tf_impl.layers.roi_align.roi_align(*x, 7, 0.25, 2, False), *in_tensorflow),
        eager(lambda x: torchvision.ops.roi_align(x, tiled, 7, 0.25, 2, False), in_torch[0]),
        "torchvision",
    )

    def suppression(panel, rows):
        def suppress(boxes, scores, labels):
            best, index = panel.layers.top_k.top_k(scores, 4096)
            boxes, labels = rows(boxes, index), rows(labels, index)
            return panel.layers.nms.batched_nms(boxes, best, labels, best > 0.05, 0.5, 100)

        return suppress

    pairs = np.repeat(rois["boxes"], 80, 0)[None] + rng.uniform(-4, 4, (1, 80000, 4)).astype(np.float32)
    scores = rng.uniform(0.05, 1, (1, 80000)).astype(np.float32)
    in_torch, in_tensorflow = of_arrays({"boxes": pairs, "scores": scores, "labels": np.arange(80000)[None] % 80})
    yield Part(
        "suppression of 80,000 pairs of box and class, the best 100",
        eager(suppression(torch_impl, lambda x, index: x[torch.zeros_like(index[:, :1]), index]), *in_torch),
        compiled(suppression(tf_impl, lambda x, index: tf.gather(x, index, batch_dims=1)), *in_tensorflow),
        eager(lambda boxes, *x: torchvision.ops.batched_nms(boxes[0], *(y[0] for y in x), 0.5), *in_torch),
        "torchvision",
    )

    proposals = {
        "boxes": random_boxes(rng, 4819)[None],
        "scores": rng.uniform(0, 1, (1, 4819)).astype(np.float32),
        "levels": rng.integers(0, 5, (1, 4819)),
    }
    in_torch, in_tensorflow = of_arrays(proposals)
    yield Part(
        "suppression of 4,819 proposals of five levels, the best 1,000",
        eager(lambda *x: torch_impl.layers.nms.batched_nms(*x, x[1] >= 0, 0.7, 1000), *in_torch),
        compiled(lambda *x: tf_impl.layers.nms.batched_nms(*x, x[1] >= 0, 0.7, 1000), *in_tensorflow),
        eager(lambda *x: torchvision.ops.batched_nms(*(y[0] for y in x), 0.7), *in_torch),
        "torchvision",
    )

    masks = {"masks": rng.uniform(0, 1, (1, 100, 28, 28)).astype(np.float32), "boxes": random_boxes(rng, 100)[None]}
    in_torch, in_tensorflow = of_arrays(masks)
    yield Part(
        "pasting of 100 masks into 800x1088",
        eager(lambda *x: torch_impl.rois.masks.paste_masks(*x, IMAGE, "torchvision"), *in_torch),
        compiled(lambda *x: tf_impl.rois.masks.paste_masks(*x, IMAGE, "torchvision"), *in_tensorflow),
        eager(lambda masks, boxes: paste_masks_in_image(masks[0][:, None], boxes[0], IMAGE), *in_torch),
        "torchvision",
    )


def results(panel, outputs: Mapping, inputs: Mapping):
    """The post-process of outputs."""
    import tf_impl.export
    import torch_impl.export

    package = torch_impl if panel.package == "torch_impl" else tf_impl
    return package.export.apply_postprocess(panel.postprocess, outputs, list(inputs.values()))


def losses(panel, outputs: Mapping, targets: Mapping):
    return panel.criterion(outputs, targets)


def detectors() -> Iterator[Part]:
    """Targets, losses and results of one-stage detectors, from outputs as of a network that has learnt."""
    import torch
    import torchvision.models.detection as reference

    from parity_tests.cases.detection import objects

    for name, first in (
        ("retinanet_resnet50_fpn", 1),
        ("fcos_resnet50_fpn", 1),
        ("yolov5s", 0),
        ("tf_efficientdet_d0", 0),
    ):
        pair = Twins(name, criterion=True)
        height, width = pair.inputs["images"].shape[2:]
        outputs = pair.torch.outputs(pair.inputs)
        rng = np.random.default_rng(0)
        for key, value in outputs.items():  # few places answer, as of a network that has learnt
            if value.dtype == np.float32 and "anchor" not in key:
                outputs[key] = rng.normal(-4 if "cls" in key or "class" in key else 0, 1, value.shape).astype(
                    np.float32
                )
        targets = objects(height, width, 80, most=20, first=first)(rng, 1)
        targets = {key: x.astype(np.float32) if x.dtype == np.float64 else x for key, x in targets.items()}
        others: dict[str, dict] = {"losses": {}, "results": {}}
        if first:
            theirs = getattr(reference, name)(weights=None, weights_backbone=None).eval()
            tensors = pair.torch.tensors(outputs)
            levels = [tensors[key] for key in tensors if key.startswith("anchors_")]
            sizes = [len(level) for level in levels]
            heads = {key: tensors[key] for key in ("cls_logits", "bbox_regression", "bbox_ctrness") if key in tensors}
            split = {key: list(x.split(sizes, 1)) for key, x in heads.items()}
            truth = {key: x[0][targets["valid"][0]] for key, x in pair.torch.tensors(targets).items()}
            given = [[truth], heads, [torch.cat(levels)], *([sizes] if "bbox_ctrness" in heads else [])]
            calls = {
                "losses": eager(theirs.compute_loss, *given),
                "results": eager(theirs.postprocess_detections, split, [levels], [(height, width)]),
            }
            others = {key: {"other": call, "package": "torchvision"} for key, call in calls.items()}
        yield pair.part(f"{name}: targets and losses of 20 objects", losses, outputs, targets, **others["losses"])
        yield pair.part(f"{name}: results", results, outputs, pair.inputs, **others["results"])


def networks() -> Iterator[Part]:
    """Whole networks of detectors that other packages than torchvision have."""
    import effdet
    import transformers

    pair = Twins("tf_efficientdet_d0")
    theirs = effdet.create_model("tf_efficientdet_d0", pretrained_backbone=False).eval()
    (images,) = pair.torch.tensors(pair.inputs).values()
    yield pair.part("tf_efficientdet_d0: network", forward, pair.inputs, other=eager(theirs, images), package="effdet")

    pair = Twins("detr_resnet50")
    backbone = transformers.ResNetConfig(out_features=["stage4"])
    config = transformers.DetrConfig(use_timm_backbone=False, use_pretrained_backbone=False, backbone_config=backbone)
    theirs = transformers.DetrForObjectDetection(config).eval()
    images, padding = pair.torch.tensors(pair.inputs).values()
    other = eager(theirs, images, ~padding.bool())
    yield pair.part("detr_resnet50: network", forward, pair.inputs, other=other, package="transformers")


def segmenters() -> Iterator[Part]:
    """Where the time of instance segmenters goes: the whole, its backbone, its results."""
    for name in ("yolact_resnet50", "solov2_r50_fpn", "condinst_r50_fpn"):
        pair = Twins(name)
        pair.inputs = {"images": pair.inputs["images"][..., :1088]}
        outputs = pair.torch.outputs(pair.inputs)
        size = "x".join(map(str, pair.inputs["images"].shape[2:]))
        yield pair.part(f"{name} at {size}: network", forward, pair.inputs)
        yield pair.part(
            f"{name}: its backbone", lambda panel, inputs: panel.model.backbone(*inputs.values()), pair.inputs
        )
        yield pair.part(f"{name}: its results", results, outputs, pair.inputs)


def steps() -> Iterator[Part]:
    """Whole training steps at published sizes, batch 1: every player, penalties of second order among them."""
    for name, options, trainer in (
        *((name, {}, {}) for name in ("pix2pix", "cyclegan", "stargan_128", "srgan", "srgan_wgan_gp", "esrgan")),
        ("pggan", {"size": 256}, {}),
        ("stylegan", {"size": 256}, {}),
        ("stylegan2_256", {}, {"every": (1, 1)}),  # by default, most steps have no penalties
    ):
        size = " at 256x256" if options else ""
        penalties = " with both penalties" if trainer else ""
        yield Part(f"{name}{size}: a training step{penalties}", *training_step(name, options, trainer), runs=FEW_RUNS)


def generators() -> Iterator[Part]:
    """Generators, also as both panels' ONNX files in ONNX Runtime."""
    for name in ("srresnet_x4", "rrdbnet_x4", "unet_256", "cyclegan_resnet_9blocks", "stylegan2_generator_256"):
        pair = Twins(name)
        inputs, _, dynamic = example(pair.entry)
        with tempfile.TemporaryDirectory() as folder:
            panels = {"tensorflow": pair.tensorflow, "torch": pair.torch}
            paths = export_files(panels, Path(folder), inputs, None, dynamic).values()
            sessions = [onnx_file.session(path, threads=THREADS, spinning=False) for path in paths]
        calls = (functools.partial(onnx_file.run, session, pair.inputs) for session in sessions)
        files = dict(zip(ENGINES[2:], calls, strict=True))
        yield pair.part(f"{name}: an image", forward, pair.inputs, files=files)


def trackers() -> Iterator[Part]:
    """A frame of 400x600: what a loop takes from frame to frame, network included."""
    from skimage import data

    from scripts.tracks import SINGLE, made

    frames = [np.roll(data.coffee(), 3 * i, 1) for i in range(2)]
    for name in (
        *(
            "siamfc_alexnet_v1",
            "siamrpn_alex_dwxcorr",
            "siamrpn_r50_l234_dwxcorr",
            "siammask_sharp",
            "siamfcpp_alexnet",
        ),
        *("siamfcpp_googlenet", "dimp18", "dimp50", "fairmot_dla34", "centertrack_mot17"),
    ):
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "weights.safetensors"
            state = twins(model_of(name), "seeded", ("torch",))[0]["torch"].state()
            first = next(key for key, value in state.items() if value.ndim == 4)
            for key, value in state.items():  # answers that are no exponentials of large numbers
                share = 1 / 255 if key == first else 0.05 if "loc.head.3.weight" in key or "offsets" in key else 1
                state[key] = (value * share).astype(value.dtype)
            store.save(weights, state, {})
            loops, _ = made(model_of(name), str(weights), Path(folder), {}, None, frames[0])
            functions = []
            for engine in (ENGINES[1], ENGINES[0]):
                if name in SINGLE:
                    loops[engine].start(frames[0], (200, 150, 90, 80))
                functions.append(functools.partial(loops[engine].step, frames[1]))
            yield Part(f"{name}: a frame of 400x600, the whole loop", *functions)


def faces() -> Iterator[Part]:
    """MTCNN's whole cascade, and SMPL's body of 6,890 vertices."""
    import facenet_pytorch
    import smplx.lbs
    import torch
    from PIL import Image
    from skimage import data

    from scripts.cascade import NETWORKS
    from weights.processing.face.mtcnn import detect_faces

    picture = Image.fromarray(data.astronaut()).resize((720, 720))
    pixels = np.asarray(picture)
    networks = [Twins(name) for name in NETWORKS]
    theirs = facenet_pytorch.MTCNN(keep_all=True)
    import tensorflow as tf

    def network(pair, panel):
        if panel is pair.torch:
            return lambda images: panel.outputs({"images": images})
        graph = tf.function(lambda images: panel.call(images, training=False), autograph=False, reduce_retracing=True)
        return lambda images: panel.arrays(panel.named(graph(*panel.tensors({"images": images}).values())))

    for pair in networks:
        state = getattr(theirs, pair.entry.name.removeprefix("mtcnn_")).state_dict()
        for panel in (pair.torch, pair.tensorflow):
            panel.load({key: value.numpy() for key, value in state.items()}, strict=False)
    of_torch, of_tensorflow = (
        [network(pair, getattr(pair, name)) for pair in networks] for name in ("torch", "tensorflow")
    )
    yield Part(
        "MTCNN: the faces of a picture of 720x720",
        lambda: detect_faces(pixels, *of_torch),
        lambda: detect_faces(pixels, *of_tensorflow),
        lambda: theirs.detect(picture),
        "facenet-pytorch",
    )

    pair, rng = Twins("smpl"), np.random.default_rng(0)
    inputs = {"betas": (64, 10), "pose": (64, 72), "transl": (64, 3)}
    inputs = {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in inputs.items()}
    body, (betas, pose, _) = pair.torch.model, pair.torch.tensors(inputs).values()
    arrays = (
        body.v_template,
        body.shapedirs,
        body.posedirs,
        body.J_regressor,
        torch.tensor(body.parents),
        body.lbs_weights,
    )
    yield pair.part(
        "SMPL: 64 bodies of 6,890 vertices",
        forward,
        inputs,
        other=eager(smplx.lbs.lbs, betas, pose, *arrays),
        package="smplx",
    )


def metric() -> Iterator[Part]:
    """Losses of 256 embeddings of 64 classes, with their gradients; cross-batch memory of 2,048: times and memory."""
    import pytorch_metric_learning.losses as reference
    import tensorflow as tf
    import torch

    from parity_tests.harness.panels import PyTorch, TensorFlow

    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((256, 128)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    labels = np.arange(256) // 4
    classes = {"num_classes": 2048, "embedding_size": 128}
    for name, options, theirs in (
        ("contrastive_pairs", {}, reference.ContrastiveLoss()),
        ("multi_similarity", {}, reference.MultiSimilarityLoss()),
        ("circle", {}, reference.CircleLoss()),
        ("lifted", {}, reference.LiftedStructureLoss()),
        ("sup_con", {}, reference.SupConLoss()),
        ("arcface", classes, reference.ArcFaceLoss(**classes)),
        ("cosface", classes, reference.CosFaceLoss(**classes)),
        (
            "cross_batch_memory",
            {"memory_size": 2048, "embedding_size": 128},
            reference.CrossBatchMemory(reference.ContrastiveLoss(), 128, 2048),
        ),
    ):
        ours = {Panel: Panel(catalog.get(name), options, precision="float32") for Panel in (PyTorch, TensorFlow)}
        given = {Panel: panel.tensors({"labels": labels}) for Panel, panel in ours.items()}
        rows = torch.from_numpy(embeddings).requires_grad_()
        values = tf.Variable(embeddings)

        def in_torch(criterion=ours[PyTorch].criterion, targets=given[PyTorch], rows=rows):
            total = criterion({"embeddings": rows}, targets)["total"]
            return torch.autograd.grad(total, rows)

        @tf.function(autograph=False)
        def in_tensorflow(criterion=ours[TensorFlow].criterion, targets=given[TensorFlow], values=values):
            with tf.GradientTape() as tape:
                total = criterion({"embeddings": values}, targets)["total"]
            return tape.gradient(total, values)

        def in_package(theirs=theirs, targets=given[PyTorch], rows=rows):
            return torch.autograd.grad(theirs(rows, targets["labels"]), rows)

        many = "2,048 remembered" if "memory" in name else "2,048 classes" if options else "256"
        yield Part(
            f"{name}: 256 embeddings against {many}, loss and gradient",
            in_torch,
            in_tensorflow,
            in_package,
            "pytorch-metric-learning",
            matrix=4 * 256 * (2048 if options else 256),
        )


def retrieval() -> Iterator[Part]:
    """What the host computes: re-ranking, and faiss's indexes against its exact search."""
    from weights.processing.retrieval.index import faiss_index
    from weights.processing.retrieval.reranking import rerank

    rng = np.random.default_rng(0)
    middles = rng.standard_normal((200, 128))
    rows = (middles[rng.integers(0, 200, 22000)] + 0.7 * rng.standard_normal((22000, 128))).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    database, queries = rows[2000:], rows[:1000]

    def distances(x, y):
        return np.sqrt(np.maximum(2 - 2 * x @ y.T, 0))

    gallery = rows[1000:2000]
    given = distances(queries, gallery), distances(queries, queries), distances(gallery, gallery)
    yield Part("re-ranking of 1,000 by 1,000", lambda: rerank(*given))
    exact = faiss_index(database)
    truth = exact.search(queries, 10)[1]
    for kind in ("ivf", "pq", "ivfpq", "hnsw"):
        index = faiss_index(database, kind)
        if kind.startswith("ivf"):
            index.nprobe = 8
        found = index.search(queries, 10)[1]
        recall = np.mean([len(set(a) & set(b)) for a, b in zip(found, truth, strict=True)]) / 10
        yield Part(
            f"faiss {kind}, 1,000 queries of 20,000 rows, {recall:.2f} of the ten nearest",
            lambda index=index: index.search(queries, 10),
            other=lambda: exact.search(queries, 10),
            package="exact search",
        )


GROUPS = (operators, detectors, networks, segmenters, steps, generators, trackers, faces, metric, retrieval)


@click.command()
@click.argument("names", nargs=-1, metavar="[GROUP]...")
@click.option("--repositories", type=click.Path(path_type=Path), help="Folder of clones.")
def main(names: tuple[str, ...], repositories: Path | None) -> None:
    """Time parts of systems, by default all groups, those of repositories with the option."""
    published = {group.__name__: functools.partial(group, repositories) for group in speed_repositories.GROUPS}
    groups = {group.__name__: group for group in GROUPS} | published
    unknown = [name for name in names if name not in groups]
    if unknown:
        raise Problem(f"there is no group {', '.join(unknown)}; one of {', '.join(groups)} was expected")
    names = names or tuple(name for name in groups if repositories or name not in published)
    asked = [name for name in names if name in published]
    lacking = [
        f"github.com/{name}"
        for name in speed_repositories.REPOSITORIES
        if repositories is None or not (repositories / Path(name).name).is_dir()
    ]
    if asked and lacking:
        raise Problem(
            f"{', '.join(asked)}: no clones of {', '.join(lacking)}; "
            "make them in one folder, and name it with --repositories FOLDER"
        )
    frameworks(THREADS)
    saved = json.loads(SAVED.read_text(encoding="utf-8")) if SAVED.exists() else {"groups": {}}
    for name in names:
        saved["groups"][name] = []
        for part in groups[name]():
            saved["groups"][name].append(measured(part))
            print(json.dumps(saved["groups"][name][-1]), flush=True)
    versions = {package: version(package) for package in PACKAGES}
    saved |= {"versions": versions, "threads": THREADS, "runs": RUNS, "few_runs": FEW_RUNS}
    saved["groups"] = {name: saved["groups"][name] for name in groups if name in saved["groups"]}
    with written(SAVED) as temporary:
        temporary.write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
