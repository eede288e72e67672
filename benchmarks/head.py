"""How much faster is csra_lab's head than a literal one? The literal head is the paper's text turned into a loop.

For each of H heads it runs one 1x1 convolution, a softmax and a sum; csra_lab's head does one product for all heads.
Both are measured forward (no gradients) and forward + backward, with gradients for features and weights, and by the
memory that forward + backward needs at its peak above features and weights.

Prediction. Let X be the bytes of the features, S those of all score maps, W those of all weights, and M = B N d the
multiply-adds of one classifier. A convolution on a contiguous map copies the map into its own layout first (2 X moved)
and pads its C output channels to whole vectors of 16; in `channels_last` it copies nothing. So

    literal, forward     H (2 X copied, then a product of M pad16(C) that reads X)
             backward    H (twice that for the gradients of features and of weights, and 3 X to add up the former)
    ours                 the same with H = 1 and H C channels, and no copy up to N of them
    both                 10 S moved forward to pool the scores, and as much again backward

with products at the machine's ceiling of multiply-adds or of bytes, whichever binds. In memory the literal head holds
the sum of the gradients so far, the newest one, and on contiguous maps the copy: 2 or 3 X; ours holds 1 or 2 X. Both
hold 3 S, and 3 W for normalised weights and gradients. Where H C is large the product itself binds, both heads do the
same multiply-adds, and no ratio of 2 is to be had.
"""

import json
import math
import sys
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from machine import Ceilings, ceilings, frugal, options, peak_memory, report, take_turns
from torch import Tensor, nn

from csra_lab.heads import CSRA, PAPER_TEMPERATURES

SHAPES = ((16, 2048, 14, 14), (16, 2048, 7, 7), (64, 768, 14, 14))
CLASSES, HEADS = (14, 20, 80), (1, 2, 4, 6, 8)
TINY_SHAPES, TINY_CLASSES, TINY_HEADS = ((2, 32, 4, 4), (2, 32, 8, 8)), (5,), (1, 2, 8)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class LiteralHead(nn.Module):
    """Sections 3.1 to 3.3 of the paper as they stand: Eq. 2, 7 and 8 for one head, and the sum over heads of Eq. 13."""

    def __init__(self, in_features: int, num_classes: int, heads: int, lam: float):
        super().__init__()
        self.classifiers = nn.ModuleList(nn.Conv2d(in_features, num_classes, 1, bias=False) for _ in range(heads))
        self.temperatures, self.lam = PAPER_TEMPERATURES[heads], lam

    def forward(self, x: Tensor) -> Tensor:
        """(B, d, h, w) -> (B, C) logits."""
        logits = 0.0
        for classifier, temperature in zip(self.classifiers, self.temperatures, strict=True):
            scores = F.conv2d(x, F.normalize(classifier.weight, dim=1)).flatten(2)  # (B, C, N)
            average = scores.mean(dim=2)
            if math.isinf(temperature):
                attended = scores.amax(dim=2)
            else:
                attended = (torch.softmax(temperature * scores, dim=2) * scores).sum(dim=2)
            logits = logits + average + self.lam * attended
        return logits


def pair(shape: Sequence[int], classes: int, heads: int, device="cpu", dtype=torch.float32) -> dict[str, nn.Module]:
    """The two heads with the same weights."""
    ours = CSRA(shape[1], classes, num_heads=heads, lam=0.1)
    literal = LiteralHead(shape[1], classes, heads, lam=0.1)
    with torch.no_grad():
        for classifier, weight in zip(literal.classifiers, ours.weight, strict=True):
            classifier.weight.copy_(weight[:, :, None, None])
    return {"literal": literal.to(device, dtype), "ours": ours.to(device, dtype)}


