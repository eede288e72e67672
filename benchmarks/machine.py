"""What this machine can do at most, and how every file here measures.

Run: prints the machine's two ceilings, the multiply-adds a second of a large matrix product and the bytes a second of a
large copy. The other files work their predictions out from operations and bytes with these two numbers, measured again
in the same run, so that a prediction is a count and not a guess.

A ratio is of candidates that took turns in one process: what else the machine does then hits all of them alike.
"""

import argparse
import dataclasses
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from csra_lab.device import keep_freed_memory
from csra_lab.training.run_folder import environment

RESULTS = Path(__file__).with_name("results")
LOAD_BEFORE = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
"""Of the machine, before anything was measured."""


@dataclass(frozen=True)
class Ceilings:
    """The most that this machine was seen to do. `bytes_per_second` counts bytes read and bytes written."""

    multiply_adds_per_second: float
    bytes_per_second: float

    def seconds(self, multiply_adds: float, moved: float = 0.0) -> float:
        """A lower bound: neither the multiply-adds nor the bytes can go faster."""
        return max(multiply_adds / self.multiply_adds_per_second, moved / self.bytes_per_second)


def ceilings(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, *, tiny: bool = False) -> Ceilings:
    """Measured now, with the threads that torch has now."""
    side = 128 if tiny else 8192 if torch.device(device).type == "cuda" else 2048
    a = torch.randn(side, side, device=device, dtype=dtype)
    source = torch.zeros((4 if tiny else 256) * 1024**2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    out = torch.empty_like(a)
    best = take_turns(
        {"product": lambda: torch.mm(a, a, out=out), "copy": lambda: target.copy_(source)}, repeats=5, device=device
    )
    return Ceilings(side**3 / best["product"], 2 * source.numel() / best["copy"])


def take_turns(
    candidates: dict[str, Callable[[], object]], *, repeats: int, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """The least seconds of each candidate over rounds in which each runs once, every other round in reverse order.

    Each runs once before, unmeasured. On a GPU a candidate ends when the GPU has done its work.
    """
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    best = dict.fromkeys(candidates, float("inf"))
    for round_number in range(-1, repeats):
        names = list(candidates) if round_number % 2 else list(reversed(candidates))
        for name in names:
            wait()
            start = time.perf_counter()
            candidates[name]()
            wait()
            if round_number >= 0:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def peak_memory(step: Callable[[], object], device: torch.device | str = "cpu") -> int | None:
    """Bytes that a step needs at its peak above what the process holds before it; None where it cannot be told.

    On a CPU it is the high-water mark of the process, which Linux can reset: whatever a library takes is in it. Call
    it in a process of `frugal`, where freed memory goes back at once and no step lives on what an earlier one left.
    """
    keep_freed_memory(False)
    step()  # libraries keep what they set up on first use
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    before = _status("VmRSS")
    step()
    return max(_status("VmHWM") - before, 0)


def _status(field: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def frugal(arguments: Sequence[str]) -> list:
    """Run a file of this folder in a process that gives freed memory back at once; the JSON on its last line."""
    setting = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, **setting}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def options(argv: Sequence[str] | None, doc: str) -> argparse.Namespace:
    """`--tiny` rehearses at a size that says nothing of speed and writes nothing; `--out` says where to write."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="rehearse at tiny sizes; nothing is written unless --out")
    parser.add_argument("--out", type=Path, help="folder of the JSON file; benchmarks/results if left out")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)  # what a process of our own is to do
    return parser.parse_args(argv)


def report(question: str, rows: list[dict], chosen: argparse.Namespace, **more) -> list[dict]:
    """Print rows as a table and write them with the machine and the versions; gives the rows back."""
    for name, group in _by_columns(rows).items():
        print(f"\n{question}{name}")
        print(table(group))
    # A GPU's rows stand beside those of the CPU that the book and the README read, and do not replace them.
    ours = RESULTS / "gpu" if torch.cuda.is_available() else RESULTS
    folder = chosen.out or (None if chosen.tiny else ours)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        content = {"question": question, "tiny": chosen.tiny, "machine": machine(), **more, "rows": rows}
        path = folder / f"{question}.json"
        path.write_text(json.dumps(content, indent=1, default=_plain) + "\n", encoding="utf-8")
        print(f"\n{path}")
    return rows


def machine() -> dict:
    """The hardware, the threads and the versions that the numbers depend on."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        **environment(device),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_before": LOAD_BEFORE,
    }


def table(rows: list[dict]) -> str:
    """Rows of the same keys as aligned text."""
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines)


def _by_columns(rows: list[dict]) -> dict[str, list[dict]]:
    """Rows that have the same keys, under what tells the groups apart: their `part`, where they have one."""
    groups: dict[str, list[dict]] = {}
    for row in rows:
        name = f", {row['part']}" if "part" in row else ""
        groups.setdefault(name, []).append({k: v for k, v in row.items() if k != "part"})
    return groups


def _cell(value) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _plain(value):
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else str(value)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main(argv: Sequence[str] | None = None) -> list[dict]:
    chosen = options(argv, __doc__)
    rows = []
    kinds = [("cpu", torch.float32), ("cpu", torch.bfloat16)]
    if torch.cuda.is_available():
        kinds += [("cuda", torch.float32), ("cuda", torch.bfloat16)]
    for device, dtype in kinds:
        best = ceilings(device, dtype, tiny=chosen.tiny)
        rows.append(
            {
                "device": device,
                "type": str(dtype).removeprefix("torch."),
                "giga_multiply_adds_per_second": best.multiply_adds_per_second / 1e9,
                "gigabytes_per_second": best.bytes_per_second / 1e9,
            }
        )
    return report("machine", rows, chosen)


if __name__ == "__main__":
    main()
