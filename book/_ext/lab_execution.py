"""Sphinx extension: chapters are executed side by side, before Sphinx reads them.

myst-nb executes one chapter after another, as it reads them. Here those that its cache does not hold are executed
before that, one for each processor at a time, and put into that cache. A chapter that fails is left to myst-nb, which
executes it again, where Sphinx can report it. The parallel executor of jupyter-cache would start a kernel for every
processor, whatever the memory, and say nothing of the time that is left.
"""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn, JupyterCacheAbstract
from jupyter_cache.executors.utils import ExecutionResult, single_nb_execution
from lab_kernels import ForkedKernelManager, import_first
from myst_nb.core.read import create_nb_reader
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from sphinx.util import logging

MOST_KERNELS = 4  # each takes up to 2 GB of memory
QUIET = ["--log-level=ERROR"]  # of the kernels; errors of cells are told in any case

log = logging.getLogger(__name__)


def setup(app) -> dict:
    app.add_config_value("lab_imports", [], "", [list], "modules that are imported once, for all chapters")
    app.connect("env-before-read-docs", execute_chapters)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def execute_chapters(app, env, names: list[str]) -> None:
    """Execute the chapters among the pages that Sphinx will read, but those that the cache holds."""
    settings = env.mystnb_config
    if settings.execution_mode != "cache":
        return
    cache = get_cache(settings.execution_cache_path)
    waiting = {path: notebook for path, notebook in notebooks(env, names) if not is_cached(cache, notebook)}
    processors = os.cpu_count() or 1
    kernels = min(processors, MOST_KERNELS, len(waiting))
    if kernels < 2:
        return
    log.info("%d chapters to execute, %d at a time", len(waiting), kernels)
    os.environ.setdefault("OMP_NUM_THREADS", str(processors // kernels))
    import_first(app.config.lab_imports)

    def execute(path: Path) -> ExecutionResult:
        notebook, folder = waiting[path], str(path.parent)
        try:
            return single_nb_execution(
                notebook,
                folder,
                settings.execution_timeout,
                allow_errors=False,
                extra_arguments=QUIET,
                kernel_manager_class=ForkedKernelManager,
            )
        except DeadKernelError as error:  # the system ends a process when memory runs out
            return ExecutionResult(notebook, folder, 0.0, error)

    start = time.monotonic()
    pool = ThreadPoolExecutor(kernels)
    try:
        running = {pool.submit(execute, path): path for path in waiting}
        for done, future in enumerate(as_completed(running), start=1):
            path, result = running[future], future.result()
            left = (time.monotonic() - start) * (len(waiting) - done) / done
            state = "fails" if result.err else f"{result.time:.0f} s"
            log.info("%d of %d chapters: %s, %s; about %.1f min left", done, len(waiting), path.stem, state, left / 60)
            if not result.err:
                bundle = CacheBundleIn(result.nb, str(path), data={"execution_seconds": result.time})
                cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
    finally:
        pool.shutdown(cancel_futures=True)  # after an interrupt, those that run come to their end


def notebooks(env, names: list[str]) -> Iterator[tuple[Path, NotebookNode]]:
    """The pages that have cells to execute, each with its path."""
    for name in names:
        path = Path(env.doc2path(name))
        text = path.read_text("utf-8")
        reader = create_nb_reader(str(path), env.myst_config, env.mystnb_config, text)
        if reader is not None:
            notebook = reader.read(text)
            if any(cell.cell_type == "code" for cell in notebook.cells):
                yield path, notebook


def is_cached(cache: JupyterCacheAbstract, notebook: NotebookNode) -> bool:
    try:
        cache.match_cache_notebook(notebook)
    except KeyError:
        return False
    return True
