"""Kernels that start with their imports done.

Most of what a chapter waits for is importing torch, timm and seaborn. Here one process imports what chapters need, and
every kernel is a fork of it. A chapter sees modules that are loaded already, and no name or number of another chapter.
"""

import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Sequence

from jupyter_client import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

FORKS = sys.platform == "linux"  # Windows has none, and macOS's own libraries may not survive one
STARTS_IPYTHON = [sys.executable, "-m", "ipykernel_launcher"]  # how the command of a kernel of this Python begins


def import_first(modules: Sequence[str]) -> None:
    """Say what the process of which kernels are forks imports, before the first of them starts."""
    if not FORKS:
        return
    # Matplotlib reads where its figures go when it is imported, and a kernel would set it too late for that.
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    multiprocessing.get_context("forkserver").set_forkserver_preload([*modules])


class ForkedKernelManager(AsyncKernelManager):
    """Starts IPython's kernel as a fork of the process of `import_first`, and any other kernel as ever."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.provisioner = _Forked(kernel_id="", kernel_spec=self.kernel_spec, parent=self)


class _Forked(LocalProvisioner):
    _scratch: tempfile.TemporaryDirectory | None = None

    async def launch_kernel(self, cmd, **settings):
        self._scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        settings["env"] = settings["env"] | {"TMPDIR": self._scratch.name}
        if not FORKS or cmd[: len(STARTS_IPYTHON)] != STARTS_IPYTHON:
            return await super().launch_kernel(cmd, **settings)
        arguments = cmd[len(STARTS_IPYTHON) :]
        self.process = _Process(arguments, str(settings.get("cwd") or os.getcwd()), settings["env"])
        self.pid = self.pgid = self.process.pid  # it leads a group of its own
        return self.connection_info

    async def cleanup(self, restart: bool = False) -> None:
        await super().cleanup(restart)
        if self._scratch is not None:
            self._scratch.cleanup()  # temporary files of a chapter go with its kernel


class _Process:
    """What a provisioner asks of `subprocess.Popen`, of a process of multiprocessing."""

    stdin = stdout = stderr = None

    def __init__(self, *arguments) -> None:
        context = multiprocessing.get_context("forkserver")
        self._process = context.Process(target=_run_kernel, args=arguments)
        self._process.start()
        self.pid = self._process.pid
        self.kill, self.terminate = self._process.kill, self._process.terminate

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _run_kernel(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    from ipykernel.kernelapp import IPKernelApp

    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # to be looked up anew
    os.chdir(folder)
    threading.Thread(target=_end_with_the_build, daemon=True).start()
    # A kernel without a parent would print how to connect to it.
    IPKernelApp.launch_instance([*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])


def _end_with_the_build() -> None:
    build = multiprocessing.parent_process()
    if build is not None:
        build.join()
        os._exit(1)
