"""Measuring the details of one case: both precisions, both files, and the answers of four engines to one image."""

import base64
import hashlib
import io
from collections.abc import Mapping
from functools import cached_property

import numpy as np
import onnx

import tf_impl.state
from parity_tests.harness.measure import BOUNDS, Proof
from scripts.answer import ENGINES
from scripts.bench import ratio, spread, timed
from scripts.parity import rounded
from weights import onnx_file

__all__ = ["Measured"]

BOTH = ("outputs", "losses", "gradients", "training")  # levels that make sense in either precision
RUNS = 20  # rounds of the latency
SHOWN = 12  # boxes, classes and values of an answer
SIDE = 240  # pixels of the longer side of an image


class SinglePrecision(Proof):
    """The proof with float32 twins at every level, and what the ONNX files are and how fast."""

    def twins(self, precision):
        return super().twins("float32")

    def _onnx_figures(self, form, files, details):
        figures = super()._onnx_figures(form, files, details)
        for package, file in files.items():
            details[form][package] |= {
                "opset": onnx.load_from_string(file).opset_import[0].version,
                "sha256": hashlib.sha256(file).hexdigest(),
            }
        if form == "model":
            feed = {name: _float32(value) for name, value in self.arrays()[0].items()}
            sessions = [onnx_file.session(file, threads=1) for file in files.values()]
            functions = {
                engine: lambda session=session: onnx_file.run(session, feed)
                for engine, session in zip(ENGINES[2:], sessions, strict=True)
            }
            times = timed(functions, RUNS)
            self.latency = {
                "runs": RUNS,
                "inputs": {name: list(value.shape) for name, value in feed.items()},
                "milliseconds": {engine: spread(values) for engine, values in times.items()},
                "ratio": ratio(*times.values()),
            }
        return figures


