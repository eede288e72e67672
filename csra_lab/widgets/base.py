"""What an explorer is: an anywidget whose JavaScript does the arithmetic, so that it lives with no kernel too.

In Jupyter it is a widget: its traits can be read and set from Python. In a static page (the book, also from `file://`)
the same JavaScript runs on the same traits, embedded as JSON.
"""

import base64
import hashlib
import io
import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

from csra_lab.errors import ConfigError, CsraError

try:
    import anywidget
except ImportError as error:
    raise CsraError("the explorers need the package anywidget; `pip install anywidget` brings it.") from error

HERE = Path(__file__).parent


def _source(file: str) -> str:
    """JavaScript or CSS less indents and comments that have lines of their own: a page holds it twice an explorer."""
    code = (HERE / file).read_text(encoding="utf-8")
    return re.sub(r"^ +", "", re.sub(r"^ */\*(?:(?!\*/).)*\*/\n", "", code, flags=re.M | re.S), flags=re.M)


CSS = _source("explorers.css")

# %KEY% finds the element, %ESM% and %STATE% are JSON. The stub is the part of anywidget's model that explorers use.
PAGE = """<style>%CSS%</style>
<div data-explorer="%KEY%">%NAME%: an interactive figure, which needs JavaScript.</div>
<script type="module">
const el = document.querySelector('[data-explorer="%KEY%"]:not([data-started])');
el.dataset.started = "";
const state = %STATE%, heard = {};
const model = {
  get: (name) => state[name],
  set: (name, value) => { state[name] = value; (heard["change:" + name] ?? []).forEach((f) => f()); },
  on: (event, f) => { (heard[event] ??= []).push(f); },
  off: (event, f) => { heard[event] = (heard[event] ?? []).filter((g) => g !== f); },
  save_changes: () => {},
};
const address = URL.createObjectURL(new Blob([%ESM%], { type: "text/javascript" }));
(await import(address)).default.render({ model, el });
URL.revokeObjectURL(address);
</script>"""


class Explorer(anywidget.AnyWidget):
    """An anywidget that also shows itself in a page without a kernel. Its traits must be JSON types."""

    _css = CSS

    def html(self) -> str:
        """The explorer as HTML that needs nothing else."""
        state = json.dumps({name: getattr(self, name) for name in sorted(self._own_traits())}, allow_nan=False)
        esm = str(self._esm)
        key = hashlib.blake2b((esm + state).encode(), digest_size=6).hexdigest()
        page = PAGE.replace("%KEY%", key).replace("%NAME%", type(self).title).replace("%CSS%", CSS)
        before, state_and_rest = page.split("%STATE%")
        between, after = state_and_rest.split("%ESM%")
        return before + _inside_script(state) + between + _inside_script(json.dumps(esm)) + after

    def _own_traits(self) -> set[str]:
        inherited = anywidget.AnyWidget.class_trait_names()
        return {name for name in self.traits(sync=True) if name not in inherited and not name.startswith("_")}

    def _repr_mimebundle_(self, **kwargs):
        data, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        return {**data, "text/html": self.html()}, metadata


def module(*names: str) -> str:
    """The one ES module of an explorer: the arithmetic, the page's helpers, and its own files."""
    return "\n".join(_source(f"{part}.js") for part in ("arithmetic", "page", *names))


def packed(array: np.ndarray) -> dict:
    """An array of any shape, of float16, float32 or int8, as JSON; `unpack` in arithmetic.js reads it."""
    content = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "base64": content}


def picture_url(picture: Image.Image) -> str:
    """The picture, at most 400 pixels wide and high, as a data address (WebP)."""
    small = picture.convert("RGB")
    small.thumbnail((400, 400), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=82, method=6)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def as_temperature(value: float | str) -> float | str:
    """A temperature from 0 to infinity as JSON holds it: a number, or "inf". CsraError for another."""
    number = float(value)
    if not number >= 0:
        raise ConfigError(f"a temperature must be a number from 0 to infinity, not {value}.")
    return "inf" if number == float("inf") else number


def _inside_script(text: str) -> str:
    """JSON in which nothing can end the script element."""
    return text.replace("<", "\\u003c")
