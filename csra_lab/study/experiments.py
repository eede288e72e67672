"""Plans carried out: features, heads, scores, verdicts, and the record that the book reads.

A record is a folder `PLAN/SOURCE` of

run.json           the plan, every version, the device, the data sets and what the run took
results.csv        a line for each row, seed and split: all metrics
comparisons.csv    a line for each comparison and split: difference, interval, verdict
conditions.csv     of plans that ask for it: the same comparisons by object size, number of objects and of labels;
                   not there where no two rows that are kept can be compared, since their losses diverged
scores.npz         test logits of the rows that keep them (`split_bytes` of (seeds, N, C) float16), ids and targets
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from csra_lab._io import strict_json
from csra_lab._io.arrays import joined_bytes, split_bytes, write_arrays
from csra_lab._io.atomic_write import atomic_write, check_folder, clear_leftovers
from csra_lab.backbones import Backbone, best_weights, create_backbone
from csra_lab.catalog import DRAWN, load_dataset
from csra_lab.datasets import MultiLabelDataset
from csra_lab.errors import ConfigError
from csra_lab.heads import ScoreMapHead, four_lines_head
from csra_lab.metrics import multilabel_metrics
from csra_lab.recipes import Recipe
from csra_lab.significance import compare
from csra_lab.study.head_stack import TrainedHead, score_heads, train_heads
from csra_lab.study.plans import SOURCES, Plan, Source, four_lines_label
from csra_lab.study.subgroups import gains
from csra_lab.training.feature_cache import FeatureMaps, cache_features
from csra_lab.training.run_folder import environment, from_logits, to_logits
from csra_lab.training.sampling import hold_out

METRICS = ("mAP", "CP", "CR", "CF1", "CF1_macro", "OP", "OR", "OF1")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a plan's table: a method, and what its seeds gave.

    Attributes:
        label: as in the table. against: label of the row it is compared with, or empty.
        scores: split -> (S, N, C) float64 probabilities of S seeds, as they are read back from a record.
        keep: whether the record keeps the scores.
        trained: the heads, one a seed; empty for four-line rows.
        added_to: of four-line rows, the trained heads that the residual is added to.
    """

    label: str
    against: str
    scores: dict[str, np.ndarray]
    keep: bool
    trained: tuple[TrainedHead, ...] = ()
    added_to: tuple[TrainedHead, ...] = ()

    @property
    def diverged(self) -> dict[int, int]:
        """Seed -> the epoch in which its loss left the numbers, for the seeds whose scores are worthless."""
        heads = self.trained or self.added_to
        return {t.recipe.run.seed: t.diverged for t in heads if t.diverged is not None}


def run_plans(
    plans: Sequence[Plan],
    *,
    sources: Sequence[str] | None = None,
    data: Path | None = None,
    out: Path,
    cache: Path | None = None,
    log: Callable[[str], None] = print,
    progress: bool = True,
) -> list[Path]:
    """Carry out plans, source by source: plans on one source share its features and train all their heads together.

    Args:
        sources: only these keys of `SOURCES`; None for all that the plans name. data: folder of the photographs.
        out: folder of the records. cache: folder of the cached features; the lab's cache if left out.
        log: called with a table after each plan.

    Returns:
        The folders of the records.
    """
    wanted = dict.fromkeys(s for plan in plans for s in plan.sources if sources is None or s in sources)
    for plan in plans:
        for name in (name for name in wanted if name in plan.sources):
            check_record(out / plan.name / name, plan)
    folders = []
    for name in wanted:
        here = [plan for plan in plans if name in plan.sources]
        start = time.perf_counter()
        sets, maps = source_features(SOURCES[name], data, cache=cache, progress=progress)
        seconds = {"features": time.perf_counter() - start}
        start = time.perf_counter()
        trained = _train_all([r for plan in here for r in plan_recipes(plan, name)], sets, maps, progress=progress)
        seconds["training, all plans of the source"] = time.perf_counter() - start
        for plan in here:
            rows = plan_rows(plan, name, trained, maps)
            folder = out / plan.name / name
            results, comparisons = write_record(folder, plan, name, rows, sets, seconds)
            log(f"{plan.name} on {name}: {plan.question}\n\n{table(rows, results, comparisons)}\n\n{folder}\n")
            folders.append(folder)
    return folders


