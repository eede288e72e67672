"""Openly licensed photographs, and what a classifier makes of each before and after the attention counts.

The photographs are in scikit-image's wheel, with their licences in its documentation; none is from VOC or COCO.
"""

import html
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from PIL import Image

from csra_lab.classifier import MultiLabelClassifier
from csra_lab.datasets.images import upright_rgb
from csra_lab.errors import CsraError
from csra_lab.modes import evaluating
from csra_lab.residual_attention import csra_logits, residual_weights
from csra_lab.viz.display import Inline
from csra_lab.viz.images import overlay, row_png, tile

CREDITS = {
    "astronaut": "Eileen Collins by NASA, in the public domain",
    "chelsea": "Chelsea the cat by Stefan van der Walt, CC0",
    "clock": "a clock, by a moving camera, by Stefan van der Walt, in the public domain",
    "coffee": "a cup at Pikolo Espresso Bar by Rachel Michetti, CC0",
    "rocket": "DSCOVR on Falcon 9 by SpaceX, in the public domain",
}
"""Names in `skimage.data` -> what they show, who took them, and under which licence."""


def open_photographs() -> dict[str, Image.Image]:
    """Name -> photograph, RGB. The two that show a cat and a cup together are made of two of the others.

    Raises:
        CsraError: scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise CsraError("the photographs are scikit-image's; `pip install scikit-image` brings them.") from error
    shot = {name: Image.fromarray(getattr(data, name)()).convert("RGB") for name in CREDITS}
    cup, cat = shot["coffee"].crop((100, 0, 500, 400)), shot["chelsea"].crop((75, 0, 375, 300))
    small_cat, small_cup = cup.copy(), cat.resize((400, 400))
    small_cat.paste(cat.resize((140, 140)), (260, 260))
    small_cup.paste(cup.resize((140, 140)), (260, 260))
    return {
        "a cup, and a small cat": small_cat,
        "a cat, and a small cup": small_cup,
        "an astronaut": shot["astronaut"],
        "a rocket": shot["rocket"],
        "a cat": shot["chelsea"],
        "a cup": shot["coffee"],
        "a clock, blurred": shot["clock"],
    }


@dataclass(frozen=True)
class Case:
    """One photograph and one label, under the average and under CSRA.

    Attributes:
        name, image, label: what was asked. before, after: all labels of the classifier, best first.
        logits: of the label, under the average and under CSRA.
        named: labels with a logit from 0 (a probability from one half), under the average and under CSRA.
        scores, weights: (h, w) of the label, the second summing to 1.
    """

    name: str
    image: Image.Image
    label: str
    before: list[str]
    after: list[str]
    logits: tuple[float, float]
    named: tuple[list[str], list[str]]
    scores: torch.Tensor
    weights: torch.Tensor

    @property
    def ranks(self) -> tuple[int, int]:
        """Of the label among all labels, 1 the best, under the average and under CSRA."""
        return self.before.index(self.label) + 1, self.after.index(self.label) + 1


@torch.inference_mode()
def look(
    model: MultiLabelClassifier, name: str, image: Image.Image, label: str, *, lam: float, temperature: float
) -> Case:
    """What a classifier with one head says of a photograph, by the mean of its scores and by CSRA on the same scores.

    Raises:
        CsraError: the classifier does not know the label, or has several heads.
    """
    image = upright_rgb(image)
    if label not in model.classes:
        raise CsraError(f"{model.backbone.name} has no label {label!r} among its {len(model.classes)}.")
    with evaluating(model):
        maps = model.score_maps(model.transform(image)[None].to(model.device))[0].cpu()  # (heads, C, h, w)
    if len(maps) != 1:
        raise CsraError(f"the gallery shows classifiers with one head, and this one has {len(maps)}.")
    scores = maps[0].flatten(1)  # (C, N)
    logits = scores.mean(dim=1), csra_logits(scores[None, None], [temperature], lam)[0]  # each (C,)
    orders = [[model.classes[i] for i in y.argsort(descending=True).tolist()] for y in logits]
    named = [order[: int((y >= 0).sum())] for order, y in zip(orders, logits, strict=True)]
    c = list(model.classes).index(label)
    return Case(
        name=name,
        image=image,
        label=label,
        before=orders[0],
        after=orders[1],
        logits=(logits[0][c].item(), logits[1][c].item()),
        named=(named[0], named[1]),
        scores=maps[0, c],
        weights=residual_weights(scores[c], temperature, lam).view(maps.shape[-2:]),
    )


def gallery(cases: Mapping[str, Case], *, top: int | None = 4, method: str = "CSRA") -> Inline:
    """Cases under each other: the photograph, its score map, the weights of CSRA, and the labels before and after.

    Args:
        cases: heading -> case. top: how many labels are listed; None for those that are named.
        method: what is compared with the average, in words.
    """
    said = "; ".join(
        f"{heading}: {case.label} has rank {case.ranks[0]} by the average and {case.ranks[1]} by {method}"
        for heading, case in cases.items()
    )
    rows = "".join(_row(heading, case, top, method) for heading, case in cases.items())
    return Inline(f'<div class="lab-gallery">{rows}</div>', said, lambda: _png(cases, method))


def _row(heading: str, case: Case, top: int | None, method: str) -> str:
    """One case as a section of the page; where it is narrow, the images scroll sideways by themselves."""
    title = html.escape(heading)
    images = "".join(
        f'<div style="flex:1 0 220px;max-width:20rem">{tile(caption, image)}</div>'
        for caption, image in _images(case, method).items()
    )
    labels = "".join(
        f'<p><span class="lab-way">{html.escape(way)}</span> {_listed(order, named, case.label, top)}</p>'
        for way, order, named in zip(("average", method), (case.before, case.after), case.named, strict=True)
    )
    strip = f'tabindex="0" role="group" aria-label="{title}: photograph, scores, weights"'
    strip += ' style="display:flex;gap:.5rem;overflow-x:auto"'
    return (
        f'<section class="lab-case"><p class="lab-case-title"><strong>{title}</strong></p>'
        f'<div class="lab-strip" {strip}>{images}</div>{labels}</section>'
    )


def _images(case: Case, method: str) -> dict[str, Image.Image]:
    before, after = (f"{logit:.1f}".replace("-", "\N{MINUS SIGN}") for logit in case.logits)
    return {
        "photograph": case.image,
        f"scores of “{case.label}”, mean {before}": overlay(case.image, case.scores.numpy()),
        f"weights of {method}, logit {after}": overlay(
            case.image, case.weights.numpy(), limits=(0, case.weights.max().item())
        ),
    }


def _listed(order: list[str], named: list[str], label: str, top: int | None) -> str:
    """Labels in a line; the one that is followed in bold, with its rank where it is further down."""
    shown = named if top is None else order[:top]
    words = [f"<strong>{html.escape(n)}</strong>" if n == label else html.escape(n) for n in shown]
    if not words:
        words = ["names nothing"]
    if label not in shown:
        words.append(f"… <strong>{html.escape(label)}</strong>, rank {order.index(label) + 1}")
    return ", ".join(words).replace(", …", " …")


def _png(cases: Mapping[str, Case], method: str) -> bytes:
    """Rows of four: the last is a white tile whose caption holds the labels."""
    captioned: dict[str, Image.Image] = {}
    for k, (heading, case) in enumerate(cases.items()):
        for i, (caption, image) in enumerate(_images(case, method).items()):
            captioned[f"{k + 1}. {heading if i == 0 else caption}"] = image
        listed = f"{k + 1}. average: {', '.join(case.before[:4])}; {method}: {', '.join(case.after[:4])}"
        captioned[listed] = Image.new("RGB", (8, 1), "white")
    return row_png(captioned)
