"""Inputs of models, and how their answers are read and drawn: one function per kind of model.

A question is made from a user's :class:`Request`; which function makes it follows from the family, the inputs
and the outputs of the model, in :func:`question_of`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scripts.output import Problem
from weights import catalog

__all__ = ["Question", "Request", "draw_faces", "face_rows", "faces_in", "one_picture", "preprocessing", "question_of"]

CELL = 32  # pixels
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "channels": "RGB"}
TANH = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "channels": "RGB"}
RETINA = {"mean": [104, 117, 123], "scale": 1, "channels": "BGR"}
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")  # of pictures in a folder
DATA_SETS = {11: "camvid", 19: "cityscapes", 21: "voc", 150: "ade20k"}  # what maps of so many classes are trained on
BATCH = 16  # pictures of a folder that are looked at together
SIDE = 160  # longer side of a drawn picture, where many stand beside each other, in pixels

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Request:
    """A user's input: images or texts, how many answers, and more for some kinds of models.

    ``index`` is a folder of images to search for the nearest (``rerank``: also by their neighbours), ``seed`` that of a
    generator's noise, ``box`` where an object is in the photo or the first frame (x, y, width, height in pixels),
    ``basis`` the file of the face or body model for a mesh, ``frames`` the folder or video whose frames move a photo.
    """

    inputs: Sequence[str]
    top: int = 5
    index: Path | None = None
    rerank: bool = False
    seed: int | None = None
    box: tuple[float, float, float, float] | None = None
    basis: Path | None = None
    frames: Path | None = None


@dataclass
class Question:
    """The input of a model, made from a user's request, and how its outputs are read.

    ``read`` takes outputs, and what the post-process makes of them, and returns one answer per row of the table: "row",
    "text" and the numbers after it. ``draw`` makes a picture of all engines' outputs and of what their post-processes
    found, ``common`` such rows as are the same for all engines. No more than ``batch`` rows are given to a network at
    once. ``mesh`` makes a surface of outputs.
    """

    feed: Arrays
    read: Callable[[Arrays, Arrays], list[dict]]
    draw: Callable[[dict[str, Arrays]], object] | None = None
    batch: int | None = None
    mesh: Callable[[Arrays], object] | None = None
    common: Callable[[dict[str, Arrays]], list[dict]] | None = None


def probabilities(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True), dtype=np.float64)
    return powers / powers.sum(-1, keepdims=True)


def preprocessing(model: catalog.Model) -> Mapping:
    """Preprocessing of a model whose catalogue entry has no checkpoint."""
    if model.family == "face":
        return RETINA if model.postprocess else TANH
    return {"gan": TANH, "ocr": {}, "nlp": {}}.get(model.family, IMAGENET)


def one_picture(model: catalog.Model, request: Request) -> str:
    """The only input.

    Raises:
        Problem: if there are several.
    """
    if len(request.inputs) != 1:
        raise Problem(f"{model.name} takes one picture, and {len(request.inputs)} were given")
    return request.inputs[0]


def pictures(model: catalog.Model, entry, request: Request) -> Question:
    """Classification: the most probable classes of each image."""
    from weights.processing.images import PictureError, image_input

    (name,) = model.inputs
    pictures = [image_input(path, entry.preprocessing) for path in request.inputs]
    if len({picture.shape for picture in pictures}) > 1:
        raise PictureError("the pictures have several sizes, and this checkpoint takes them as they are; give one")

    def read(outputs, results=None):
        answers = []
        for path, p in zip(request.inputs, probabilities(outputs[next(iter(model.outputs))]), strict=True):
            labels = names(entry, len(p))
            for rank, k in enumerate(np.argsort(-p, kind="stable")[: request.top], start=1):
                row, text = f"{Path(path).name} {rank}.", f"{labels[k]} {p[k]:.2%}"
                answer = {"class": int(k), "label": labels[k], "probability": float(p[k])}
                answers.append({"row": row, "text": text, **answer})
        return answers

    return Question({name: np.concatenate(pictures)}, read)


def listed(name: str | None) -> list[list[str]]:
    """The lines of a file of classes: the name, and the colour where the data set has one of its own."""
    path = Path(catalog.__file__).parent.parent / "classes" / f"{(name or '').removesuffix('.txt')}.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [line.split("\t") for line in lines]


def names(entry, count: int) -> list[str]:
    """Names of classes; numbers where the checkpoint has no list of that length."""
    found = [line[0] for line in listed(entry.classes)]
    return found if len(found) == count else [f"class {k}" for k in range(count)]


def map_classes(entry, count: int) -> tuple[list[str], list[tuple[int, int, int]]]:
    """Names and colours of the classes of a map: the checkpoint's, or those of the data set with so many classes."""
    from scripts.draw import colour

    lines = listed(entry.classes or DATA_SETS.get(count))
    if len(lines) != count:
        lines = [[f"class {k}"] for k in range(count)]
    colours = [tuple(map(int, line[1].split())) if line[1:] else colour(k) for k, line in enumerate(lines)]
    return [line[0] for line in lines], colours


