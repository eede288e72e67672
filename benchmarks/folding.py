"""How much faster are cached features with the batch norms folded into the convolutions?

Prediction. In a network of depthwise convolutions the time goes into reading and writing maps: the convolution, the
norm and the activation read and write each map once, six passes. Folded, the norm's two are gone: 6 / 4 = 1.5.
A ResNet's time is in products; there the norms are a tenth: 1.1. A transformer has none: 1, and it is not copied.
Outputs move by the rounding of float32, asserted to be less than float16, in which features are stored, rounds.
"""

import sys
from collections.abc import Sequence
from functools import partial

import torch
from machine import options, report, take_turns

from csra_lab.backbones import create_backbone
from csra_lab.device import for_inference
from csra_lab.folding import TOLERANCE, folded

PREDICTED = {
    ("tf_efficientnet_lite0", 224): 1.5,
    ("tf_efficientnet_lite0", 448): 1.5,
    ("mobilenetv2_100", 224): 1.5,
    ("resnet18", 224): 1.1,
    ("resnet101", 224): 1.1,
    ("vit_base_patch16_224", 224): 1.0,
}
TINY = {("test_efficientnet", 64): 1.5, ("test_vit", 64): 1.0}


def row(backbone: str, image_size: int, predicted: float, batch: int, repeats: int) -> dict:
    network = for_inference(create_backbone(backbone, image_size=image_size))
    other = folded(network, (1, 3, image_size, image_size))
    images = torch.randn(batch, 3, image_size, image_size).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected, found = network(images), other(images)
        difference = ((found - expected).abs().max() / expected.abs().max()).item()
        assert difference <= 2 * TOLERANCE, f"{backbone} folded gives something else: {difference}"
        best = take_turns({"as it is": partial(network, images), "folded": partial(other, images)}, repeats=repeats)
    return {
        "part": "feature maps",
        "backbone": backbone,
        "image_size": image_size,
        "batch": batch,
        "images_per_second": batch / best["as it is"],
        "folded_per_second": batch / best["folded"],
        "ratio": best["as it is"] / best["folded"],
        "predicted": predicted,
        "largest_difference": difference,
    }


def main(argv: Sequence[str] | None = None) -> list[dict]:
    chosen = options(argv, __doc__)
    batch, repeats = (2, 1) if chosen.tiny else (16, 3)
    cases = TINY if chosen.tiny else PREDICTED
    return report("folding", [row(*case, predicted, batch, repeats) for case, predicted in cases.items()], chosen)


if __name__ == "__main__":
    main(sys.argv[1:])
