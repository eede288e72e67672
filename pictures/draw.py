"""The pictures of README.md, each for light and dark: python pictures/draw.py

explorer.webp is a film of the ranking explorer, lambda from 0 to 0.3. The others are SVG with text as text; colours are
the book's (book/_assets/lab.css). Photographs: scikit-image's cup and cat.
"""

import re
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from skimage import data

from csra_lab import imagenet_classifier, residual_max
from csra_lab.viz import figures as plots
from csra_lab.viz import result_figures as result_plots
from csra_lab.viz.images import _data_url

HERE = Path(__file__).parent
STYLE = (HERE.parent / "book/_assets/lab.css").read_text("utf-8")
INK = {"light": "#1b1f24", "dark": "#d6dbe2"}
PAPER = {"light": "#ffffff", "dark": "#0d1117"}


def main() -> None:
    for theme in ("light", "dark"):
        (HERE / f"idea-{theme}.svg").write_text(idea(theme), "utf-8")
        (HERE / f"gains-{theme}.svg").write_text(gains(theme), "utf-8")


def idea(theme: str) -> str:
    """The home page's picture: a cup with a small cat, where the classifier sees the cat, and what that changes."""
    scene = Image.fromarray(data.coffee()).crop((100, 0, 500, 400))
    scene.paste(Image.fromarray(data.chelsea()).crop((75, 0, 375, 300)).resize((140, 140)), (260, 260))
    model = imagenet_classifier("tf_efficientnet_lite0")
    with torch.no_grad():
        scores = model.score_maps(model.transform(scene)[None])[:, 0]  # (1, 1000, 7, 7)
    before, after = (
        [model.classes[i] for i in residual_max(scores, lam)[0].argsort(descending=True)] for lam in (0, 0.2)
    )
    seen = plots.overlay(scene, scores[0, model.classes.index("Egyptian cat")])
    ranks = plots.rank_change(before, after, follow=["Egyptian cat"], titles=("average", "+ 0.2 × best"))
    parts = [_picture(scene, 0, "A cup, and a small cat"), _picture(seen, 215, "Where it sees “Egyptian cat”")]
    place = '<svg overflow="visible" x="450" y="5" width="288" height="224" '
    chart = _themed(plots.shown(ranks).html, theme).replace("<svg ", place, 1)
    alt = f"A photograph of a cup with a small cat in a corner; the scores of the cat over it. {ranks.alt}"
    return _document("".join(parts) + chart, 760, 240, alt, theme)


def gains(theme: str) -> str:
    """What the four lines and CSRA gain over average pooling, from the recorded runs."""
    names = {"photographs": "photographs", "emoji": "EmojiVOC", "paperdoll": "PaperdollWIDER"}
    rows = {f"four lines, λ = {lam}": f"four lines, lam = {lam}" for lam in ("0.05", "0.1", "0.2", "0.3")}
    rows["CSRA, trained"] = "CSRA"
    series = {}
    for source, name in names.items():
        table = pd.read_csv(HERE.parent / f"data/runs/four-lines/{source}/comparisons.csv")
        table = table[table.split == "test"].set_index("label")
        series[name] = [tuple(100 * table.loc[row, ["difference", "lower", "upper"]]) for row in rows.values()]
    alt = "Gains over average pooling in points of mAP, with intervals, on three tests."
    chart = result_plots.differences(list(rows), series, label="gain over average pooling, points of mAP", alt=alt)
    drawn = plots.shown(chart).html
    width, height = (float(v) * 4 / 3 for v in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn).groups())
    body = _themed(drawn, theme).replace(
        "<svg ", f'<svg width="{width:.0f}" height="{height:.0f}" overflow="visible" ', 1
    )
    return _document(body, round(width) + 40, round(height), alt, theme)  # the legend reaches past the axes


def _picture(picture: Image.Image, x: int, caption: str) -> str:
    url = _data_url(picture, 400)
    text = f'<text x="{x + 100}" y="226" text-anchor="middle" font-size="13">{caption}</text>'
    return f'<image href="{url}" x="{x}" y="5" width="200" height="200"/>{text}'


def _themed(html: str, theme: str) -> str:
    """A figure's SVG with the colours of a theme in place of the page's variables."""
    block = re.search(
        r"^html" + (r"\[data-theme=\"dark\"\]" if theme == "dark" else "") + r" \{(.*?)\}", STYLE, re.M | re.S
    )
    colours = dict(re.findall(r"(--lab-\w+): (#\w+);", block[1]))
    colours |= {"--pst-color-background": PAPER[theme], "--pst-font-family-base": "sans-serif"}
    svg = html[html.index("<svg") : html.index("</svg>") + 6]  # the wide one
    svg = re.sub(r"var\((--[\w-]+), [^)]*\)", lambda m: colours[m[1]], svg)
    return re.sub(r' style="width:[^"]*"', "", svg, count=1).replace("currentColor", INK[theme])


def _document(body: str, width: int, height: int, alt: str, theme: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" font-family="sans-serif" '
        f'fill="{INK[theme]}"><title>{alt}</title>{body}</svg>\n'
    )


if __name__ == "__main__":
    main()
