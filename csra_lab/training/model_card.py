"""The card of a trained model: what it was trained on and how, what it scores, and whose weights it began with.

Hubs show it beside the weights, and whoever is handed the folder reads there what the model may be used for.
"""

import math
from pathlib import Path

import timm

from csra_lab._io.atomic_write import atomic_write
from csra_lab.backbones import split_name
from csra_lab.datasets import MultiLabelDataset
from csra_lab.heads import config_kind
from csra_lab.metrics import MetricValues
from csra_lab.recipes import Recipe
from csra_lab.weights.sources import INSTALLED_WEIGHTS


def write_model_card(
    out: Path,
    recipe: Recipe,
    train_set: MultiLabelDataset,
    test_set: MultiLabelDataset | None = None,
    metrics: MetricValues | None = None,
) -> None:
    """Write `model/README.md` of a run folder."""
    with atomic_write(out / "model" / "README.md") as path:
        path.write_text(model_card(recipe, train_set, test_set, metrics), encoding="utf-8", errors="backslashreplace")


def model_card(
    recipe: Recipe,
    train_set: MultiLabelDataset,
    test_set: MultiLabelDataset | None = None,
    metrics: MetricValues | None = None,
) -> str:
    """The card as Markdown, with the head of fields that model hubs read.

    Args:
        test_set, metrics: what it was measured on, and what came out; None where nothing was measured.
    """
    model, plan, data = recipe.model, recipe.optimisation, recipe.data
    licence, where = weights_licence(model.backbone, model.weights)
    whole = f"{train_set.name} {train_set.split}"
    trained_on = (
        f"a sample of {data.subset:,} images of {whole}, which has {len(train_set):,} items"
        if data.subset
        else f"{whole}: {len(train_set):,} items"
    )
    held_out = (
        f" {100 * data.validation_fraction:g} % of them chose the best epoch." if data.validation_fraction else ""
    )
    rates = (
        f"a learning rate of {plan.head_lr:g}"
        if model.freeze_backbone
        else f"learning rates {plan.backbone_lr:g} for the backbone and {plan.head_lr:g} for the head"
    )
    frozen = " The backbone was frozen: only the head was trained." if model.freeze_backbone else ""
    lines = [
        "---",
        "library_name: csra-lab",
        "pipeline_tag: image-classification",
        f"license: {licence}",
        "tags: [multi-label-image-classification, csra]",
        "---",
        "",
        f"# {recipe.name}",
        "",
        f"{model.backbone} at {model.image_size} pixels with a `{config_kind(recipe.head)}` head, which names "
        f"{len(train_set.classes)} classes: {', '.join(train_set.classes)}.",
        "",
        "## Data",
        "",
        f"Trained on {trained_on}.{held_out}",
        "It knows no class besides, and was measured on no other kind of image.",
        "",
        "## Training",
        "",
        f"{plan.epochs} epochs of {plan.optimizer} with batches of {plan.batch_size}, {rates}, seed {recipe.run.seed}, "
        f"loss {type(recipe.loss).__name__}.{frozen}",
        "`recipe.json` of the run holds every setting.",
        "",
        "## Scores",
        "",
        *_scores(test_set, metrics),
        "",
        "## Licence of the weights",
        "",
        where,
        "",
        "## Use",
        "",
        "```python",
        "from csra_lab import MultiLabelClassifier",
        "",
        'model = MultiLabelClassifier.from_pretrained("this folder")',
        'print(model.predict("photograph.jpg", top=3)[0].labels)',
        "```",
        "",
    ]
    return "\n".join(lines)


def _scores(test_set: MultiLabelDataset | None, metrics: MetricValues | None) -> list[str]:
    if test_set is None or metrics is None:
        return ["It was not measured on a test split."]
    table = [
        f"On {test_set.name} {test_set.split}, {len(test_set):,} items, in %:",
        "",
        "| mAP | CF1 | OF1 |",
        "|---|---|---|",
    ]
    table.append(f"| {100 * metrics.mAP:.2f} | {100 * metrics.CF1:.2f} | {100 * metrics.OF1:.2f} |")
    pairs = zip(test_set.classes, metrics.per_class_AP, strict=True)
    by_class = ", ".join(f"{c} {'has no positive' if math.isnan(ap) else f'{100 * ap:.1f}'}" for c, ap in pairs)
    return [*table, "", f"Average precision by class: {by_class}."]


def weights_licence(backbone: str, weights: str) -> tuple[str, str]:
    """A licence's short name as hubs write it ("other" where it is not known), and where the weights began."""
    network, _ = split_name(backbone)
    if weights == "none":
        return (
            "other",
            "The weights were trained from random numbers; whoever trained them says what they may be used for.",
        )
    if weights == "hub":
        cfg = timm.models.get_pretrained_cfg(network, allow_unregistered=True)
        known = getattr(cfg, "license", None)
        said = f"timm states the licence {known}" if known else "timm states no licence"
        return known or "other", f"The backbone began with timm's pretrained weights of {network}, for which {said}."
    if weights == "installed":
        package = INSTALLED_WEIGHTS.get(network, network)
        return "other", (
            f"The backbone began with the ImageNet weights of the package {package.replace('_', '-')}, whose "
            "metadata states no licence; ask its authors before you publish this model."
        )
    return "other", f"The backbone began with the file {Path(weights).name}; its licence is that file's."
