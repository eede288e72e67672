"""The training loop: plain PyTorch, under accelerate for several processes or machines.

    # in Python, from several processes, from several processes of a notebook
    train(get_recipe("voc2012-lite0-csra"), train_set, test_set, out="runs/x")
    accelerate launch -m csra_lab.cli train RECIPE --data DIR --out runs/x
    accelerate.notebook_launcher(train, (recipe, train_set, test_set), num_processes=2)

A run is a folder (see `runs`). While it is under way, `state.pt` lets the same command go on after a kill; on a CPU the
resumed run ends with the same bits.
"""

import contextlib
import copy
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from csra_lab._io.atomic_write import atomic_write, clear_leftovers
from csra_lab.classifier import MultiLabelClassifier, create_classifier
from csra_lab.datasets import MultiLabelDataset
from csra_lab.datasets.transforms import eval_transform, train_transform
from csra_lab.errors import CsraError
from csra_lab.losses import LOSSES
from csra_lab.metrics import MetricValues, multilabel_metrics
from csra_lab.recipes import Recipe, learning_rate_factor
from csra_lab.training.evaluation import autocast, evaluate, predict_scores, to_device
from csra_lab.training.feature_cache import FeatureMaps, compute_features
from csra_lab.training.image_cache import Crops, Draws, ImageCache, fits
from csra_lab.training.run_folder import check_run_folder, save_evaluation, write_recipe
from csra_lab.training.sampling import Batches, SeededItems, hold_out, mix_seed, sample_images


@dataclass(frozen=True)
class TrainingResult:
    """What a run gave. `metrics` and `scores` (N, C) are of the test split, None without one."""

    folder: Path
    model: MultiLabelClassifier
    history: pd.DataFrame
    metrics: MetricValues | None
    scores: np.ndarray | None


def train(
    recipe: Recipe,
    train_set: MultiLabelDataset,
    test_set: MultiLabelDataset | None = None,
    out: str | Path = "runs/latest",
    *,
    progress: bool = True,
) -> TrainingResult:
    """Run a recipe; go on where a killed run of the same recipe in the same folder stopped.

    Args:
        train_set, test_set: with the recipe's classes. A validation part is cut off `train_set` where the recipe
            says so; the test set is looked at once, at the end.
        out: folder of the run.

    Raises:
        CsraError: `out` holds something else, the loss is not finite (the last good weights stay in `out`), or see
            `create_classifier`.
    """
    out = Path(out)
    accelerator = Accelerator(mixed_precision="no")  # mixed precision is ours, below
    check_run_folder(out, recipe)
    torch.manual_seed(recipe.seed)
    run = _Run(recipe, _build(recipe, train_set), train_set, out, accelerator, progress)
    accelerator.wait_for_everyone()  # all have looked at the folder before one writes
    if accelerator.is_main_process and not (out / "recipe.json").exists():
        write_recipe(out, recipe, accelerator.device)
    run.fit()
    accelerator.wait_for_everyone()
    best = MultiLabelClassifier.from_pretrained(out / "model")
    history = pd.read_csv(out / "history.csv")
    if test_set is None:
        return TrainingResult(out, best, history, None, None)
    ranks = {"rank": run.rank, "world": run.world}
    metrics, scores = evaluate(best.to(accelerator.device), test_set, **ranks, **run.scoring())
    if accelerator.is_main_process:
        save_evaluation(out, test_set, metrics, scores)
        (out / "state.pt").unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return TrainingResult(out, best.cpu(), history, metrics, scores)


