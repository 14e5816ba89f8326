"""The README's two screenshots of the report: ``python -m scripts.report.screenshots``.

Needs Chromium and its driver, and the details of the cases shown, which are measured if they are missing.
"""

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from scripts.output import Problem, written

__all__ = ["browser", "program", "sized"]

FOLDER = Path(__file__).parent / "pictures"
SIZE = (1440, 900)
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
SHOWN = ["mobilenet_v2", "resnet18"]
PAGES = {"index.png": "index.html", "system.png": "classification/resnet.html#def-BasicBlock.__init__"}
MOST = 300_000  # bytes of a screenshot


def program(*names: str) -> str | None:
    """The path of the first of some programs that is installed."""
    return next(filter(None, map(shutil.which, names)), None)


@contextlib.contextmanager
def browser(capabilities: Mapping | None = None) -> Iterator:
    """A headless Chromium with its own profile, driven by Selenium.

    Raises:
        Problem: if it is not installed.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium, driver = program("chromium", "chromium-browser", "google-chrome"), program("chromedriver")
    if not (chromium and driver):
        raise Problem("no browser is installed; install Debian's packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    start = {"restore_on_startup": 4, "startup_urls": ["about:blank"]}  # not the page of new tabs, which loads late
    options.add_experimental_option("prefs", {"session": start})
    for key, value in (capabilities or {}).items():
        options.set_capability(key, value)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for option in (*OPTIONS, f"--user-data-dir={profile}"):
            options.add_argument(option)
        started = webdriver.Chrome(options=options, service=Service(driver))
        try:
            yield started
        finally:
            started.quit()


def sized(started, width: int, height: int, scheme: str = "light") -> None:
    """Give the page a size in pixels, whatever the window allows, and a colour scheme."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    started.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = [{"name": "prefers-color-scheme", "value": scheme}]
    started.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": feature})


def main() -> None:
    from PIL import Image

    from scripts.report import report

    with tempfile.TemporaryDirectory() as folder, browser() as started:
        report(SHOWN, Path(folder), measure=True, jobs=1, as_json=False)
        report([], Path(folder), measure=False, jobs=1, as_json=False)
        sized(started, *SIZE)
        for name, page in PAGES.items():
            started.get(f"{Path(folder).as_uri()}/{page}")
            shot = Image.open(io.BytesIO(started.get_screenshot_as_png())).convert("RGB")
            with written(FOLDER / name) as temporary:
                shot.save(temporary, "PNG", optimize=True)
            if (FOLDER / name).stat().st_size > MOST:
                raise Problem(f"{FOLDER / name}: larger than {MOST} bytes; show less")


if __name__ == "__main__":
    main()
