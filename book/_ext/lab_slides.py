"""Sphinx extension: slides for teaching, made of the book's own figures.

`teaching.yml` lists sessions with the names of figures. Each session becomes one page in `slides/`, a figure a slide
with its caption, from the notebooks that `lab_pages` wrote. It needs no network: arrow keys turn the slides.
"""

import html
import itertools
import re
from pathlib import Path

import nbformat
import yaml
from chapter_notebooks import figure_numbers
from sphinx.errors import ExtensionError

PAGE = """<!DOCTYPE html>
<html lang="en" data-theme="light"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="../_static/favicon.svg">
<link rel="stylesheet" href="../_static/lab.css">
<style>
body {{ margin: 0; font: 20px/1.4 system-ui, sans-serif; color: #1b1f24; background: #fff; }}
html {{ overscroll-behavior-x: none; }} /* a swipe turns a slide, and not the pages of the browser's history */
body > section {{
  display: grid; align-content: center; gap: 2vh; box-sizing: border-box; min-height: 100vh; padding: 4vh 6vw;
}}
@media screen {{ body:has(> .shown) > section:not(.shown) {{ display: none; }} }}
section h1 {{ margin: 0; font-size: 1.6rem; }}
section .lab-row, section .lab-gallery {{ max-width: 1100px; }}
section svg.lab-wide {{ width: min(100%, 1000px) !important; max-height: 60vh; }}
section p {{ margin: 0; max-width: 60em; }}
nav {{ position: fixed; right: 1rem; bottom: .6rem; color: #5f6673; font-size: .8rem; }}
@media print {{ body > section {{ page-break-after: always; }} nav {{ display: none; }} }}
</style></head><body>
{slides}
<nav aria-live="polite"></nav>
<script>
const slides = [...document.querySelectorAll("body > section")];
const named = () => slides.findIndex((s) => "#" + s.id === location.hash);
let now = 0;
function show(k) {{
  now = Math.min(Math.max(k, 0), slides.length - 1);
  slides.forEach((s, i) => s.classList.toggle("shown", i === now));
  document.querySelector("nav").textContent = `${{now + 1}} of ${{slides.length}}`;
  history.replaceState(null, "", "#" + slides[now].id);
  scrollTo(0, 0);
}}
const steps = {{ ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1 }};
addEventListener("keydown", (event) => {{
  if (event.altKey || event.ctrlKey || event.metaKey || !(event.key in steps)) return;
  event.preventDefault(); // the next slide is not scrolled
  show(now + (event.shiftKey && event.key === " " ? -1 : steps[event.key]));
}});
let from = null; // where the only finger came down
addEventListener("touchstart", (event) => {{
  from = event.touches.length === 1 ? event.touches[0] : null;
}}, {{ passive: true }});
addEventListener("touchend", ({{ changedTouches: [to] }}) => {{
  if (!from) return;
  const across = to.clientX - from.clientX, down = to.clientY - from.clientY;
  if (Math.abs(across) > Math.max(50, 2 * Math.abs(down))) show(now - Math.sign(across));
}});
addEventListener("click", (event) => {{
  if (!String(getSelection())) show(now + (event.clientX < innerWidth / 3 ? -1 : 1));
}});
addEventListener("hashchange", () => show(named()));
show(named());
</script></body></html>
"""


def setup(app) -> dict:
    app.connect("build-finished", write_slides, priority=600)  # after the notebooks
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def write_slides(app, exception) -> None:
    plan = Path(app.srcdir) / "teaching.yml"
    if exception is not None or app.builder.format != "html" or not plan.exists():
        return
    numbers, shown = figure_numbers(app), figures_of(Path(app.outdir) / "notebooks")
    folder = Path(app.outdir) / "slides"
    folder.mkdir(exist_ok=True)
    for number, session in enumerate(yaml.safe_load(plan.read_text("utf-8"))["sessions"], 1):
        missing = [name for name in session["figures"] if numbers.get(name) not in shown]
        if missing:
            raise ExtensionError(f"teaching.yml names {missing[0]}, and no chapter has that figure.")
        slides = [(name, *shown[numbers[name]]) for name in session["figures"]]
        (folder / f"session-{number}.html").write_text(deck(session["title"], slides), encoding="utf-8")


def figures_of(folder: Path) -> dict[str, tuple[str, str]]:
    """Number of a figure -> (its markup, its caption), from executed notebooks."""
    found = {}
    for path in folder.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        for code, text in itertools.pairwise(cells):
            caption = re.match(r"\*\*Figure ([\d.]+)\.\*\* (.+)", text.source, re.S)
            if caption is None or code.cell_type != "code":
                continue
            markup = [o.data["text/html"] for o in code.outputs if "text/html" in o.get("data", {})]
            if markup:
                found[caption[1]] = "".join(markup[-1]), caption[2]
    return found


def deck(title: str, slides: list[tuple[str, str, str]]) -> str:
    """One page of slides. Each has (name, markup, caption); the first sentence of the caption is its heading."""
    turn = "Arrow keys, a tap or a swipe turn the slides."
    parts = [f'<section id="title"><h1>{html.escape(title)}</h1><p>CSRA Lab. {turn}</p></section>']
    for name, markup, caption in slides:
        first, _, rest = caption.partition(". ")
        heading, rest = html.escape(first.rstrip(".")), html.escape(rest)
        parts.append(f'<section id="{name}"><h1>{heading}</h1>{markup}<p>{rest}</p></section>')
    return PAGE.format(title=html.escape(title), slides="\n".join(parts))
