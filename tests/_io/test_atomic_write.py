"""A file is whole or it is not there, whatever goes wrong while it is written."""

import errno
import os
import resource

import pytest
import torch
from safetensors.torch import save_file

from csra_lab._io import atomic_write as atomic
from csra_lab._io.atomic_write import atomic_write, check_file, clear_leftovers
from csra_lab.errors import CsraError


def tree(folder):
    """Every file below a folder and its text; names that start with a dot too."""
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def write_folder(path, **files):
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)


def disk_full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "scores.csv"
    with atomic_write(path) as fresh:
        assert fresh.name == "scores.csv"  # some writers look at the ending
        assert not fresh.exists()
        fresh.write_text("half")
        assert not path.exists()
        fresh.write_text("whole")
    assert tree(tmp_path) == {"new/folder/scores.csv": "whole"}


def test_a_file_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path) as fresh:
        fresh.write_text("new")
        assert path.read_text() == "old"
    assert tree(tmp_path) == {"a.txt": "new"}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["model", "old", "before", "model.before", ".hidden", "a b"])
def test_a_folder_is_replaced_whole(tmp_path, name):
    path = tmp_path / name
    write_folder(path, weights="old", leftover="old")
    (path / "deep").mkdir()
    with atomic_write(path) as fresh:
        write_folder(fresh, weights="new", config="new")
        assert tree(path) == {"weights": "old", "leftover": "old"}
    assert tree(tmp_path) == {f"{name}/weights": "new", f"{name}/config": "new"}
    assert list(tmp_path.iterdir()) == [path]
    assert sorted(p.name for p in path.iterdir()) == ["config", "weights"]


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("nan"), RuntimeError("CUDA"), KeyboardInterrupt()])
@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
def test_a_failure_inside_the_block_leaves_what_was_there(tmp_path, error, kind):
    path = tmp_path / "x"
    if kind == "file":
        path.write_text("old")
    elif kind == "folder":
        write_folder(path, a="old")
    before = tree(tmp_path)

    def write():
        with atomic_write(path) as fresh:
            fresh.write_text("half")
            raise error

    with pytest.raises(type(error)) as caught:
        write()
    assert caught.value is error  # not turned into another one
    assert tree(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == (kind != "nothing")


def test_a_lab_error_inside_the_block_passes(tmp_path):
    with pytest.raises(CsraError, match="my own sentence"), atomic_write(tmp_path / "x"):
        raise CsraError("my own sentence")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_full_disk_is_one_sentence_and_changes_nothing(tmp_path, monkeypatch, kind, step):
    path = tmp_path / "x"
    path.write_text("old") if kind == "file" else write_folder(path, a="old")
    before = tree(tmp_path)
    if step != "write":
        monkeypatch.setattr(atomic.os, step, disk_full)

    def write():
        with atomic_write(path) as fresh:
            fresh.write_text("half") if kind == "file" else write_folder(fresh, a="half")
            if step == "write":
                disk_full()

    with pytest.raises(CsraError, match=f"{path} .*No space left on device.*unchanged"):
        write()
    monkeypatch.undo()
    assert tree(tmp_path) == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x", "old"])
def test_a_block_that_writes_nothing_destroys_nothing(tmp_path, name):
    path = tmp_path / name
    write_folder(path, a="old")
    with pytest.raises(CsraError, match=name), atomic_write(path):
        pass
    assert tree(tmp_path) == {f"{name}/a": "old"}


def test_a_folder_does_not_replace_a_file(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(CsraError, match="x could not be written"), atomic_write(path) as fresh:
        write_folder(fresh, a="new")
    assert tree(tmp_path) == {"x": "old"}


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    for path in (tmp_path / "file" / "x", tmp_path / "file" / "deep" / "x"):
        with pytest.raises(CsraError, match=f"{path} cannot be written"), atomic_write(path):
            pytest.fail("the block must not run")
    assert tree(tmp_path) == {"file": "not a folder"}

    def denied(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(atomic.tempfile, "mkdtemp", denied)
    with pytest.raises(CsraError, match="Permission denied"), atomic_write(tmp_path / "y"):
        pytest.fail("the block must not run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CsraError, match="Permission denied"), atomic_write(tmp_path / "x"):
            pytest.fail("the block must not run")
    finally:
        tmp_path.chmod(0o700)


SAVERS = {
    "torch.save": lambda path: torch.save({"w": torch.ones(1_000_000)}, path),
    "safetensors": lambda path: save_file({"w": torch.ones(1_000_000)}, path),
    "plain": lambda path: path.write_bytes(b"x" * 4_000_000),
}


@pytest.mark.parametrize("saver", SAVERS)
def test_writers_that_really_run_out_of_room(tmp_path, saver):
    """No file may grow past 1 MB here: each library says it in its own words, and the reader gets one sentence."""
    path = tmp_path / "x"
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(CsraError, match=f"{path} could not be written whole"), atomic_write(path) as fresh:
            SAVERS[saver](fresh)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert tree(tmp_path) == {"x": "old"}


def test_a_process_killed_while_writing(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    child = os.fork()
    if child == 0:
        with atomic_write(path) as fresh:
            fresh.write_text("half")
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert path.read_text() == "old"


def test_a_kill_between_two_renames_loses_nothing(tmp_path):
    scratch = tmp_path / ".model.abc123"
    (scratch / "model.before").mkdir(parents=True)
    (scratch / "model.before" / "weights").write_text("good")
    (tmp_path / ".model.def456").mkdir()  # and an older kill's leftover
    clear_leftovers(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "weights").read_text() == "good"


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_are_readable_by_whom_the_user_lets_read(tmp_path, umask):
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "model") as path:
            path.mkdir()
            save_file({"w": torch.zeros(2)}, path / "model.safetensors")  # which it writes for its owner alone
        with atomic_write(tmp_path / "note.txt") as path:
            path.write_text("x")
    finally:
        os.umask(before)
    for file in (tmp_path / "model" / "model.safetensors", tmp_path / "note.txt"):
        assert file.stat().st_mode & 0o777 == 0o666 & ~umask


def test_the_umask_of_other_threads_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the umask belongs to the whole process"))
    with atomic_write(tmp_path / "note.txt") as path:
        path.write_text("x")
    assert tree(tmp_path) == {"note.txt": "x"}


def test_files_are_flushed_as_windows_demands(tmp_path, monkeypatch):
    """Windows flushes only what was opened for writing, and opens no folder: a stand-in refuses both."""
    fcntl = pytest.importorskip("fcntl")  # there is none on Windows, which needs no stand-in
    flush, flushed = os.fsync, []

    def as_windows(handle):
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flushed.append(handle)
        flush(handle)

    monkeypatch.setattr(atomic.os, "fsync", as_windows)
    with atomic_write(tmp_path / "x") as fresh:
        write_folder(fresh, a="1", b="2")
    assert len(flushed) == 2
    assert tree(tmp_path) == {"x/a": "1", "x/b": "2"}


def test_an_error_keeps_its_cause(tmp_path):
    with pytest.raises(CsraError) as caught, atomic_write(tmp_path / "x"):
        disk_full()
    assert caught.value.__cause__.errno == errno.ENOSPC


@pytest.mark.parametrize("after", [0, 1])
def test_ctrl_c_between_two_renames_loses_nothing(tmp_path, monkeypatch, after):
    """Also where the second rename is done, or where the old folder cannot be put back at once."""
    path, replace, rename = tmp_path / "model", os.replace, type(tmp_path).rename
    write_folder(path, weights="old")

    def interrupted(*arguments):
        if after:
            replace(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as fresh:
        write_folder(fresh, weights="new")
    assert tree(tmp_path) == {"model/weights": "new" if after else "old"}

    def impatient(self, target):
        if self.name.endswith(".before"):
            raise KeyboardInterrupt
        return rename(self, target)

    write_folder(tmp_path / "other", weights="old")
    monkeypatch.setattr(type(tmp_path), "rename", impatient)
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "other") as fresh:
        write_folder(fresh, weights="new")
    monkeypatch.undo()
    clear_leftovers(tmp_path / "other")
    assert tree(tmp_path / "other") == {"weights": "new" if after else "old"}


def test_a_file_never_takes_the_place_of_a_folder(tmp_path):
    write_folder(tmp_path / "holiday", photo="taken once")
    with pytest.raises(CsraError, match="holiday is a folder"), atomic_write(tmp_path / "holiday") as fresh:
        fresh.write_text("a report")
    assert tree(tmp_path) == {"holiday/photo": "taken once"}
    with pytest.raises(CsraError, match="name a file in it, as in --csv"):
        check_file(tmp_path / "holiday", "--csv")
    check_file(tmp_path / "new.csv", "--csv")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with atomic_write(tmp_path / "pipe") as path:
        path.write_text("rows")
    assert os.read(reader, 100) == b"rows"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    with atomic_write(os.devnull) as path:
        path.write_text("nothing keeps this")
    assert not os.path.isfile(os.devnull)


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="this system has no names for open files")
def test_what_the_output_is_directed_to_is_written_and_not_replaced(tmp_path):
    """As `--csv /dev/stdout > rows.csv` has it: the name is the system's, and the file behind it is open."""
    with open(tmp_path / "rows.csv", "w") as file, atomic_write(f"/dev/fd/{file.fileno()}") as path:
        path.write_text("rows")
    assert tree(tmp_path) == {"rows.csv": "rows"}


def test_an_ordinary_file_is_written_beside_its_place(tmp_path):
    with atomic_write(tmp_path / "plain") as path:
        assert path != tmp_path / "plain"
        path.write_text("x")
