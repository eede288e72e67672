"""Fetch the archives of a data set: resumed, retried, checked, and then unpacked (see unpack.py).

Plain urllib, not pooch: the archives weigh up to 13.5 GB, and pooch starts every broken download over, while here a
`.part` file is continued with an HTTP range. An archive gets its final name only after its checksum was right, and the
data set's folder appears in one rename, when everything has been unpacked.

Where the checksums come from: VOC's MD5 are those in torchvision's own source (torchvision/datasets/voc.py). COCO's
SHA-256 and all sizes are those that TensorFlow Datasets records for the same files.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from csra_lab._io.cache import only_one
from csra_lab.datasets.unpack import unpack
from csra_lab.datasets.wider import WIDER_STEPS
from csra_lab.errors import ConfigError, CsraError, DataError, DownloadError

CHUNK = 1 << 20  # bytes
TIMEOUT = 30.0  # seconds without a byte before a connection counts as broken
PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before each new try; a try that brought bytes starts the list anew


@dataclass(frozen=True)
class Archive:
    """One file on a server: its address, its exact size in bytes, and its checksum as "md5:..." or "sha256:..."."""

    url: str
    size: int
    checksum: str


@dataclass(frozen=True)
class Source:
    """The archives of one data set, the folder below `root` that they become, and where in it they are unpacked."""

    archives: tuple[Archive, ...]
    folder: str  # appears under root when all is there
    unpack_into: str  # the archives' own paths start below this
    unpacked: int  # bytes on disk after unpacking, roughly


_VOC = "https://thor.robots.ox.ac.uk/pascal/VOC/"
_COCO = "http://images.cocodataset.org/"

SOURCES = {
    "voc2007": Source(
        archives=(
            Archive(_VOC + "voc2007/VOCtrainval_06-Nov-2007.tar", 460_032_000, "md5:c52e279531787c972589f7e41ab4ae64"),
            Archive(_VOC + "voc2007/VOCtest_06-Nov-2007.tar", 451_020_800, "md5:b6e924de25625d8de591ea690078ad9f"),
        ),
        folder="VOCdevkit/VOC2007",
        unpack_into="",
        unpacked=1_000_000_000,
    ),
    # Test photographs are handed out by VOC's evaluation server after registration; trainval is public.
    "voc2012": Source(
        archives=(
            Archive(
                _VOC + "voc2012/VOCtrainval_11-May-2012.tar", 1_999_639_040, "md5:6cd6e144f989b92b3379bac3b3de84fd"
            ),
        ),
        folder="VOCdevkit/VOC2012",
        unpack_into="",
        unpacked=2_100_000_000,
    ),
    "coco2014": Source(
        archives=(
            Archive(
                _COCO + "annotations/annotations_trainval2014.zip",
                252_872_794,
                "sha256:031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
            ),
            Archive(
                _COCO + "zips/val2014.zip",
                6_645_013_297,
                "sha256:fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
            ),
            Archive(
                _COCO + "zips/train2014.zip",
                13_510_573_713,
                "sha256:ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
            ),
        ),
        folder="coco2014",
        unpack_into="coco2014",
        unpacked=21_500_000_000,
    ),
}


def download(name: str, root: str | Path, *, progress: bool = True) -> Path:
    """Fetch and unpack the data set `name` under `root`, and return its folder there.

    "voc2007" and "voc2012" become `root/VOCdevkit/VOC2007` and `.../VOC2012` (trainval only: the test photographs of
    2012 need a registration), "coco2014" becomes `root/coco2014`. A folder that is there already is left as it is.
    A broken download is continued, by the same command, where it stopped. Archives are removed after unpacking.

    Raises CsraError for an unknown name, for "wider" (with the steps, since its authors ask for a form), when the disk
    is too small, read-only or full, when the server cannot be reached, and for a wrong checksum.
    """
    if name == "wider":
        raise ConfigError(WIDER_STEPS)
    if name not in SOURCES:
        raise ConfigError(f"There is no download for {name!r}; there are {', '.join(SOURCES)}, and steps for wider.")
    source = SOURCES[name]
    root = Path(root)
    final, archives, unpacking = root / source.folder, root / f".{name}.download", root / f".{name}.unpacking"
    with _readable_disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    with _readable_disk_errors(root), only_one(final, lock=root / f".{name}.lock") as first:
        if first:
            archives.mkdir(exist_ok=True)
            shutil.rmtree(unpacking, ignore_errors=True)  # left by a run that was killed
            _check_space(source, root, archives)
            files = [fetch(a, archives, progress=progress) for a in source.archives]
            try:
                for file in files:
                    unpack(file, unpacking / source.unpack_into, progress=progress)
                if not (unpacking / source.folder).is_dir():
                    raise DataError(
                        f"The archives of {name} hold no folder {source.folder}; remove {archives} and retry."
                    )
                final.parent.mkdir(parents=True, exist_ok=True)
                (unpacking / source.folder).rename(final)
            finally:
                shutil.rmtree(unpacking, ignore_errors=True)
        for left in (archives, unpacking):  # by this run, or by one that was killed just before
            shutil.rmtree(left, ignore_errors=True)
    return final


def fetch(archive: Archive, folder: Path, *, progress: bool = True) -> Path:
    """Bring one archive into `folder`, and return its path there. Its bytes have the right checksum.

    An unfinished download lies beside it as `NAME.part` and is continued by the next call. A wrong checksum removes it
    and tries once from the start.

    Raises:
        CsraError: no connection, no room, or a wrong checksum twice.
    """
    file_name = archive.url.rsplit("/", 1)[-1]
    target, part = folder / file_name, folder / f"{file_name}.part"
    if target.exists():
        if _checksum(target, archive, progress) == archive.checksum:
            return target
        raise DataError(f"{target} is there but its checksum is not {archive.checksum}; remove the file and retry.")
    for _ in range(2):
        _fetch_part(archive, part, progress)
        found = _checksum(part, archive, progress)
        if found == archive.checksum:
            part.rename(target)
            return target
        part.unlink()
    raise DownloadError(
        f"{archive.url} has the checksum {found} where {archive.checksum} is known, twice; "
        "the server or a proxy hands out another file, so try later or from another network."
    )


def _fetch_part(archive: Archive, part: Path, progress: bool) -> None:
    """Fill `part` to the end of what the server has, over as many connections as it takes."""
    pauses = iter(PAUSES)
    with tqdm(
        total=archive.size,
        initial=_size(part),
        desc=part.stem,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        disable=not progress,
    ) as bar:
        while True:
            before = _size(part)
            try:
                _one_connection(archive, part, bar)
                return
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code not in (408, 429):
                    reason = str(error.reason).split("\n")[0]  # of a redirect in a circle it is several lines
                    raise DownloadError(
                        f"{archive.url} answers {error.code} {reason}; the address may have moved, "
                        "so try later, or put the files in place by hand."
                    ) from error
                problem = f"{error.code} {error.reason}"
            except (http.client.HTTPException, ConnectionError, ValueError) as error:  # ValueError: a bad redirect
                problem = str(error).split("\n")[0] or type(error).__name__
            if _size(part) > before:
                pauses = iter(PAUSES)
            pause = next(pauses, None)
            if pause is None:
                raise DownloadError(
                    f"{archive.url} cannot be fetched ({problem}); check the network and give the same command again, "
                    "it goes on where it stopped."
                )
            time.sleep(pause)


def _one_connection(archive: Archive, part: Path, bar: tqdm) -> None:
    """Append to `part` what one connection brings. ConnectionError if it ends before the file does."""
    have = _size(part)
    if have == archive.size:
        return
    request = urllib.request.Request(archive.url, headers={"User-Agent": "csra-lab", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        part.unlink(missing_ok=True)  # longer than the file: not a beginning of it
        raise ConnectionError("the unfinished file did not fit and was removed") from error
    except OSError as error:  # no name, no route, refused, timed out, bad certificate
        raise ConnectionError(str(getattr(error, "reason", error))) from error
    with response:
        if response.status == 206:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                part.unlink(missing_ok=True)
                raise ConnectionError("the server continued at another place")
        else:  # ranges are ignored: this is the file from its first byte
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None and length.isdigit() else None
        bar.n = have
        bar.refresh()
        with open(part, "ab" if have else "wb") as file:
            while block := _read(response):
                file.write(block)
                have += len(block)
                bar.update(len(block))
                if have > archive.size:
                    return  # not our file; the checksum will say so
    if have < (archive.size if total is None else total):
        raise ConnectionError(f"the connection ended after {have:,} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except OSError as error:  # the network's; those of the disk must stay apart
        raise ConnectionError(str(error)) from error


def _checksum(path: Path, archive: Archive, progress: bool) -> str:
    """The checksum of a file, of the same kind and written the same way as the archive's."""
    kind = archive.checksum.partition(":")[0]
    digest = hashlib.new(kind, usedforsecurity=False)
    with (
        open(path, "rb") as file,
        tqdm(
            total=_size(path), desc=f"check {path.stem}", unit="B", unit_scale=True, leave=False, disable=not progress
        ) as bar,
    ):
        for block in iter(lambda: file.read(CHUNK), b""):
            digest.update(block)
            bar.update(len(block))
    return f"{kind}:{digest.hexdigest()}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_space(source: Source, root: Path, archives: Path) -> None:
    have = sum(p.stat().st_size for p in archives.iterdir())
    need = sum(a.size for a in source.archives) - have + source.unpacked
    free = shutil.disk_usage(root).free
    if free < need:
        raise CsraError(
            f"{source.folder} needs {need / 1e9:.1f} GB under {root}, archives and unpacked files together, "
            f"but {free / 1e9:.1f} GB are free; make room or name another folder."
        )


@contextmanager
def _readable_disk_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full" if full else error.strerror or str(error)
        raise CsraError(
            f"Writing under {root} failed ({what}); make room, or name a folder that can be written."
        ) from error