def class_maps(model: catalog.Model, entry, request: Request) -> Question:
    """Segmentation: the share of the classes in the picture, and of the pixels that are the same for all engines."""
    from scripts import draw
    from weights.processing.images import image_input, open_picture

    path = one_picture(model, request)
    (name,) = model.inputs

    def read(outputs, results=None):
        labels, _ = map_classes(entry, outputs["logits"].shape[1])
        counts = np.bincount(results["labels"][0].ravel(), minlength=len(labels))
        share = counts / counts.sum()
        return [
            {"row": labels[k], "text": f"{share[k]:.2%}", "class": int(k), "share": float(share[k])}
            for k in range(len(labels))
        ]

    def drawn(found):
        labels, colours = map_classes(entry, next(iter(found.values()))["logits"].shape[1])
        picture = open_picture(path)
        maps = {engine: draw.class_map(picture, one["labels"][0], colours) for engine, one in found.items()}
        shown = np.unique([one["labels"] for one in found.values()])
        legend = {labels[k]: colours[k] for k in shown}
        size = next(iter(maps.values())).size
        return draw.side_by_side({"input": picture.convert("RGB").resize(size), **maps}, legend)

    def common(found):
        first, *others = (one["labels"] for one in found.values())
        share = float(np.all([other == first for other in others], axis=0).mean())
        return [{"row": "all four agree", "text": f"{share:.2%}", "agreement": share}]

    return Question({name: image_input(path, entry.preprocessing)}, read, drawn, common=common)


def summary(row: str, image: np.ndarray) -> dict:
    """Mean and range of an image."""
    text = f"{image.mean():.2f} in [{image.min():.2f}, {image.max():.2f}]"
    return {"row": row, "text": text, "mean": float(image.mean()), "shape": list(image.shape)}


def as_picture(image: np.ndarray):
    """(C, H, W) in [0, 255] as a Pillow image."""
    from PIL import Image

    return Image.fromarray(np.clip(np.round(image), 0, 255).astype(np.uint8).transpose(1, 2, 0).squeeze())


def translations(model: catalog.Model, entry, request: Request) -> Question:
    """Image to image: mean and range of the result; the drawing shows it."""
    from scripts import draw
    from weights.processing.images import image_input, open_picture

    path = one_picture(model, request)
    (name,) = model.inputs

    def read(outputs, results=None):
        return [summary(Path(path).name, results["images"][0])]

    def drawn(results):
        made = {engine: as_picture(found["images"][0]) for engine, found in results.items()}
        return draw.side_by_side({"input": open_picture(path).convert("RGB"), **made})

    return Question({name: image_input(path, entry.preprocessing)}, read, drawn)


