"""An installed wheel is the product: it does everything in an empty folder, with no source tree and no network."""

import collections
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import nbformat
import pytest
from PIL import Image
from skimage import data

import csra_lab

ROOT = Path(__file__).resolve().parents[1]
BUILD = """
import sys
from setuptools import build_meta
(out,) = sys.argv[1:]
build_meta.build_sdist(out)
build_meta.build_wheel(out)
"""
# Everything but csra_lab comes from the environment of the tests. Its finder of the source tree is taken away, and the
# network too. sitecustomize runs before the first import of the program.
SITE = """
import socket
import sys
import sysconfig

sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "") + repr(f)]
sys.path[:] = [p for p in sys.path if p != SOURCE]
sys.path.append(sysconfig.get_path("purelib"))

def refuse(*_, **__):
    raise OSError("this machine has no network")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
"""
EVERYTHING = """
import sys
import torch
torch.set_num_threads(1)
from csra_lab.cli import main

def command(*arguments):
    try:
        main(arguments)
    except SystemExit as end:
        assert not end.code, (arguments, end.code)

if __name__ == "__main__":
    import csra_lab
    assert csra_lab.__file__.startswith(INSTALLED), csra_lab.__file__
    command("predict", "photo.jpg")
    from csra_lab.datasets.tables import read_table, table_names
    assert len(table_names()) == 5 and all(len(read_table(name)) for name in table_names())
    from csra_lab.datasets.voc_in_imagenet import read_voc_table
    assert read_voc_table()
    from csra_lab.viz.atlas import read_atlas
    assert {model.dataset for model in read_atlas().models.values()} == {"emoji-voc", "paperdoll-wider"}
    page = csra_lab.explore("photo.jpg").html()
    assert "data-explorer" in page

    # the drawn sets at their tiny size, under the names that the commands give
    import functools
    from csra_lab import catalog
    from csra_lab.synthetic import emoji_voc, paperdoll_wider
    for name, module in (("emoji-voc", emoji_voc), ("paperdoll-wider", paperdoll_wider)):
        short = name.replace("-", "_")
        prepare = functools.partial(getattr(module, f"prepare_{short}"), size="tiny")
        setattr(module, f"prepare_{short}", prepare)  # as load_dataset finds it
        catalog.DRAWN[name] = prepare
        command("data", "prepare", name, "--quiet")
    command("train", "emoji-lite0-csra", "--image-size", "64", "--epochs", "1", "--batch-size", "8", "--quiet")

    try:
        csra_lab.recorded("runs/four-lines")
    except csra_lab.CsraError as error:
        assert "repository" in str(error), error
    else:
        raise AssertionError("there is no data/ here")
"""