def source_backbone(source: Source) -> Backbone:
    """The frozen backbone of a source."""
    weights = source.weights or best_weights(source.backbone)
    return create_backbone(source.backbone, weights=weights, image_size=source.image_size)


def source_features(
    source: Source, data: Path | None, *, cache: Path | None = None, progress: bool = False
) -> tuple[dict[str, MultiLabelDataset], dict[str, FeatureMaps]]:
    """The data sets and cached features of a source, by split; "trainval" is what is trained on."""
    backbone = source_backbone(source)
    root = None if source.dataset in DRAWN else data
    sets, maps = {}, {}
    for split in ("trainval", *source.splits):
        read = source.train_split if split == "trainval" else split
        sets[split] = load_dataset(source.dataset, root, read, classes=source.classes or None)
        mirror = source.mirror and split == "trainval"
        maps[split] = cache_features(backbone, sets[split], mirror=mirror, root=cache, progress=progress)
    return sets, maps


def plan_recipes(plan: Plan, source: str) -> list[Recipe]:
    """The recipes of all rows and seeds of a plan on a source."""
    return [plan.recipe(entry, seed, source) for entry in plan.entries for seed in range(plan.seeds)]


def plan_rows(
    plan: Plan, source: str, trained: dict[Recipe, TrainedHead], maps: dict[str, FeatureMaps]
) -> dict[str, Row]:
    """The rows of a plan's table by label, from its trained heads (keyed by recipe without name)."""
    rows: list[tuple[Row, list[ScoreMapHead]]] = []
    for entry in plan.entries:
        seeds = tuple(trained[_key(plan.recipe(entry, seed, source))] for seed in range(plan.seeds))
        rows.append((Row(entry.label, entry.against, {}, entry.keep, trained=seeds), [t.head for t in seeds]))
        for lam in entry.four_lines:
            keep = entry.keep and lam in entry.keep_lines
            row = Row(four_lines_label(lam), entry.label, {}, keep, added_to=seeds)
            rows.append((row, [four_lines_head(t.head, lam) for t in seeds]))
    heads = [head for _, of_row in rows for head in of_row]  # all are scored together
    scores = {s: from_logits(to_logits(score_heads(heads, maps[s]))) for s in SOURCES[source].splits}
    table, start = {}, 0
    for row, of_row in rows:
        part = {split: all_scores[start : start + len(of_row)] for split, all_scores in scores.items()}
        table[row.label] = dataclasses.replace(row, scores=part)
        start += len(of_row)
    return table if not plan.choose else _chosen(plan, table)


def comparisons_of(rows: dict[str, Row], sets: dict[str, MultiLabelDataset], source: Source) -> pd.DataFrame:
    """Every row against its reference on every split: paired bootstrap and seed spread, corrected for all of them."""
    pairs = [(row, rows[row.against]) for row in rows.values() if row.against]
    pairs = [pair for pair in pairs if not any(row.diverged for row in pair)]
    lines = []
    for split in source.splits:
        photographs = drawn_together(source, sets[split])
        for row, reference in pairs:
            result = compare(
                reference.scores[split],
                row.scores[split],
                sets[split].targets,
                groups=photographs,
                comparisons=len(pairs) * len(source.splits),
            )
            line = {"label": row.label, "against": reference.label, "split": split}
            lines.append({**line, **result.to_dict(), "verdict": result.verdict(row.label, reference.label)})
    return pd.DataFrame(lines)


def results_of(rows: Iterable[Row], sets: dict[str, MultiLabelDataset]) -> pd.DataFrame:
    """Every metric of every row, seed and split, from the scores as they are recorded."""
    lines = []
    for row in rows:
        for split, scores in row.scores.items():
            for seed, each in enumerate(scores):
                line = {"label": row.label, "split": split, "seed": seed}
                if seed in row.diverged:
                    lines.append({**line, "diverged": row.diverged[seed]})
                    continue
                metrics = multilabel_metrics(each, sets[split].targets)
                line |= {name: getattr(metrics, name) for name in METRICS}
                if row.trained:
                    history = row.trained[seed].history
                    line["train_loss"] = history.train_loss.iloc[-1]
                    line["validation_mAP"] = history.validation_mAP.max()
                lines.append(line)
    columns = ["label", "split", "seed", *METRICS, "train_loss", "validation_mAP", "diverged"]
    return pd.DataFrame(lines).reindex(columns=columns)


