"""Downloading the official CIFAR archives: a name in, the path of a verified archive in the cache out.

``ALLELSE_CIFAR_URL`` replaces the folder on the web that the archives are in, for a mirror; the checksums stay
the official ones.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from allelse.data import cache
from allelse.data.cifar import Cifar, cifar_named
from allelse.errors import DataError

URL_VARIABLE = "ALLELSE_CIFAR_URL"
OFFICIAL_URL = "https://www.cs.toronto.edu/~kriz"
_SECONDS_OF_SILENCE = 15
_TRIES = 2


def ways_out(cifar: Cifar) -> str:
    """The close of every message about a CIFAR that is not there."""
    return (
        f"run `allelse data fetch {cifar.name}` where there is a network, `allelse data import {cifar.name} PATH` with a copy "
        "of your own, or the study with `--quick` for the bundled digits"
    )


def fetch(name: str, progress: bool = True) -> Path:
    """Download the official binary archive of ``cifar10`` or ``cifar100`` into the cache, if it is not there yet.

    About 170 MB. The MD5 that the authors publish is verified before the file gets its name, so the cache never holds half
    an archive; a damaged one that lies there is replaced.

    Arguments:
        name: ``cifar10`` or ``cifar100``.
        progress: show a progress bar on stderr.

    Returns:
        the archive's path; or, without a download, that of the converted data set where the cache has it already.

    Raises:
        DataError: no such data set, no network, a download cut short, a wrong checksum, or a cache that cannot be written.
    """
    cifar = cifar_named(name)
    converted = cache.root() / f"{cifar.name}.npz"
    if cache.exists(converted):
        return converted
    archive = cache.root() / cifar.archive
    with cache.locked(archive):
        _download(cifar, archive, progress)
    return archive


def _download(cifar: Cifar, archive: Path, progress: bool) -> None:
    import pooch  # imported here because it brings requests along, which takes a moment

    base = os.environ.get(URL_VARIABLE, OFFICIAL_URL).rstrip("/")
    url = f"{base}/{cifar.archive}"
    if not _is_address(url):
        raise DataError(f"{URL_VARIABLE} is {base!r}; allowed: an address that begins with https:// or http://, with a server")
    # The bar tells of the download; pooch's own log lines would be a second voice.
    pooch.get_logger().setLevel("ERROR")
    for attempt in range(1, _TRIES + 1):
        with tqdm(desc=cifar.archive, unit="B", unit_scale=True, disable=None if progress else True) as bar:
            meter = _Meter(bar)
            answers: list[Any] = []
            download = pooch.HTTPDownloader(
                progressbar=meter,
                chunk_size=1 << 16,
                timeout=_SECONDS_OF_SILENCE,
                hooks={"response": partial(_remember, answers)},
            )
            try:
                pooch.retrieve(url, f"md5:{cifar.archive_md5}", cifar.archive, archive.parent, downloader=download)
                return
            except OSError as error:
                if not _is_network(error):
                    raise DataError(
                        f"the data cache {archive.parent} cannot be written ({error.strerror}); free the disk or set "
                        f"{cache.ROOT_VARIABLE} to another folder"
                    ) from error
                status = getattr(getattr(error, "response", None), "status_code", None)
                if attempt == _TRIES or (status is not None and status < 500):
                    raise DataError(_failure(cifar, url, status, meter.started, error)) from error
            except ValueError as error:
                if "hash" not in str(error):  # pooch's word for a wrong checksum
                    raise DataError(f"{URL_VARIABLE} is {base!r}; allowed: an address that a server can have") from error
                raise DataError(
                    f"{url} has another checksum than the official md5 {cifar.archive_md5} and was not kept; {ways_out(cifar)}"
                ) from error
            finally:
                for answer in answers:  # pooch leaves the connection of a failed download open
                    answer.close()


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and (parts.port or 1) > 0
            and url.isprintable()
            and " " not in url
        )
    except ValueError:
        return False


def _remember(answers: list[Any], answer: Any, **_: Any) -> None:
    answers.append(answer)


def _is_network(error: OSError) -> bool:
    # requests' exceptions are OSErrors too, and so is a full disk.
    return isinstance(error, (ConnectionError, TimeoutError)) or type(error).__module__.startswith(("requests", "urllib3"))


def _failure(cifar: Cifar, url: str, status: int | None, started: bool, error: OSError) -> str:
    if status is not None:
        reason = f"{url} answered {status}"
    elif started:
        reason = f"the download of {url} was cut short, so nothing of it was kept"
    else:
        reason = f"{url} cannot be reached ({type(error).__name__})"
    return f"{cifar.name} is not on this machine and {reason}; {ways_out(cifar)}"


class _Meter:
    """The progress bar as pooch drives it; it remembers whether anything arrived, which tells a cut line from no line."""

    def __init__(self, bar: tqdm) -> None:
        self._bar = bar
        self.started = False

    @property
    def total(self) -> float:
        return self._bar.total or 0

    @total.setter
    def total(self, value: int) -> None:
        self.started = True
        self._bar.total = value

    def update(self, count: int) -> None:
        self._bar.update(count)

    def reset(self) -> None:
        self._bar.reset(self._bar.total)

    def close(self) -> None:
        self._bar.close()
