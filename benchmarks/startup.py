"""How long until a command says anything, as a ratio to `python -c "import numpy"`, and what it imports.

Predictions, made before measuring: help, the version and a mistyped command import no numerical package, so each takes
less than NumPy (0.5 times; the limit is 3). `import csra_lab` takes what Python itself does (0.3), `csra_lab.metrics`
what NumPy does (1.1). `predict --help` imports torch and timm (20 times). `import torch` itself takes 10 times. timm
brings torchvision, which brings torch's compiler and sympy, as much again; so predicting on one image takes 2 times
`import torch` for the imports and 0.2 for the lab, the weights and the image.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from machine import options, report

IMAGE = min((Path(__file__).parents[1] / "csra_lab" / "assets" / "atlas" / "paperdoll-wider").glob("*.webp"))
BASE = 'python -c "import numpy"'
COMMANDS = {
    BASE: ["-c", "import numpy"],
    "python -c pass": ["-c", "pass"],
    "import csra_lab": ["-c", "import csra_lab"],
    "import csra_lab.metrics": ["-c", "import csra_lab.metrics"],
    "csra-lab --help": ["-m", "csra_lab.cli", "--help"],
    "csra-lab --version": ["-m", "csra_lab.cli", "--version"],
    "csra-lab trian": ["-m", "csra_lab.cli", "trian"],
    "csra-lab data --help": ["-m", "csra_lab.cli", "data", "--help"],
    "csra-lab predict --help": ["-m", "csra_lab.cli", "predict", "--help"],
    "import torch": ["-c", "import torch"],
    "import timm": ["-c", "import timm"],
    "csra-lab predict IMAGE": ["-m", "csra_lab.cli", "predict", str(IMAGE)],
}
PREDICTED = {"python -c pass": 0.25, "import csra_lab": 0.3, "import csra_lab.metrics": 1.1, "csra-lab --help": 0.5}
PREDICTED |= {"csra-lab --version": 0.5, "csra-lab trian": 0.5, "csra-lab data --help": 1.5, BASE: 1.0}
PREDICTED |= {"csra-lab predict --help": 20.0, "import torch": 10.0, "import timm": 20.0}
PREDICTED |= {"csra-lab predict IMAGE": 22.0}
LIMIT = dict.fromkeys(("csra-lab --help", "csra-lab --version", "csra-lab trian"), 3.0)
HEAVY = ("numpy", "scipy", "pandas", "PIL", "matplotlib", "torch", "torchvision", "timm", "accelerate", "tyro")


def seconds(arguments: list[str]) -> float:
    """Wall time of a fresh interpreter. Bad input ends with 2, which is an answer too."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert done.returncode in (0, 2), f"{arguments} ended with {done.returncode}"
    return time.perf_counter() - start


def medians(commands: dict[str, list[str]], repeats: int) -> dict[str, float]:
    """Median seconds of each command, after one run that is not counted.

    The commands take turns, so that a busy moment of the machine meets all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(repeats + 1):
        for name, arguments in commands.items():
            value = seconds(arguments)
            if turn:
                times[name].append(value)
    return {name: statistics.median(values) for name, values in times.items()}


def imported(arguments: list[str]) -> list[str]:
    """Which of the heavy packages a command imports."""
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True)
    names = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    return [name for name in HEAVY if name in names]


def main(argv: list[str] | None = None) -> list[dict]:
    chosen = options(argv, __doc__)
    light = {name: a for name, a in COMMANDS.items() if "predict" not in name and name[-5:] not in ("torch", " timm")}
    commands = light if chosen.tiny else COMMANDS  # a rehearsal waits for no torch
    found = medians(commands, repeats=1 if chosen.tiny else 9)
    rows = [
        {
            "command": name,
            "milliseconds": round(1000 * value, 1),
            "times_numpy": round(value / found[BASE], 2),
            "predicted_times_numpy": PREDICTED[name],
            "limit": LIMIT.get(name, "none"),
            "imports": ", ".join(imported(commands[name])) or "nothing",
        }
        for name, value in found.items()
    ]
    return report("startup", rows, chosen)


if __name__ == "__main__":
    main(sys.argv[1:])
