"""Unpack an archive so that nothing lands outside its folder and nothing but files and folders comes out."""

from __future__ import annotations

import gzip
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from csra_lab.errors import CsraError, DataError


def unpack(archive: Path, folder: Path, *, progress: bool = True) -> None:
    """Unpack a .tar or .zip into `folder`, files and folders only.

    A member with an absolute path, a "..", a drive letter or a backslash, a link or a device stops it with a CsraError
    before anything of that member is written. Permissions and owners in the archive are not taken over. `folder`
    should be new, or hold only what earlier calls unpacked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tqdm(desc=f"unpack {archive.name}", unit="file", disable=not progress) as bar:
            for name, content in _members(archive):
                target = folder.joinpath(*_safe_parts(name, archive))
                if content is None:
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with content, open(target, "wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
                bar.update()
    except CsraError:
        raise
    except _TORN as error:
        reason = str(error).split("\n")[0]
        raise DataError(f"The archive {archive} is damaged ({reason}); remove it and download again.") from error


# What tarfile, zipfile and the packers raise for archives that are not whole, and what the disk says to members that
# are a file and a folder at once. A full disk is not among them.
_TORN = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError, LookupError,
    struct.error, OverflowError, FileExistsError, IsADirectoryError, NotADirectoryError, gzip.BadGzipFile,
)  # fmt: skip


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """(name, open file) of every member, None for a folder. CsraError for a link, a device, or an unknown format."""
    return _zip_members(archive) if archive.suffix == ".zip" else _tar_members(archive)


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with zipfile.ZipFile(archive) as pack:
        for info in pack.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(f"The archive {archive} holds {info.filename!r}, a link or device; do not use it.")
            yield info.filename, None if info.is_dir() else pack.open(info)


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with tarfile.open(archive) as pack:
        for info in pack:
            if not (info.isreg() or info.isdir()):
                raise DataError(f"The archive {archive} holds {info.name!r}, a link or device; do not use it.")
            if info.issparse():  # a few bytes can be a file that fills the disk
                raise DataError(f"The archive {archive} holds {info.name!r}, a file with holes; do not use it.")
            yield _filtered(info, archive), None if info.isdir() else pack.extractfile(info)


def _filtered(info: tarfile.TarInfo, archive: Path) -> str:
    """The member's name, once Python's own filter for data has let it pass; an absolute one is refused below."""
    try:
        tarfile.data_filter(info, str(archive.parent))
    except tarfile.FilterError as error:
        sentence = f"The archive {archive} holds {info.name!r}, which leads out of its folder; do not use it."
        raise DataError(sentence) from error
    return info.name


def _safe_parts(name: str, archive: Path) -> tuple[str, ...]:
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or set(name) & set("\\:\0"):
        raise DataError(f"The archive {archive} holds {name!r}, which leads out of its folder; do not use it.")
    return parts
