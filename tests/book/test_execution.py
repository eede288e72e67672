"""Chapters are executed side by side, and what fails is reported as it was before."""

import os
import re
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

```{code-cell} ipython3
import os
import sys
import tempfile
print("leaves", tempfile.mkdtemp())
print("imported before", "marker" in sys.modules, "by another", sys.modules["marker"].IMPORTED_BY != os.getpid())
print("folder", Path.cwd().name, "leaked", "LEAK" in os.environ or "leak" in globals())
leak = os.environ["LEAK"] = "a name of this chapter"
```
"""
DIES_ONCE = """# Dies once

```{code-cell} ipython3
import os
from pathlib import Path
if not Path("died").exists():
    Path("died").touch()
    os._exit(9)
print("lives", 6 * 7)
```
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor executes one chapter at a time")
def test_chapters_are_executed_side_by_side_and_a_fault_is_reported(tmp_path):
    book, pages = tmp_path / "book", tmp_path / "out/html"
    book.mkdir()
    (book / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(EXTENSIONS)!r})\n"
        "extensions, nb_execution_mode = ['myst_nb', 'lab_execution'], 'cache'\n"
        "lab_imports = ['marker', 'a_module_that_is_not_there']\n"
    )
    (tmp_path / "marker.py").write_text("import os\nIMPORTED_BY = os.getpid()\n")
    chapters = {
        "index": "# Index\n\n```{toctree}\none\ntwo\nfails\ndies\n```\n",
        "one": HEAD + MEETS % {"own": "one", "other": "two"},
        "two": HEAD + MEETS % {"own": "two", "other": "one"},
        "fails": HEAD + "# Fails\n\n```{code-cell} ipython3\n1 / 0\n```\n",
        "dies": HEAD + DIES_ONCE,
    }
    for name, text in chapters.items():
        (book / f"{name}.md").write_text(text)

    def build() -> str:
        done = subprocess.run(
            [sys.executable, "-m", "sphinx", book, pages],
            capture_output=True,
            text=True,
            timeout=180,
            check=True,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
        )
        return done.stdout + done.stderr

    told = build()
    assert re.search("4 chapters to execute, [234] at a time", told)
    assert "4 of 4 chapters" in told
    assert "fails, fails" in told
    assert "dies, fails" in told
    assert told.count("Executing notebook failed: CellExecutionError") == 1
    assert told.count("TCP without encryption") <= 2  # no kernels but those of myst-nb say so
    for name in ("one", "two"):
        page = (pages / f"{name}.html").read_text("utf-8")
        assert "met True" in page
        assert "imported before True by another True" in page
        assert "folder book leaked False" in page
        assert not Path(re.search(r"leaves (\S+)", page)[1]).exists()
    assert "lives 42" in (pages / "dies.html").read_text("utf-8")

    (book / "one.md").write_text(chapters["one"] + "\nOnly words are new.\n")
    told = build()
    assert "to execute" not in told  # the cache has what succeeded, and the one that failed is left to myst-nb
    assert "Only words are new." in (pages / "one.html").read_text("utf-8")
