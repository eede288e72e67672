"""Killed at many moments and started again, every command ends with what it gives undisturbed, and at no moment lies
half a file under a final name.

The moments are drawn with a fixed seed: one from each equal part of the run's changes to the file system.
"""

import contextlib
import hashlib
import io
import json
import signal
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
import torch

from csra_lab import MultiLabelClassifier
from csra_lab.study.experiments import read_scores
from tests import toy
from tests.faults import work
from tests.faults.conftest import kill_after, moments, tree


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    return toy.write_devkit(tmp_path_factory.mktemp("toy"), trainval=24, test=10)


def survives(kind, job, arguments, check, result, *, tools, folder, kills, seed, clock=2, through=lambda root: False):
    """Run `job(*arguments(root))` undisturbed, then with kills: `check` after each, one `result` at the end.

    `through(root)` tells a job that refuses to be done twice: a kill may come when all is done but the process's end.
    """
    start, end, inject = tools
    whole = folder / "whole"
    whole.mkdir()
    counted = folder / "steps"
    assert end(start(job, *arguments(whole), count_to=counted)) == 0
    expected, steps = result(whole), int(counted.read_text())
    root, roots, killed = None, 0, 0
    plan = [("step", n) for n in moments(steps, kills, seed)]
    rng = np.random.default_rng(seed)
    plan += [("clock", seconds) for seconds in rng.uniform(0.05, 1.0, clock)]
    rng.shuffle(plan)
    for how, value in plan:
        if root is None:
            root, roots = folder / f"killed {roots}", roots + 1
            root.mkdir()
        if how == "step":
            code = end(start(job, *arguments(root), die_at=int(value)))
            assert code in (0, -signal.SIGKILL), f"{kind}, step {value}: exit code {code}"
            died = code != 0
        else:
            died = kill_after(start(job, *arguments(root)), float(value))
        killed += died
        check(root, whole)
        if not died or through(root):  # it had less to do than the first time, and is through
            assert result(root) == expected
            root = None
    if root is not None:
        assert end(start(job, *arguments(root))) == 0
        check(root, whole)
        assert result(root) == expected
    inject(f"kills: {kind}", killed)
    assert killed >= kills // 2


@pytest.fixture
def tools(start, end, inject):
    return start, end, inject


def test_preparation(tools, tmp_path):
    def check(root, whole):
        for folder in root.iterdir():
            if not folder.name.startswith(".") and folder.suffix != ".lock":
                assert tree(folder) == tree(whole / folder.name)

    def result(root):
        return {name: content for name, content in tree(root).items() if not name.endswith(".lock")}

    options = {"tools": tools, "folder": tmp_path, "kills": 6, "seed": 1}
    survives("preparation", work.draw_emoji, lambda root: (root,), check, result, **options)


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, with ranges, in pieces small enough that a kill falls between them."""

    def do_GET(self):
        body = (self.server.folder / self.path.strip("/")).read_bytes()
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if first >= len(body):
            return self.send_error(416)
        self.send_response(206 if first else 200)
        self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - first))
        self.end_headers()
        with contextlib.suppress(OSError):  # whoever asked was killed
            for begin in range(first, len(body), 100_000):
                self.wfile.write(body[begin : begin + 100_000])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("a.tar", 12), ("b.tar", 5)):
        with tarfile.open(folder / name, "w") as pack:
            for i in range(count):
                info = tarfile.TarInfo(f"VOCdevkit/VOC2007/JPEGImages/{name[0]}{i}.jpg")
                content = rng.bytes(300_000)
                info.size = len(content)
                pack.addfile(info, io.BytesIO(content))
    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        server.folder, server.daemon_threads, server.handle_error = folder, True, lambda *_: None
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def test_download(tools, tmp_path, server, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    served = {p.name: p.read_bytes() for p in server.folder.iterdir()}
    files = [(n, len(c), "sha256:" + hashlib.sha256(c).hexdigest()) for n, c in sorted(served.items())]
    address = f"http://127.0.0.1:{server.server_address[1]}"

    def check(root, whole):
        for name, content in tree(root / ".voc2007.download").items():
            assert content == served[name] if name in served else name.endswith(".part")
        if (root / "VOCdevkit" / "VOC2007").exists():
            assert tree(root / "VOCdevkit") == tree(whole / "VOCdevkit")

    def result(root):
        assert [p.name for p in root.iterdir() if p.suffix != ".lock"] == ["VOCdevkit"]
        return tree(root / "VOCdevkit")

    options = {"tools": tools, "folder": tmp_path, "kills": 8, "seed": 2}
    survives("download", work.fetch, lambda root: (root, address, files), check, result, **options)


def test_features(tools, tmp_path):
    devkit = toy.write_devkit(tmp_path / "toy", trainval=150)

    def check(root, whole):
        for folder in (root / "features").glob("[!.]*"):
            if folder.suffix not in (".part", ".lock"):
                assert result(folder) == result(whole / "features" / folder.name)

    def result(root):
        """All but locks and the note of when the file was last checked, which holds a time."""
        return {name: x for name, x in tree(root).items() if not name.endswith(".lock") and "checked.json" not in name}

    options = {"tools": tools, "folder": tmp_path, "kills": 7, "seed": 3}
    survives("features", work.features, lambda root: (devkit, root), check, result, **options)


def test_training(tools, tmp_path, devkit):
    def check(root, whole):
        out = root / "run"
        if (out / "recipe.json").exists():
            assert json.loads((out / "recipe.json").read_text())["recipe"] == work.RECIPE.to_json()
        if (out / "model").exists():
            MultiLabelClassifier.from_pretrained(out / "model")
        if (out / "state.pt").exists():
            torch.load(out / "state.pt", weights_only=True)
        if (out / "history.csv").exists():
            assert pd.read_csv(out / "history.csv").train_loss.notna().all()
        if (out / "scores.npz").exists():
            assert np.load(out / "scores.npz")["logits"].shape == (10, 3)

    def result(root):
        files = tree(root / "run")
        history = pd.read_csv(root / "run" / "history.csv")[["epoch", "train_loss", "validation_mAP"]]
        timed = {"run/history.csv": history.to_csv()}
        return {name: content for name, content in files.items() if name not in ("history.csv", ".lock")} | timed

    def through(root):
        return (root / "run" / "metrics.json").exists() and not (root / "run" / "state.pt").exists()

    options = {"tools": tools, "folder": tmp_path, "kills": 9, "seed": 4, "through": through}
    survives("training", work.fit, lambda root: (devkit, root / "run"), check, result, **options)


def test_recording(tools, tmp_path, devkit):
    names = {"run.json", "results.csv", "comparisons.csv", "scores.npz"}

    def check(root, whole):
        record = root / "out" / "faults" / "toy"
        if record.exists():
            assert {p.name for p in record.iterdir()} == names
            read_scores(record)

    def result(root):
        record = root / "out" / "faults" / "toy"
        run = json.loads((record / "run.json").read_text())
        del run["seconds"]
        hidden = [name for name in tree(root / "out") if "/." in name]
        assert not hidden
        return run, {name: content for name, content in tree(record).items() if name != "run.json"}

    def arguments(root):
        return devkit, root / "cache", root / "out"

    options = {"tools": tools, "folder": tmp_path, "kills": 6, "seed": 5}
    survives("recording", work.record, arguments, check, result, **options)