def features(shape: Sequence[int], layout: str, device="cpu", dtype=torch.float32) -> Tensor:
    """Like those of a network: not negative, and asking for their gradient."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu()
    return x.to(device, dtype, memory_format=LAYOUTS[layout]).requires_grad_()


def forward(head: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return head(x)


def forward_backward(head: nn.Module, x: Tensor) -> None:
    head(x).sum().backward()
    head.zero_grad(set_to_none=True)
    x.grad = None


def predict(shape: Sequence[int], classes: int, heads: int, layout: str, top: Ceilings) -> dict[str, float]:
    """Ratios of time, literal over ours, and of memory, ours over literal; see the top of this file."""
    batch, d, *side = shape
    n = math.prod(side)
    X, S, M = 4 * batch * d * n, 4 * batch * heads * classes * n, batch * n * d
    W = 4 * heads * classes * d
    contiguous = layout == "contiguous"
    our_copy = contiguous and heads * classes > n

    def seconds(channels: int, copied: bool) -> tuple[float, float]:
        product = top.seconds(M * 16 * math.ceil(channels / 16), X)
        copy = copied * top.seconds(0, 2 * X)
        return product + copy, 2 * (product + copy)

    pooling = top.seconds(0, 10 * S)
    one_forward, one_backward = seconds(classes, copied=contiguous)
    our_forward, our_backward = seconds(heads * classes, copied=our_copy)
    literal_forward = heads * one_forward + pooling
    literal_both = literal_forward + heads * one_backward + (heads - 1) * top.seconds(0, 3 * X) + pooling
    ours_both = our_forward + our_backward + 2 * pooling
    literal_held = (1 + (heads > 1) + contiguous) * X + 3 * S + 3 * W
    our_held = (1 + our_copy) * X + 3 * S + 3 * W
    return {
        "forward": literal_forward / (our_forward + pooling),
        "both": literal_both / ours_both,
        "memory": our_held / literal_held,
    }


def cases(tiny: bool) -> list[tuple[tuple[int, ...], int, int, str]]:
    """Every shape, number of classes and of heads on contiguous maps; in `channels_last` the fewest and most heads."""
    shapes, classes, heads = (TINY_SHAPES, TINY_CLASSES, TINY_HEADS) if tiny else (SHAPES, CLASSES, HEADS)
    return [
        (shape, c, h, layout)
        for layout in LAYOUTS
        for shape in shapes
        for c in classes
        for h in (heads if layout == "contiguous" else (heads[0], heads[-1]))
    ]


def memory(tiny: bool) -> list[dict[str, int | None]]:
    """Peak bytes of forward + backward of both heads, for each case."""
    found = []
    for shape, classes, heads, layout in cases(tiny):
        x = features(shape, layout)
        heads_of = pair(shape, classes, heads)
        found.append({k: peak_memory(partial(forward_backward, head, x)) for k, head in heads_of.items()})
    return found


def row(shape, classes: int, heads: int, layout: str, held: dict, top: Ceilings, repeats: int, **where) -> dict:
    """One line of the table; `where` takes device and dtype."""
    x, both = features(shape, layout, **where), pair(shape, classes, heads, **where)
    expected = predict(shape, classes, heads, layout, top)
    device = where.get("device", "cpu")
    runs = {
        name: take_turns({k: partial(run, head, x) for k, head in both.items()}, repeats=repeats, device=device)
        for name, run in (("forward", forward), ("both", forward_backward))
    }
    known = bool(held["literal"] and held["ours"])
    return {
        "features": shape,
        "C": classes,
        "H": heads,
        "layout": layout,
        "forward_ms": 1e3 * runs["forward"]["ours"],
        "forward_ratio": runs["forward"]["literal"] / runs["forward"]["ours"],
        "predicted_forward": expected["forward"],
        "both_ms": 1e3 * runs["both"]["ours"],
        "both_ratio": runs["both"]["literal"] / runs["both"]["ours"],
        "predicted_both": expected["both"],
        "memory_mb": held["ours"] / 1e6 if known else None,
        "memory_ratio": held["ours"] / held["literal"] if known else None,
        "predicted_memory": expected["memory"],
    }


def gpu_rows(tiny: bool, repeats: int, device: str = "cuda") -> list[dict]:
    """On a GPU: the literal head as it is against ours as it is, compiled, and in bfloat16 and compiled, at each shape.

    Prediction: at bfloat16 a head reads X / 2 bytes once where the literal one reads 4-byte features H times, so 2 H
    where bytes bind; small shapes bind on the launches of kernels instead, about 8 H against 12, fewer when compiled.
    """
    rows = []
    for shape in TINY_SHAPES if tiny else SHAPES:
        for classes in TINY_CLASSES if tiny else CLASSES:
            for heads in (1, 8):
                x = features(shape, "channels_last", device)
                half = x.detach().bfloat16().requires_grad_()
                both = pair(shape, classes, heads, device)
                ours16 = pair(shape, classes, heads, device, torch.bfloat16)["ours"]
                candidates = {
                    "literal": (both["literal"], x),
                    "ours": (both["ours"], x),
                    "ours compiled": (torch.compile(both["ours"]), x),
                    "ours bf16": (ours16, half),
                    "ours bf16 compiled": (torch.compile(ours16), half),
                }
                found = {
                    name: take_turns(
                        {k: partial(run, *c) for k, c in candidates.items()}, repeats=repeats, device=device
                    )
                    for name, run in (("forward", forward), ("both", forward_backward))
                }
                held = {k: peak_memory(partial(forward_backward, *c), device) for k, c in candidates.items()}
                for name in candidates:
                    rows.append(
                        {
                            "part": "on a GPU",
                            "features": shape,
                            "C": classes,
                            "H": heads,
                            "head": name,
                            **{f"{k}_ms": 1e3 * v[name] for k, v in found.items()},
                            **{f"{k}_ratio": v["literal"] / v[name] for k, v in found.items()},
                            "predicted_ratio_at_most": float(heads * (2 if "bf16" in name else 1)),
                            "memory_mb": held[name] / 1e6,
                            "memory_ratio": held[name] / held["literal"] if held["literal"] else None,
                        }
                    )
    return rows


def main(argv: Sequence[str] | None = None) -> list[dict]:
    chosen = options(argv, __doc__)
    if chosen.part == "memory":
        print(json.dumps(memory(chosen.tiny)))
        return []
    held = frugal([__file__, "--part", "memory", *["--tiny"] * chosen.tiny])
    top = ceilings(tiny=chosen.tiny)
    repeats = 1 if chosen.tiny else 5
    rows = [
        # A single head takes milliseconds and is compared with 1, so it is measured more often.
        row(*case, use, top, repeats * (1 if case[2] > 1 or chosen.tiny else 6))
        for case, use in zip(cases(chosen.tiny), held, strict=True)
    ]
    if torch.cuda.is_available():
        rows += gpu_rows(chosen.tiny, 5 * repeats)
    return report("head", rows, chosen, ceilings=top)


if __name__ == "__main__":
    main(sys.argv[1:])
