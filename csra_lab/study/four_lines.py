"""The four lines on ImageNet classifiers as they are: no training at all (paper, Table 1, the ImageNet rows).

A classifier that is linear in its mean feature has score maps (see `imagenet_classifier`), and its logits at every
lambda are mean + lambda x maximum of these maps. So one pass over the images keeps two numbers for each image and
class, and every lambda is read off them afterwards.

Two measurements. On an ImageFolder, top-1 and top-5 accuracy over all 1,000 logits, with the preprocessing that timm
publishes the network's accuracy with (resize, central crop). On a multi-label set with VOC's classes, such as VOC's
photographs, mAP after pooling ImageNet's classes into VOC's in two ways, which answer differently (`pooled_scores`),
with this lab's preprocessing (the whole image, squashed).
There is no seed in either: the network is fixed, and the uncertainty is that of the test images.
"""

import contextlib
import hashlib
import json
import math
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import NormalDist

import numpy as np
import timm.data
import torch
from filelock import FileLock
from scipy.stats import binomtest
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from csra_lab._io import strict_json
from csra_lab._io.atomic_write import check_file
from csra_lab._io.progress import progress_bar
from csra_lab.catalog import load_dataset
from csra_lab.classifier import MultiLabelClassifier, imagenet_classifier
from csra_lab.datasets import MultiLabelDataset
from csra_lab.datasets.dataset import count_items
from csra_lab.datasets.imagenet_folder import ImageFolder, evenly, load_image_folder
from csra_lab.datasets.voc_in_imagenet import POOLINGS, covered_classes, pooled_scores, read_voc_table
from csra_lab.device import to_device
from csra_lab.errors import ConfigError, CsraError, DataError
from csra_lab.metrics import average_precision
from csra_lab.modes import evaluating
from csra_lab.significance import bootstrap_mAP, critical_t
from csra_lab.training.run_folder import environment

LAMBDAS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
FINGERPRINT = "fingerprint"  # of the images and their labels
_PAIRED = "A difference larger than its +- is unlikely to be chance (95 %, paired, for all lambdas together)."


@dataclass(frozen=True, eq=False)
class MeanAndMax:
    """All that the four lines need of the score maps of N images: (N, C) float32 means and maxima over locations."""

    mean: Tensor
    maximum: Tensor

    def logits(self, lam: float) -> Tensor:
        """(N, C) logits at this lambda: what `residual_max` gives on the maps."""
        return self.mean + lam * self.maximum


@torch.no_grad()  # not inference_mode, which would leave a model moved below untrainable
def mean_and_max(
    model: MultiLabelClassifier,
    inputs: Dataset,
    *,
    batch_size: int = 32,
    device: str = "cpu",
    workers: int = 0,
    progress: bool = False,
) -> MeanAndMax:
    """One pass over the images. Items of `inputs` are (image tensor, anything); all in float32, on `device`.

    Raises:
        CsraError: a batch size below 1, or scores that are not finite.
    """
    if batch_size < 1:
        raise ConfigError(f"the batch size must be at least 1, not {batch_size}.")
    count = count_items(inputs)
    mean, maximum = torch.empty(2, count, len(model.classes))  # (N, C) each
    done = 0
    with evaluating(model.to(device)), progress_bar(count, desc="score maps", shown=progress) as bar:
        for images, _ in DataLoader(inputs, batch_size=batch_size, num_workers=workers):
            maps = model.score_maps(to_device(images, device))[:, 0].flatten(2)  # (B, C, N)
            here = slice(done, done := done + len(images))
            mean[here], maximum[here] = maps.mean(dim=2).cpu(), maps.amax(dim=2).cpu()
            bar.update(len(images))
    if not (mean.isfinite().all() and maximum.isfinite().all()):
        raise CsraError(f"{model.backbone.name} gives scores that are not finite; look for broken weights.")
    return MeanAndMax(mean, maximum)


# --- accuracy on an ImageFolder ---------------------------------------------------------------------------------------


def published_transform(model: MultiLabelClassifier):
    """timm's own preprocessing for this network at the model's image size: resize, central crop, normalise."""
    size = (3, model.image_size, model.image_size)
    config = timm.data.resolve_model_data_config(model.backbone.model, {"input_size": size})
    return timm.data.create_transform(**config, is_training=False)


