"""``diptych predict``: the answers of four engines, TensorFlow, PyTorch and both ONNX files, in one table."""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scripts.files import asked, example, export_files, model_of, twins
from scripts.output import Problem, frameworks, print_json, table
from weights import catalog, onnx_file

__all__ = ["ENGINES", "agreement", "ask", "engines", "predict"]

ENGINES = ("TensorFlow", "PyTorch", "TensorFlow's ONNX", "PyTorch's ONNX")
TOLERANCE = 1e-4  # relative L2 between engines, in float32; the parity suite measures finer
RUNS = 5
CELL = 32  # pixels
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "channels": "RGB"}
TANH = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "channels": "RGB"}
# what a model is given whose catalogue entry has no checkpoint to say it
PREPROCESSING = {"classification": IMAGENET, "detection": IMAGENET, "segmentation": IMAGENET, "gan": TANH}

Arrays = dict[str, np.ndarray]


@dataclass
class Question:
    """The input of a model, made from what a user gave, and how its outputs are read.

    ``read`` takes outputs, and what the post-process makes of them, and returns one answer per row of the table: "row",
    "text" and the numbers behind it. ``draw`` makes a picture of what all engines' post-processes found.
    """

    feed: Arrays
    read: Callable[[Arrays, Arrays], list[dict]]
    draw: Callable[[dict[str, Arrays]], object] | None = None


def _probabilities(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True), dtype=np.float64)
    return powers / powers.sum(-1, keepdims=True)


def _pictures(model: catalog.Model, entry, inputs: Sequence[str], top: int) -> Question:
    """Classification: the most probable classes of each picture."""
    from weights.processing.images import PictureError, image_input

    (name,) = model.inputs
    pictures = [image_input(path, entry.preprocessing) for path in inputs]
    if len({picture.shape for picture in pictures}) > 1:
        raise PictureError("the pictures have several sizes, and this checkpoint takes them as they are; give one")
    classes = Path(catalog.__file__).parent.parent / "classes" / f"{(entry.classes or '').removesuffix('.txt')}.txt"
    labels = classes.read_text(encoding="utf-8").splitlines() if classes.is_file() else []

    def read(outputs, results=None):
        answers = []
        for path, p in zip(inputs, _probabilities(outputs[next(iter(model.outputs))]), strict=True):
            for rank, k in enumerate(np.argsort(-p, kind="stable")[:top], start=1):
                label = labels[k] if len(labels) == len(p) else f"class {k}"  # a head of another width has others
                row = f"{Path(path).name} {rank}."
                text = f"{label} {p[k]:.2%}"
                answers.append({"row": row, "text": text, "class": int(k), "label": label, "probability": float(p[k])})
        return answers

    return Question({name: np.concatenate(pictures)}, read)


def _names(entry, count: int) -> list[str]:
    """Names of classes; numbers where the checkpoint has no list of that length."""
    classes = Path(catalog.__file__).parent.parent / "classes" / f"{(entry.classes or '').removesuffix('.txt')}.txt"
    names = classes.read_text(encoding="utf-8").splitlines() if classes.is_file() else []
    return names if len(names) == count else [f"class {k}" for k in range(count)]


def _class_maps(model: catalog.Model, entry, inputs: Sequence[str], top: int) -> Question:
    """Segmentation: the share of the classes in the picture."""
    from scripts import draw
    from weights.processing.images import image_input, open_picture

    (path,) = inputs
    (name,) = model.inputs
    labels = _names(entry, model.outputs["logits"].shape[1])

    def read(outputs, results=None):
        counts = np.bincount(results["labels"][0].ravel(), minlength=len(labels))
        share = counts / counts.sum()
        return [
            {"row": labels[k], "text": f"{share[k]:.2%}", "class": int(k), "share": float(share[k])}
            for k in range(len(labels))
        ]

    def drawn(results):
        picture = open_picture(path)
        maps = {engine: draw.class_map(picture, found["labels"][0]) for engine, found in results.items()}
        shown = sorted({int(k) for found in results.values() for k in np.unique(found["labels"][0])})
        size = next(iter(maps.values())).size
        legend = {labels[k]: draw.colour(k) for k in shown}
        return draw.side_by_side({"input": picture.convert("RGB").resize(size), **maps}, legend)

    return Question({name: image_input(path, entry.preprocessing)}, read, drawn)


