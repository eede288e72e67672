"""An exported classifier says what the classifier says, for any number of images."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from csra_lab import heads
from csra_lab.classifier import create_classifier
from csra_lab.errors import CsraError
from csra_lab.export import FromPixels, example, export_onnx, export_program, preprocessing, save_program

HEADS = {
    "one head": {"head": "csra"},
    "eight heads": {"head": "csra", "num_heads": 8},
    "average pooling": {"head": "average", "bias": True},
}


def classifier(backbone="test_efficientnet", num_classes=5, **options):
    return create_classifier(backbone, num_classes=num_classes, image_size=64, **options).eval()


@pytest.mark.parametrize("num_classes", [3, 5])  # a map of 2 x 2 places: a batched product, and a convolution
@pytest.mark.parametrize("options", HEADS.values(), ids=HEADS)
def test_a_program_gives_the_same_logits_for_any_batch(options, num_classes):
    model = classifier(num_classes=num_classes, **options)
    program = export_program(model).module()
    for batch in (1, 2, 5):
        images = torch.randn(batch, 3, 64, 64)
        torch.testing.assert_close(program(images), model(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(set(heads.HEADS) - {"csra", "average"}))
def test_a_program_of_any_head_gives_the_same_logits(kind):
    model = classifier(head=kind)
    images = torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(export_program(model).module()(images), model(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_vit"])
def test_an_onnx_file_gives_the_same_logits_in_onnxruntime(backbone, tmp_path):
    model = classifier(backbone, num_heads=8)
    path = export_onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        images = torch.randn(batch, 3, 64, 64)
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), model(images), rtol=0, atol=1e-4)
    properties = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert json.loads(properties["csra_lab"]) == model.config()
    assert "thresholds" not in properties  # it has none
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]  # weights inside, nothing beside it


def test_an_export_says_nothing_and_leaves_stdout_alone(tmp_path, monkeypatch, capsys):
    before, seen = sys.stdout, []

    def export(model, *, with_resize):
        seen.append(sys.stdout)  # another thread's prints go there
        return export_program(model, with_resize=with_resize)

    monkeypatch.setattr("csra_lab.export.export_program", export)
    export_onnx(classifier(), tmp_path / "model.onnx")
    assert seen == [before]
    assert capsys.readouterr().out == ""


def test_a_saved_program_gives_the_same_logits_and_knows_its_classes(tmp_path):
    model = classifier(num_heads=2)
    path = save_program(model, tmp_path / "model.pt2")
    extra = {"csra_lab": ""}
    program = torch.export.load(path, extra_files=extra).module()
    images = torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(program(images), model(images), rtol=1e-5, atol=1e-5)
    assert json.loads(extra["csra_lab"]) == model.config()
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt2"]


def test_a_file_holds_the_thresholds_that_its_model_has(tmp_path):
    model, limits = classifier(), [0.1, 0.2, 0.3, 0.4, 0.5]
    expected = dict(zip(model.classes, limits, strict=True))
    onnx_file = export_onnx(model, tmp_path / "model.onnx", thresholds=limits)
    stored = {p.key: p.value for p in onnx.load(onnx_file).metadata_props}
    assert json.loads(stored["thresholds"]) == expected
    extra = {"thresholds": ""}
    torch.export.load(save_program(model, tmp_path / "model.pt2", thresholds=np.array(limits)), extra_files=extra)
    assert json.loads(extra["thresholds"]) == expected


@pytest.mark.parametrize("write", [export_onnx, save_program])
@pytest.mark.parametrize("wrong", [[0.5], [0.1, 0.2, 0.3, 0.4, float("nan")], [0.1, 0.2, 0.3, 0.4, 1.5]])
def test_thresholds_that_are_not_one_probability_a_class_write_nothing(write, wrong, tmp_path):
    with pytest.raises(CsraError, match="one probability for each of 5 classes"):
        write(classifier(), tmp_path / "model", thresholds=wrong)
    assert list(tmp_path.iterdir()) == []


def test_exporting_leaves_the_model_as_it_was():
    model = classifier().train().to(torch.float64)
    export_program(model)
    assert model.training
    assert next(model.parameters()).dtype == torch.float64


def test_absent_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CsraError, match="pip install onnx onnxscript"):
        export_onnx(classifier(), tmp_path / "model.onnx")


@pytest.mark.parametrize("with_resize", [False, True])
def test_the_five_lines_that_are_printed_say_what_predict_says(with_resize, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize(
        (120, 90), Image.Resampling.BICUBIC
    )
    exif = Image.Exif()
    exif[0x0112] = 6  # as of an upright telephone
    smooth.save(tmp_path / "photograph.png", exif=exif)
    (tmp_path / "photograph.png").rename(tmp_path / "photograph.jpg")  # lossless, under the name of the example
    model = classifier(num_heads=2)
    export_onnx(model, tmp_path / "model.onnx", with_resize=with_resize)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    code = example(model, "model.onnx", with_resize=with_resize)
    assert len(code.splitlines()) <= 5
    exec(code, names)
    expected = model.predict(tmp_path / "photograph.jpg")[0].probabilities
    np.testing.assert_allclose(names["probabilities"], expected, atol=3e-3 if with_resize else 1e-5)
    stated = {p.key: p.value for p in onnx.load("model.onnx").metadata_props}["preprocessing"]
    assert json.loads(stated) == preprocessing(model, with_resize=with_resize)
    assert "EXIF" in json.loads(stated)["orientation"]


def test_a_program_that_resizes_takes_images_of_any_size():
    model = classifier(num_heads=2)
    program = export_program(model, with_resize=True).module()
    for shape in ((1, 3, 64, 64), (3, 3, 200, 90)):
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
        images = torch.stack([model.transform(to_pil_image(each)) for each in pixels])
        torch.testing.assert_close(program(pixels), model(images), atol=2e-2, rtol=2e-2)


class Seen(torch.nn.Module):
    """A model that gives its normalised images back."""

    image_size, mean, std = 64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def forward(self, images):
        return images


@pytest.mark.parametrize("size", [(383, 256), (256, 383), (40, 30), (64, 90), (64, 64)])
def test_a_program_resizes_as_pillow_but_for_its_rounding_between_directions(size):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    expected = np.asarray(picture.resize((64, 64), Image.Resampling.BILINEAR), dtype=int)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    found = (255 * FromPixels(Seen())(pixels))[0].permute(1, 2, 0).round().int().numpy()
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() < 0.25