def detections(model: catalog.Model, entry, request: Request) -> Question:
    """Detection and instances: boxes, classes and scores, best first; any masks in the drawing."""
    from scripts import draw
    from weights.processing.images import image_input, open_picture

    path = one_picture(model, request)
    (name,) = model.inputs
    image = image_input(path, entry.preprocessing)
    height, width = image.shape[2:]
    if model.family == "segmentation":  # the pyramids of instances want whole cells
        image = np.pad(image, ((0, 0), (0, 0), (0, -height % CELL), (0, -width % CELL)))

    def found_in(results):
        kept = np.flatnonzero(results["valid"][0])
        classes = 1 + int(results["labels"].max(initial=0))
        labels = names(entry, 91 if entry.classes == "coco91" else classes)
        return [
            {
                "box": [float(value) for value in results["boxes"][0, i]],
                "class": int(results["labels"][0, i]),
                "score": float(results["scores"][0, i]),
                "text": f"{labels[int(results['labels'][0, i])]} {results['scores'][0, i]:.0%}",
            }
            for i in kept[: request.top]
        ]

    def read(outputs, results=None):
        rows = [
            {"row": f"{i}.", **item, "text": f"{item['text']} {[round(value, 1) for value in item['box']]}"}
            for i, item in enumerate(found_in(results), start=1)
        ]
        return rows + [{"row": f"{i}.", "text": "nothing"} for i in range(len(rows) + 1, request.top + 1)]

    def drawn(results):
        picture = open_picture(path).convert("RGB").resize((width, height))
        pictures = {}
        for engine, found in results.items():
            items = found_in(found)
            masks = found["masks"][0, : len(items), :height, :width] if "masks" in found else []
            pictures[engine] = draw.boxes(draw.regions(picture, masks), items)
        return draw.side_by_side(pictures)

    return Question({name: image}, read, drawn)


def lines(model: catalog.Model, entry, request: Request) -> Question:
    """OCR: the text of each image of a line."""
    from weights.processing import decoding, ocr

    ((name, tensor),) = model.inputs.items()
    height = tensor.shape[2]
    widest = max(ocr.line_input(path, height).shape[3] for path in request.inputs)
    images = np.concatenate([ocr.line_input(path, height, widest) for path in request.inputs])
    letters = ocr.characters(entry.classes)

    def read(outputs, results=None):
        answers = []
        for i, path in enumerate(request.inputs):
            log_p = decoding.log_softmax(outputs[next(iter(model.outputs))][:, i])
            labels = decoding.greedy(log_p)
            text, p = ocr.decode_text(labels, letters), float(np.exp(decoding.log_probability(log_p, labels)))
            answers.append({"row": Path(path).name, "text": f"{text!r} {p:.2%}", "read": text, "probability": p})
        return answers

    return Question({name: images}, read)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def cosines(titles: Sequence[str], vectors: np.ndarray) -> list[dict]:
    """The cosine of every two rows."""
    found = unit(vectors) @ unit(vectors).T
    return [
        {"row": f"{titles[i]} | {titles[j]}", "text": f"{found[i, j]:.4f}", "cosine": float(found[i, j])}
        for i in range(len(titles))
        for j in range(i + 1, len(titles))
    ]


def fitted(path, entry, tensor: catalog.Tensor) -> np.ndarray:
    """An image stretched to the size that a network is published for."""
    from weights.processing.images import image_input, open_picture

    height, width = tensor.shape[2:]
    picture = open_picture(path, entry.preprocessing.get("channels", "RGB").replace("BGR", "RGB"))
    return image_input(np.asarray(picture.resize((width, height))), entry.preprocessing)


def pictures_in(folder: Path, option: str = "--index ") -> list[Path]:
    """The images of a folder, by name; ``option`` is the option that named the folder.

    Raises:
        Problem: if it is not a folder, or has none.
    """
    if not folder.is_dir():
        raise Problem(f"{option}{folder}: no such folder; give one with pictures")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise Problem(f"{option}{folder}: no picture in it; files that end in {', '.join(SUFFIXES)} were looked for")
    return found


