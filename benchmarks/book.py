"""How does the time of building the book grow with its chapters? Chapters made for it, executed as real ones are.

Each chapter imports the lab, counts the cost of a network, and draws a figure. The book is built from nothing, with the
configuration of this one, and built again with the cache of the first time.

Prediction. Starting sphinx and its extensions takes some 4 s and importing torch and the lab 5 s, both once: kernels
are forked from a process that has them. A chapter takes its kernel and its cells, 2.5 s, one chapter for each of the
two processors at a time. So from 2 to 8 chapters the slope of 9 + 1.25 n is 0.4; from the cache only writing the pages
is left, 0.2. A book of one chapter forks nothing and pays for the imports itself.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from machine import options, report
from metrics import slope

ROOT = Path(__file__).resolve().parents[1]
SIZES, TINY = (1, 2, 4, 8), (1,)
CHAPTER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# Chapter {number}

```{{code-cell}} ipython3
from csra_lab.viz import figures as plots
from csra_lab.cost import model_cost

cost = model_cost("resnet18", num_classes={number}, image_size=224)
plots.lines([1, 2], {{"cost": [cost.parameters, cost.multiply_adds]}}, xlabel="x", ylabel="y", alt="A line.")
```
"""


def write_book(folder: Path, chapters: int, *, execute: bool) -> None:
    """A book of so many chapters with this book's configuration, assets and extensions, and cells if asked for."""
    book = folder / "book"
    book.mkdir()
    for name in ("_assets", "_ext"):
        shutil.copytree(ROOT / "book" / name, book / name)
    shutil.copy(ROOT / "book/references.bib", book)
    shutil.copy(ROOT / "_config.yml", folder)
    for name in ("csra_lab", "data"):
        (folder / name).symlink_to(ROOT / name)
    (book / "index.md").write_text("# A book\n")
    names = [f"chapter_{number}" for number in range(1, chapters + 1)]
    for number, name in enumerate(names, 1):
        (book / f"{name}.md").write_text((CHAPTER if execute else CHAPTER.split("```")[0]).format(number=number))
    contents = "".join(f"  - file: {name}\n" for name in names)
    (book / "_toc.yml").write_text(f"format: jb-book\nroot: index\nchapters:\n{contents}")


def build(folder: Path) -> float:
    """Seconds of one build."""
    program = Path(sys.executable).parent / "jupyter-book"
    command = [program, "build", "book", "--config", "_config.yml", "--path-output", "book", "--all"]
    environment = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    start = time.perf_counter()
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, cwd=folder, env=environment, check=True, **silent)
    return time.perf_counter() - start


def main(argv: Sequence[str] | None = None) -> list[dict]:
    chosen = options(argv, __doc__)
    found = []
    for chapters in TINY if chosen.tiny else SIZES:
        with tempfile.TemporaryDirectory() as name:
            write_book(Path(name), chapters, execute=not chosen.tiny)
            cold = build(Path(name))
            warm = None if chosen.tiny else build(Path(name))
        found.append((chapters, cold, warm))
    rows = [{"part": "builds", "chapters": n, "seconds": cold, "seconds_cached": warm} for n, cold, warm in found]
    upper = found[-3:]
    for of, column, predicted in (("seconds", 1, 0.4), ("seconds, cached", 2, 0.2)):
        measured = slope([line[0] for line in upper], [line[column] for line in upper]) if len(upper) > 1 else None
        rows.append({"part": "slopes", "of": of, "slope": measured, "predicted": predicted})
    return report("book", rows, chosen)


if __name__ == "__main__":
    main(sys.argv[1:])