class _Run:
    """One run: what is trained, on what, and where it has got to."""

    def __init__(self, recipe, model, train_set, out, accelerator, progress):
        self.recipe, self.out, self.accelerator = recipe, out, accelerator
        self.device, self.rank, self.world = accelerator.device, accelerator.process_index, accelerator.num_processes
        self.dtype = _precision(recipe.precision, self.device)
        self.progress = progress and accelerator.is_main_process
        self.crops: Crops | None = None  # where pictures are cut on the device
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision("high")
            if self.world > 1:
                model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if model.backbone.convolutional:
            model = model.to(memory_format=torch.channels_last)
        self.model = model.to(self.device)
        self._prepare_data(train_set)
        self.trained = self.model.head if recipe.freeze_backbone else self.model
        self.average = copy.deepcopy(self.trained).requires_grad_(False) if recipe.ema_decay else None
        self.optimizer = _optimizer(recipe, self.model)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.parallel = accelerator.prepare_model(self.trained)
        if recipe.compile != "no":
            self.parallel = torch.compile(self.parallel, mode=recipe.compile)
        self.epoch, self.history, self.best = 0, [], -1.0

    def _prepare_data(self, train_set: MultiLabelDataset) -> None:
        recipe, model = self.recipe, self.model
        if recipe.train_images is not None:
            train_set = train_set.subset(sample_images(train_set, recipe.train_images))
        fit_part, self.held_out = hold_out(train_set, recipe.validation_fraction)
        self.num_items = len(fit_part)
        self._batches(0)  # refuses a batch size that does not fit, before anything is read or written
        pixels = {"mean": model.mean, "std": model.std}
        if recipe.freeze_backbone:
            maps = compute_features(
                model.backbone, train_set, image_size=recipe.image_size, **pixels, mirror=True, **self.scoring()
            )
            fit_items, transform = maps.subset(fit_part), None
            self.validation = FeatureMaps(maps.maps[self.held_out, :1], train_set.targets[self.held_out])
        else:
            pictures = train_set.for_size(recipe.image_size, crop_scale=recipe.crop_scale)
            fit_items, transform = self._pictures(pictures.subset(fit_part), pixels)
            plain = eval_transform(recipe.image_size, **pixels)
            self.validation = pictures.subset(self.held_out).with_transform(plain)
        self.items = SeededItems(fit_items, recipe.seed, transform)
        self.targets_held_out = train_set.targets[self.held_out]

    def _pictures(self, pictures: MultiLabelDataset, pixels: dict) -> tuple[Dataset, Callable | None]:
        """The training pictures, read or kept, and what a loader is to do with each."""
        recipe, crop = self.recipe, (self.recipe.crop_scale, 1.0)
        transform = train_transform(recipe.image_size, crop_scale=crop, randaugment=recipe.randaugment, **pixels)
        fitting = recipe.images == "auto" and fits(pictures, self.device, processes=self.world)
        if recipe.images != "keep" and not fitting:
            return pictures, transform
        kept = ImageCache(pictures, progress=self.progress)
        if not _cut_on_device(recipe, self.device):
            return kept, transform
        self.crops = Crops(kept, self.device, recipe.image_size, **pixels)
        return Draws(kept, crop), None

    def scoring(self) -> dict:
        """Keyword arguments of `compute_features` and `predict_scores` that say how this run computes."""
        return {"device": self.device, "dtype": self.dtype, "workers": self._workers(), "progress": self.progress}

    def _workers(self, *, training: bool = False) -> int:
        if self.recipe.workers >= 0:
            return self.recipe.workers
        if training and self.crops is not None:
            return 2  # they draw numbers and read nothing; each epoch starts them anew
        return min(8, max(1, (os.cpu_count() or 1) // self.world)) if self.device.type == "cuda" else 0

    def fit(self) -> None:
        self._resume()
        batches = self._batches(self.epoch)
        images = batches.batches_per_epoch * self.recipe.batch_size
        total = images * self.recipe.epochs
        bar = tqdm(
            total=total,
            initial=images * self.epoch,
            unit="img",
            smoothing=0.05,
            disable=None if self.progress else True,
        )
        with bar:
            while self.epoch < self.recipe.epochs:
                start = time.perf_counter()
                loss = self._train_epoch(bar)
                seconds = time.perf_counter() - start
                score = self._validate()
                self._finish_epoch(loss, score, seconds, images)
                bar.set_postfix(loss=f"{loss:.4f}", **({} if score is None else {"val mAP": f"{100 * score:.1f}"}))
        if self.accelerator.is_main_process:
            self._save_history()  # in case a kill came between the last state and its line

    def _live(self) -> bool:
        """A moving bar needs a terminal; elsewhere a line is printed after every epoch."""
        return self.progress and sys.stderr.isatty()

    def _batches(self, epoch: int) -> Batches:
        recipe = self.recipe
        return Batches(
            self.num_items, recipe.batch_size, seed=recipe.seed, epoch=epoch, rank=self.rank, world=self.world,
            accumulate=recipe.accumulate,
        )  # fmt: skip

    def _train_epoch(self, bar: tqdm) -> float:
        """One pass over the training pictures; the mean loss of this process."""
        recipe, optimizer = self.recipe, self.optimizer
        batches = self._batches(self.epoch)
        loader = DataLoader(
            self.items,
            batch_sampler=batches,
            num_workers=self._workers(training=True),
            pin_memory=self.device.type == "cuda",
        )
        torch.manual_seed(mix_seed(recipe.seed, "dropout", self.epoch, self.rank) % 2**32)
        self.parallel.train()
        if recipe.freeze_backbone:
            self.model.backbone.eval()
        if recipe.freeze_statistics:
            for module in self.trained.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        total = torch.zeros((), device=self.device)
        for i, (inputs, targets) in enumerate(loader):
            step, part = divmod(i, recipe.accumulate)
            if part == 0:
                factor = learning_rate_factor(self.epoch + (step + 0.5) / batches.batches_per_epoch, recipe)
                for group in optimizer.param_groups:
                    group["lr"] = group["peak_lr"] * factor
            last = part == recipe.accumulate - 1
            loss = self._backward(inputs, targets, synchronise=last)
            total += loss
            if last:
                self._step()
                bar.update(recipe.batch_size)
            if self.device.type == "cpu" or i % 50 == 49 or i == len(loader) - 1:
                self._check_finite(total)
        return total.item() / len(loader)

    def _backward(self, inputs: Tensor, targets: Tensor, *, synchronise: bool) -> Tensor:
        """Gradients of one part of a batch; processes exchange them with the last part only."""
        recipe = self.recipe
        targets = targets.to(self.device, non_blocking=True)
        if recipe.difficult == "negative":
            targets = targets.clamp(min=0)
        images = to_device(inputs if self.crops is None else self.crops(inputs), self.device)
        with _no_sync(self.parallel, wanted=not synchronise):
            with autocast(self.device, self.dtype):
                logits = self._logits(images)
            loss = LOSSES[recipe.loss](logits, targets)
            self.scaler.scale(loss / recipe.accumulate).backward()
        return loss.detach()

    def _logits(self, images: Tensor) -> Tensor:
        try:
            return self.parallel(images)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            reason = str(error.__cause__ or error).partition("\n")[0]
            raise CsraError(f"the network could not be compiled ({reason}); train with --compile no.") from None

    def _step(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            with torch.no_grad():
                for kept, new in zip(self.average.parameters(), self.trained.parameters(), strict=True):
                    kept.lerp_(new, 1 - self.recipe.ema_decay)
                for kept, new in zip(self.average.buffers(), self.trained.buffers(), strict=True):
                    kept.copy_(new)

    def _check_finite(self, total: Tensor) -> None:
        if not math.isfinite(total.item()):
            kept = (
                f"the weights of epoch {self.epoch} are kept in {self.out}" if self.epoch else "nothing was saved yet"
            )
            raise CsraError(
                f"the loss became NaN or infinite in epoch {self.epoch + 1}; lower head_lr or backbone_lr ({kept})."
            )

    def _validate(self) -> float | None:
        """mAP on the held-out part, or None where nothing is held out."""
        if not len(self.held_out):
            return None
        network = self.trained if self.average is None else self.average
        scores = predict_scores(
            network, self.validation, device=self.device, dtype=self.dtype, workers=self._workers(), rank=self.rank,
            world=self.world,
        )  # fmt: skip
        if not np.isfinite(scores).all():
            self._check_finite(torch.tensor(math.nan))
        return multilabel_metrics(scores, self.targets_held_out).mAP

    def _finish_epoch(self, loss: float, score: float | None, seconds: float, images: int) -> None:
        self.epoch += 1
        rates = sorted({g["peak_lr"]: g["lr"] for g in self.optimizer.param_groups}.items())
        self.history.append(
            {
                "epoch": self.epoch,
                "train_loss": loss,
                "validation_mAP": score,
                "lr_low": rates[0][1],
                "lr_high": rates[-1][1],
                "seconds": round(seconds, 2),
                "images_per_second": round(images / seconds, 1),
            }
        )
        is_best = self.epoch == self.recipe.epochs if score is None else score > self.best
        if is_best and score is not None:
            self.best = score
        if self.accelerator.is_main_process:
            if is_best:
                self._save_model()
            self._save_state()
            self._save_history()  # after the state: a folder with a history and no state is a finished run
            if self.progress and not self._live():
                left = (self.recipe.epochs - self.epoch) * seconds
                value = "" if score is None else f", validation mAP {100 * score:.1f}"
                print(
                    f"epoch {self.epoch}/{self.recipe.epochs}: loss {loss:.4f}{value}, "
                    f"{images / seconds:.0f} images/s, {left / 60:.1f} min left",
                    flush=True,
                )
        self.accelerator.wait_for_everyone()

    def _save_model(self) -> None:
        model = self.model
        if self.average is not None:
            model = model.with_head(self.average) if self.recipe.freeze_backbone else self.average
        with atomic_write(self.out / "model") as path:
            model.save_pretrained(path)

    def _save_history(self) -> None:
        with atomic_write(self.out / "history.csv") as path:
            pd.DataFrame(self.history).to_csv(path, index=False)

    def _save_state(self) -> None:
        state = {
            "epoch": self.epoch,
            "best": self.best,
            "history": self.history,
            "trained": self.trained.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        with atomic_write(self.out / "state.pt") as path:
            torch.save(state, path)

    def _resume(self) -> None:
        path = self.out / "state.pt"
        if self.accelerator.is_main_process:
            for name in ("state.pt", "model", "recipe.json", "history.csv", "metrics.json", "scores.npz"):
                clear_leftovers(self.out / name)
        self.accelerator.wait_for_everyone()
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.trained.load_state_dict(state["trained"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.epoch, self.best, self.history = state["epoch"], state["best"], list(state["history"])
        except Exception as error:  # torch raises many kinds here; each means the same to the reader
            raise CsraError(
                f"{path} cannot be read ({type(error).__name__}); delete it to start this run again."
            ) from None


def _build(recipe: Recipe, train_set: MultiLabelDataset) -> MultiLabelClassifier:
    """The classifier at the start of training."""
    if recipe.classes and train_set.classes != recipe.classes:
        raise CsraError(
            f"recipe {recipe.name} is for the classes {', '.join(recipe.classes)}; load the data with them."
        )
    plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)} if recipe.pixels == "plain" else {}
    pretrained = {"pretrained": True, "none": False}.get(recipe.weights, recipe.weights)
    model = create_classifier(
        recipe.backbone, classes=train_set.classes, pretrained=pretrained, image_size=recipe.image_size, **plain,
        **recipe.head_options(),
    )  # fmt: skip
    torch.manual_seed(head_seed(recipe))
    model.head.reset_parameters()
    return model


def head_seed(recipe: Recipe) -> int:
    """Seed of the new head's weights: the same for every kind of head, so that twins start from the same classifier."""
    return mix_seed(recipe.seed, "head") % 2**32


def _optimizer(recipe: Recipe, model: MultiLabelClassifier) -> torch.optim.Optimizer:
    """SGD or AdamW with a rate for the backbone and one for the head; AdamW decays matrices and filters only."""
    groups = []
    parts = [(model.head, recipe.head_lr)]
    if not recipe.freeze_backbone:
        parts.insert(0, (model.backbone, recipe.backbone_lr))
    for part, rate in parts:
        for is_matrix in (True, False):
            decay = recipe.weight_decay if is_matrix or recipe.optimizer == "sgd" else 0.0
            parameters = [p for p in part.parameters() if (p.ndim > 1) == is_matrix]
            if parameters:
                groups.append({"params": parameters, "lr": rate, "peak_lr": rate, "weight_decay": decay})
    fused = model.head.weight.is_cuda  # one kernel for all weights
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=recipe.momentum, fused=fused)
    return torch.optim.AdamW(groups, betas=(recipe.momentum, 0.999), fused=fused)


def _cut_on_device(recipe: Recipe, device: torch.device) -> bool:
    """Whether kept pictures are cut where the network is; RandAugment has no such way."""
    return device.type == "cuda" and not recipe.randaugment


def _precision(precision: str, device: torch.device) -> torch.dtype | None:
    """The type to run in, None for fp32."""
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else None
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _no_sync(module: nn.Module, *, wanted: bool):
    """Keep processes from exchanging gradients, where there are several and it is wanted."""
    return module.no_sync() if wanted and hasattr(module, "no_sync") else contextlib.nullcontext()