def embeddings(model: catalog.Model, entry, request: Request) -> Question:
    """Faces, persons, places: the cosine of every two images, or the images of a folder that are nearest to one."""
    from scripts import draw
    from weights.processing.images import open_picture
    from weights.processing.retrieval.reranking import rerank

    ((name, tensor),) = model.inputs.items()
    vectors = next(key for key in ("embeddings", "embedding") if key in model.outputs)
    if request.index is None:
        if request.rerank:
            raise Problem("--rerank orders the pictures of a folder; give it with --index")
        if len(request.inputs) < 2:
            raise Problem(f"{model.name} compares pictures, and 1 was given; give several, or a folder with --index")
        feed = np.concatenate([fitted(path, entry, tensor) for path in request.inputs])
        titles = [Path(path).name for path in request.inputs]
        return Question({name: feed}, lambda outputs, results=None: cosines(titles, outputs[vectors]), batch=BATCH)
    query, known = one_picture(model, request), pictures_in(request.index)
    feed = np.concatenate([fitted(path, entry, tensor) for path in (query, *known)])

    def nearest(outputs) -> list[tuple[int, float]]:
        """Index and cosine of the nearest images."""
        found = unit(outputs[vectors].astype(np.float64))
        similar = found @ found.T
        away = -similar[0, 1:]
        if request.rerank:
            distances = np.sqrt(np.maximum(2 - 2 * similar, 0))
            away = rerank(distances[:1, 1:], distances[:1, :1], distances[1:, 1:], k1=min(20, len(known) - 1))[0]
        return [(int(i), float(similar[0, i + 1])) for i in np.argsort(away, kind="stable")[: request.top]]

    def read(outputs, results=None):
        return [
            {"row": f"{rank}.", "text": f"{known[i].name} {cosine:.4f}", "picture": str(known[i]), "cosine": cosine}
            for rank, (i, cosine) in enumerate(nearest(outputs), start=1)
        ]

    def drawn(found):
        rows = {}
        for engine, outputs in found.items():
            answers = [
                (f"{rank}. {cosine:.4f}", known[i]) for rank, (i, cosine) in enumerate(nearest(outputs), start=1)
            ]
            rows[engine] = {title: draw.small(open_picture(path), SIDE) for title, path in [("query", query), *answers]}
        return draw.stacked({engine: draw.side_by_side(row) for engine, row in rows.items()})

    return Question({name: feed}, read, drawn, batch=BATCH)


def joints(model: catalog.Model, entry, request: Request) -> Question:
    """The joints of a person: their positions in pixels of the network's input, and confidences."""
    from scripts import draw
    from weights.processing.images import open_picture

    path = one_picture(model, request)
    ((name, tensor),) = model.inputs.items()

    def read(outputs, results=None):
        found = zip(results["keypoints"][0].tolist(), results["scores"][0].tolist(), strict=True)
        return [
            {"row": f"joint {j}", "text": f"({x:.1f}, {y:.1f}) {score:.0%}", "point": [x, y], "score": score}
            for j, ((x, y), score) in enumerate(found)
        ]

    def drawn(results):
        picture = open_picture(path).resize(tensor.shape[:1:-1])
        shown = {engine: draw.points(picture, found["keypoints"][0]) for engine, found in results.items()}
        return draw.side_by_side(shown)

    return Question({name: fitted(path, entry, tensor)}, read, drawn)


def faces_in(results: Arrays, top: int) -> list[dict]:
    """The best faces of the first image: box, score and landmarks."""
    kept = np.flatnonzero(results["valid"][0])[:top]
    found = zip(*(results[key][0, kept] for key in ("boxes", "scores", "landmarks")), strict=True)
    return [
        {
            "box": box.tolist(),
            "class": 0,
            "score": float(score),
            "landmarks": marks.reshape(-1, 2).tolist(),
            "text": f"{score:.0%}",
        }
        for box, score, marks in found
    ]


def face_rows(items: Sequence[Mapping], top: int) -> list[dict]:
    """Rows of the table of faces; "nothing" where there are fewer than requested."""
    rows = [
        {"row": f"{i}.", **face, "text": f"face {face['text']} {[round(value, 1) for value in face['box']]}"}
        for i, face in enumerate(items, start=1)
    ]
    return rows + [{"row": f"{i}.", "text": "nothing"} for i in range(len(rows) + 1, top + 1)]


def draw_faces(path, found: Mapping[str, Sequence[Mapping]]):
    """The image with every engine's boxes and landmarks."""
    from scripts import draw
    from weights.processing.images import open_picture

    shown = {}
    for engine, items in found.items():
        marks = [point for face in items for point in face["landmarks"]]
        shown[engine] = draw.points(draw.boxes(open_picture(path), items), marks)
    return draw.side_by_side(shown)


