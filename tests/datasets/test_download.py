import hashlib
import io
import shutil
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from csra_lab.datasets import download as module
from csra_lab.datasets.download import SOURCES, Archive, Source, download, fetch
from csra_lab.errors import CsraError


def tar_of(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as pack:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            pack.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


NOISE = np.random.default_rng(0).bytes(300_000)
TRAINVAL = tar_of({"VOCdevkit/VOC2007/JPEGImages/1.jpg": NOISE, "VOCdevkit/VOC2007/same.txt": b"same"})
TEST = tar_of({"VOCdevkit/VOC2007/JPEGImages/2.jpg": b"second", "VOCdevkit/VOC2007/same.txt": b"same"})


class Server(ThreadingHTTPServer):
    """Serves `files`; the fields below make it misbehave. `asked` lists (path, Range header) of every request."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/trainval.tar": TRAINVAL, "/test.tar": TEST}
        self.asked = []
        self.ranges = True
        self.drop_after = None  # bytes of body after which each connection breaks
        self.drops_left = 10**9
        self.fail_first = 0  # this many requests are answered 503
        self.shift = 0  # a 206 that starts elsewhere

    def handle_error(self, request, client_address):
        pass

    def archive(self, path, **changes):
        body = self.files[path]
        fields = {
            "url": f"http://127.0.0.1:{self.server_address[1]}{path}",
            "size": len(body),
            "checksum": "sha256:" + hashlib.sha256(body).hexdigest(),
        }
        return Archive(**{**fields, **changes})


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((self.path, wanted))
        if server.fail_first > 0:
            server.fail_first -= 1
            return self.send_error(503)
        if self.path == "/moved.tar":
            self.send_response(302)
            self.send_header("Location", "/trainval.tar")
            return self.end_headers()
        if self.path not in server.files:
            return self.send_error(404)
        body = server.files[self.path]
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
        if start >= len(body):
            return self.send_error(416)
        if start:
            start += server.shift
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        body = body[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.drop_after is not None and server.drops_left > 0 and len(body) > server.drop_after:
            server.drops_left -= 1
            body = body[: server.drop_after]
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0, 0.0))
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def voc2007(server, monkeypatch):
    source = Source((server.archive("/trainval.tar"), server.archive("/test.tar")), "VOCdevkit/VOC2007", "", 1000)
    monkeypatch.setitem(SOURCES, "voc2007", source)
    return server


def test_whole_data_set(voc2007, tmp_path):
    folder = download("voc2007", tmp_path / "data", progress=False)
    assert folder == tmp_path / "data" / "VOCdevkit" / "VOC2007"
    assert (folder / "JPEGImages" / "1.jpg").read_bytes() == NOISE
    assert (folder / "JPEGImages" / "2.jpg").read_bytes() == b"second"
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["VOCdevkit"]  # archives and workshop are gone
    asked = len(voc2007.asked)
    assert download("voc2007", tmp_path / "data", progress=False) == folder
    assert len(voc2007.asked) == asked  # what is there is not fetched again


def test_zip_into_its_own_folder(server, tmp_path, monkeypatch):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as pack:
        pack.writestr("annotations/a.json", "{}")
    server.files["/a.zip"] = buffer.getvalue()
    monkeypatch.setitem(SOURCES, "coco2014", Source((server.archive("/a.zip"),), "coco2014", "coco2014", 1000))
    assert (download("coco2014", tmp_path, progress=False) / "annotations" / "a.json").read_text() == "{}"


def test_resume_asks_only_for_the_rest(server, tmp_path):
    (tmp_path / "trainval.tar.part").write_bytes(TRAINVAL[:1234])
    assert fetch(server.archive("/trainval.tar"), tmp_path, progress=False).read_bytes() == TRAINVAL
    assert server.asked == [("/trainval.tar", "bytes=1234-")]
    assert not (tmp_path / "trainval.tar.part").exists()


def test_a_finished_part_is_only_checked(server, tmp_path):
    (tmp_path / "trainval.tar.part").write_bytes(TRAINVAL)
    fetch(server.archive("/trainval.tar"), tmp_path, progress=False)
    fetch(server.archive("/trainval.tar"), tmp_path, progress=False)
    assert server.asked == []


@pytest.mark.parametrize("field", [{"ranges": False}, {"shift": 10}])
def test_a_server_that_cannot_continue_starts_over(server, tmp_path, field):
    vars(server).update(field)
    (tmp_path / "trainval.tar.part").write_bytes(TRAINVAL[:1234])
    assert fetch(server.archive("/trainval.tar"), tmp_path, progress=False).read_bytes() == TRAINVAL


def test_a_part_longer_than_the_file(server, tmp_path):
    (tmp_path / "trainval.tar.part").write_bytes(TRAINVAL + b"more")
    assert fetch(server.archive("/trainval.tar"), tmp_path, progress=False).read_bytes() == TRAINVAL


def test_dropped_connections_go_on_where_they_stopped(server, tmp_path):
    server.drop_after = 50_000  # seven connections, more than there are pauses: progress renews them
    assert fetch(server.archive("/trainval.tar"), tmp_path, progress=False).read_bytes() == TRAINVAL
    assert [r for _, r in server.asked[:3]] == [None, "bytes=50000-", "bytes=100000-"]


def test_a_connection_that_always_drops_gives_up_and_keeps_the_part(server, tmp_path):
    server.drop_after, server.ranges = 50_000, False
    with pytest.raises(CsraError, match=r"ended after 50,000 bytes.*goes on where it stopped"):
        fetch(server.archive("/trainval.tar"), tmp_path, progress=False)
    assert (tmp_path / "trainval.tar.part").read_bytes() == TRAINVAL[:50_000]


def test_busy_server_and_redirect(server, tmp_path):
    server.fail_first = 2
    moved = server.archive("/trainval.tar")
    moved = Archive(moved.url.replace("trainval", "moved"), moved.size, moved.checksum)
    assert fetch(moved, tmp_path, progress=False).read_bytes() == TRAINVAL
    assert fetch(moved, tmp_path, progress=False).name == "moved.tar"


def test_server_that_stays_busy_is_absent_or_lacks_the_file(server, tmp_path):
    server.fail_first = 10**9
    with pytest.raises(CsraError, match="503"):
        fetch(server.archive("/trainval.tar"), tmp_path, progress=False)
    server.fail_first = 0
    archive = server.archive("/trainval.tar")
    with pytest.raises(CsraError, match="answers 404"):
        fetch(Archive(archive.url + "x", archive.size, archive.checksum), tmp_path, progress=False)
    with pytest.raises(CsraError, match="cannot be fetched"):
        fetch(Archive("http://127.0.0.1:9/x.tar", 5, archive.checksum), tmp_path, progress=False)


@pytest.mark.parametrize("extra", [b"", b"and more", b"x" * 3_000_000])
def test_wrong_bytes_are_tried_once_more_then_refused(server, tmp_path, extra):
    archive = server.archive("/trainval.tar")
    server.files["/trainval.tar"] = TRAINVAL[::-1] + extra
    with pytest.raises(CsraError, match="has the checksum"):
        fetch(archive, tmp_path, progress=False)
    assert len(server.asked) == 2
    assert list(tmp_path.iterdir()) == []


def test_wrong_bytes_in_an_old_part_are_fetched_anew(server, tmp_path):
    (tmp_path / "trainval.tar.part").write_bytes(b"z" * 1000)
    assert fetch(server.archive("/trainval.tar"), tmp_path, progress=False).read_bytes() == TRAINVAL
    assert [r for _, r in server.asked] == ["bytes=1000-", None]


def test_md5_and_a_foreign_file_in_the_way(server, tmp_path):
    archive = server.archive("/test.tar", checksum="md5:" + hashlib.md5(TEST, usedforsecurity=False).hexdigest())
    target = fetch(archive, tmp_path, progress=False)
    target.write_bytes(b"something else")
    with pytest.raises(CsraError, match="remove the file and retry"):
        fetch(archive, tmp_path, progress=False)
    assert target.read_bytes() == b"something else"


def test_names_without_a_download(tmp_path):
    with pytest.raises(CsraError, match=r"(?s)1\. Open http.*5\. Give DIR"):
        download("wider", tmp_path)
    with pytest.raises(CsraError, match="voc2007, voc2012, coco2014"):
        download("imagenet", tmp_path)


def test_disk_too_small_full_or_not_writable(voc2007, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(CsraError, match="make room or name another folder"):
            download("voc2007", tmp_path, progress=False)
    assert voc2007.asked == []

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "unpack", full)
        with pytest.raises(CsraError, match="the disk is full"):
            download("voc2007", tmp_path, progress=False)
    assert not (tmp_path / "VOCdevkit").exists()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CsraError, match="Writing under"):
        download("voc2007", tmp_path / "file", progress=False)
    assert download("voc2007", tmp_path, progress=False).is_dir()  # and once there is room it goes on
    assert len(voc2007.asked) == 2


def test_an_evil_archive_leaves_nothing(server, tmp_path, monkeypatch):
    server.files["/evil.tar"] = tar_of({"VOCdevkit/VOC2007/a.txt": b"a", "../../evil.txt": b"x"})
    monkeypatch.setitem(SOURCES, "voc2007", Source((server.archive("/evil.tar"),), "VOCdevkit/VOC2007", "", 1000))
    with pytest.raises(CsraError, match="leads out of its folder"):
        download("voc2007", tmp_path / "data", progress=False)
    assert [p.name for p in (tmp_path / "data").iterdir()] == [".voc2007.download"]
    assert not list(tmp_path.rglob("evil.txt"))


def test_the_known_archives_are_plausible():
    for source in SOURCES.values():
        for archive in source.archives:
            kind, _, digits = archive.checksum.partition(":")
            assert len(bytes.fromhex(digits)) == hashlib.new(kind).digest_size
            assert archive.size > 10**8
    voc = pytest.importorskip("torchvision.datasets.voc").DATASET_YEAR_DICT
    ours = [a for name in ("voc2007", "voc2012") for a in SOURCES[name].archives]
    theirs = [voc[key] for key in ("2007", "2007-test", "2012")]
    assert [a.checksum for a in ours] == ["md5:" + v["md5"] for v in theirs]
    assert [a.url.split("/")[-1] for a in ours] == [v["filename"] for v in theirs]


def test_progress_says_what_it_does(server, tmp_path, capsys):
    fetch(server.archive("/trainval.tar"), tmp_path)
    assert "trainval.tar" in capsys.readouterr().err
