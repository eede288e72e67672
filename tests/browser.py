"""A page in the system's Chromium, which Playwright drives with no window.

What a test needs and this machine has not is skipped with the reason; with CSRA_LAB_NO_SKIP=1 it fails instead.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# No name but the loopback resolves: what a page asks of the network fails, and is seen.
OPTIONS = ["--disable-gpu", "--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]


def cannot(reason: str) -> None:
    (pytest.fail if os.environ.get("CSRA_LAB_NO_SKIP") else pytest.skip)(reason)


@contextlib.contextmanager
def chromium() -> Iterator["Browser"]:
    if CHROMIUM is None:
        cannot("there is no Chromium on this machine, so no page was opened.")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        cannot("playwright is not installed, so no page was opened; `make test` installs it.")
    with sync_playwright() as playwright:
        program = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield Browser(program)
        program.close()


class Browser:
    """Chromium with one page. `visit` opens another one, and notes what it asks for and what it complains about."""

    def __init__(self, program):
        self.program = program
        self.page = None

    def visit(self, url: str, *, width: int = 1280, height: int = 900, theme: str = "light") -> None:
        """Open a page as a reader does for the first time, and wait until its mathematics is typeset.

        Args:
            width, height: of the window, in CSS pixels. Below 600 it is a telephone, with fingers.
        """
        if self.page:
            self.page.context.close()
        phone = width < 600
        size = {"width": width, "height": height}
        self.page = self.program.new_page(viewport=size, color_scheme=theme, is_mobile=phone, has_touch=phone)
        self.requests, self.failures, self.complaints = [], [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", self._note_failure)
        self.page.on("response", self._note_status)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._note_message)
        self.page.goto(url, timeout=60_000)
        self.evaluate("window.MathJax && MathJax.startup ? MathJax.startup.promise.then(() => 1) : 1")
        self.evaluate("document.fonts.ready.then(() => 1)")

    def _note_failure(self, request) -> None:
        left = request.failure == "net::ERR_ABORTED" and request.url.endswith("favicon.svg")  # reloaded before it came
        if not left:
            self.failures.append(f"{request.failure} {request.url}")

    def _note_status(self, response) -> None:
        if response.status >= 400:
            self.failures.append(f"{response.status} {response.url}")

    def _note_message(self, message) -> None:
        if message.type in ("error", "assert"):
            self.complaints.append(f"{message.text} {message.location.get('url', '')}")

    def evaluate(self, expression: str):
        """The value of a JavaScript expression, awaited if it is a promise."""
        return self.page.evaluate(expression)
