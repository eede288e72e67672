"""Files that are either whole or not there."""

import contextlib
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from csra_lab.errors import ConfigError, CsraError


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Write a file or a folder under a temporary name beside it, and rename it when it is whole.

    Yields the temporary path, which does not exist yet. If the block fails or the process dies, `path` stays as it was.
    A pipe or a device, such as /dev/stdout, is written to as it is.

    Raises:
        CsraError: the disk is full or the folder cannot be written, with the path; or a file is to replace a folder.
    """
    path = Path(path)
    if _is_stream(path):
        yield path
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise CsraError(
            f"{path} cannot be written ({error.strerror}); choose a folder with space that you may write."
        ) from error
    try:
        fresh = scratch / path.name
        yield fresh
        _flush_to_disk(fresh, mode=_usual_mode(scratch / f"{path.name}.mode"))
        _move(fresh, path, aside=scratch / f"{path.name}.before")
        _flush_folder(path.parent)
    except (OSError, SafetensorError, RuntimeError) as error:
        if not _is_write_failure(error, scratch):
            raise
        reason = (error.strerror or error) if isinstance(error, OSError) else "the disk may be full"
        raise CsraError(
            f"{path} could not be written whole ({reason}); what stood there before is unchanged."
        ) from error
    finally:
        if path.exists() or not (scratch / f"{path.name}.before").exists():  # what stood there is never removed
            shutil.rmtree(scratch, ignore_errors=True)


def check_file(path: str | Path, option: str) -> None:
    """Refuse a path where no file can be written, before any work is done.

    Raises:
        ConfigError: it is a folder, or lies below a file, with the option that named it.
    """
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file in it, as in {option} {path / 'name'}.")
    if not _is_stream(path):
        check_folder(path.parent, option)


def check_folder(path: str | Path, option: str) -> None:
    """Refuse a path where no folder can be, or none that may be written, before any work is done.

    Raises:
        ConfigError: a file stands there or above, or the folder may not be written, with the option that named it.
    """
    path = Path(path).absolute()
    there = next(p for p in (path, *path.parents) if os.path.lexists(p))
    if not there.is_dir():
        raise ConfigError(f"{there} is a file, so {option} cannot write into {path}; name another folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{there} may not be written, so {option} cannot write into {path}; name another folder.")


def clear_leftovers(path: str | Path) -> None:
    """After a kill: remove what `atomic_write` left beside `path`, and put back a folder that had just stepped aside.

    Only for the one process that writes `path`; another's unfinished writing would be taken for a leftover.
    """
    path = Path(path)
    for scratch in path.parent.glob(f".{glob.escape(path.name)}.*"):
        aside = scratch / f"{path.name}.before"
        if aside.exists() and not path.exists():
            aside.rename(path)
        shutil.rmtree(scratch, ignore_errors=True)


def _move(fresh: Path, path: Path, aside: Path) -> None:
    """Put `fresh` in the place of `path`. A folder cannot be replaced in one step, so the old one steps aside first."""
    if path.is_dir() and not fresh.is_dir():
        raise CsraError(f"{path} is a folder, which a file will not replace; name a file.")
    try:
        if path.is_dir():
            path.rename(aside)
        os.replace(fresh, path)
    except BaseException:  # Ctrl-C too
        if aside.exists() and not path.exists():
            aside.rename(path)
        raise


def _is_stream(path: Path) -> bool:
    """Whether it is a pipe or a device, or a name that the system gives to an open file."""
    system = path.is_absolute() and path.parts[1:2] in (("dev",), ("proc",)) and path.parts[1:3] != ("dev", "shm")
    return path.exists() and not path.is_dir() and (system or not path.is_file())


def _is_write_failure(error: Exception, scratch: Path) -> bool:
    """Whether the disk refused, and not a file elsewhere or the network.

    Safetensors and torch.save have their own words for an OSError; of others not all name a file.
    """
    if not isinstance(error, OSError):
        return "I/O error" in str(error) or "inline_container" in str(error)
    if isinstance(error, ConnectionError | TimeoutError):
        return False
    names = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if name is not None]
    return not names or any(name.is_relative_to(scratch) for name in names)


def _usual_mode(path: Path) -> int:
    """The mode that a new file gets here. The process's umask could be asked only by setting it, for all threads."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return stat.S_IMODE(path.stat().st_mode)


def _flush_to_disk(path: Path, mode: int) -> None:
    """Every file on the disk and readable by whom the user lets read: safetensors writes for its owner alone."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            file.chmod(file.stat().st_mode | mode)
            with open(file, "r+b") as handle:  # Windows flushes only what was opened for writing
                os.fsync(handle.fileno())


def _flush_folder(folder: Path) -> None:
    """The new name itself on the disk, so that a power cut does not bring the old file back. Windows has no such call.

    The file is whole and in its place by now, so a file system that refuses is no failure.
    """
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