def check_record(folder: Path, plan: Plan) -> None:
    """Refuse a folder in which something stands that is no record of this plan: it would be replaced.

    Raises:
        ConfigError: another plan's record, or other files; or no folder can be there.
    """
    check_folder(folder, "--out")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    try:
        there = json.loads((folder / "run.json").read_text(encoding="utf-8"))["plan"]
    except (OSError, ValueError, KeyError, TypeError):
        there = None
    if there != strict_json.plain(dataclasses.asdict(plan), nan="null"):
        what = "something that is no record of a plan" if there is None else "the record of another plan of this name"
        raise ConfigError(f"{folder} holds {what}, which would be replaced; name another folder with --out.")


def write_record(
    folder: Path, plan: Plan, source: str, rows: dict[str, Row], sets: dict[str, MultiLabelDataset], seconds: dict
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write the record of a plan on a source, whole or not at all; returns its results and comparisons."""
    where = SOURCES[source]
    start = time.perf_counter()
    comparisons = comparisons_of(rows, sets, where)
    results = results_of(rows.values(), sets)
    seconds = {**seconds, "comparisons": time.perf_counter() - start}
    kept = {
        f"{r.label} on {split}": split_bytes(to_logits(r.scores[split]))
        for r in rows.values()
        if r.keep
        for split in where.splits
    }
    clear_leftovers(folder)
    with atomic_write(folder) as path:
        path.mkdir()
        run = {
            "plan": dataclasses.asdict(plan),
            "source": {"name": source, **dataclasses.asdict(where)},
            "recipe": plan.recipe(plan.entries[0], 0, source).to_json(),
            "command": f"csra-lab ablate {plan.name} --sources {source}",
            "data": {split: describe(dataset) for split, dataset in sets.items()},
            "environment": environment(torch.device("cpu")),
            "threads": torch.get_num_threads(),
            "seconds": {name: round(value, 1) for name, value in seconds.items()},
        }
        if plan.conditions and sets[where.splits[0]].box_reader is not None:
            conditions = _conditions(rows, sets, where)
            if not conditions.empty:
                conditions.to_csv(path / "conditions.csv", index=False, float_format="%.6f")
        (path / "run.json").write_text(strict_json.dumps(run, indent=1, nan="null") + "\n", encoding="utf-8")
        results.to_csv(path / "results.csv", index=False, float_format="%.6f")
        comparisons.to_csv(path / "comparisons.csv", index=False, float_format="%.6f")
        if kept:
            with open(path / "scores.npz", "wb") as file:
                splits: dict[str, np.ndarray] = {}
                for split in where.splits:
                    splits |= {f"ids {split}": np.array(sets[split].ids), f"targets {split}": sets[split].targets}
                    photographs = drawn_together(where, sets[split])
                    if photographs is not None:
                        splits[f"photographs {split}"] = photographs
                write_arrays(file, {"classes": np.array(sets[where.splits[0]].classes)} | splits | kept)
    return results, comparisons


def describe(dataset: MultiLabelDataset) -> dict:
    """Name with version, size, classes and fingerprint."""
    return {
        "name": dataset.name,
        "split": dataset.split,
        "images": len(dataset),
        "classes": list(dataset.classes),
        "fingerprint": dataset.fingerprint(),
    }


def read_scores(folder: str | Path) -> tuple[dict[tuple[str, str], np.ndarray], dict[tuple[str, str], np.ndarray]]:
    """The kept scores of a record, and what they are measured by.

    Returns:
        (label, split) -> (S, N, C) float64 probabilities; and ("targets", split) -> (N, C), ("ids", split) -> (N,), and
        where people share photographs ("photographs", split) -> (N,) numbers of the photographs.
    """
    scores, truth = {}, {}
    with np.load(Path(folder) / "scores.npz", allow_pickle=False) as content:
        for key in content.files:
            kind, _, split = key.partition(" ")
            if kind in ("targets", "ids", "photographs"):
                truth[kind, split] = content[key]
            elif key != "classes":
                label, _, split = key.rpartition(" on ")
                scores[label, split] = from_logits(joined_bytes(content[key]))
    return scores, truth


def table(rows: dict[str, Row], results: pd.DataFrame, comparisons: pd.DataFrame) -> str:
    """mAP of the rows that are compared with its spread over the seeds, in %, and the verdicts."""
    compared = {label for row in rows.values() if row.against for label in (row.label, row.against)}
    shown = results[results.label.isin(compared)] if compared else results
    width = shown.label.str.len().max()
    lines = []
    for (label, split), values in shown.groupby(["label", "split"], sort=False).mAP:
        spread = f" +- {100 * values.std():.2f}" if values.count() > 1 else ""
        lines.append(f"  {label:<{width}}  {split:<12} {100 * values.mean():6.2f}{spread}")
    verdicts = [f"  {line.split}: {line.verdict}" for line in comparisons.itertuples()]
    broken = [f"  {row.label}: the loss diverged with seeds {[*row.diverged]}" for row in rows.values() if row.diverged]
    return "\n".join(["mAP, mean and standard deviation over seeds (in %)", *lines, "", *broken, *verdicts])


def _train_all(
    recipes: Sequence[Recipe], sets: dict[str, MultiLabelDataset], maps: dict[str, FeatureMaps], *, progress: bool
) -> dict[Recipe, TrainedHead]:
    """Every distinct recipe's head, trained together with all that hold out the same images."""
    distinct = list(dict.fromkeys(_key(recipe) for recipe in recipes))
    trained: dict[Recipe, TrainedHead] = {}
    for fraction in dict.fromkeys(recipe.data.validation_fraction for recipe in distinct):
        members = [recipe for recipe in distinct if recipe.data.validation_fraction == fraction]
        fit, held_out = hold_out(sets["trainval"], fraction)
        results = train_heads(members, maps["trainval"], fit=fit, held_out=held_out, progress=progress)
        trained |= dict(zip(members, results, strict=True))
    return trained


def _key(recipe: Recipe) -> Recipe:
    """The recipe without its name: rows of two plans that ask for the same training share it."""
    return recipe.replace(name="head", why="", cost="", expected="")


def _chosen(plan: Plan, rows: dict[str, Row]) -> dict[str, Row]:
    """All settings as rows without a comparison, and a row for each method: its best setting on held-out images."""
    best: dict[str, Row] = {}
    for method in dict.fromkeys(plan.choose.values()):
        settings = [rows[label] for label, m in plan.choose.items() if m == method and not rows[label].diverged]
        if settings:
            row = max(settings, key=_validation)
            setting = row.label.removeprefix(f"{method}, ")
            best[method] = dataclasses.replace(row, label=f"{method} (best: {setting})")
    for method, row in best.items():
        reference = best[row.against].label if row.against in best else ""
        best[method] = dataclasses.replace(row, against=reference)
    shown = {label: dataclasses.replace(row, against="") for label, row in rows.items()}
    return shown | {row.label: row for row in best.values()}


def _conditions(rows: dict[str, Row], sets: dict[str, MultiLabelDataset], where: Source) -> pd.DataFrame:
    """The comparisons of the rows that are kept and did not diverge, by what the images show."""
    kept = {label: row for label, row in rows.items() if row.keep and not row.diverged}
    pairs = [(label, row.against) for label, row in kept.items() if row.against in kept]
    frames = []
    for split in where.splits:
        frame = gains({label: row.scores[split] for label, row in kept.items()}, pairs, sets[split])
        frame.insert(0, "split", split)
        frames.append(frame)
    return pd.concat(frames)


def _validation(row: Row) -> float:
    """Mean over the seeds of the best validation mAP."""
    return float(np.mean([t.history.validation_mAP.max() for t in row.trained]))


def drawn_together(source: Source, dataset: MultiLabelDataset) -> np.ndarray | None:
    """(N,) number of the photograph that each image was cut from: those of one are drawn together by a bootstrap.

    None where each image is drawn alone.
    """
    if not source.by_photograph:
        return None
    return np.unique([str(path) for path in dataset.paths], return_inverse=True)[1].astype(np.uint16)
