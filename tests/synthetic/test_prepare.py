"""Processes that draw: a script without a main guard is run once, and waits for nobody."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import operator
from csra_lab.synthetic.prepare import in_parallel

print("the script runs", flush=True)
print(list(in_parallel(operator.neg, 6, label="numbers", workers=2, progress=False)))
print(__file__ is not None and __spec__ is None)
"""


def test_a_script_without_a_main_guard_is_run_once(tmp_path):
    """Started processes import the script that started them, which would ask for the same set again, and wait."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["the script runs", "[0, -1, -2, -3, -4, -5]", "True"]
