"""The built book, as files and over HTTP."""

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.browser import cannot

REPO = Path(__file__).parents[2]
HTML = REPO / "book/_build/html"


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the built pages, if they are as new as what they are built from."""
    if not (HTML / "index.html").exists():
        cannot("the book is not built: run `make book` first.")
    sources = [REPO / "_config.yml", REPO / "pyproject.toml"]
    sources += [p for folder in ("csra_lab", "data", "book") for p in (REPO / folder).rglob("*") if p.is_file()]
    sources = [p for p in sources if not {"_build", "__pycache__", ".ipynb_checkpoints"} & set(p.parts)]
    newest = max(sources, key=lambda p: p.stat().st_mtime)
    if newest.stat().st_mtime > (HTML / "index.html").stat().st_mtime:
        cannot(f"the built book is older than {newest.relative_to(REPO)}: run `make book` again.")
    return HTML


@pytest.fixture(scope="session")
def address(html: Path):
    """The book over HTTP on the loopback."""
    handler = functools.partial(QuietHandler, directory=html)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass
