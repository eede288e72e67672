"""Sphinx extension: the numbers of the network beside the page that runs it.

They are made from the installed weights whenever the book is built, and a page loads them when a reader asks.
"""

import shutil
from pathlib import Path

from sphinx.util import logging

PAGE = "your_photograph"


def setup(app) -> dict:
    app.connect("build-finished", write_network)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def write_network(app, exception) -> None:
    """Write the scripts into `_static/network/`, where photo_network.js looks for them."""
    if exception is not None or app.builder.format != "html" or PAGE not in app.env.found_docs:
        return
    from csra_lab.widgets.photo_network import browser_network  # torch is slow to import

    folder = Path(app.outdir) / "_static/network"
    shutil.rmtree(folder, ignore_errors=True)
    network = browser_network()
    network.write_scripts(folder)
    if network.key not in (Path(app.outdir) / f"{PAGE}.html").read_text("utf-8"):
        logging.getLogger(__name__).warning(
            "%s was executed with other weights or heads than are installed now: remove book/_build.", PAGE
        )