def _translations(model: catalog.Model, entry, inputs: Sequence[str], top: int) -> Question:
    """Image to image: mean and range of what comes out; the picture is what one looks at."""
    from PIL import Image

    from scripts import draw
    from weights.processing.images import image_input, open_picture

    (path,) = inputs
    (name,) = model.inputs

    def read(outputs, results=None):
        image = results["images"][0]
        text = f"{image.mean():.2f} in [{image.min():.2f}, {image.max():.2f}]"
        return [{"row": Path(path).name, "text": text, "mean": float(image.mean()), "shape": list(image.shape)}]

    def drawn(results):
        pictures = {"input": open_picture(path).convert("RGB")}
        for engine, found in results.items():
            values = np.clip(np.round(found["images"][0]), 0, 255).astype(np.uint8).transpose(1, 2, 0)
            pictures[engine] = Image.fromarray(values.squeeze())
        return draw.side_by_side(pictures)

    return Question({name: image_input(path, entry.preprocessing)}, read, drawn)


def _detections(model: catalog.Model, entry, inputs: Sequence[str], top: int) -> Question:
    """Detection and instances: boxes, classes and scores, best first; masks, where there are any, in the picture."""
    from scripts import draw
    from weights.processing.images import image_input, open_picture

    (path,) = inputs
    (name,) = model.inputs
    image = image_input(path, entry.preprocessing)
    height, width = image.shape[2:]
    if model.family == "segmentation":  # the pyramids of instances want whole cells
        image = np.pad(image, ((0, 0), (0, 0), (0, -height % CELL), (0, -width % CELL)))

    def found_in(results):
        kept = np.flatnonzero(results["valid"][0])
        classes = 1 + int(results["labels"].max(initial=0))
        labels = _names(entry, 91 if entry.classes == "coco91" else classes)
        return [
            {
                "box": [float(value) for value in results["boxes"][0, i]],
                "class": int(results["labels"][0, i]),
                "score": float(results["scores"][0, i]),
                "text": f"{labels[int(results['labels'][0, i])]} {results['scores'][0, i]:.0%}",
            }
            for i in kept[:top]
        ]

    def read(outputs, results=None):
        rows = [
            {"row": f"{i}.", **item, "text": f"{item['text']} {[round(value, 1) for value in item['box']]}"}
            for i, item in enumerate(found_in(results), start=1)
        ]
        return rows + [{"row": f"{i}.", "text": "nothing"} for i in range(len(rows) + 1, top + 1)]

    def drawn(results):
        picture = open_picture(path).convert("RGB").resize((width, height))
        pictures = {}
        for engine, found in results.items():
            items = found_in(found)
            masks = found["masks"][0, : len(items), :height, :width] if "masks" in found else []
            pictures[engine] = draw.boxes(draw.regions(picture, masks), items)
        return draw.side_by_side(pictures)

    return Question({name: image}, read, drawn)


def _lines(model: catalog.Model, entry, inputs: Sequence[str], top: int) -> Question:
    """OCR: the text of each picture of a line."""
    from weights.processing import decoding, ocr

    ((name, tensor),) = model.inputs.items()
    height = tensor.shape[2]
    widest = max(ocr.line_input(path, height).shape[3] for path in inputs)
    images = np.concatenate([ocr.line_input(path, height, widest) for path in inputs])
    letters = ocr.characters(entry.classes)

    def read(outputs, results=None):
        answers = []
        for i, path in enumerate(inputs):
            log_p = decoding.log_softmax(outputs[next(iter(model.outputs))][:, i])
            labels = decoding.greedy(log_p)
            text, p = ocr.decode_text(labels, letters), float(np.exp(decoding.log_probability(log_p, labels)))
            answers.append({"row": Path(path).name, "text": f"{text!r} {p:.2%}", "read": text, "probability": p})
        return answers

    return Question({name: images}, read)


