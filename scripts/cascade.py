"""``diptych predict mtcnn``: three networks, and the pyramid and the suppression on the host between them."""

import time
from pathlib import Path

import numpy as np

from scripts.answer import ENGINES, RUNS, agreement, answered, engines
from scripts.files import example, export_files, twins
from scripts.output import frameworks
from scripts.questions import Request, draw_faces, face_rows, faces_in, one_picture
from weights import catalog

__all__ = ["ask"]

NETWORKS = ("mtcnn_pnet", "mtcnn_rnet", "mtcnn_onet")


def ask(request: Request, weights: str | None, folder: Path, draw: Path | None = None) -> dict:
    """Ask four engines for the faces in a photo; the six ONNX files stay in the folder.

    Returns and raises: see :func:`scripts.answer.ask`.
    """
    from weights.processing.face.mtcnn import detect_faces
    from weights.processing.images import open_picture

    models = [catalog.get(name) for name in NETWORKS]
    path = one_picture(catalog.get("mtcnn_cascade"), request)
    picture = open_picture(path)
    if draw is not None:
        from scripts.draw import check

        check(draw)
    frameworks()
    import torch

    networks = {engine: [] for engine in ENGINES}
    files = {}
    for model in models:
        panels, _ = twins(model, weights)
        inputs, _, dynamic = example(model)
        own = export_files(panels, folder, inputs, None, dynamic, dynamic_size=model.name == "mtcnn_pnet")
        files |= {f"{model.name} {name}": str(path) for name, path in own.items()}
        for engine, function in engines(model, panels, own, torch.get_num_threads()).items():
            networks[engine].append(lambda images, function=function: function({"images": images}))
    found, seconds = {}, {engine: [] for engine in ENGINES}
    for run in range(RUNS + 1):  # the first traces and warms up
        for engine in ENGINES:
            start = time.perf_counter()
            found[engine] = {
                name: value[None] for name, value in detect_faces(np.asarray(picture), *networks[engine]).items()
            }
            seconds[engine] += [time.perf_counter() - start] if run else []
    if draw is not None:
        from scripts.draw import save

        save(draw_faces(path, {engine: faces_in(results, request.top) for engine, results in found.items()}), draw)
    numbers = {
        engine: {name: value for name, value in results.items() if name != "valid"} for engine, results in found.items()
    }
    answers = {engine: face_rows(faces_in(results, request.top), request.top) for engine, results in found.items()}
    checkpoint = weights or models[0].checkpoint().name
    return answered("mtcnn", checkpoint, [path], agreement(numbers), files, seconds, answers)
