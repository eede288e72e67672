"""The data sets by name: `load_dataset("voc2012", root, "test")`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from csra_lab.datasets.coco import load_coco2014
from csra_lab.datasets.dataset import MultiLabelDataset
from csra_lab.datasets.folder import load_folder
from csra_lab.datasets.voc import load_voc2007, load_voc2012
from csra_lab.datasets.wider import load_wider
from csra_lab.errors import ConfigError
from csra_lab.synthetic.emoji_voc import load_emoji_voc, prepare_emoji_voc
from csra_lab.synthetic.paperdoll_wider import load_paperdoll_wider, prepare_paperdoll_wider

# name -> loader(root, split); each loader knows its splits and how its data is got.
DATASETS: dict[str, Callable[..., MultiLabelDataset]] = {
    "voc2007": load_voc2007,
    "voc2012": load_voc2012,
    "wider": load_wider,
    "coco2014": load_coco2014,
    "emoji-voc": load_emoji_voc,
    "paperdoll-wider": load_paperdoll_wider,
    "folder": load_folder,
}

# Drawn on this machine, in the cache, on first use: these need no folder.
DRAWN = {"emoji-voc": prepare_emoji_voc, "paperdoll-wider": prepare_paperdoll_wider}


def load_dataset(
    name: str,
    root: str | Path | None = None,
    split: str = "test",
    *,
    classes: Sequence[str] | None = None,
    absent: str | None = None,
    unknown: str | None = None,
) -> MultiLabelDataset:
    """A data set by its name, from the folder `root` where it lies. Nothing is downloaded here;
    "emoji-voc" and "paperdoll-wider" are drawn on first use where no `root` is given.

    Args:
        classes: keep only these, in this order; images that then have no positive stay.
        absent, unknown: of "folder" alone: which values of the labels say so; see `load_folder`.

    Raises:
        CsraError: an unknown name, split or class (with what exists), and data that is not there (with how to get it)
            or malformed.
    """
    if name not in DATASETS:
        raise ConfigError(f"There is no data set {name!r}; there are {', '.join(DATASETS)}.")
    if root is None and name not in DRAWN:
        raise ConfigError(
            "Say in which folder your images lie."
            if name == "folder"
            else f"Say in which folder {name} lies; `csra-lab data download {name} --root DIR` fetches it, or says how."
        )
    said = {key: value for key, value in (("absent", absent), ("unknown", unknown)) if value is not None}
    if said and name != "folder":
        raise ConfigError(f"{name} has its own labels; {' and '.join(said)} is for data in a folder.")
    dataset = DATASETS[name](None if root is None else Path(root), split, **said)
    return dataset if classes is None else dataset.select_classes(classes)