def _sentences(model: catalog.Model, entry, inputs: Sequence[str], top: int) -> Question:
    """Sentence encoders: the cosine of every two sentences."""
    from weights.checkpoints import package_file
    from weights.processing.text import sentence_input

    if len(inputs) < 2:
        raise Problem(f"{model.name} compares sentences, and {len(inputs)} was given; give two or more")
    feed = sentence_input(package_file(entry.package, entry.tokenizer), list(inputs))

    def read(outputs, results=None):
        vectors = outputs["embedding"] / np.linalg.norm(outputs["embedding"], axis=1, keepdims=True)
        cosines = vectors @ vectors.T
        return [
            {"row": f"{inputs[i]} | {inputs[j]}", "text": f"{cosines[i, j]:.4f}", "cosine": float(cosines[i, j])}
            for i in range(len(inputs))
            for j in range(i + 1, len(inputs))
        ]

    return Question({name: feed[name] for name in model.inputs}, read)


def _words(model: catalog.Model, entry, inputs: Sequence[str], top: int) -> Question:
    """Taggers of characters: the words of each text and what kinds of words they are."""
    from weights.checkpoints import package_file
    from weights.processing import lac
    from weights.processing.word_segmentation import viterbi

    path = package_file(entry.package, entry.tokenizer)
    length, count = model.outputs["emissions"].shape[1:]
    lexicon = lac.open_lexicon(path, model.inputs["input_ids"].high)
    tags = {number: tag for tag, number in lac.open_lexicon(path.with_name("tag.dic"), count).items()}
    texts = [text.strip() for text in inputs]
    feed = lac.character_input(lexicon, texts, length)

    def read(outputs, results=None):
        answers = []
        start, end, between = (outputs[f"{name}transitions"] for name in ("start_", "end_", ""))
        for text, emissions in zip(texts, outputs["emissions"], strict=True):
            numbers, score = viterbi(emissions[: len(text)], start, end, between)
            words = lac.tagged_words(text, [tags[number] for number in numbers.tolist()])
            shown = " ".join(f"{word}/{kind}" for word, kind in words)
            answers.append({"row": text, "text": shown, "words": words, "score": score})
        return answers

    return Question({name: feed[name] for name in model.inputs}, read)


def _question(model: catalog.Model) -> Callable | None:
    """How a model is asked, from its family and its outputs; None if it cannot be."""
    if model.family == "classification" and len(model.outputs) == 1:
        return _pictures
    if len(model.inputs) == 1 and model.postprocess:
        kinds = {"labels": _class_maps, "images": _translations, "boxes": _detections}
        found = {"detection": "boxes", "segmentation": "labels", "gan": "images"}.get(model.family)
        if model.family == "segmentation" and "logits" not in model.outputs:
            found = "boxes"
        if found:
            return kinds[found]
    if model.family == "ocr" and len(model.inputs) == 1:
        return _lines
    if model.family == "nlp" and "emissions" in model.outputs and model.checkpoints:
        return _words
    return _sentences if "embedding" in model.outputs and model.family == "nlp" else None


def engines(model: catalog.Model, panels: Mapping, files: Mapping, threads: int = 0) -> dict[str, Callable]:
    """The four engines of a model by name: functions from inputs to outputs, arrays by name, maps as NCHW."""
    import tensorflow as tf

    ours, torch = panels["tensorflow"], panels["torch"]
    graph = tf.function(lambda *values: ours.model(*values, training=False), autograph=False, reduce_retracing=True)
    sessions = [onnx_file.session(files[name], threads=threads) for name in ("tensorflow", "torch")]

    def tensorflow(feed):
        return ours.arrays(ours.named(graph(*ours.tensors(feed).values())))

    functions = (tensorflow, torch.outputs, *((lambda feed, s=s: onnx_file.run(s, feed)) for s in sessions))
    return dict(zip(ENGINES, functions, strict=True))


def _results(panel, feed: Arrays, outputs: Arrays) -> Arrays:
    """What PyTorch's post-process makes of an engine's outputs; nothing if there is none."""
    if panel.postprocess is None:
        return {}
    import torch

    from torch_impl.export import apply_postprocess

    given = panel.tensors(outputs)
    if len(given) == 1 and panel.entry.family not in ("detection", "segmentation"):  # they return a dict of one
        (given,) = given.values()
    with torch.no_grad():
        return panel.arrays(apply_postprocess(panel.postprocess, given, list(panel.tensors(feed).values())))


