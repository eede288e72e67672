"""A classifier for other runtimes: as a program of `torch.export`, and as an ONNX file.

Two graphs can be written. The plain one reads images that were resized and normalised as the model was trained; its
metadata says how. The other (`with_resize`) reads the bytes of images of any size and does that itself.
"""

import copy
import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from csra_lab._io import strict_json
from csra_lab._io.atomic_write import atomic_write
from csra_lab.classifier import MultiLabelClassifier
from csra_lab.errors import CsraError
from csra_lab.thresholds import thresholds_by_class

_ORIENTATION = "upright: turned as the file's EXIF tag says, before anything else"


class FromPixels(nn.Module):
    """A classifier that reads bytes: (B, 3, H, W) uint8 RGB of any size -> (B, C) logits.

    The resize is that of the model's transform: bilinear, antialiased, to a square, rounded to whole values. Pillow
    rounds between its two directions too, so up to a quarter of the values differ from its, by 1 of 255.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: MultiLabelClassifier):
        super().__init__()
        self.model, self.side = model, model.image_size
        self.register_buffer("mean", torch.tensor(model.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(model.std).view(3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, C)."""
        sides = [self.side, self.side]
        resized = F.interpolate(pixels.float(), sides, mode="bilinear", antialias=True, align_corners=False)
        return self.model((resized.round().clamp(0, 255) / 255 - self.mean) / self.std)


def preprocessing(model: MultiLabelClassifier, *, with_resize: bool = False) -> dict:
    """What has to happen to an image before the graph reads it, in JSON types; written into each file's metadata."""
    size = model.image_size
    if with_resize:
        shape = ["batch", 3, "height", "width"]
        return {"input": "pixels", "type": "uint8", "shape": shape, "colours": "RGB", "orientation": _ORIENTATION}
    return {
        "input": "images",
        "type": "float32",
        "shape": ["batch", 3, size, size],
        "colours": "RGB",
        "orientation": _ORIENTATION,
        "resize": "bilinear, antialiased (Pillow's BILINEAR), to a square; the image's shape is not kept",
        "scale": "0..1, minus mean, over std",
        "mean": list(model.mean),
        "std": list(model.std),
    }


def example(model: MultiLabelClassifier, file: str, *, with_resize: bool = False) -> str:
    """Five lines of Python that run an ONNX file on a photograph, with onnxruntime and without this lab."""
    size, mean, std = model.image_size, list(model.mean), list(model.std)
    resize = "" if with_resize else f".resize(({size}, {size}), Image.Resampling.BILINEAR)"
    normalise = "" if with_resize else f"pixels = (pixels / 255 - np.array({mean})) / np.array({std})\n"
    batch = "pixels.transpose(2, 0, 1)[None]" + ("" if with_resize else ".astype(np.float32)")
    return (
        "import numpy as np, onnxruntime; from PIL import Image, ImageOps\n"
        f'pixels = np.asarray(ImageOps.exif_transpose(Image.open("photograph.jpg")).convert("RGB"){resize})\n'
        f"{normalise}"
        f'(logits,) = onnxruntime.InferenceSession("{file}").run(None, '
        f'{{"{"pixels" if with_resize else "images"}": {batch}}})\n'
        "probabilities = 1 / (1 + np.exp(-logits[0]))"
    )


def export_program(model: MultiLabelClassifier, *, with_resize: bool = False) -> torch.export.ExportedProgram:
    """The classifier in evaluation mode as one graph: normalised images (B, 3, S, S) float32 -> logits (B, C).

    B is free, S is the model's image size. `program.module()` runs it.

    Args:
        with_resize: the graph resizes and normalises too: (B, 3, H, W) uint8 -> (B, C), H and W free.
    """
    model = copy.deepcopy(model).cpu().float().eval()
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        if with_resize:
            pixels = torch.zeros(2, 3, 2 * model.image_size, 3 * model.image_size, dtype=torch.uint8)
            free = {0: batch, 2: torch.export.Dim("height", min=2), 3: torch.export.Dim("width", min=2)}
            return torch.export.export(FromPixels(model), (pixels,), dynamic_shapes={"pixels": free})
        images = torch.zeros(2, 3, model.image_size, model.image_size)  # one image would be taken for a constant
        return torch.export.export(model, (images,), dynamic_shapes={"images": {0: batch}})


def save_program(
    model: MultiLabelClassifier,
    path: str | Path,
    *,
    with_resize: bool = False,
    thresholds: ArrayLike | None = None,
) -> Path:
    """Write `export_program(model)` as a .pt2 file and return its path; `torch.export.load` reads it.

    What a caller needs besides is in its extra files "csra_lab", "preprocessing" and, where thresholds are given,
    "thresholds", as in `export_onnx`.

    Args:
        thresholds: (C,) probabilities from which a class is named; see `read_thresholds`.

    Raises:
        CsraError: thresholds that are not one probability for each class.
    """
    path = Path(path)
    extra = _metadata(model, with_resize, thresholds)
    with atomic_write(path) as fresh:
        torch.export.save(export_program(model, with_resize=with_resize), fresh, extra_files=extra)
    return path


def export_onnx(
    model: MultiLabelClassifier,
    path: str | Path,
    *,
    with_resize: bool = False,
    thresholds: ArrayLike | None = None,
) -> Path:
    """Write the classifier as an ONNX file and return its path.

    The graph's input is "images" ("pixels" with `with_resize`), its output "logits", of `export_program`'s shapes. What
    a caller needs besides is in the file's metadata, as JSON: class names, image size, mean and std under "csra_lab",
    how to resize under "preprocessing", and thresholds that are given under "thresholds". The probability of a class is
    the sigmoid of its logit.

    Args:
        thresholds: (C,) probabilities from which a class is named; see `read_thresholds`.

    Raises:
        CsraError: thresholds that are not one probability for each class, or the packages `onnx` and `onnxscript`,
            which torch writes ONNX with, are not installed.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise CsraError(f"to write ONNX, torch needs {' and '.join(missing)}: pip install {' '.join(missing)}.")
    path = Path(path)
    extra = _metadata(model, with_resize, thresholds)
    name = preprocessing(model, with_resize=with_resize)["input"]
    graph = export_program(model, with_resize=with_resize)
    program = torch.onnx.export(graph, dynamo=True, verbose=False, input_names=[name], output_names=["logits"])
    assert program is not None  # as with dynamo=True
    program.model.metadata_props.update(extra)
    with atomic_write(path) as fresh:
        program.save(fresh)
    return path


def _metadata(model: MultiLabelClassifier, with_resize: bool, thresholds: ArrayLike | None) -> dict[str, str]:
    content = {"csra_lab": model.config(), "preprocessing": preprocessing(model, with_resize=with_resize)}
    if thresholds is not None:
        content["thresholds"] = thresholds_by_class(thresholds, model.classes)
    return {name: strict_json.dumps(value) for name, value in content.items()}
