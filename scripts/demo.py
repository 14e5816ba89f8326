"""``diptych demo``: one model from official weights to four engines with the same answers, and its proof."""

import tempfile
import time
from pathlib import Path

import click

from scripts import answer, parity
from scripts.output import Problem, frameworks, print_json, table
from scripts.questions import Request
from weights import catalog

__all__ = ["demo"]

MODEL = "mobilenet_v2"


def demo(out: Path, as_json: bool) -> int:
    """MobileNetV2 with its ImageNet weights looks at a cat; 1 if the engines or the proof do not hold."""
    start = time.perf_counter()

    def tell(text: str) -> None:
        click.echo(f"[{time.perf_counter() - start:5.1f} s] {text}", err=as_json)

    model = catalog.get(MODEL)
    checkpoint = model.checkpoint()
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise Problem(f"{out}: cannot be written ({error.strerror}); choose another folder with --out") from None
    tell("importing TensorFlow and PyTorch")
    frameworks(threads=1)
    from PIL import Image
    from skimage import data

    picture = out / "chelsea.png"
    Image.fromarray(data.chelsea()).save(picture)
    tell(f"{MODEL}: checkpoint {checkpoint.name} into both panels, an ONNX file from each, four engines on {picture}")
    found = answer.ask(model, Request([str(picture)]), None, out)
    if not as_json:
        answer.print_answers(found)
    tell("measuring the proof, all levels, on the small configuration and against the public implementation")
    measured = parity.measure(MODEL, parity.LEVELS, tell=lambda level: tell(f"  {level}"))
    holds = all(row["holds"] for row in measured["levels"].values()) and found["difference"] <= answer.TOLERANCE
    tell("done")
    seconds = round(time.perf_counter() - start, 1)
    if as_json:
        print_json({"holds": holds, "seconds": seconds, "answers": found, "proof": measured})
        return 0 if holds else 1
    table(parity.COLUMNS, parity.rows_of(MODEL, measured), right=["worst", "bound"])
    files = [picture, *map(Path, found["files"].values())]
    table(["file", "bytes"], [[path, f"{path.stat().st_size:,}"] for path in files], right=["bytes"])
    click.echo(f"{'all of it holds' if holds else 'NOT all of it holds'}; {seconds:.0f} s")
    return 0 if holds else 1
