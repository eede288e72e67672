"""The reader's own photograph: the network itself runs in the browser, in Jupyter and in the published page."""

from collections.abc import Mapping

import numpy as np
import torch
import traitlets
from PIL import Image

from csra_lab.classifier import MultiLabelClassifier
from csra_lab.datasets.images import upright_rgb
from csra_lab.errors import CsraError
from csra_lab.viz.gallery import open_photographs
from csra_lab.widgets.base import Explorer, as_temperature, module, packed, picture_url
from csra_lab.widgets.photo_network import browser_models, browser_network


class PhotoExplorer(Explorer):
    """A photograph chosen in the browser, its score maps and attention, and average and CSRA side by side.

    The photograph does not leave the browser. In a published page the network's numbers come from scripts beside it,
    which `BrowserNetwork.write_scripts` wrote; in Jupyter the kernel sends them when the first photograph is chosen.

    Attributes:
        data: the network's plan, the heads and the examples; see `explore_photograph`.
        head: number of the classifier, from 0. label: number of the label looked at.
        temperature: a number from 0, or "inf" (JSON has no infinity; `math.inf` is taken too). lam: lambda.
        temperatures: of a classifier with several heads: "one" for the slider's, or "trained" for its own.
        view: "maps", "light" (the image lit by the maps) or "image".
        engine: "" for the fastest that the browser takes, or "fused", "plain" or "script".
    """

    title = "Photograph explorer"
    _esm = module("photo_kernels", "photo_network", "photo")
    data = traitlets.Dict().tag(sync=True)
    head = traitlets.Int(0, min=0).tag(sync=True)
    label = traitlets.Int(0, min=0).tag(sync=True)
    temperature = traitlets.Any("inf").tag(sync=True)
    temperatures = traitlets.Enum(["one", "trained"], "trained").tag(sync=True)
    lam = traitlets.Float(0.2).tag(sync=True)
    view = traitlets.Enum(["maps", "light", "image"], "maps").tag(sync=True)
    engine = traitlets.Enum(["", "fused", "plain", "script"], "").tag(sync=True)

    @traitlets.validate("temperature")
    def _temperature(self, proposal):
        return as_temperature(proposal["value"])

    def __init__(self, **traits):
        super().__init__(**traits)
        self.on_msg(self._send_part)

    def _send_part(self, _, message, buffers) -> None:
        """Answer the browser, which asks for the network's numbers part by part."""
        number, network = message.get("part"), browser_network()
        if isinstance(number, int) and 0 <= number < network.num_parts:
            self.send({"part": number}, buffers=[network.part(number)])


def explore_photograph(examples: Mapping[str, Image.Image] | None = None) -> PhotoExplorer:
    """The explorer with some photographs to begin with; it opens on the first one, without the network.

    Args:
        examples: name -> photograph; None for some of scikit-image's.

    Raises:
        CsraError: no examples, or scikit-image is not installed.
    """
    examples = example_photographs() if examples is None else examples
    if not examples:
        raise CsraError("the explorer opens on an example; give one or more, or None for scikit-image's.")
    examples = {name: upright_rgb(picture) for name, picture in examples.items()}
    shown: list[dict[str, object]] = [{"name": name, "url": picture_url(picture)} for name, picture in examples.items()]
    opening = next(iter(examples.values()))
    shown[0]["maps"] = [packed(_score_maps(model, opening)) for _, model in browser_models()]
    return PhotoExplorer(data={"network": browser_network().manifest(), "examples": shown})


def example_photographs() -> dict[str, Image.Image]:
    """Openly licensed photographs of scikit-image's wheel; `csra_lab.viz.gallery.CREDITS` names who took them.

    Raises:
        CsraError: scikit-image is not installed.
    """
    there = open_photographs()
    return {name: there[name] for name in ("a cup, and a small cat", "a cat", "an astronaut", "a rocket")}


@torch.inference_mode()
def _score_maps(model: MultiLabelClassifier, picture: Image.Image) -> np.ndarray:
    """(heads, C, h, w) in half precision."""
    return model.score_maps(model.transform(picture)[None])[0].numpy().astype(np.float16)
