"""Feature maps computed once, so that heads train in minutes."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from csra_lab.datasets import MultiLabelDataset
from csra_lab.datasets.transforms import eval_transform
from csra_lab.evaluation import autocast, to_device


class FeatureMaps(Dataset):
    """Feature maps of a data set in memory: item i is ((d, h, w) float16, (C,) target).

    Attributes:
        maps: (N, V, d, h, w) float16, V views of each picture (1: as it is; 2: also its mirror image).
        targets: (N, C) int8.
    """

    def __init__(self, maps: Tensor, targets: np.ndarray):
        self.maps, self.targets = maps, targets

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        """View drawn at random from torch's generator; where there is one view, that one."""
        views = self.maps.shape[1]
        view = int(torch.randint(views, ())) if views > 1 else 0
        return self.maps[i, view], torch.from_numpy(self.targets[i])

    def subset(self, indices: np.ndarray) -> "FeatureMaps":
        return FeatureMaps(self.maps[indices], self.targets[indices])


@torch.inference_mode()
def compute_features(
    backbone: nn.Module,
    dataset: MultiLabelDataset,
    *,
    image_size: int,
    mean,
    std,
    mirror: bool = False,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    workers: int = 0,
    progress: bool = False,
) -> FeatureMaps:
    """The feature maps of every picture, resized to a square as in testing, and of its mirror image where asked for.

    Args:
        backbone: (B, 3, S, S) -> (B, d, h, w). dtype: autocast to this type; None for full precision.
    """
    backbone = backbone.eval().to(device)
    inputs = dataset.with_transform(eval_transform(image_size, mean=mean, std=std))
    loader = DataLoader(inputs, batch_size=batch_size, num_workers=workers)
    parts = []
    with tqdm(
        total=len(dataset), unit="img", desc=f"features of {dataset.split}", disable=None if progress else True
    ) as bar:
        for images, _ in loader:
            views = [images, images.flip(-1)] if mirror else [images]
            with autocast(device, dtype):
                maps = [backbone(to_device(view, device)).to("cpu", torch.float16) for view in views]
            parts.append(torch.stack(maps, dim=1))  # (B, V, d, h, w)
            bar.update(len(images))
    return FeatureMaps(torch.cat(parts).contiguous(), dataset.targets)
