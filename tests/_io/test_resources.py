"""Records in a checkout, above the working directory, fetched from a repository, and nowhere."""

import functools
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from csra_lab._io import resources
from csra_lab._io.provenance import lab_version
from csra_lab._io.resources import asset, recorded
from csra_lab.errors import DownloadError, MissingFile


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An installed package, started in an empty folder."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setenv("CSRA_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(resources, "PACKAGE", tmp_path / "site-packages/csra_lab")
    return tmp_path


@pytest.fixture
def server(tmp_path):
    """The address of a repository whose archive of this version holds a record."""
    tag = f"v{lab_version()}"
    folder = tmp_path / "served/archive/refs/tags"
    (tmp_path / "tree/data/runs/lam").mkdir(parents=True)
    (tmp_path / "tree/data/runs/lam/results.csv").write_text("a\n1\n")
    (tmp_path / "tree/other").mkdir()
    folder.mkdir(parents=True)
    with tarfile.open(folder / f"{tag}.tar.gz", "w:gz") as pack:
        pack.add(tmp_path / "tree", "csra-lab-1")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "served"))
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()


def test_a_checkout_is_read_where_it_lies(monkeypatch, tmp_path):
    root = resources.PACKAGE.parent
    if not (root / "data/runs").is_dir():
        pytest.skip("this is not a checkout")
    monkeypatch.chdir(tmp_path)
    assert recorded("runs") == root / "data/runs"
    monkeypatch.chdir(root / "book")
    assert recorded("runs") == Path("../data/runs")  # a page shows no path of this machine
    with pytest.raises(MissingFile, match="no-such-run"):
        recorded("no-such-run")


def test_a_notebook_finds_the_copy_that_it_was_started_in(nowhere, monkeypatch):
    copy = nowhere / "copy"
    for name in ("csra_lab", "data/runs", "book/deep"):
        (copy / name).mkdir(parents=True)
    (copy / "csra_lab/__init__.py").touch()
    monkeypatch.chdir(copy / "book/deep")
    assert recorded("runs").resolve() == (copy / "data/runs").resolve()


def test_elsewhere_the_version_is_fetched_once(nowhere, monkeypatch, server):
    monkeypatch.setattr(resources, "repository", lambda: server)
    path = recorded("runs/lam/results.csv")
    assert path.read_text() == "a\n1\n"
    assert [p.name for p in (nowhere / "cache").iterdir()] == [f"data-{lab_version()}"]
    monkeypatch.setattr(resources, "repository", lambda: "")
    assert recorded("runs/lam/results.csv") == path


def test_a_copy_of_the_repository_can_be_named(nowhere, monkeypatch, server):
    monkeypatch.setenv("CSRA_LAB_REPOSITORY", (nowhere / "served").as_uri() + "/")
    assert recorded("runs/lam/results.csv").read_text() == "a\n1\n"


def test_no_address_and_a_wrong_one_are_one_sentence(nowhere, monkeypatch, server):
    monkeypatch.setattr(resources, "repository", lambda: "")
    with pytest.raises(MissingFile, match="copy of the repository"):
        recorded("runs")
    monkeypatch.setattr(resources, "repository", lambda: f"{server}/nothing")
    with pytest.raises(DownloadError, match="nothing/archive") as caught:
        recorded("runs")
    assert isinstance(caught.value.__cause__, OSError)
    assert list((nowhere / "cache").iterdir()) == []


def test_a_missing_asset_is_named():
    with pytest.raises(MissingFile, match="no-such-table"):
        asset("tables/no-such-table.csv")
