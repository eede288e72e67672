"""The training loop: plain PyTorch, under accelerate for several processes or machines.

    # in Python, from several processes, from several processes of a notebook
    train(get_recipe("voc2012-lite0-csra"), train_set, test_set, out="runs/x")
    accelerate launch -m csra_lab.cli train RECIPE --data DIR --out runs/x
    accelerate.notebook_launcher(train, (recipe, train_set, test_set), num_processes=2)

A run is a folder (see `run_folder`). While it is under way, `state.pt` lets the same command go on after a kill; on a
CPU the resumed run ends with the same bits. accelerate starts the processes, wraps the network and says who writes. Its
mixed precision, accumulation and data loaders are not used: they keep state of their own between steps, and a run that
goes on from an epoch's end would not end with the same bits.
"""

import contextlib
import copy
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from csra_lab._io.atomic_write import atomic_write
from csra_lab._io.notice import warn
from csra_lab._io.progress import Bar, progress_bar
from csra_lab.classifier import MultiLabelClassifier, create_classifier
from csra_lab.datasets import MultiLabelDataset
from csra_lab.datasets.pair import check_pair
from csra_lab.device import autocast, fit_in_memory, multiplies_in_bfloat16, to_device, training_settings, working_type
from csra_lab.errors import ConfigError, CsraError
from csra_lab.metrics import MetricValues, multilabel_metrics
from csra_lab.modes import evaluating
from csra_lab.recipes import Recipe
from csra_lab.training.checkpoint import (
    FrozenWeights,
    Progress,
    clear_after_kill,
    finish,
    load_state,
    save_history,
    save_state,
)
from csra_lab.training.data import check_files, check_test_set, prepare, split_off
from csra_lab.training.evaluation import evaluate, predict_scores
from csra_lab.training.model_card import write_model_card
from csra_lab.training.optimiser import model_optimizer, move_average, set_rates
from csra_lab.training.processes import join_processes, no_exchange, share_statistics
from csra_lab.training.run_folder import (
    check_run_folder,
    free_if_nothing_is_kept,
    only_run,
    save_evaluation,
    write_recipe,
)
from csra_lab.training.sampling import Batches, head_seed, mix_seed
from csra_lab.training.tensorboard import summary_writer, write_history


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
    tensorboard: bool = False,
) -> TrainingResult:
    """Run a recipe; go on where a killed run of the same recipe on the same data in the same folder stopped.

    Args:
        train_set, test_set: with the recipe's classes. A validation part is cut off `train_set` where the recipe
            says so; the test set is scored once, at the end, and its classes, labels and files are checked first.
        out: folder of the run. progress: show how far it is. torch's settings and generators end as they were.
        tensorboard: also write the history for TensorBoard, into the folder `tensorboard` of the run.

    Raises:
        CsraError: TensorBoard is asked for and not installed, `out` holds something else or another process trains in
            it, the loss is not finite (the last good weights stay in `out`), or see `create_classifier`.
    """
    out, writer = Path(out), summary_writer() if tensorboard else None
    accelerator = join_processes()
    with training_settings(accelerator.device), contextlib.ExitStack() as stack:
        test_set = check_pair(train_set, test_set)
        check_run_folder(out, recipe, train_set)
        if accelerator.is_main_process:
            stack.enter_context(only_run(out))
        torch.manual_seed(recipe.run.seed)
        model = build_model(recipe, train_set)
        check_files(train_set)
        if test_set is not None:
            check_test_set(model, test_set)
        trainer = Trainer(recipe, model, train_set, out, accelerator, progress)
        accelerator.wait_for_everyone()  # all have looked at the folder before one writes
        if accelerator.is_main_process:
            check_run_folder(out, recipe, train_set)  # again: to prepare may take minutes, and not every disk has locks
            if not (out / "recipe.json").exists():
                write_recipe(out, recipe, train_set, accelerator.device, trainer.loss)
            stack.enter_context(free_if_nothing_is_kept(out))
        trainer.resume()
        if trainer.shows and recipe.run.precision == "auto" and trainer.dtype is None and multiplies_in_bfloat16():
            warn("--precision bf16 usually trains faster on this processor, with coarser rounding.")
        with trainer.bar() as bar:
            while trainer.progress.epoch < recipe.optimisation.epochs:
                trainer.train_epoch(bar)
        trainer.end()
        if writer is not None and accelerator.is_main_process:
            write_history(writer, out / "tensorboard", trainer.progress.history)
        best = MultiLabelClassifier.from_pretrained(out / "model")
        metrics, scores = None, None
        if test_set is not None:
            ranks = {"rank": trainer.rank, "world": trainer.world}
            computing = {"batch_size": scoring_batch(recipe, world=trainer.world), **trainer.computing()}
            metrics, scores = evaluate(best.to(accelerator.device), test_set, **ranks, **computing)
        if accelerator.is_main_process:
            if test_set is not None and metrics is not None and scores is not None:
                save_evaluation(out, test_set, metrics, scores)
            write_model_card(out, recipe, train_set, test_set, metrics)
            finish(out)
        accelerator.wait_for_everyone()
        return TrainingResult(out, best.cpu(), pd.read_csv(out / "history.csv"), metrics, scores)