# The cells of a notebook as Jupyter runs them, but for the process of a kernel.
CELLS = """
import csra_lab
import matplotlib
import nbformat
import sys
import torch
from IPython.core.interactiveshell import InteractiveShell

assert csra_lab.__file__.startswith(INSTALLED), csra_lab.__file__
matplotlib.use("agg")
torch.set_num_threads(1)
shell = InteractiveShell.instance()
for cell in nbformat.read(sys.argv[1], as_version=4).cells:
    if cell.cell_type == "code":
        shell.run_cell(cell.source, store_history=True).raise_error()
"""
CHAPTERS = ("photographs", "interpretation", "when_it_goes_wrong")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(sdist, wheel), built from a copy of what git would carry, so that the tree here stays as it is."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    for path in (ROOT / "csra_lab").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            (source / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            (source / path.relative_to(ROOT)).write_bytes(path.read_bytes())
    command = [sys.executable, "-c", BUILD, str(folder / "dist")]
    (folder / "dist").mkdir()
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = [p.name for p in (folder / "dist").iterdir()]
    assert len(made) == 2, (made, done.stdout[-500:])
    (sdist,), (wheel,) = ((folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl"))
    return sdist, wheel


def test_the_wheel_and_the_source_archive_hold_every_file_of_the_package(built):
    sdist, wheel = built
    files = [p for p in (ROOT / "csra_lab").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    wanted = {p.relative_to(ROOT).as_posix() for p in files}
    assert any("licenses/" in name for name in wanted)
    assert "csra_lab/py.typed" in wanted
    with zipfile.ZipFile(wheel) as pack:
        assert {name for name in pack.namelist() if name.startswith("csra_lab/")} == wanted
    with tarfile.open(sdist) as pack:
        inside = {name.partition("/")[2] for name in pack.getnames()}
    assert wanted | {"pyproject.toml", "README.md", "LICENSE"} <= inside


@pytest.mark.skipif(not os.environ.get("CSRA_LAB_FRESH"), reason="CSRA_LAB_FRESH=1 installs into a fresh environment")
def test_pip_installs_the_wheel_into_a_fresh_environment(built, tmp_path):
    """The packages that it needs are lent by the environment of the tests: a second torch takes minutes and 5 GB.

    A .pth file adds their folder to the path. Its own .pth files, with the finder of the source tree, are not read.
    """
    _, wheel = built
    environment, empty = tmp_path / "environment", tmp_path / "empty"
    empty.mkdir()
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    programs = environment / ("Scripts" if os.name == "nt" else "bin")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "CSRA_LAB_"))}

    def run(*command):
        done = subprocess.run(list(map(str, command)), cwd=empty, env=clean, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(programs / "python", "-m", "pip", "install", "-q", "--no-index", "--no-deps", wheel)
    own = Path(run(programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (own / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run(programs / "python", "-c", "import csra_lab; print(csra_lab.__file__)")
    assert Path(where.strip()).is_relative_to(own)
    Image.fromarray(data.chelsea()).save(empty / "photo.jpg")
    assert run(programs / "csra-lab", "--version").startswith("csra-lab ")
    assert "cat" in run(programs / "csra-lab", "predict", "photo.jpg")


@pytest.fixture
def installed(built, tmp_path):
    """An empty folder, and a function that runs Python there with the wheel and without the source tree."""
    unpacked, patched, empty = (tmp_path / name for name in ("installed", "patched", "empty"))
    with zipfile.ZipFile(built[1]) as pack:  # what an installer does with a wheel of pure Python
        pack.extractall(unpacked)
    patched.mkdir()
    empty.mkdir()
    (patched / "sitecustomize.py").write_text(SITE.replace("SOURCE", repr(str(ROOT))))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "CSRA_LAB_", "XDG_", "HF_"))}
    inherited |= {"PYTHONPATH": os.pathsep.join([str(patched), str(unpacked)]), "OMP_NUM_THREADS": "1"}

    def python(program: str, *arguments: str, **setting: str) -> str:
        (empty / "work.py").write_text(program.replace("INSTALLED", repr(str(unpacked))))
        setting = {**inherited, "CSRA_LAB_CACHE": str(tmp_path / "cache"), **setting}
        command = [sys.executable, "work.py", *arguments]
        done = subprocess.run(command, cwd=empty, env=setting, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        return done.stdout

    return empty, python


def test_an_installed_wheel_does_everything_in_an_empty_folder(installed):
    empty, python = installed
    Image.fromarray(data.chelsea()).save(empty / "photo.jpg")
    shown = python(EVERYTHING)
    assert "cat" in next(line for line in shown.splitlines() if line.startswith("photo.jpg"))
    assert (empty / "runs/emoji-lite0-csra/model").is_dir()


@pytest.mark.skipif(not os.environ.get("CSRA_LAB_FRESH"), reason="CSRA_LAB_FRESH=1 runs chapters in an empty folder")
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_downloaded_notebook_runs_in_an_empty_folder(installed, tmp_path, chapter):
    """The records that it reads are fetched from the repository; a folder here has its archive of this version."""
    jupytext, notebooks = pytest.importorskip("jupytext"), pytest.importorskip("chapter_notebooks")
    empty, python = installed
    archive = tmp_path / f"repository/archive/refs/tags/v{csra_lab.__version__}.tar.gz"
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:gz", compresslevel=1) as pack:
        pack.add(ROOT / "data", "csra-lab/data")
    values, names = collections.defaultdict(lambda: "0"), collections.defaultdict(lambda: ("", ""))
    book = notebooks.Book(glued=values, citations=names, repository="https://example.org/csra-lab")
    notebook = notebooks.chapter_notebook(jupytext.read(ROOT / f"book/{chapter}.md"), chapter, book)
    nbformat.write(notebook, empty / f"{chapter}.ipynb")
    python(CELLS, f"{chapter}.ipynb", CSRA_LAB_REPOSITORY=(tmp_path / "repository").as_uri())
    reads_records = "recorded(" in (ROOT / f"book/{chapter}.md").read_text("utf-8")
    assert (tmp_path / f"cache/data-{csra_lab.__version__}").is_dir() == reads_records
