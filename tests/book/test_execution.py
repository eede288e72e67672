"""Chapters are executed side by side, and what fails is reported as it was before."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXTENSIONS = Path(__file__).parents[2] / "book/_ext"
HEAD = """---
jupytext: {text_representation: {format_name: myst}}
kernelspec: {name: python3, display_name: Python 3, language: python}
---

"""
MEETS = """# %(own)s

```{code-cell} ipython3
import time
from pathlib import Path
Path("%(own)s.is-here").touch()
end = time.monotonic() + 60
while not Path("%(other)s.is-here").exists() and time.monotonic() < end:
    time.sleep(0.05)
print("met", Path("%(other)s.is-here").exists())
```
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor executes one chapter at a time")
def test_chapters_are_executed_side_by_side_and_a_fault_is_reported(tmp_path):
    book, pages = tmp_path / "book", tmp_path / "out/html"
    book.mkdir()
    (book / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(EXTENSIONS)!r})\n"
        "extensions, nb_execution_mode = ['myst_nb', 'lab_execution'], 'cache'\n"
    )
    chapters = {
        "index": "# Index\n\n```{toctree}\none\ntwo\nfails\n```\n",
        "one": HEAD + MEETS % {"own": "one", "other": "two"},
        "two": HEAD + MEETS % {"own": "two", "other": "one"},
        "fails": HEAD + "# Fails\n\n```{code-cell} ipython3\n1 / 0\n```\n",
    }
    for name, text in chapters.items():
        (book / f"{name}.md").write_text(text)

    def build() -> str:
        done = subprocess.run(
            [sys.executable, "-m", "sphinx", book, pages], capture_output=True, text=True, timeout=180, check=True
        )
        return done.stdout + done.stderr

    told = build()
    assert "3 chapters to execute, 2 at a time" in told or "3 chapters to execute, 3 at a time" in told
    assert "3 of 3 chapters" in told
    assert "fails, fails" in told
    assert told.count("Executing notebook failed: CellExecutionError") == 1
    assert told.count("TCP without encryption") <= 1  # no kernel but that of myst-nb says so
    for name in ("one", "two"):
        assert "met True" in (pages / f"{name}.html").read_text("utf-8")

    (book / "one.md").write_text(chapters["one"] + "\nOnly words are new.\n")
    told = build()
    assert "to execute" not in told  # the cache has what succeeded, and the one that failed is left to myst-nb
    assert "Only words are new." in (pages / "one.html").read_text("utf-8")
