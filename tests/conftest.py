"""What holds for every test: the same random numbers in any order, no window, and no network beyond this machine."""

import os
import random
import socket
from collections import Counter

import numpy as np
import pytest
import torch

from tests.browser import chromium
from tests.tally import TALLY, write_sections

os.environ.setdefault("MPLBACKEND", "Agg")
torch.set_num_threads(1)  # the networks here are tiny: threads cost more than they bring, above all on a busy machine

LOCAL = {"", "localhost", "127.0.0.1", "::1", "0.0.0.0", socket.gethostname()}


def pytest_configure(config):
    config.stash[TALLY] = Counter()


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # one of several processes: the first one tells
        session.config.workeroutput["tally"] = list(session.config.stash[TALLY].items())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    for key, count in getattr(node, "workeroutput", {}).get("tally", ()):
        node.config.stash[TALLY][tuple(key)] += count


def pytest_terminal_summary(terminalreporter, config):
    write_sections(terminalreporter, config.stash[TALLY])


@pytest.fixture(autouse=True)
def _same_random_numbers():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - for libraries that draw from the global state
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _no_network():
    """A test that reaches out fails here as it would in a classroom without a network, and at once."""
    patch = pytest.MonkeyPatch()
    connect, lookup = socket.socket.connect, socket.getaddrinfo

    def local_connect(self, address):
        if isinstance(address, tuple) and address[0] not in LOCAL:
            raise OSError(f"tests use no network, and this one called {address[0]}")
        return connect(self, address)

    def local_lookup(host, *args, **kwargs):
        name = host.decode() if isinstance(host, bytes) else host
        if name is not None and name not in LOCAL:
            raise socket.gaierror(f"tests use no network, and this one looked up {name}")
        return lookup(host, *args, **kwargs)

    patch.setattr(socket.socket, "connect", local_connect)
    patch.setattr(socket, "getaddrinfo", local_lookup)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def browser():
    """One Chromium for all tests that open a page. Playwright starts once in a process."""
    with chromium() as opened:
        yield opened