def scoring_batch(recipe: Recipe, *, world: int = 1) -> int:
    """Images at a time in validation and test: no more than training, which takes more memory, has at a time."""
    plan = recipe.optimisation
    return min(32, plan.batch_size // (world * plan.accumulate))


def build_model(recipe: Recipe, train_set: MultiLabelDataset) -> MultiLabelClassifier:
    """The classifier at the start of training.

    Raises:
        CsraError: the data set has other classes than the recipe, or see `create_classifier`.
    """
    if recipe.data.classes and train_set.classes != recipe.data.classes:
        named = ", ".join(recipe.data.classes)
        raise ConfigError(f"recipe {recipe.name} is for the classes {named}; load the data with them.")
    mean, std = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)) if recipe.model.pixels == "plain" else (None, None)
    model = create_classifier(
        recipe.model.backbone, classes=train_set.classes, weights=recipe.model.weights, head=recipe.head,
        image_size=recipe.model.image_size, mean=mean, std=std,
    )  # fmt: skip
    torch.manual_seed(head_seed(recipe))
    model.head.reset_parameters()
    return model


class Trainer:
    """One run under way: what is trained, on what, and where it has got to."""

    def __init__(self, recipe, model, train_set, out, accelerator, progress):
        self.recipe, self.out, self.accelerator = recipe, out, accelerator
        self.device, self.rank, self.world = accelerator.device, accelerator.process_index, accelerator.num_processes
        self.dtype = working_type(recipe.run.precision, self.device)
        self.shows = progress and accelerator.is_main_process
        if self.device.type == "cuda" and self.world > 1:
            model = share_statistics(model, frozen=recipe.model.freeze_backbone)
        if model.backbone.convolutional:
            model = model.to(memory_format=torch.channels_last)
        self.model = model.to(self.device)
        parts = split_off(recipe, train_set)
        labels = parts.train_set.targets[parts.fit]
        self.model.head.read_labels(labels)
        self.loss = recipe.loss.with_labels(torch.from_numpy(labels))
        self.num_items = len(parts.fit)
        self.batches(0)  # refuses a batch size that does not fit, before anything is read or written
        self.data = prepare(recipe, self.model, parts, rank=self.rank, world=self.world, computing=self.computing())
        self.trained = self.model.head if recipe.model.freeze_backbone else self.model
        if recipe.optimisation.ema_decay and accelerator.is_main_process:
            self.warn_of_slow_average()
        self.frozen = FrozenWeights(self.model.backbone) if recipe.model.freeze_backbone else None
        self.average = copy.deepcopy(self.trained).requires_grad_(False) if recipe.optimisation.ema_decay else None
        self.optimizer = model_optimizer(recipe, self.model)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.parallel = accelerator.prepare_model(self.trained)
        if recipe.run.compile != "no":
            self.parallel = torch.compile(self.parallel, mode=recipe.run.compile)
        self.progress = Progress()

    def warn_of_slow_average(self) -> None:
        """Say where the average of the weights would end with much of the weights that the run begins with."""
        plan = self.recipe.optimisation
        steps = plan.epochs * self.batches(0).batches_per_epoch
        if (left := plan.ema_decay**steps) > 0.1:
            warn(
                f"after the {steps} steps of this run the average of the weights is {left:.0%} the first weights; "
                f"--ema-decay {max(0.0, 1 - 5 / steps):.2g} or less suits so few."
            )

    # --- an epoch ----------------------------------------------------------------------------------------------------

    def train_epoch(self, bar: Bar) -> None:
        """One pass over the training items, validated and saved."""
        recipe, epoch, start = self.recipe, self.progress.epoch, time.perf_counter()
        bar.set_description(f"epoch {epoch + 1}/{recipe.optimisation.epochs}")
        batches, loader = self.batches(epoch), self.loader(epoch)
        torch.manual_seed(mix_seed(recipe.run.seed, "dropout", epoch, self.rank) % 2**32)
        self.set_modes()
        total = torch.zeros((), device=self.device)
        for i, (inputs, targets) in enumerate(loader):
            step, part = divmod(i, recipe.optimisation.accumulate)
            if part == 0:
                set_rates(self.optimizer, epoch + (step + 0.5) / batches.batches_per_epoch, recipe.optimisation)
            last = part == recipe.optimisation.accumulate - 1
            total += self.backward(inputs, targets, synchronise=last)
            if last:
                self.step()
                bar.update(recipe.optimisation.batch_size)
            if self.device.type == "cpu" or i % 50 == 49 or i == len(loader) - 1:
                self.check_finite(total)
        seconds, images = time.perf_counter() - start, batches.batches_per_epoch * recipe.optimisation.batch_size
        score = self.validate()
        if score is None and epoch + 1 == recipe.optimisation.epochs:
            self.check_last_scores(inputs)
        self.finish_epoch(total.item() / len(loader), score, seconds, images)
        validation = {} if score is None else {"val mAP": f"{100 * score:.1f}"}
        bar.set_postfix(loss=f"{self.progress.history[-1]['train_loss']:.4f}", **validation)

    def backward(self, inputs: Tensor, targets: Tensor, *, synchronise: bool) -> Tensor:
        """Gradients of one part of a batch: images (B, 3, S, S) or draws, and targets (B, C) -> the loss.

        Processes exchange gradients with the last part only.
        """
        parts = self.recipe.optimisation.accumulate
        remedy = f"pass --accumulate {{}} with the same --batch-size {self.recipe.optimisation.batch_size}"

        def run(count: int) -> Tensor:
            wanted = targets[:count].to(self.device, non_blocking=True)
            images = self.to_images(inputs)[:count]
            with no_exchange(self.parallel, wanted=not synchronise):
                with autocast(self.device, self.dtype):
                    logits = self.logits(images)
                loss = self.loss(logits, wanted)
                self.scaler.scale(loss / parts).backward()
            return loss.detach()

        if self.world > 1:  # the others would wait for the exchange of gradients
            return run(len(targets))
        return fit_in_memory(run, len(targets), advice=lambda fits: remedy.format(parts * -(-len(targets) // fits)))

    def to_images(self, inputs: Tensor) -> Tensor:
        """What the loader gave, images (B, 3, S, S), draws or features, as the network reads it, on its device."""
        return to_device(inputs if self.data.crops is None else self.data.crops(inputs), self.device)

    def step(self) -> None:
        """Change the weights, and the average of them where one is kept."""
        self.scaler.step(self.optimizer)  # calls optimizer.step, unless half precision overflowed
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            move_average(self.average, self.trained, decay=self.recipe.optimisation.ema_decay)

    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) images or (B, d, h, w) features -> (B, C). CsraError where the network cannot be compiled."""
        try:
            return self.parallel(images)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ConfigError(
                f"batch norm has a single number to normalise by: {len(images)} image in a part of a batch, on a map "
                "of one place. Raise --batch-size or --image-size, lower --accumulate, or pass --freeze-statistics."
            ) from error
        except torch._dynamo.exc.BackendCompilerFailed as error:
            reason = str(error.__cause__ or error).partition("\n")[0]
            raise CsraError(f"the network could not be compiled ({reason}); train with --compile no.") from error

    def set_modes(self) -> None:
        """Training mode; what is frozen stays as in testing."""
        self.parallel.train()
        if self.recipe.model.freeze_backbone:
            self.model.backbone.eval()
        if self.recipe.model.freeze_statistics:
            for module in self.trained.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def validate(self) -> float | None:
        """mAP on the held-out part, or None where nothing is held out."""
        if not len(self.data.targets):
            return None
        network = self.trained if self.average is None else self.average
        scores = predict_scores(
            network, self.data.validation, batch_size=scoring_batch(self.recipe, world=self.world), dtype=self.dtype,
            device=self.device, workers=self.workers(), rank=self.rank, world=self.world,
        )  # fmt: skip
        if not np.isfinite(scores).all():
            self.check_finite(torch.tensor(math.nan))
        return multilabel_metrics(scores, self.data.targets).mAP

    def check_last_scores(self, inputs: Tensor) -> None:
        """Refuse to save weights that no held-out image has tried, where a batch's scores (B, C) are not finite."""
        network = self.trained if self.average is None else self.average
        with evaluating(network), torch.no_grad(), autocast(self.device, self.dtype):
            logits = network(self.to_images(inputs))
        self.check_finite(logits.sum(), what="a score")

    def finish_epoch(self, loss: float, score: float | None, seconds: float, images: int) -> None:
        """Note what the epoch gave, and save what lets the run go on."""
        progress, epochs = self.progress, self.recipe.optimisation.epochs
        progress.epoch += 1
        rates = sorted({g["peak_lr"]: g["lr"] for g in self.optimizer.param_groups}.items())
        line = {"epoch": progress.epoch, "train_loss": loss, "validation_mAP": score}
        line |= {"lr_low": rates[0][1], "lr_high": rates[-1][1]}
        line |= {"images": images, "seconds": round(seconds, 2), "images_per_second": round(images / seconds, 1)}
        progress.history.append(line)
        is_best = progress.epoch == epochs if score is None else score > progress.best
        progress.best = score if is_best and score is not None else progress.best
        if self.accelerator.is_main_process:
            if is_best:
                self.save_model()
            save_state(self.out, progress, self.stateful())
            save_history(self.out, progress)  # after the state: a whole history without a state is a finished run
            if self.shows and not sys.stderr.isatty():  # a moving bar needs a terminal
                value = "" if score is None else f", validation mAP {100 * score:.1f}"
                left = (epochs - progress.epoch) * seconds / 60
                rate = f"{images / seconds:.0f} images/s, {left:.1f} min left"
                print(f"epoch {progress.epoch}/{epochs}: loss {loss:.4f}{value}, {rate}", flush=True)
        self.accelerator.wait_for_everyone()

    def check_finite(self, total: Tensor, *, what: str = "the loss") -> None:
        """Raise a CsraError where a sum of losses or scores (any shape) is not finite; the last good weights stay."""
        if not math.isfinite(total.item()):
            epoch = self.progress.epoch
            saved = f"the weights of epoch {epoch} are kept in {self.out}" if epoch else "nothing was saved yet"
            raise CsraError(
                f"{what} became NaN or infinite in epoch {epoch + 1}; lower head_lr or backbone_lr ({saved})."
            )

    # --- the parts of it ---------------------------------------------------------------------------------------------

    def batches(self, epoch: int) -> Batches:
        """The batches of an epoch that this process works on."""
        plan, seed = self.recipe.optimisation, self.recipe.run.seed
        ranks = {"rank": self.rank, "world": self.world}
        return Batches(self.num_items, plan.batch_size, seed=seed, epoch=epoch, accumulate=plan.accumulate, **ranks)

    def loader(self, epoch: int) -> DataLoader:
        """What reads these batches."""
        workers, pin = self.workers(training=True), self.device.type == "cuda"
        return DataLoader(self.data.items, batch_sampler=self.batches(epoch), num_workers=workers, pin_memory=pin)

    def computing(self) -> dict:
        """Keyword arguments of `cache_features` and `evaluate` that say how this run computes."""
        return {"device": self.device, "dtype": self.dtype, "workers": self.workers(), "progress": self.shows}

    def workers(self, *, training: bool = False) -> int:
        """How many processes read: as the recipe says, else what suits the device."""
        if self.recipe.run.workers >= 0:
            return self.recipe.run.workers
        if training and self.data.crops is not None:
            return 2  # they draw numbers and read nothing; each epoch starts them anew
        return min(8, max(1, (os.cpu_count() or 1) // self.world)) if self.device.type == "cuda" else 0

    def bar(self) -> Bar:
        """Progress over all epochs, from where the run has got to."""
        plan = self.recipe.optimisation
        images = self.batches(0).batches_per_epoch * plan.batch_size
        before, first = images * self.progress.epoch, f"epoch {self.progress.epoch + 1}/{plan.epochs}"
        return progress_bar(images * plan.epochs, desc=first, initial=before, shown=self.shows, leave=True)

    def stateful(self) -> dict:
        """What a killed run needs to go on, by name."""
        return {
            "trained": self.trained, "frozen": self.frozen, "average": self.average, "optimizer": self.optimizer,
            "scaler": self.scaler,
        }  # fmt: skip

    def resume(self) -> None:
        """Go on where the folder's state says, or start."""
        if self.accelerator.is_main_process:
            clear_after_kill(self.out)
        self.accelerator.wait_for_everyone()
        self.progress = load_state(self.out, self.stateful())

    def end(self) -> None:
        """All epochs are done: the history is whole."""
        if self.accelerator.is_main_process:
            save_history(self.out, self.progress)  # in case a kill came between the last state and its line
        self.accelerator.wait_for_everyone()

    def save_model(self) -> None:
        """Write the weights of now, or their average where one is kept."""
        model = self.model
        if self.average is not None:
            model = model.with_head(self.average) if self.recipe.model.freeze_backbone else self.average
        with atomic_write(self.out / "model") as path:
            model.save_pretrained(path)
