"""A disk that is full or may not be written, a cache that goes away, two processes at once, and servers that misbehave:
each ends with the right file or with one sentence.

What tests/test_atomic.py and tests/datasets/test_download.py try already is not tried again.
"""

import contextlib
import errno
import gc
import hashlib
import io
import multiprocessing
import os
import resource
import shutil
import signal
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from csra_lab import create_classifier
from csra_lab._io.atomic_write import atomic_write
from csra_lab.datasets import download as downloads
from csra_lab.datasets.download import Archive, Source, fetch
from csra_lab.datasets.unpack import unpack
from csra_lab.errors import CsraError
from csra_lab.synthetic import emoji_voc, prepare
from csra_lab.training import feature_cache as features
from csra_lab.training import loop as training
from csra_lab.training.evaluation import evaluate
from tests import toy
from tests.faults import work
from tests.faults.conftest import tree


@contextlib.contextmanager
def no_file_above(size: int):
    """No file may grow past `size` bytes: the kernel refuses the write as it would on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def one_sentence(caught, *words) -> None:
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert all(word in text for word in words), text


# ---- disks -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    return toy.write_devkit(tmp_path_factory.mktemp("toy"), trainval=70, test=10)


def test_a_full_disk_while_drawing(tmp_path, inject):
    inject("full disk")
    with no_file_above(600), pytest.raises(CsraError) as caught:
        work.draw_emoji(tmp_path)
    one_sentence(caught, "emoji-voc", "could not be written whole")
    assert list(tmp_path.iterdir()) == []
    work.draw_emoji(tmp_path)


def test_a_full_disk_while_features_are_kept(devkit, tmp_path, inject):
    whole = work.network(), toy.load(devkit, "trainval")
    inject("full disk")
    with no_file_above(50_000), pytest.raises(CsraError) as caught:
        features.cache_features(*whole, root=tmp_path)
    one_sentence(caught, ".part cannot be written", "make room")
    kept = features.cache_features(*whole, root=tmp_path)
    assert torch.equal(kept.maps, features.cache_features(*whole, root=tmp_path / "again").maps)


def test_a_full_disk_while_training(devkit, tmp_path, inject):
    inject("full disk")
    with no_file_above(20_000), pytest.raises(CsraError) as caught:
        work.fit(devkit, tmp_path / "run")
    one_sentence(caught, "run", "could not be written whole")
    assert not (tmp_path / "run").exists()


def test_a_full_disk_while_unpacking(tmp_path, inject, monkeypatch):
    content = np.random.default_rng(0).bytes(200_000)
    archive = pack(tmp_path / "a.tar", {"VOCdevkit/VOC2007/big.jpg": content})
    body = archive.read_bytes()
    source = Source((Archive("http://127.0.0.1:9/a.tar", len(body), sha256(body)),), "VOCdevkit/VOC2007", "", 1000)
    monkeypatch.setitem(downloads.SOURCES, "voc2007", source)
    (tmp_path / "root" / ".voc2007.download").mkdir(parents=True)
    shutil.copy(archive, tmp_path / "root" / ".voc2007.download" / "a.tar")
    inject("full disk")
    with no_file_above(100_000), pytest.raises(CsraError) as caught:
        downloads.download("voc2007", tmp_path / "root", progress=False)
    one_sentence(caught, "root", "failed")
    assert [p.name for p in (tmp_path / "root").iterdir()] == [".voc2007.download"]
    folder = downloads.download("voc2007", tmp_path / "root", progress=False)
    assert (folder / "big.jpg").read_bytes() == content


READ_ONLY = {
    "drawing": lambda devkit, folder: work.draw_emoji(folder),
    "features": lambda devkit, folder: work.features(devkit, folder),
    "training": lambda devkit, folder: work.fit(devkit, folder / "run"),
    "download": lambda devkit, folder: downloads.download("voc2007", folder, progress=False),
    "predictions": lambda devkit, folder: create_classifier(
        "test_resnet", num_classes=2, image_size=64
    ).save_head(folder / "model"),
}  # fmt: skip


@pytest.mark.parametrize("name", READ_ONLY)
@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_may_not_be_written(name, code, devkit, tmp_path, monkeypatch, inject):
    """Root may write everywhere, so the refusal is ours: the calls that begin to write say what a kernel would."""
    refuse = {}

    def refusing(module, function):
        real = getattr(module, function)

        def call(path, *args, **options):
            if str(path).startswith(str(tmp_path)):
                refuse[function] = True
                raise OSError(code, os.strerror(code), str(path))
            return real(path, *args, **options)

        monkeypatch.setattr(module, function, call)

    refusing(os, "mkdir")
    inject("folder that may not be written")
    with pytest.raises(CsraError) as caught:
        READ_ONLY[name](devkit, tmp_path / "x")
    assert refuse
    one_sentence(caught, str(tmp_path), os.strerror(code))
    assert list(tmp_path.iterdir()) == []


def test_what_fails_inside_a_block_is_not_called_a_full_disk(tmp_path):
    def write(error):
        with atomic_write(tmp_path / "x") as path:
            path.write_text("half")
            raise error

    for error in (FileNotFoundError(2, "No such file", "/data/sprite.png"), ConnectionResetError("the network")):
        with pytest.raises(type(error)):
            write(error)
    assert list(tmp_path.iterdir()) == []


# ---- a cache that goes away ------------------------------------------------------------------------------------------


def test_kept_features_that_are_deleted_while_they_are_made(devkit, tmp_path, monkeypatch, inject):
    data, written = toy.load(devkit, "trainval"), features.atomic_write
    whole = features.cache_features(work.network(), data, root=tmp_path / "whole")
    for moment in (1, 2):  # after the first note and after the last
        notes = []

        @contextlib.contextmanager
        def deleting(path, notes=notes, moment=moment):
            with written(path) as fresh:
                yield fresh
            notes.append(path)
            if len(notes) == moment:
                shutil.rmtree(tmp_path / "cache")

        monkeypatch.setattr(features, "atomic_write", deleting)
        inject("cache deleted mid-run")
        with pytest.raises(CsraError) as caught:
            features.cache_features(work.network(), data, root=tmp_path / "cache")
        one_sentence(caught, "was deleted", "give the same command again")
        monkeypatch.setattr(features, "atomic_write", written)
        again = features.cache_features(work.network(), data, root=tmp_path / "cache")
        assert torch.equal(again.maps, whole.maps)
        shutil.rmtree(tmp_path / "cache")


def test_kept_features_that_are_deleted_while_they_are_read(devkit, tmp_path, inject):
    kept = features.cache_features(work.network(), toy.load(devkit, "trainval"), root=tmp_path)
    before = kept.maps.clone()
    inject("cache deleted mid-run")
    shutil.rmtree(tmp_path / "features")
    assert torch.equal(kept.maps, before)  # what is open stays readable


def test_pictures_that_are_deleted_while_they_are_trained_on(tmp_path, monkeypatch, inject):
    devkit, finish = toy.write_devkit(tmp_path), training.Trainer.finish_epoch

    def then_delete(run, *args):
        finish(run, *args)
        shutil.rmtree(devkit / "VOC2012" / "JPEGImages", ignore_errors=True)

    monkeypatch.setattr(training.Trainer, "finish_epoch", then_delete)
    inject("cache deleted mid-run")
    with pytest.raises(CsraError) as caught:
        work.fit(devkit, tmp_path / "run")
    one_sentence(caught, ".jpg does not exist")
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"recipe.json", "model", "state.pt", "history.csv"}


def test_a_set_that_is_deleted_while_it_is_drawn(tmp_path, monkeypatch, inject):
    picture = emoji_voc.picture

    def deleting(split, index, image_size):
        if index == 2:
            shutil.rmtree(tmp_path / "cache")
        return picture(split, index, image_size)

    monkeypatch.setattr(emoji_voc, "picture", deleting)
    inject("cache deleted mid-run")
    with pytest.raises(CsraError) as caught:
        work.draw_emoji(tmp_path / "cache")
    one_sentence(caught, "could not be written whole")


# ---- two at once -----------------------------------------------------------------------------------------------------


def test_two_processes_draw_one_set(start, end, tmp_path, inject):
    both = [start(work.draw_emoji, tmp_path / "cache") for _ in range(2)]
    assert [end(process) for process in both] == [0, 0]
    inject("two processes at once")
    work.draw_emoji(tmp_path / "alone")
    (folder,) = (tmp_path / "cache").iterdir()
    assert tree(folder) == tree(tmp_path / "alone" / folder.name)


def test_one_waits_until_the_other_is_done_or_dead(tmp_path, inject):
    """The lock is handed on by an end, by a kill, and never to two."""
    context = multiprocessing.get_context("fork")
    folder, log = tmp_path / "set", tmp_path / "log"

    def hold(seconds, make):
        with prepare.only_one(folder) as mine, open(log, "a") as file:
            file.write(f"{'+' if mine else 'f'}\n")
            file.flush()
            time.sleep(seconds)
            file.write(f"{'-' if mine else 'f'}\n")
            if make and mine:
                folder.mkdir()

    def lines():
        return log.read_text().split() if log.exists() else []

    first = context.Process(target=hold, args=(60, False))
    first.start()
    while lines() != ["+"]:
        time.sleep(0.01)
    waiting = [context.Process(target=hold, args=(0.05, number == 3)) for number in range(4)]
    for process in waiting:
        process.start()
    time.sleep(0.3)
    assert lines() == ["+"]  # nobody came in
    first.kill()
    inject("two processes at once", 4)
    for process in (first, *waiting):
        process.join(60)
    assert [process.exitcode for process in waiting] == [0] * 4
    held = "".join(lines()[1:]).replace("ff", "")
    assert held == "+-" * (len(held) // 2)  # one after the other
    assert folder.is_dir()
    assert not (tmp_path / "set.lock").exists()


def test_helpers_end_with_the_process_that_started_them(start, tmp_path, inject):
    parent = start(work.with_helpers, tmp_path)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    helpers = [int(p.name) for p in tmp_path.iterdir()]
    os.kill(parent.pid, signal.SIGKILL)
    inject("kills: with helpers")
    parent.join()
    while any(Path(f"/proc/{pid}").exists() and "Z" not in status(pid) for pid in helpers):
        assert time.monotonic() < deadline, "a helper lives on"
        time.sleep(0.02)


def status(pid: int) -> str:
    with contextlib.suppress(OSError):
        return next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("State"))
    return "Z"


def test_a_helper_that_is_killed_is_one_sentence(tmp_path, monkeypatch, inject):
    monkeypatch.setattr(prepare, "get_context", prepare.get_context)  # which with_helpers changes

    def kill_one():
        while not list(tmp_path.iterdir()):
            time.sleep(0.02)
        os.kill(int(next(tmp_path.iterdir()).name), signal.SIGKILL)

    threading.Thread(target=kill_one, daemon=True).start()
    inject("kills: a helper")
    with pytest.raises(CsraError) as caught:
        work.with_helpers(tmp_path)
    one_sentence(caught, "was ended")


def test_a_bad_picture_in_a_loaders_process_is_one_sentence(devkit, tmp_path, inject, monkeypatch):
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)  # how long it waits at the end
    data = toy.load(devkit, "test")
    data.paths[3] = tmp_path / "missing.jpg"
    model = create_classifier("test_efficientnet", classes=toy.CLASSES, image_size=64)
    inject("bad picture in another process")
    with pytest.raises(CsraError) as caught:
        evaluate(model, data, workers=1)
    one_sentence(caught, "missing.jpg does not exist")
    del caught
    gc.collect()  # the loader and its process end here, and not in some later test


# ---- servers ---------------------------------------------------------------------------------------------------------


def pack(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


BODY = np.random.default_rng(1).bytes(100_000)


class Rude(BaseHTTPRequestHandler):
    """Answers as its server's `answer` says."""

    def do_GET(self):
        self.server.asked += 1
        with contextlib.suppress(OSError):
            self.server.answer(self)

    def send(self, code, body=b"", **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def rude(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(downloads, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(downloads, "TIMEOUT", 0.3)
    with ThreadingHTTPServer(("127.0.0.1", 0), Rude) as server:
        server.daemon_threads, server.asked, server.handle_error = True, 0, lambda *_: None
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def first(handler, *, bad, good=lambda h: h.send(200, BODY, Content_Length=len(BODY))):
    """Misbehave on the first request only."""
    (bad if handler.server.asked == 1 else good)(handler)


def at_random(handler):
    """Ranges are honoured; every connection breaks after a random number of bytes."""
    begin = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
    rest = BODY[begin:]
    length = int(np.random.default_rng(handler.server.asked).integers(1, 30_000))
    headers = {"Content_Length": len(rest), "Content_Range": f"bytes {begin}-{len(BODY) - 1}/{len(BODY)}"}
    handler.send(206 if begin else 200, rest[:length], **headers)


GOOD_IN_THE_END = {
    "breaks off at random": at_random,
    "sends half, then all": lambda h: first(h, bad=lambda h: h.send(200, BODY[:50_000], Content_Length=len(BODY))),
    "says nothing of the length": lambda h: h.send(200, BODY),
    "hangs, then answers": lambda h: first(h, bad=lambda h: time.sleep(1)),
    "hangs up, then answers": lambda h: first(h, bad=lambda h: h.connection.close()),
    "answers no HTTP, then answers": lambda h: first(h, bad=lambda h: h.wfile.write(b"hello\r\n\r\n")),
    "sends another file, then the right one": lambda h: first(
        h, bad=lambda h: h.send(200, BODY[::-1], Content_Length=len(BODY))
    ),
    "is busy, then answers": lambda h: first(h, bad=lambda h: h.send(429)),
    "sends it to another path": lambda h: h.send(302, Location="/other") if h.path != "/other" else first(
        h, bad=lambda h: h.send(200, BODY, Content_Length=len(BODY))
    ),
    "sends it compressed in name only": lambda h: h.send(200, BODY, Content_Encoding="identity"),
}  # fmt: skip
NEVER_GOOD = {
    "redirects in a circle": lambda h: h.send(302, Location=h.path),
    "redirects to a file": lambda h: h.send(302, Location="file:///etc/passwd"),
    "redirects to nowhere": lambda h: h.send(302, Location="http://127.0.0.1:9/x"),
    "redirects to no address": lambda h: h.send(302, Location="http://[::1/x"),
    "redirects without an address": lambda h: h.send(302),
    "sends a page instead": lambda h: h.send(200, b"<html>log in</html>", Content_Length=19),
    "sends nothing": lambda h: h.send(200, b"", Content_Length=0),
    "sends one byte too few": lambda h: h.send(200, BODY[:-1], Content_Length=len(BODY) - 1),
    "sends one byte too many": lambda h: h.send(200, BODY + b"x", Content_Length=len(BODY) + 1),
    "flips one bit": lambda h: h.send(200, bytes([BODY[0] ^ 1]) + BODY[1:], Content_Length=len(BODY)),
    "sends without end": lambda h: [h.send(200)] and [h.wfile.write(BODY) for _ in range(400)],
    "says a length that is none": lambda h: h.send(200, BODY[:9], Content_Length="many"),
    "says a negative length": lambda h: h.send(200, BODY[:9], Content_Length=-5),
    "continues where nobody asked": lambda h: h.send(206, BODY[5:], Content_Range="bytes 5-9/10"),
    "asks for a password": lambda h: h.send(401, WWW_Authenticate="Basic"),
    "forbids": lambda h: h.send(403),
    "has it no more": lambda h: h.send(410),
    "is broken": lambda h: h.send(500),
    "cannot continue, ever": lambda h: h.send(416),
    "sends torn chunks": lambda h: h.send(200, b"zz\r\nhello", Transfer_Encoding="chunked"),
    "sends endless headers": lambda h: h.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 5000),
    "sends one long header": lambda h: h.wfile.write(b"HTTP/1.1 200 OK\r\na: " + b"b" * 200_000),
    "answers no HTTP": lambda h: h.wfile.write(b"\x00\xff" * 50 + b"\r\n\r\n"),
}


@pytest.mark.parametrize("kind", [*GOOD_IN_THE_END, *NEVER_GOOD])
@pytest.mark.parametrize("begun", [0, 40_000], ids=["new", "begun"])
def test_servers_that_misbehave(rude, tmp_path, kind, begun, inject):
    rude.answer = (GOOD_IN_THE_END | NEVER_GOOD)[kind]
    inject("rude servers")
    if begun:
        (tmp_path / "a.bin.part").write_bytes(BODY[:begun])
    archive = Archive(f"http://127.0.0.1:{rude.server_address[1]}/a.bin", len(BODY), sha256(BODY))
    refused = None
    try:
        found = fetch(archive, tmp_path, progress=False)
    except CsraError as error:
        refused = str(error)
    assert (refused is None) == (kind in GOOD_IN_THE_END), refused
    if refused is None:
        assert found.read_bytes() == BODY
        assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    else:
        assert "\n" not in refused
        assert "/a.bin" in refused
        assert not (tmp_path / "a.bin").exists()
        part = tmp_path / "a.bin.part"
        assert not part.exists() or part.stat().st_size <= len(BODY) + downloads.CHUNK  # a flood is not stored


def test_two_downloads_at_once(rude, start, end, tmp_path, inject):
    body = pack(tmp_path / "a.tar", {"VOCdevkit/VOC2007/a.jpg": BODY}).read_bytes()
    rude.answer = lambda h: h.send(200, body, Content_Length=len(body))
    address = f"http://127.0.0.1:{rude.server_address[1]}"
    arguments = (tmp_path / "data", address, [("a.tar", len(body), sha256(body))])
    both = [start(work.fetch, *arguments) for _ in range(2)]
    assert [end(process) for process in both] == [0, 0]
    inject("two processes at once")
    assert rude.asked == 1  # the second waited, and found it there
    assert tree(tmp_path / "data") == {"VOCdevkit/VOC2007/a.jpg": BODY}


# ---- archives --------------------------------------------------------------------------------------------------------


def test_archives_with_bytes_changed_anywhere(tmp_path, inject):
    """Every damage is one sentence, or a file that has other bytes; nothing comes out beside the folder."""
    rng = np.random.default_rng(0)
    members = {f"deep/{i}.txt": rng.bytes(300) for i in range(3)}
    for kind in ("w:", "w:gz", "w:bz2", "w:xz"):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode=kind) as file:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
        for number in range(12):
            body = bytearray(packed.getvalue())
            for _ in range(1 + number % 4):
                body[rng.integers(len(body))] = rng.integers(256)
            place = tmp_path / f"{kind[2:]}{number}"
            place.mkdir()
            (place / "a.tar").write_bytes(bytes(body[: len(body) if number % 3 else rng.integers(len(body))]))
            inject("damaged archives")
            with contextlib.suppress(CsraError):
                unpack(place / "a.tar", place / "out", progress=False)
            assert {p.name for p in place.iterdir()} <= {"a.tar", "out"}


def test_members_that_are_a_file_and_a_folder(tmp_path, inject):
    for names in (("a", "a/b"), ("a/b", "a"), (".", "x"), ("a" * 300, "x")):
        inject("damaged archives")
        archive = pack(tmp_path / "a.tar", dict.fromkeys(names, b"x"))
        with pytest.raises((CsraError, OSError)) as caught:
            unpack(archive, tmp_path / "out", progress=False)
        assert isinstance(caught.value, CsraError) or caught.value.errno == errno.ENAMETOOLONG
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_a_file_with_holes_does_not_fill_the_disk(tmp_path, inject):
    info = tarfile.TarInfo("big")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 0
    block = bytearray(info.tobuf())
    block[386:410] = b"%011o\0" % 0 + b"%011o\0" % 0
    block[483:495] = b"%011o\0" % 7_000_000_000  # what it claims to be
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "a.tar").write_bytes(bytes(block) + bytes(1024))
    inject("damaged archives")
    with pytest.raises(CsraError, match="holes"):
        unpack(tmp_path / "a.tar", tmp_path / "out", progress=False)
