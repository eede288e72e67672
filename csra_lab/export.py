"""A classifier for other runtimes: as a program of `torch.export`, and as an ONNX file."""

import contextlib
import copy
import importlib.util
import io
from pathlib import Path

import torch

from csra_lab._io import strict_json
from csra_lab._io.atomic_write import atomic_write
from csra_lab.classifier import MultiLabelClassifier
from csra_lab.errors import CsraError


def export_program(model: MultiLabelClassifier) -> torch.export.ExportedProgram:
    """The classifier in evaluation mode as one graph: normalised images (B, 3, S, S) float32 -> logits (B, C).

    B is free, S is the model's image size. `program.module()` runs it.
    """
    model = copy.deepcopy(model).cpu().float().eval()
    images = torch.zeros(2, 3, model.image_size, model.image_size)  # one image would be taken for a constant
    with torch.no_grad():
        return torch.export.export(model, (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})


def save_program(model: MultiLabelClassifier, path: str | Path) -> Path:
    """Write `export_program(model)` as a .pt2 file and return its path; `torch.export.load` reads it.

    What a caller needs besides is in its extra file "csra_lab", as in `export_onnx`.
    """
    path = Path(path)
    with atomic_write(path) as fresh:
        torch.export.save(export_program(model), fresh, extra_files={"csra_lab": strict_json.dumps(model.config())})
    return path


def export_onnx(model: MultiLabelClassifier, path: str | Path) -> Path:
    """Write the classifier as an ONNX file and return its path.

    The graph's input is "images", its output "logits", of `export_program`'s shapes. What a caller needs besides
    (class names, image size, mean and std) is in the file's metadata under "csra_lab", as JSON. The probability of a
    class is the sigmoid of its logit.

    Raises:
        CsraError: the packages `onnx` and `onnxscript`, which torch writes ONNX with, are not installed.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise CsraError(f"to write ONNX, torch needs {' and '.join(missing)}: pip install {' '.join(missing)}.")
    path = Path(path)
    with contextlib.redirect_stdout(io.StringIO()):  # torch reports its progress there
        program = torch.onnx.export(export_program(model), dynamo=True, input_names=["images"], output_names=["logits"])
    program.model.metadata_props["csra_lab"] = strict_json.dumps(model.config())
    with atomic_write(path) as fresh:
        program.save(fresh)
    return path
