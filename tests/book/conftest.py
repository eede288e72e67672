"""The built book, and a page of it in headless Chromium, driven over the DevTools protocol.

What a test needs and this machine has not is skipped with the reason; with CSRA_LAB_NO_SKIP=1 it fails instead.
"""

import base64
import functools
import itertools
import json
import os
import shutil
import subprocess
import threading
import time
import urllib.request
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
HTML = REPO / "book/_build/html"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# No name but the loopback resolves: what a page asks of the network fails, and is seen.
OPTIONS = [
    *"--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking".split(),
    *"--disable-component-update --disable-sync --hide-scrollbars --disable-dev-shm-usage --no-proxy-server".split(),
    *"--remote-debugging-port=0 --remote-allow-origins=*".split(),
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]


def cannot(reason: str) -> None:
    (pytest.fail if os.environ.get("CSRA_LAB_NO_SKIP") else pytest.skip)(reason)


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


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory):
    if CHROMIUM is None:
        cannot("there is no Chromium on this machine, so no page was opened.")
    try:
        import websocket  # noqa: F401
    except ImportError:
        cannot("websocket-client, which comes with JupyterLab, is not installed, so no page was opened.")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


class Browser:
    """Chromium with one tab. `visit` opens a page and keeps what it asked for and what it complained about."""

    def __init__(self, profile: Path):
        from websocket import create_connection  # comes with jupyter

        self.process = subprocess.Popen(
            [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        port = self._port(profile / "DevToolsActivePort")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        tabs = json.load(opener.open(f"http://127.0.0.1:{port}/json/list", timeout=30))
        address = next(t["webSocketDebuggerUrl"] for t in tabs if t["type"] == "page")
        self.socket = create_connection(address, timeout=60, suppress_origin=True)
        self.ids = itertools.count(1)
        self.requests: list[str] = []
        self.failures: list[str] = []
        self.complaints: list[str] = []
        self.loaded = False
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def _port(self, file: Path) -> int:
        for _ in range(600):
            if file.exists() and file.read_text().count("\n"):
                return int(file.read_text().split()[0])
            time.sleep(0.05)
        raise RuntimeError("Chromium did not start within 30 seconds.")

    def call(self, method: str, **params) -> dict:
        number = next(self.ids)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self._note(message)

    def _note(self, message: dict) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Network.loadingFailed":
            self.failures.append(params["errorText"])
        elif method == "Network.responseReceived" and params["response"]["status"] >= 400:
            self.failures.append(f"{params['response']['status']} {params['response']['url']}")
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.complaints.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Page.loadEventFired":
            self.loaded = True

    def visit(self, url: str, *, width: int = 1280, height: int = 900, theme: str = "light") -> None:
        """Open a page at a width in CSS pixels, and wait until its mathematics is typeset."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.requests, self.failures, self.complaints, self.loaded = [], [], [], False
        self.call("Page.navigate", url=url)
        deadline = time.monotonic() + 60
        while not self.loaded and time.monotonic() < deadline:
            self.evaluate("1")
            time.sleep(0.02)
        self.evaluate("window.MathJax && MathJax.startup ? MathJax.startup.promise.then(() => 1) : 1")
        self.evaluate("document.fonts.ready.then(() => 1)")

    def evaluate(self, expression: str):
        """The value of a JavaScript expression, awaited if it is a promise."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", "script error"))
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG, in a window that is made as high as the page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        width, height = round(size["width"]), round(size["height"])
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        try:
            self.call("Browser.close")
        except Exception:
            self.process.kill()
        self.process.wait(timeout=30)
        self.socket.close()
