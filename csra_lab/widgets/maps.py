"""Explorers of score maps: where a classifier looks, and how six poolings read the same maps."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import traitlets
from PIL import Image

from csra_lab._io.resources import asset
from csra_lab.classifier import MultiLabelClassifier
from csra_lab.datasets import open_image
from csra_lab.datasets.imagenet_folder import imagenet_names
from csra_lab.datasets.images import upright_rgb
from csra_lab.errors import ConfigError
from csra_lab.heads import PAPER_TEMPERATURES
from csra_lab.modes import evaluating
from csra_lab.viz.atlas import ATLAS, read_atlas
from csra_lab.widgets.base import Explorer, as_temperature, module, packed, picture_url

SHIPPED = asset("models/coco")
MOST_LABELS = 200  # of a classifier with more, those with the highest means and peaks are shown: a page must stay small


class MapExplorer(Explorer):
    """Score maps and the settings under which they are pooled. All traits can be read and set from Python.

    Attributes:
        data: classes, pictures and models; see `maps_of_atlas` and `maps_of_photographs`.
        picture, model: places in `data["pictures"]` and `data["models"]`.
        temperature: a number from 0, or "inf" (JSON has no infinity; `math.inf` is taken too). lam: lambda.
    """

    data = traitlets.Dict().tag(sync=True)
    picture = traitlets.Int(0, min=0).tag(sync=True)
    model = traitlets.Int(0, min=0).tag(sync=True)
    temperature = traitlets.Any(1.0).tag(sync=True)
    lam = traitlets.Float(0.3).tag(sync=True)

    @traitlets.validate("temperature")
    def _temperature(self, proposal):
        return as_temperature(proposal["value"])


class AttentionExplorer(MapExplorer):
    """Where a classifier looks, a logit in its two parts (Eq. 7), and the ranking of labels as it changes.

    Its other traits are those of `MapExplorer`.

    Attributes:
        label: number, from 0, of the label looked at. view: "attention", "light" (the image lit by the
            attention), "scores" or "picture".
        heads: "one", or for a model of several heads "trained" or "head-1", ...; or "2", "4", "6", "8": the paper's
            temperatures on one classifier.
    """

    title = "Attention explorer"
    _esm = module("attention")
    label = traitlets.Int(0, min=0).tag(sync=True)
    heads = traitlets.Unicode("one").tag(sync=True)
    view = traitlets.Enum(["attention", "light", "scores", "picture"], "attention").tag(sync=True)


class RankingExplorer(MapExplorer):
    """One image, one slider, and the labels whose ranks change: the four lines in their simplest form.

    Its other traits are those of `MapExplorer`; it shows the first picture and the first model.

    Attributes:
        label: number, from 0, of the label that is followed.
        slider: "lam" for lambda at T = infinity, or "T" at a fixed lambda.
    """

    title = "Ranking explorer"
    _esm = module("ranking")
    label = traitlets.Int(0, min=0).tag(sync=True)
    slider = traitlets.Enum(["lam", "T"], "lam").tag(sync=True)
    lam = traitlets.Float(0.0).tag(sync=True)


class HeadComposer(MapExplorer):
    """Six poolings of the same score maps, and the labels that each ranks above the threshold.

    GeM is not among them: it pools features, and a score map holds none. Its other traits are those of `MapExplorer`.

    Attributes:
        threshold: probability from which a label is named. r: sharpness of log-sum-exp. k: places of the top-k mean.
    """

    title = "Head composer"
    _esm = module("composer")
    threshold = traitlets.Float(0.5, min=0, max=1).tag(sync=True)
    r = traitlets.Float(1.0, min=0.01).tag(sync=True)
    k = traitlets.Int(3, min=1).tag(sync=True)

    @traitlets.validate("data")
    def _one_head(self, proposal):
        for model in proposal["value"].get("models", ()):
            if model["heads"] != 1:
                raise ConfigError(
                    f"the head composer pools one score map a label, and {model['name']} has {model['heads']}."
                )
        return proposal["value"]


def explore(
    model: MultiLabelClassifier | str | Path | Image.Image, *photographs: str | Path | Image.Image
) -> AttentionExplorer:
    """`explore(model, "photo.jpg")`: the attention explorer on your own classifier and photographs.

    `explore("photo.jpg")` takes the classifier of COCO's 80 classes that comes with the lab. It opens at the settings
    that the classifier was trained with, on the label it ranks first.

    Raises:
        CsraError: no photograph, one that cannot be read, or a head that pools in another way than CSRA or the mean.
    """
    classifier: MultiLabelClassifier | None = None
    if isinstance(model, MultiLabelClassifier):
        classifier = model
    else:
        photographs = (model, *photographs)
    if not photographs:
        raise ConfigError('name one or more photographs, as in explore(model, "photo.jpg").')
    pictures = [p if isinstance(p, Image.Image) else open_image(p) for p in photographs]
    names = [f"picture {i}" if isinstance(p, Image.Image) else Path(p).name for i, p in enumerate(photographs, 1)]
    classifier = MultiLabelClassifier.from_pretrained(SHIPPED) if classifier is None else classifier
    data = maps_of_photographs(classifier, dict(zip(_distinct(names), pictures, strict=True)))
    about = data["models"][0]
    start = about["temperatures"][0] if about["temperatures"] else 1.0
    heads = "trained" if about["heads"] > 1 else "one"
    return AttentionExplorer(data=data, temperature=start, lam=about["lam"], heads=heads, label=data.pop("first"))


def maps_of_atlas(
    dataset: str,
    *,
    models: Sequence[str] | None = None,
    pictures: Sequence[int] | None = None,
    folder: Path = ATLAS,
) -> dict:
    """The `data` of an explorer from the score atlas.

    Args:
        dataset: "emoji-voc" or "paperdoll-wider". models: names in the atlas; None for all of the data set.
        pictures: which of its pictures, by number; None for the first eight.

    Raises:
        CsraError: an unknown name or number, with what there is.
    """
    atlas = read_atlas(folder)
    if dataset not in atlas.pictures:
        raise ConfigError(f"the atlas has no pictures of {dataset!r}; it has {', '.join(atlas.pictures)}.")
    there = {name: model for name, model in atlas.models.items() if model.dataset == dataset}
    chosen = list(there) if models is None else list(models)
    shown = range(min(8, len(atlas.pictures[dataset]))) if pictures is None else pictures
    for name in chosen:
        if name not in there:
            raise ConfigError(f"the atlas has no model {name!r} on {dataset}; it has {', '.join(there)}.")
    for i in shown:
        if not 0 <= i < len(atlas.pictures[dataset]):
            raise ConfigError(f"the atlas has {len(atlas.pictures[dataset])} pictures of {dataset}, and no number {i}.")
    classes = atlas.classes[dataset]
    kept = [atlas.pictures[dataset][i] for i in shown]
    return {
        "classes": list(classes),
        "temperatures": _paper_temperatures(),
        "pictures": [
            {
                "name": f"{i + 1}: "
                + (", ".join(c for c, t in zip(classes, p.targets, strict=True) if t == 1) or p.id),
                "url": picture_url(open_image(p.path)),
                "targets": list(p.targets),
            }
            for i, p in enumerate(kept)
        ],
        "models": [
            {
                **_settings(there[name].head),
                "name": there[name].title,
                "maps": [packed(there[name].maps[i]) for i in shown],
            }
            for name in chosen
        ],
    }


@torch.inference_mode()
def maps_of_photographs(model: MultiLabelClassifier, pictures: dict[str, Image.Image]) -> dict:
    """The `data` of an explorer from a classifier and named pictures.

    "multilabel" in it is false for ImageNet's thousand classes, whose logits are not probabilities of a label each.
    "first" is the label ranked first on the first picture. Of more than 200 labels, those with the highest means
    and peaks are kept.

    Raises:
        CsraError: a picture that cannot be read, or a head that pools in another way than CSRA or the mean.
    """
    head = model.config()["head"]
    if head["kind"] not in ("csra", "average"):
        raise ConfigError(
            f"the explorer shows how CSRA and average pooling read score maps, not how {head['kind']!r} does; give a "
            "classifier with one of these two heads."
        )
    pictures = {name: upright_rgb(picture) for name, picture in pictures.items()}
    transform, device = model.transform, model.device
    maps: list[torch.Tensor] = []
    logits: list[torch.Tensor] = []  # (C,) of the first picture alone
    with evaluating(model):
        for picture in pictures.values():
            features = model.features(transform(picture)[None].to(device))
            scores = model.head.score_maps(features)[0].float().cpu()  # (heads, C, h, w), or (heads, C, N) from tokens
            maps.append(scores if scores.ndim == 4 else scores[..., None, :])
            if not logits:
                logits.append(model.head(features)[0].float().cpu())
    keep = np.arange(len(model.classes))
    if len(keep) > MOST_LABELS:  # by the better of two places: by mean, which is the ranking at lam 0, and by peak
        means = torch.stack([m.mean(dim=(0, 2, 3)) for m in maps]).amax(dim=0)  # (C,)
        peaks = torch.stack([m.amax(dim=(0, 2, 3)) for m in maps]).amax(dim=0)
        places = torch.stack([v.argsort(descending=True).argsort() for v in (means, peaks)]).amin(dim=0)
        keep = np.sort(places.argsort(stable=True)[:MOST_LABELS].numpy())
    return {
        "classes": [model.classes[c] for c in keep],
        "temperatures": _paper_temperatures(),
        "pictures": [{"name": name, "url": picture_url(p), "targets": None} for name, p in pictures.items()],
        "models": [
            {
                **_settings(head),
                "name": f"{model.backbone.name}, {head['kind']}",
                "maps": [packed(m[:, keep].numpy().astype(np.float16)) for m in maps],
            }
        ],
        "note": ""
        if len(keep) == len(model.classes)
        else f"{len(keep)} of {len(model.classes)} labels: highest means and peaks.",
        "total": len(model.classes),
        "multilabel": list(model.classes) != imagenet_names(),
        "first": int(logits[0][torch.from_numpy(keep)].argmax()),
    }


def _settings(head: dict) -> dict:
    """How a head pools, in CSRA's terms: average pooling is lambda 0."""
    if head["kind"] == "csra":
        return {"heads": head["num_heads"], "lam": head["lam"], "temperatures": list(head["temperatures"])}
    return {"heads": 1, "lam": 0.0, "temperatures": []}


def _paper_temperatures() -> dict[str, list]:
    return {str(h): ["inf" if math.isinf(t) else t for t in ts] for h, ts in PAPER_TEMPERATURES.items()}


def _distinct(names: Sequence[str]) -> list[str]:
    return [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names, 1)]
