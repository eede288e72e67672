"""The gallery: licences as scikit-image states them, and labels and maps as the classifier computes them."""

import io
import math

import pytest
import torch
from PIL import Image

from csra_lab.classifier import create_classifier
from csra_lab.errors import CsraError
from csra_lab.viz.gallery import CREDITS, gallery, look, open_photographs

LICENCES = {
    "astronaut": "released into the public domain",
    "chelsea": "CC0 by the photographer (Stefan van der Walt)",
    "clock": "Released into the public domain by the photographer (Stefan van der Walt)",
    "coffee": "CC0 by the photographer (Rachel Michetti)",
    "rocket": "released in the public domain",
}


@pytest.fixture(scope="module")
def photographs():
    pytest.importorskip("skimage")
    return open_photographs()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_classifier("test_resnet", classes=["cat", "cup", "sky"], image_size=64, head="csra").eval()


def test_every_photograph_has_the_licence_that_scikit_image_states(photographs):
    from skimage import data

    assert set(CREDITS) == set(LICENCES)
    for name, words in LICENCES.items():
        stated = " ".join(getattr(data, name).__doc__.replace("`", "").split())
        assert words in stated, name
        assert ("CC0" in CREDITS[name]) == ("CC0" in words)
    assert all(p.mode == "RGB" and min(p.size) >= 300 for p in photographs.values())


@pytest.mark.parametrize("temperature", [0.0, 1.0, math.inf])
def test_before_and_after_are_the_mean_and_csra(photographs, model, temperature):
    image = photographs["a cat"]
    case = look(model, "a cat", image, "cup", lam=0.7, temperature=temperature)
    with torch.no_grad():
        scores = model.score_maps(model.transform(image)[None])[0, 0].flatten(1).double()
    mean, c = scores.mean(dim=1), 1
    weights = torch.softmax(temperature * scores, dim=1) if math.isfinite(temperature) else None
    attended = scores.amax(dim=1) if weights is None else (weights * scores).sum(dim=1)
    expected = mean + 0.7 * attended
    assert case.logits == pytest.approx((mean[c].item(), expected[c].item()), abs=1e-4)
    assert case.after == [model.classes[i] for i in expected.argsort(descending=True)]
    assert case.named[1] == [model.classes[i] for i in expected.argsort(descending=True) if expected[i] >= 0]
    assert case.ranks == (case.before.index("cup") + 1, case.after.index("cup") + 1)
    assert case.weights.sum().item() == pytest.approx(1, abs=1e-5)
    assert 1.7 * (case.weights * case.scores).sum().item() == pytest.approx(case.logits[1], abs=1e-4)


def test_lambda_zero_changes_nothing(photographs, model):
    case = look(model, "a cat", photographs["a cat"], "cat", lam=0.0, temperature=1.0)
    assert case.before == case.after
    assert case.logits[0] == pytest.approx(case.logits[1])


def test_gallery_shows_three_images_and_both_lists_of_each_case(photographs, model):
    case = look(model, "a cat", photographs["a cat"], "cat", lam=0.3, temperature=math.inf)
    shown = gallery({"a & b": case, "again": case}, top=2)
    assert shown.html.count("data:image/jpeg;base64,") == 6
    assert "a &amp; b" in shown.html
    assert shown.html.count("<strong>cat</strong>") == 4
    assert shown.html.count("<section") == shown.html.count("</section>") == 2
    assert Image.open(io.BytesIO(shown.png())).width > 800


def test_a_list_of_named_labels_says_when_there_is_none(photographs, model):
    case = look(model, "a cat", photographs["a cat"], "cat", lam=0.0, temperature=1.0)
    nothing = type(case)(**{**vars(case), "named": ([], [])})
    assert gallery({"x": nothing}, top=None).html.count("names nothing") == 2


def test_refuses_unknown_labels_and_several_heads(photographs, model):
    with pytest.raises(CsraError, match="no label 'dog'"):
        look(model, "a cat", photographs["a cat"], "dog", lam=0.3, temperature=1.0)
    two = create_classifier("test_resnet", num_classes=2, image_size=64, head="csra", num_heads=2)
    with pytest.raises(CsraError, match="this one has 2"):
        look(two, "a cat", photographs["a cat"], two.classes[0], lam=0.3, temperature=1.0)
