"""Many heads trained at once on cached features.

A head on a frozen backbone is mostly a linear map of every location and a pooling, so K heads are one tall matrix: one
product gives all their score maps, and one pass over the features trains them all. Heads with weights of another kind
(GeM's exponent, attention layers, queries) are computed one by one on the same batches. Heads that share a seed see the
same batches in the same order, and each ends where `training.train` would have taken it alone.
"""

import copy
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csra_lab._io.progress import Bar, progress_bar
from csra_lab.device import restore_random_state
from csra_lab.errors import ConfigError, CsraError
from csra_lab.heads import HeadConfig, ScoreMapHead, build_head
from csra_lab.losses import Loss
from csra_lab.metrics import average_precision
from csra_lab.recipes import Recipe
from csra_lab.residual_attention import attended_scores
from csra_lab.training.feature_cache import FeatureMaps
from csra_lab.training.optimiser import build_optimizer, parameter_groups, set_rates
from csra_lab.training.sampling import Batches, head_seed


@dataclass(frozen=True)
class TrainedHead:
    """What became of one recipe's head.

    Attributes:
        head: with the weights of its best epoch, or of the last where nothing was held out.
        history: a line an epoch: epoch, train_loss, validation_mAP (NaN where nothing was held out).
        diverged: the first epoch whose loss was not finite, or the last where its final step left weights that are not;
            None for a head that learnt. Its scores are worthless.
    """

    recipe: Recipe
    head: ScoreMapHead
    history: pd.DataFrame
    diverged: int | None