def accuracy_against_lambda(
    scores: MeanAndMax, targets: np.ndarray, lambdas: Sequence[float] = LAMBDAS
) -> list[dict[str, float]]:
    """Top-1 and top-5 accuracy at each lambda, against lambda = 0 on the same images.

    Args:
        scores: of N images and C classes. targets: (N,) class indices.

    Returns:
        A row for each lambda: `lam`, `top1`, `top5` and `change` of top1 (fractions); `gained` and `lost`, the numbers
        of images that became right and wrong; `plus_minus`, the half width of the paired 95 % interval of the change,
        and `p_value`, of McNemar's exact test, both corrected for the number of lambdas other than 0. The interval
        counts one image more as gained and one as lost (after Bonett and Price, 2012): without them it is too short
        where few images change, and has no width where none does.

    Raises:
        CsraError: scores that are not finite.
    """
    if not (scores.mean.isfinite().all() and scores.maximum.isfinite().all()):
        raise ConfigError("a score is not finite, so no label ranks above another; look for broken weights.")
    lambdas = checked_lambdas(lambdas)
    index, n, comparisons = torch.as_tensor(targets)[:, None], len(targets), len(lambdas) - 1
    rows, before = [], None
    for lam in lambdas:
        logits = scores.logits(lam)
        rank = (logits >= logits.gather(1, index)).sum(dim=1) - 1  # (N,) how many others score as high: ties count
        right = rank == 0
        before = right if before is None else before  # the first lambda is 0
        gained, lost = int((right & ~before).sum()), int((before & ~right).sum())
        variance = (gained + lost + 2 - (gained - lost) ** 2 / n) / n**2 if lam else 0.0
        row = {
            "lam": lam,
            "top1": right.double().mean().item(),
            "top5": (rank < 5).double().mean().item(),
            "change": (gained - lost) / n,
            "plus_minus": _critical_z(comparisons) * math.sqrt(variance),
            "gained": gained,
            "lost": lost,
            "p_value": min(1.0, comparisons * mcnemar_p(gained, lost)) if lam else 1.0,
        }
        rows.append(row)
    return rows


def mcnemar_p(gained: int, lost: int) -> float:
    """The two-sided exact p-value: how far from half of the images that changed became right."""
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


# --- VOC's classes ----------------------------------------------------------------------------------------------------


def map_against_lambda(
    scores: MeanAndMax, dataset: MultiLabelDataset, lambdas: Sequence[float] = LAMBDAS, *, resamples: int = 1000
) -> list[dict]:
    """mAP of the pooled scores at each lambda, against lambda = 0 on the same images, for both ways of pooling.

    Args:
        scores: of the N images of `dataset`, 1,000 classes.
        dataset: its classes must all be in the table, with a positive each; see `covered_classes`.

    Returns:
        A row for each lambda: `lam`, and under each name of `POOLINGS` a dict with `mAP`, its `change` against
        lambda = 0, `per_class_AP` (by name), all fractions, and `plus_minus`, the half width of the 95 % interval of
        the change: paired bootstrap over the images, corrected for all changes in the rows together.
    """
    lambdas, whole, n = checked_lambdas(lambdas), read_voc_table(), len(dataset)
    table = {name: whole[name] for name in dataset.classes}
    t = critical_t(0.95, max(1, len(POOLINGS) * (len(lambdas) - 1)), n - 1)
    rows: list[dict] = [{"lam": lam} for lam in lambdas]
    for pooling in POOLINGS:
        pooled = np.stack([pooled_scores(scores.logits(lam), table, pooling).numpy() for lam in lambdas])  # (L, N, C)
        drawn = bootstrap_mAP(pooled, dataset.targets, resamples=resamples)  # (L, R), the same draws for both poolings
        per_class = np.stack([average_precision(each, dataset.targets) for each in pooled])  # (L, C)
        mAP = per_class.mean(axis=1)  # (L,)
        errors = math.sqrt(n / (n - 1)) * (drawn - drawn[0]).std(axis=1, ddof=1)  # (L,)
        for i, row in enumerate(rows):
            row[pooling] = {
                "mAP": float(mAP[i]),
                "change": float(mAP[i] - mAP[0]),
                "plus_minus": float(t * errors[i]),
                "per_class_AP": dict(zip(dataset.classes, per_class[i].tolist(), strict=True)),
            }
    return rows