def _float32(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _jpeg(pixels: np.ndarray) -> str:
    """(H, W, 3) uint8 as the base64 text of a JPEG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=82, optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def photograph(height: int, width: int, channels: int, text: bool) -> tuple[np.ndarray, str]:
    """An image of scikit-image, cropped to the proportions of an input.

    Args:
        height, width, channels: of the input; one channel means grey.
        text: a line of print instead of a cat.

    Returns:
        (H, W, C) float in [0, 255], and a larger JPEG of the same crop for the page.
    """
    from PIL import Image
    from skimage import data

    source = Image.fromarray(data.page()[12:48, 4:250] if text else data.chelsea())
    scale = min(source.width / width, source.height / height)
    box_width, box_height = width * scale, height * scale
    left, top = (0, 0) if text else ((source.width - box_width) / 2, (source.height - box_height) / 2)
    cut = source.convert("RGB").resize((width, height), box=(left, top, left + box_width, top + box_height))
    larger = max(1, SIDE / max(height, width))
    shown = source.convert("RGB").resize(
        (round(width * larger), round(height * larger)), box=(left, top, left + box_width, top + box_height)
    )
    pixels = np.asarray(cut.convert("L" if channels == 1 else "RGB"), np.float64).reshape(height, width, channels)
    return pixels, _jpeg(np.asarray(shown))


class Measured:
    """The parts of a case's details; each method returns one, ready for JSON.

    Args:
        case: of ``parity_tests.cases``.
    """

    def __init__(self, case):
        self.case, self.entry = case, case.entry
        self.proofs = {"float64": Proof(case), "float32": SinglePrecision(case)}

    @cached_property
    def _measured(self):
        return {level: {precision: proof.level(level) for precision, proof in self.proofs.items()} for level in BOTH}

    def levels(self) -> dict:
        """level -> precision -> the worst figure and where it is."""
        return {
            level: {
                precision: {"figure": rounded(found.worst.relative), "name": found.worst.name}
                for precision, found in both.items()
                if found.applies
            }
            for level, both in self._measured.items()
        }

    def losses(self) -> list[dict]:
        """Every term of the criterion: its value in both panels, float64, and the difference in both precisions."""
        if self.entry.criterion is None:
            return []
        proof = self.proofs["float64"]
        values = [panel.losses(*proof.arrays()) for panel in proof.twins("float64")]
        single = {figure.name: figure.relative for figure in self._measured["losses"]["float32"].figures}
        return [
            {
                "name": figure.name,
                "values": [float(side[figure.name]) for side in values],
                "float64": rounded(figure.relative),
                "float32": rounded(single[figure.name]),
            }
            for figure in self._measured["losses"]["float64"].figures
        ]

    def gradients(self) -> list[dict]:
        """Every parameter: shape, and the difference of the gradients in both precisions."""
        shapes = self.proofs["float64"].twins("float64")[1].shapes()
        single = {figure.name: figure.relative for figure in self._measured["gradients"]["float32"].figures}
        return [
            {
                "name": figure.name,
                "shape": list(shapes.get(figure.name, ())),
                "float64": rounded(figure.relative),
                "absolute": rounded(figure.absolute),
                "float32": rounded(single[figure.name]),
            }
            for figure in self._measured["gradients"]["float64"].figures
        ]

    def trace(self) -> list[dict]:
        """Every module in execution order: the difference of its outputs in both precisions."""
        rows = self.proofs["float64"].trace()
        single = {row["module"]: row["output"] for row in self.proofs["float32"].trace()}
        return [
            {
                "module": row["module"],
                "float64": rounded(row["output"]),
                "float32": rounded(single[row["module"]]) if single.get(row["module"]) is not None else None,
            }
            for row in rows
            if row["output"] is not None
        ]

    def classes(self) -> dict[str, list[str]]:
        """Dotted path of a module -> "module:Class" in TensorFlow and in PyTorch; "" is the model itself."""
        tensorflow, torch = (panel.model for panel in self.proofs["float64"].twins("float64"))
        layers = {"": tensorflow, **dict(tf_impl.state.named_layers(tensorflow))}
        modules = dict(torch.named_modules())
        return {
            name: [f"{type(side[name]).__module__}:{type(side[name]).__qualname__}" for side in (layers, modules)]
            for name in modules
            if name in layers
        }

    def onnx(self) -> dict:
        """The contents of the two files of each variant."""
        level = self.proofs["float32"].level("onnx")
        return {
            form: {panel: numbers for panel, numbers in panels.items() if panel != "signatures"}
            for form, panels in level.details.items()
        }

    def latency(self) -> dict | None:
        """Times of the two files at the size of the case, one thread; None if none are exported."""
        return getattr(self.proofs["float32"], "latency", None)

    def answers(self) -> dict | None:
        """Post-processed results of four engines for one image, or for the case's own input where none fits."""
        if self.entry.postprocess is None:
            return None
        proof = self.proofs["float32"]
        inputs, picture, size = self._asked(proof)
        twins = proof.twins("float32")
        found = dict(zip(ENGINES, (panel.results(inputs) for panel in twins)))
        if "results" not in self.case.without:
            feed = {name: _float32(value) for name, value in inputs.items()}
            for engine, file in zip(ENGINES[2:], proof.files["results"].values(), strict=True):
                found[engine] = onnx_file.run(onnx_file.session(file, threads=1), feed)
        expected = found["PyTorch"]
        return {
            "picture": picture,
            "size": size,
            "inputs": {name: list(value.shape) for name, value in inputs.items()},
            "engines": {engine: _answer(values) for engine, values in found.items()},
            "differences": {
                engine: rounded(max(onnx_file.relative(values[name], expected[name]) for name in expected))
                for engine, values in found.items()
            },
            "bound": self.case.bounds.get("results", (BOUNDS["results"],))[0],
        }

    def _asked(self, proof):
        """One row of inputs; feature maps of one or three channels become the photograph."""
        inputs = self.case.inputs(np.random.default_rng(0), 1)
        picture = size = None
        for name, value in inputs.items():
            maps = self.entry.inputs.get(name)
            if maps is None or maps.layout != "NCHW" or value.shape[1] not in (1, 3):
                continue
            channels, height, width = value.shape[1:]
            pixels, picture = photograph(height, width, channels, text=self.entry.family == "ocr")
            size = [height, width]
            low_high = (127.5, 127.5) if self.entry.family == "gan" else (127.5, 63.75)
            inputs[name] = ((pixels - low_high[0]) / low_high[1]).transpose(2, 0, 1)[None]
        return inputs, picture, size


def _answer(values: Mapping[str, np.ndarray]) -> dict:
    """What the page draws of one engine's results for one row: boxes, classes, an image, or the first values."""
    if {"boxes", "scores", "labels", "valid"} <= set(values):
        kept = np.flatnonzero(values["valid"][0])
        return {
            "kind": "boxes",
            "count": len(kept),
            "rows": [
                {
                    "box": [float(f"{v:.5g}") for v in values["boxes"][0, i]],
                    "score": float(f"{values['scores'][0, i]:.4g}"),
                    "label": int(values["labels"][0, i]),
                }
                for i in kept[:SHOWN]
            ],
        }
    if {"scores", "classes"} <= set(values):
        pairs = zip(values["classes"][0], values["scores"][0])
        return {"kind": "classes", "rows": [{"class": int(k), "score": float(f"{p:.6g}")} for k, p in pairs][:SHOWN]}
    if "images" in values:
        pixels = np.clip(np.round(np.asarray(values["images"])[0]), 0, 255).astype(np.uint8)
        pixels = pixels.transpose(1, 2, 0) if pixels.shape[0] == 3 else pixels
        return {"kind": "picture", "jpeg": _jpeg(pixels), "size": list(pixels.shape[:2])}
    return {
        "kind": "values",
        "rows": [
            {
                "name": name,
                "shape": list(np.shape(value)),
                "values": [float(f"{float(v):.6g}") for v in np.ravel(value)[:SHOWN]],
            }
            for name, value in values.items()
        ],
    }