def train_heads(
    recipes: Sequence[Recipe],
    features: FeatureMaps,
    *,
    fit: np.ndarray | None = None,
    held_out: np.ndarray | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> list[TrainedHead]:
    """Train one head for each recipe, together where they see the same batches. torch's generators stay as they are.

    Args:
        recipes: differing in head, lam, temperatures, normalisation, loss, optimiser, rates, schedule, or seed; the
            backbone's fields are not read.
        features: of the training split.
        fit, held_out: (n,) and (m,) indices, see `hold_out`; held-out items choose the best epoch. None fits all.

    Raises:
        CsraError: a recipe that keeps an average of the weights, which is not done here.
    """
    for recipe in recipes:
        if recipe.optimisation.ema_decay:
            raise ConfigError(
                f"recipe {recipe.name}: heads trained together keep no average of weights; set ema_decay 0."
            )
    fit = np.arange(len(features)) if fit is None else fit
    held_out = np.arange(0) if held_out is None else held_out
    passes: dict[tuple[int, int, int], list[int]] = {}
    for i, recipe in enumerate(recipes):
        plan = recipe.optimisation
        passes.setdefault((recipe.run.seed, plan.batch_size, plan.epochs), []).append(i)
    results: dict[int, TrainedHead] = {}
    steps = sum(epochs * (len(fit) // batch_size) for _, batch_size, epochs in passes)
    bars = progress_bar(steps, unit="step", desc=f"{len(recipes)} heads", shown=progress, leave=True)
    with restore_random_state(device), bars as bar:
        for group in passes.values():
            trained = _train_together([recipes[i] for i in group], features, fit, held_out, device, bar)
            results |= zip(group, trained, strict=True)
    return [results[i] for i in range(len(recipes))]


def learnt(trained: Sequence[TrainedHead]) -> Sequence[TrainedHead]:
    """The same heads, where all of them learnt: a study asks before it scores them, so that no NaN is ever saved.

    Raises:
        CsraError: one diverged, with its recipe, seed and rate.
    """
    for each in trained:
        if each.diverged is not None:
            raise CsraError(
                f"{each.recipe.name} diverged in epoch {each.diverged} with seed {each.recipe.run.seed} and head_lr "
                f"{each.recipe.optimisation.head_lr:g}, so it has no scores; give it a lower rate or more "
                "warmup_epochs, or leave it out."
            )
    return trained


def score_heads(heads: Sequence[ScoreMapHead], features: FeatureMaps) -> np.ndarray:
    """Probabilities of many heads on the first view of every image: (K, N, C) float64."""
    return _scores(HeadStack(heads).eval(), features, np.arange(len(features)), "cpu")


class HeadStack(nn.Module):
    """K heads as one: (B, N, d) features -> (K, B, C) logits, with one product for all score maps.

    Args:
        heads: of one size (d, C), of any kinds.
        groups: one key for each head; heads of one key have their weights in one parameter, for the optimiser.
    """

    a: Tensor
    b: Tensor
    map_rows: Tensor
    average_rows: Tensor
    sum_of: Tensor

    def __init__(self, heads: Sequence[ScoreMapHead], groups: Sequence[Hashable] | None = None):
        super().__init__()
        sizes = {(head.in_features, head.num_classes) for head in heads}
        if len(sizes) != 1:
            raise ConfigError(f"heads computed together must have one size, not {len(sizes)} sizes: {sorted(sizes)}.")
        ((self.in_features, self.num_classes),) = sizes
        if any(head.bias is not None for head in heads):
            raise ConfigError("heads computed together have no bias; make them with bias=False.")
        self.kinds = [copy.deepcopy(head) for head in heads]  # a plain list: they pool, and their weights live below
        self.alone = nn.ModuleDict({str(k): head for k, head in enumerate(self.kinds) if not _only_scores(head)})
        given = [None] * len(heads) if groups is None else groups
        keys = [(key, head.config.normalize) for key, head in zip(given, heads, strict=True)]
        together = [key for k, key in enumerate(keys) if str(k) not in self.alone]
        self.group_keys = list(dict.fromkeys(together))  # (key, normalised)
        self.weights, self.rows = nn.ParameterList(), {}  # rows: head -> slice of all rows
        start = 0
        for key in self.group_keys:
            members = [k for k, other in enumerate(keys) if other == key and str(k) not in self.alone]
            self.weights.append(nn.Parameter(torch.cat([heads[k].weight.detach() for k in members])))  # (rows, C, d)
            for k in members:
                self.rows[k] = slice(start, start + heads[k].num_heads)
                start = self.rows[k].stop
        self._arrange()

    def _arrange(self) -> None:
        """Sort the heads by what has to be computed for them."""
        together = [k for k in range(len(self.kinds)) if str(k) not in self.alone]
        mixtures = {k: self.kinds[k].mixture() for k in together}  # a * mean + b * attended, at a T for each row
        self.averages = [k for k, m in mixtures.items() if m is not None and len(m) == 1 and m[0][1] == 0]
        summed = {k: m for k, m in mixtures.items() if m is not None and k not in self.averages}
        sums = [(k, i, *row) for k, m in summed.items() for i, row in enumerate(m)]
        sums.sort(key=lambda row: row[4])  # finite temperatures first, so that both parts are slices
        self.sum_heads = [row[0] for row in sums]
        self.temperatures = [row[4] for row in sums]
        self.register_buffer("a", torch.tensor([row[2] for row in sums]).view(-1, 1))
        self.register_buffer("b", torch.tensor([row[3] for row in sums]).view(-1, 1))
        alike: dict[HeadConfig, list[int]] = {}  # other poolings: heads with the same options are pooled by one call
        for k, mixture in mixtures.items():
            if mixture is None:
                alike.setdefault(self.kinds[k].config, []).append(k)
        self.alike = list(alike.values())
        others = [
            row for members in self.alike for k in members for row in range(self.rows[k].start, self.rows[k].stop)
        ]
        self.register_buffer("map_rows", torch.tensor([self.rows[r[0]].start + r[1] for r in sums] + others).long())
        self.register_buffer("average_rows", torch.tensor([self.rows[k].start for k in self.averages]).long())
        self.register_buffer("sum_of", torch.tensor(self.sum_heads).long())

    def forward(self, features: Tensor) -> Tensor:
        """(B, N, d) -> (K, B, C) logits."""
        batch, locations, d = features.shape
        c = self.num_classes
        weights = self._weights(features)
        logits = features.new_zeros(len(self.kinds), batch, c)
        if self.averages:
            means = features.mean(dim=1) @ weights[self.average_rows].flatten(0, 1).T  # (B, K' * C)
            logits = logits.index_copy(
                0, self.average_rows.new_tensor(self.averages), means.view(batch, -1, c).transpose(0, 1)
            )
        if len(self.map_rows):
            tall = weights.index_select(0, self.map_rows).flatten(0, 1)  # (R * C, d); its gradient is quicker than []'s
            maps = (tall @ features.reshape(-1, d).T).view(len(self.map_rows), c * batch, locations)
            pooled = maps[: len(self.sum_heads)]
            if len(pooled):
                attended = attended_scores(pooled[None], self.temperatures)[0]  # (R, C * B)
                scores = self.a * pooled.mean(dim=-1) + self.b * attended
                logits = logits.index_add(0, self.sum_of, scores.view(-1, c, batch).transpose(1, 2))
            start = len(self.sum_heads)
            for members in self.alike:
                heads = self.kinds[members[0]].num_heads
                part = maps[start : start + len(members) * heads].unflatten(0, (-1, heads))  # (K', heads, C * B, N)
                start += len(members) * heads
                scores = self.kinds[members[0]].pool(part).view(-1, c, batch).transpose(1, 2)
                logits = logits.index_copy(0, self.map_rows.new_tensor(members), scores)
        for k, head in self.alone.items():
            logits = logits.index_copy(0, self.map_rows.new_tensor([int(k)]), head(features)[None])
        return logits

    def _weights(self, features: Tensor) -> Tensor:
        """(rows, C, d): classifiers of the heads that are computed together, normalised where they are so."""
        keyed = zip(self.weights, self.group_keys, strict=True)
        parts = [F.normalize(w, dim=-1) if unit else w for w, (_, unit) in keyed]
        return torch.cat(parts) if parts else features.new_zeros(0, self.num_classes, self.in_features)

    def heads(self) -> list[ScoreMapHead]:
        """The heads, each with a copy of its weights as they are now."""
        heads = [head.cpu() for head in copy.deepcopy(self.kinds)]
        rows = [row for w in self.weights for row in w.detach().cpu()]  # each (C, d)
        for k, own in self.rows.items():
            heads[k].weight = nn.Parameter(torch.stack(rows[own]))
        return heads


def _only_scores(head: ScoreMapHead) -> bool:
    """Whether a head is its classifiers and a pooling of their scores, and nothing else that learns."""
    learns = {name for name, _ in head.named_parameters()}
    return type(head).forward is ScoreMapHead.forward and learns == {"weight"}


def _train_together(recipes, features: FeatureMaps, fit, held_out, device, bar: Bar) -> list[TrainedHead]:
    """Train heads that share seed, batch size and epochs."""
    first = recipes[0]
    d = features.maps.shape[2]
    stack = HeadStack([_new_head(r, d, features.targets[fit]) for r in recipes], [r.optimisation for r in recipes])
    stack.to(device).train()
    optimizers = _optimizers(stack, recipes)
    labels = torch.from_numpy(features.targets[fit])
    losses = _losses([recipe.loss.with_labels(labels) for recipe in recipes])
    held_targets = features.targets[held_out]
    best, best_heads = np.full(len(recipes), -1.0), stack.heads()
    history: list[tuple[np.ndarray, np.ndarray]] = []
    diverged: list[int | None] = [None] * len(recipes)
    for epoch in range(first.optimisation.epochs):
        batches = Batches(len(fit), first.optimisation.batch_size, seed=first.run.seed, epoch=epoch)
        total = torch.zeros(len(recipes), device=device)
        for step, batch in enumerate(batches):
            items = np.array([index for _, index in batch])
            views = features.drawn_views(items, seed=first.run.seed, epoch=epoch)
            inputs = _locations(features, fit[items], views, device)
            targets = torch.from_numpy(features.targets[fit[items]]).to(device)
            each = losses(stack(inputs), targets)  # (K,)
            each.sum().backward()
            moment = epoch + (step + 0.5) / batches.batches_per_epoch
            for recipe, optimizer in optimizers:
                set_rates(optimizer, moment, recipe.optimisation)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            total += each.detach()
            bar.update()
        means = (total / batches.batches_per_epoch).cpu().numpy()
        for k in np.flatnonzero(~np.isfinite(means)).tolist():
            diverged[k] = diverged[k] or epoch + 1
        quality = np.full(len(recipes), np.nan)
        if len(held_out):
            scores = _scores(stack, features, held_out, device)
            quality = np.array([_mAP(s, held_targets) for s in scores])
        better = np.nan_to_num(quality, nan=-1.0) > best if len(held_out) else np.full(len(recipes), True)
        if len(held_out) or epoch == first.optimisation.epochs - 1:
            now = stack.heads()
            best_heads = [n if take else b for n, b, take in zip(now, best_heads, better, strict=True)]
            best = np.where(better, quality, best)
        history.append((means, quality))
    for k, head in enumerate(stack.heads()):
        if not all(weight.isfinite().all() for weight in head.parameters()):
            diverged[k] = diverged[k] or first.optimisation.epochs
    return [
        TrainedHead(recipe, head, _history([(m[k], q[k]) for m, q in history]), diverged[k])
        for k, (recipe, head) in enumerate(zip(recipes, best_heads, strict=True))
    ]


def _new_head(recipe: Recipe, in_features: int, targets: np.ndarray) -> ScoreMapHead:
    """The head at the start of training, as `training.train` makes it, for (n, C) targets to train on."""
    head = build_head(recipe.head, in_features, targets.shape[1])
    torch.manual_seed(head_seed(recipe))
    head.reset_parameters()
    head.read_labels(targets)
    return head


def _optimizers(stack: HeadStack, recipes: Sequence[Recipe]) -> list[tuple[Recipe, torch.optim.Optimizer]]:
    """An optimiser for every group of weights and for every head alone, with the recipe that sets its rate."""
    pairs: list[tuple[Recipe, Iterable[nn.Parameter]]] = []
    for (key, _), weights in zip(stack.group_keys, stack.weights, strict=True):
        pairs.append((next(r for r in recipes if r.optimisation == key), [weights]))
    pairs += [(recipes[int(k)], head.parameters()) for k, head in stack.alone.items()]
    built = []
    for recipe, parameters in pairs:
        plan = recipe.optimisation
        built.append((recipe, build_optimizer(parameter_groups(parameters, plan.head_lr, plan), plan)))
    return built


def _losses(of_heads: Sequence[Loss]) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of (K, B, C) logits and (B, C) targets that gives each head its own loss: (K,)."""
    members: dict[Loss, list[int]] = {}
    for k, loss in enumerate(of_heads):
        members.setdefault(loss, []).append(k)
    if len(members) == 1:
        return torch.vmap(of_heads[0], (0, None))

    def losses(logits: Tensor, targets: Tensor) -> Tensor:
        parts = [torch.vmap(loss, (0, None))(logits[which], targets) for loss, which in members.items()]
        order = np.argsort([k for which in members.values() for k in which])
        return torch.cat(parts)[torch.from_numpy(order)]

    return losses


def _locations(features: FeatureMaps, indices: np.ndarray, views: np.ndarray, device) -> Tensor:
    """(B, N, d) float32 features of these items."""
    maps = features.maps.permute(0, 1, 3, 4, 2)[torch.from_numpy(indices), torch.from_numpy(views)]  # (B, h, w, d)
    return maps.to(device, torch.float32).flatten(1, 2)


@torch.inference_mode()
def _scores(stack: HeadStack, features: FeatureMaps, indices: np.ndarray, device) -> np.ndarray:
    """(K, n, C) probabilities of the first views of these items."""
    parts = []
    for start in range(0, len(indices), 64):
        part = indices[start : start + 64]
        logits = stack(_locations(features, part, np.zeros(len(part), dtype=np.int64), device))
        parts.append(torch.sigmoid(logits.cpu().double()).numpy())
    return np.concatenate(parts, axis=1)


def _mAP(scores: np.ndarray, targets: np.ndarray) -> float:
    """mAP, NaN for a head that diverged."""
    return float(np.nanmean(average_precision(scores, targets))) if np.isfinite(scores).all() else float("nan")


def _history(lines: Iterable[tuple[float, float]]) -> pd.DataFrame:
    columns = ["train_loss", "validation_mAP"]
    frame = pd.DataFrame(lines, columns=columns)
    frame.insert(0, "epoch", np.arange(1, len(frame) + 1))
    return frame
