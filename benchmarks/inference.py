"""What does the head cost in use? Latency of one image and of a batch: CSRA at H = 1 and 8 against average pooling.

Prediction. Every head but the first adds d C N multiply-adds to the network's m; pooling them moves H C N numbers some
ten times, which is less. So latency grows by (H - 1) d C N / m: 1 % for ResNet-101, most for the smallest network.

An exported classifier (H = 8) is compared with the eager one it was made from: the largest difference of a logit,
asserted to be at most 1e-4, and its speed. Prediction: a `torch.export` program runs the same kernels, 1; onnxruntime
folds batch normalisation and activations into the convolutions, which leaves a third of the memory traffic: 1.5 for
convolutional networks, 1 for transformers, whose time is in matrix products.
"""

import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import onnxruntime
import torch
from machine import options, report, take_turns
from torch import Tensor, nn

from csra_lab.classifier import MultiLabelClassifier, create_classifier
from csra_lab.cost import model_cost
from csra_lab.export import export_onnx, export_program
from csra_lab.heads import CSRA, AveragePooling
from csra_lab.recipes import PAPER_BACKBONES

CLASSES, BATCH = 20, 8
EXPORTED = ("tf_efficientnet_lite0", "resnet18", "vit_base_patch16_224")
TINY = ("test_efficientnet",)
ONNX_GAIN = {"tf_efficientnet_lite0": 1.5, "resnet18": 1.5}


def classifiers(backbone: str, image_size: int | None, device: torch.device) -> dict[str, MultiLabelClassifier]:
    """The same network under three heads."""
    model = create_classifier(backbone, num_classes=CLASSES, image_size=image_size, head="average").to(device).eval()
    if model.backbone.convolutional:
        model = model.to(memory_format=torch.channels_last)
    d = model.backbone.num_features
    heads = {
        "average pooling": AveragePooling(d, CLASSES),
        "H = 1": CSRA(d, CLASSES),
        "H = 8": CSRA(d, CLASSES, num_heads=8),
    }
    return {name: model.with_head(head.to(device).eval()) for name, head in heads.items()}


def infer(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(images)


def latency_rows(
    backbone: str, image_size: int | None, batches: Sequence[int], device, dtype, repeats: int
) -> list[dict]:
    models = classifiers(backbone, image_size, device)
    pixels = models["H = 1"].image_size
    costs = {
        "average pooling": model_cost(backbone, num_classes=CLASSES, image_size=image_size, head="average"),
        "H = 1": model_cost(backbone, num_classes=CLASSES, image_size=image_size),
        "H = 8": model_cost(backbone, num_classes=CLASSES, image_size=image_size, num_heads=8),
    }
    if dtype is not None:
        models = {name: model.to(dtype) for name, model in models.items()}
    rows = []
    for batch in batches:
        images = torch.randn(batch, 3, pixels, pixels).to(device, dtype, memory_format=torch.channels_last)
        best = take_turns({n: partial(infer, m, images) for n, m in models.items()}, repeats=repeats, device=device)
        base = costs["average pooling"].multiply_adds
        rows += [
            {
                "part": f"latency on {device.type}, {pixels} pixels" + (", bfloat16" if dtype else ""),
                "backbone": backbone,
                "batch": batch,
                "head": name,
                "ms": 1e3 * seconds,
                "images_per_second": batch / seconds,
                "times_average": seconds / best["average pooling"],
                "predicted": costs[name].multiply_adds / base,
            }
            for name, seconds in best.items()
        ]
    return rows


def export_rows(backbone: str, image_size: int | None, batches: Sequence[int], repeats: int) -> list[dict]:
    """Eager, exported and in onnxruntime, on the CPU with the same number of threads."""
    model = classifiers(backbone, image_size, torch.device("cpu"))["H = 8"]
    with tempfile.TemporaryDirectory() as folder:
        setting = onnxruntime.SessionOptions()
        setting.intra_op_num_threads = torch.get_num_threads()
        path = export_onnx(model, Path(folder) / "model.onnx")
        session = onnxruntime.InferenceSession(path, setting, providers=["CPUExecutionProvider"])
    program = export_program(model).module()
    rows = []
    for batch in batches:
        images = torch.randn(batch, 3, model.image_size, model.image_size)
        found = {
            "eager, channels_last": partial(infer, model, images.to(memory_format=torch.channels_last)),
            "torch.export": partial(infer, program, images),
            "onnxruntime": lambda images=images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]),
        }
        expected = infer(model, images)
        differences = {name: (run() - expected).abs().max().item() for name, run in found.items()}
        assert max(differences.values()) <= 1e-4, f"{backbone} exported says something else: {differences}"
        best = take_turns(found, repeats=repeats)
        predicted = {"eager, channels_last": 1.0, "torch.export": 1.0, "onnxruntime": ONNX_GAIN.get(backbone, 1.0)}
        rows += [
            {
                "part": "export, H = 8",
                "backbone": backbone,
                "batch": batch,
                "as": name,
                "ms": 1e3 * seconds,
                "times_eagers_speed": best["eager, channels_last"] / seconds,
                "predicted": predicted[name],
                "largest_difference": differences[name],
            }
            for name, seconds in best.items()
        ]
    return rows


def main(argv: Sequence[str] | None = None) -> list[dict]:
    chosen = options(argv, __doc__)
    cpu, tiny = torch.device("cpu"), chosen.tiny
    repeats, batches, size = (1, (1, 2), 64) if tiny else (3, (1, BATCH), None)
    rows = []
    for backbone in TINY if tiny else PAPER_BACKBONES.values():
        rows += latency_rows(backbone, size, batches, cpu, None, repeats)
        if torch.cuda.is_available():
            for dtype in (None, torch.bfloat16):
                rows += latency_rows(backbone, size, (1, 2 if tiny else 64), torch.device("cuda"), dtype, 4 * repeats)
    for backbone in TINY if tiny else EXPORTED:
        rows += export_rows(backbone, size, batches, repeats)
    return report("inference", rows, chosen)


if __name__ == "__main__":
    main(sys.argv[1:])