def faces(model: catalog.Model, entry, request: Request) -> Question:
    """Faces: boxes, scores and landmarks, best first."""
    from weights.processing.images import image_input

    path = one_picture(model, request)
    (name,) = model.inputs
    image = image_input(path, entry.preprocessing)
    height, width = image.shape[2:]
    image = np.pad(image, ((0, 0), (0, 0), (0, -height % CELL), (0, -width % CELL)))

    def read(outputs, results=None):
        return face_rows(faces_in(results, request.top), request.top)

    def drawn(results):
        return draw_faces(path, {engine: faces_in(found, request.top) for engine, found in results.items()})

    return Question({name: image}, read, drawn)


def noise(model: catalog.Model, entry, request: Request) -> Question:
    """Images from noise: mean and range of the result; the drawing shows it."""
    from scripts import draw
    from scripts.files import example

    if request.inputs:
        raise Problem(f"{model.name} makes pictures from noise, and takes none; choose the noise with --seed")
    seed = request.seed or 0
    feed = example(model, 1, seed=seed)[0]
    feed |= {name: np.zeros_like(feed[name]) for name in ("lod", "cutoff") if name in feed}  # grown, and one style

    def read(outputs, results=None):
        return [summary(f"seed {seed}", results["pictures"][0])]

    def drawn(results):
        return draw.side_by_side({engine: as_picture(found["pictures"][0]) for engine, found in results.items()})

    return Question(feed, read, drawn)


def sentences(model: catalog.Model, entry, request: Request) -> Question:
    """Sentence encoders: the cosine of every two sentences."""
    from weights.checkpoints import package_file
    from weights.processing.text import sentence_input

    if len(request.inputs) < 2:
        raise Problem(f"{model.name} compares sentences, and {len(request.inputs)} was given; give two or more")
    feed = sentence_input(package_file(entry.package, entry.tokenizer), list(request.inputs))

    def read(outputs, results=None):
        return cosines(list(request.inputs), outputs["embedding"])

    return Question({name: feed[name] for name in model.inputs}, read)


def words(model: catalog.Model, entry, request: Request) -> Question:
    """Taggers of characters: the words of each text and their kinds."""
    from weights.checkpoints import package_file
    from weights.processing import lac
    from weights.processing.word_segmentation import viterbi

    path = package_file(entry.package, entry.tokenizer)
    length, count = model.outputs["emissions"].shape[1:]
    lexicon = lac.open_lexicon(path, model.inputs["input_ids"].high)
    tags = {number: tag for tag, number in lac.open_lexicon(path.with_name("tag.dic"), count).items()}
    texts = [text.strip() for text in request.inputs]
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


def question_of(model: catalog.Model) -> Callable | None:
    """The question for a model, from its family and its outputs; None if there is none."""
    if model.call or model.kind != "model":
        return None
    if model.module in ("face.tddfa", "face.prnet", "body.hmr"):
        from scripts import meshes

        kinds = {"face.tddfa": meshes.face_mesh, "face.prnet": meshes.position_mesh, "body.hmr": meshes.body_mesh}
        return kinds[model.module]
    if "volumes" in model.inputs:
        from scripts import volumes

        return volumes.volume_maps
    pictures_alone = len(model.inputs) == 1 and next(iter(model.inputs.values())).layout == "NCHW"
    if model.family == "classification" and len(model.outputs) == 1:
        return pictures
    if model.family in ("face", "reid", "retrieval") and pictures_alone and not model.postprocess:
        return embeddings if {"embedding", "embeddings"} & {*model.outputs} else None
    if model.postprocess and pictures_alone:
        kinds = {
            "segmentation": class_maps,
            "detection": detections,
            "gan": translations,
            "body": joints,
            "face": faces,
        }
        if model.family == "segmentation" and "logits" not in model.outputs:
            return detections
        if model.family in kinds:
            return kinds[model.family]
    if model.family == "gan" and model.postprocess and "z" in model.inputs and "images" not in model.inputs:
        return noise
    if model.family == "ocr" and len(model.inputs) == 1:
        return lines
    if model.family == "nlp" and "emissions" in model.outputs and model.checkpoints:
        return words
    return sentences if "embedding" in model.outputs and model.family == "nlp" else None