def voc_four_lines(
    model: MultiLabelClassifier,
    dataset: MultiLabelDataset,
    lambdas: Sequence[float] = LAMBDAS,
    *,
    min_positives: int = 1,
    resamples: int = 1000,
    **scoring,
) -> dict:
    """mAP against lambda of an ImageNet classifier on a data set with VOC's classes.

    Args:
        model: from `imagenet_classifier`. min_positives: classes with fewer positive images are left out, and named.
        scoring: passed on to `mean_and_max`.

    Returns:
        `images`, `classes`, `left_out` (class -> why), `note`, `targets_sha256` and `rows` (see `map_against_lambda`).
    """
    classes, left_out = covered_classes(dataset, min_positives=min_positives)
    missing = ", ".join(f"{name} ({why})" for name, why in left_out.items())
    chosen = dataset.select_classes(classes)
    scores = mean_and_max(model, chosen.with_transform(model.transform), **scoring)
    return {
        "images": len(chosen),
        "classes": classes,
        "left_out": left_out,
        "note": f"mAP over {', '.join(classes)}. Left out: {missing or 'none'}. {_PAIRED}",
        "targets_sha256": hashlib.sha256("\n".join(chosen.ids).encode() + chosen.targets.tobytes()).hexdigest(),
        "rows": map_against_lambda(scores, chosen, lambdas, resamples=resamples),
    }


def folder_four_lines(
    model: MultiLabelClassifier, pictures: ImageFolder, lambdas: Sequence[float] = LAMBDAS, **scoring
) -> dict:
    """Accuracy against lambda of an ImageNet classifier on an ImageFolder: `images`, `classes` (how many of the 1,000
    the folder holds), a `note` and `rows` (see `accuracy_against_lambda`). `scoring` is passed on to `mean_and_max`."""
    scores = mean_and_max(model, pictures.with_transform(published_transform(model)), **scoring)
    note = f"Accuracy over all 1000 logits, of images of {len(pictures.folders)} classes. {_PAIRED}"
    rows = accuracy_against_lambda(scores, pictures.targets, lambdas)
    return {"images": len(pictures), "classes": len(pictures.folders), "note": note, "rows": rows}


# --- the command ------------------------------------------------------------------------------------------------------


def run_four_lines(
    name: str,
    folder: Path,
    *,
    lambdas: Sequence[float] = LAMBDAS,
    image_size: int | None = None,
    weights: str = "installed",
    dataset: str | None = None,
    split: str = "test",
    min_positives: int = 1,
    limit: int | None = None,
    out: Path | None = None,
    device: str = "cpu",
    **scoring,
) -> dict:
    """What `csra-lab four-lines` does: measure, and with `out` add the record to that file.

    Returns:
        The settings, the result of `voc_four_lines` or `folder_four_lines`, `command`, `environment`, `wall_seconds`.
        Of folders only the last name is kept.

    Raises:
        CsraError: see `imagenet_classifier` and the readers; or `out` holds a run with these settings already.
    """
    if out is not None:
        check_file(out, "--out")
    lambdas = checked_lambdas(lambdas)
    if dataset is None:
        fingerprint, measure = _accuracy_on(folder, limit)
    else:
        fingerprint, measure = _mAP_on(load_dataset(dataset, folder, split), limit, min_positives)
    model = imagenet_classifier(name, weights=weights, image_size=image_size)
    if len(model.classes) != timm.data.ImageNetInfo().num_classes():
        raise ConfigError(
            f"{name} tells {len(model.classes)} classes apart, not ImageNet's 1000; choose another network."
        )
    settings = {
        "model": name,
        "weights": Path(weights).name,
        "image_size": model.image_size,
        "folder": Path(folder).resolve().name,
        FINGERPRINT: fingerprint,
        "dataset": dataset,
        "split": split if dataset else None,
        "min_positives": min_positives if dataset else None,
        "limit": limit,
        "lambdas": lambdas,
    }
    if out is not None:
        _records_without(settings, out)
    started = time.perf_counter()
    result = measure(model, lambdas=lambdas, device=device, **scoring)
    record = {
        **settings,
        "command": _command(settings, out),
        "environment": environment(torch.device(device)),
        "wall_seconds": round(time.perf_counter() - started, 1),
        **json.loads(json.dumps(result), parse_float=lambda text: float(f"{float(text):.6g}")),
    }
    if out is not None:
        _add_record(record, settings, out)
    return record