def agreement(outputs: Mapping[str, Arrays]) -> float:
    """The largest relative L2 difference of an engine's outputs from PyTorch's."""
    expected = outputs["PyTorch"]
    return max(onnx_file.relative(found[name], expected[name]) for found in outputs.values() for name in expected)


def ask(
    model: catalog.Model,
    inputs: Sequence[str],
    weights: str | None,
    top: int,
    folder: Path,
    options: Mapping | None = None,
    key: str | None = None,
    draw: Path | None = None,
) -> dict:
    """Ask all engines; both ONNX files are left in the folder, and a picture of the answers in the file ``draw``.

    Returns:
        "checkpoint", "files", "difference", and per engine "milliseconds" (median) and "answers".

    Raises:
        Problem, PictureError, ...: if an input is not what the model takes.
    """
    question = _question(model)
    if question is None:
        raise Problem(
            f"predict asks classifiers, segmenters, detectors, translators of images, readers of text lines, sentence "
            f"encoders and taggers of words; {model.name} ({model.family}) is none of them: export it, and run the file"
        )
    known = {c.name for c in model.checkpoints}
    if model.checkpoints or weights is None:
        entry = model.checkpoint(weights if weights in known else None)
    else:
        entry = catalog.Checkpoint(weights, "", preprocessing=PREPROCESSING.get(model.family, {}))
    if question in (_class_maps, _translations, _detections) and len(inputs) != 1:
        raise Problem(f"{model.name} takes one picture, and {len(inputs)} were given")
    asked_for = question(model, entry, inputs, top)
    if draw is not None:
        from scripts.draw import check

        check(draw)
        if asked_for.draw is None:
            raise Problem(f"--draw: the answers of {model.name} are a table; leave it out")
    frameworks()
    import torch

    feed = asked_for.feed
    # exported with a batch of two at least: a batch of one would be taken for a constant
    examples = {name: np.concatenate([array] * 2) if len(array) == 1 else array for name, array in feed.items()}
    with asked(", ".join(map(str, inputs))):
        panels, _ = twins(model, weights, options=options, key=key)
        files = export_files(panels, folder, examples, None, example(model)[2])
    functions = engines(model, panels, files, torch.get_num_threads())
    outputs = {name: function(feed) for name, function in functions.items()}  # the first run traces and warms up
    results = {name: _results(panels["torch"], feed, found) for name, found in outputs.items()}
    if draw is not None:
        from scripts.draw import save

        save(asked_for.draw(results), draw)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(RUNS):
        for name, function in functions.items():
            start = time.perf_counter()
            function(feed)
            seconds[name].append(time.perf_counter() - start)
    return {
        "model": model.name,
        "checkpoint": weights or entry.name,
        "inputs": [str(path) for path in inputs],
        "difference": float(f"{agreement(outputs):.3g}"),
        "files": {name: str(path) for name, path in files.items()},
        "engines": {
            name: {
                "milliseconds": round(1000 * statistics.median(seconds[name]), 2),
                "answers": asked_for.read(outputs[name], results[name]),
            }
            for name in functions
        },
    }


def print_answers(found: dict) -> None:
    """The answers side by side."""
    answers = {name: engine["answers"] for name, engine in found["engines"].items()}
    rows = [[row[0]["row"], *(cell["text"] for cell in row)] for row in zip(*answers.values(), strict=True)]
    times = [f"{engine['milliseconds']:.1f} ms" for engine in found["engines"].values()]
    table(
        ["", *answers],
        [*rows, [f"median of {RUNS} runs", *times]],
        f"{found['model']}, checkpoint {found['checkpoint']}",
    )
    print(f"largest relative difference from PyTorch: {found['difference']:.1e}")


def predict(
    name: str,
    inputs: Sequence[str],
    checkpoint: str | None,
    top: int,
    as_json: bool,
    options: Mapping | None = None,
    key: str | None = None,
    draw: Path | None = None,
) -> int:
    """Answers of all engines; 1 if they differ by more than ``TOLERANCE``."""
    model = model_of(name)
    with tempfile.TemporaryDirectory() as folder:
        found = ask(model, inputs, checkpoint, top, Path(folder), options, key, draw)
    del found["files"]
    if as_json:
        print_json(found)
    else:
        print_answers(found)
    return 0 if found["difference"] <= TOLERANCE else 1