def _records_without(settings: dict, out: Path) -> list[dict]:
    """The runs that a file holds, none of which has these settings."""
    runs = _read_records(out) if out.exists() else []
    early = {FINGERPRINT: settings[FINGERPRINT]}  # the first records have none
    if any(all((early | record).get(key) == value for key, value in settings.items()) for record in runs):
        raise ConfigError(
            f"{out} holds a run with these settings on these images already; name another --out, or delete that file."
        )
    return runs


def _add_record(record: dict, settings: dict, out: Path) -> None:
    """Add a run to those that the file holds by now: another process may have added one meanwhile."""
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = out.with_name(f".{out.name}.lock")
    with FileLock(lock):
        runs = [*_records_without(settings, out), record]
        strict_json.write(out, {"runs": runs}, indent=1, nan="null")
        with contextlib.suppress(OSError):  # Windows keeps a file that is open
            lock.unlink()  # while it is held: who waits sees that it is gone, and takes a new one


def _accuracy_on(folder: Path, limit: int | None) -> tuple[str, Callable[..., dict]]:
    """The fingerprint of at most `limit` images of a folder, and `folder_four_lines` on them."""
    pictures = load_image_folder(folder)
    chosen = pictures if limit is None else pictures.spread(limit)
    return chosen.fingerprint(), partial(folder_four_lines, pictures=chosen)


def _mAP_on(images: MultiLabelDataset, limit: int | None, min_positives: int) -> tuple[str, Callable[..., dict]]:
    """The fingerprint of at most `limit` images of a data set, and `voc_four_lines` on them."""
    chosen = images if limit is None else images.subset(evenly(len(images), limit))
    return chosen.fingerprint(), partial(voc_four_lines, dataset=chosen, min_positives=min_positives)


def result_table(record: dict) -> list[tuple[str, ...]]:
    """The rows that the command prints, in %, a header first."""
    if record["dataset"] is None:
        table: list[tuple[str, ...]] = [("lambda", "top-1", "top-5", "change", "+-", "gained", "lost", "p")]
        for row in record["rows"]:
            counts = (str(row["gained"]), str(row["lost"]), f"{row['p_value']:.3g}")
            table.append((f"{row['lam']:g}", *_percent(row, "top1", "top5", "change", "plus_minus"), *counts))
        return table
    table = [("lambda", *(cell for pooling in POOLINGS for cell in (f"mAP ({pooling})", "change", "+-")))]
    for row in record["rows"]:
        both = (cell for pooling in POOLINGS for cell in _percent(row[pooling], "mAP", "change", "plus_minus"))
        table.append((f"{row['lam']:g}", *both))
    return table


def _percent(row: dict, *keys: str) -> list[str]:
    return [f"{100 * row[key]:+.2f}" if key == "change" else f"{100 * row[key]:.2f}" for key in keys]


def checked_lambdas(lambdas: Sequence[float]) -> list[float]:
    """Sorted, each once, with the 0 that all are compared to. CsraError for one that is negative or not finite."""
    for lam in lambdas:
        if not (math.isfinite(lam) and lam >= 0):
            raise ConfigError(f"lambda must be a finite number of at least 0, not {lam}.")
    return sorted({0.0, *map(float, lambdas)})


def _critical_z(comparisons: int) -> float:
    """Half width of a normal 95 % interval in standard errors, with Bonferroni's correction."""
    return NormalDist().inv_cdf(1 - 0.025 / max(comparisons, 1))


def _command(settings: dict, out: Path | None) -> str:
    words = ["csra-lab", "four-lines", settings["model"], settings["folder"]]
    for key, option in [
        ("dataset", "--dataset"), ("split", "--split"), ("min_positives", "--min-positives"), ("limit", "--limit"),
        ("image_size", "--image-size"), ("weights", "--weights"),
    ]:  # fmt: skip
        words += [option, str(settings[key])] if settings[key] is not None else []
    words += ["--lambdas", *(f"{lam:g}" for lam in settings["lambdas"])]
    words += ["--out", out.name if out.is_absolute() else out.as_posix()] if out is not None else []
    return shlex.join(words)


def _read_records(path: Path) -> list[dict]:
    """The runs already in a file of records."""
    try:
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        if not all(isinstance(run, dict) for run in runs):
            raise TypeError("its runs are no objects")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no file of recorded runs ({error}); name another --out.") from error
    return runs
