"""The atlas holds what the models say of its pictures: computed again from shipped weights, held against records."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from csra_lab import MultiLabelClassifier, create_classifier, csra_logits
from csra_lab.cli.build_atlas import add_run, main
from csra_lab.datasets import VOC_CLASSES, WIDER_ATTRIBUTES
from csra_lab.datasets.transforms import eval_transform
from csra_lab.errors import CsraError
from csra_lab.recipes import get_recipe
from csra_lab.study.experiments import read_scores
from csra_lab.viz.atlas import ATLAS, add_to_atlas, read_atlas
from tests import toy

DATA = Path(__file__).resolve().parents[2] / "data"


@pytest.fixture(scope="module")
def atlas():
    return read_atlas()


def logits(model) -> np.ndarray:
    """(P, C)"""
    maps = torch.from_numpy(model.maps.astype(np.float32)).flatten(3)
    head = model.head
    if head["kind"] == "average":
        return maps.mean(dim=-1)[:, 0].numpy()
    return csra_logits(maps, [float(t) for t in head["temperatures"]], head["lam"]).numpy()


def test_is_small_and_whole(atlas):
    assert sum(path.stat().st_size for path in ATLAS.rglob("*") if path.is_file()) < 1.2e6
    assert atlas.classes == {"emoji-voc": VOC_CLASSES, "paperdoll-wider": WIDER_ATTRIBUTES}
    on_disk = {path for name in atlas.classes for path in (ATLAS / name).iterdir()}
    assert on_disk == {picture.path for pictures in atlas.pictures.values() for picture in pictures}
    for dataset, pictures in atlas.pictures.items():
        assert 14 <= len({p.id for p in pictures}) == len(pictures)
        assert any(m.dataset == dataset and m.head["kind"] == "average" for m in atlas.models.values())
        assert any(m.dataset == dataset and m.head["kind"] == "csra" for m in atlas.models.values())
    for model in atlas.models.values():
        assert model.maps.dtype == np.float16
        assert np.isfinite(model.maps).all()
        assert {"recipe", "environment"} <= set(model.made)


@pytest.mark.parametrize("row", ["average pooling", "CSRA"])
def test_emoji_maps_pool_to_the_recorded_scores(atlas, row):
    """The recorded run and the atlas trained the same head apart from each other: same data, recipe and seed."""
    scores, truth = read_scores(DATA / "runs/four-lines/emoji")
    model = atlas.models["emoji-voc-lite0-" + row.lower().replace(" ", "-")]
    pictures = atlas.pictures["emoji-voc"]
    assert sum(p.split == "test-unseen" for p in pictures) == 6
    for picture, logit in zip(pictures, logits(model), strict=True):
        place = truth["ids", picture.split].tolist().index(picture.id)
        assert truth["targets", picture.split][place].tolist() == list(picture.targets)
        recorded = scores[row, picture.split][0][place]
        np.testing.assert_allclose(1 / (1 + np.exp(-logit)), recorded, atol=0.02)  # both in half precision


@pytest.mark.skipif(not toy.SAME_PIXELS, reason="Pillow 13 resizes some pictures otherwise")
def test_paperdoll_maps_are_computed_again_from_the_shipped_head(atlas):
    model = MultiLabelClassifier.from_pretrained(ATLAS.parent / "models/paperdoll")
    transform = eval_transform(model.image_size, mean=model.mean, std=model.std)
    kept = atlas.models["paperdoll-wider-lite0-csra"].maps
    with torch.inference_mode():
        for i in (0, 9):
            picture = Image.open(atlas.pictures["paperdoll-wider"][i].path).convert("RGB")
            maps = model.score_maps(transform(picture)[None])[0]
            np.testing.assert_allclose(maps, kept[i].astype(np.float32), atol=0.03, rtol=0.01)


# ---- adding ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    """An atlas of three pictures and no model."""
    folder = tmp_path / "atlas"
    content = json.loads((ATLAS / "pictures.json").read_text())
    del content["paperdoll-wider"]
    content["emoji-voc"]["pictures"] = content["emoji-voc"]["pictures"][:3]
    (folder / "emoji-voc").mkdir(parents=True)
    for picture in content["emoji-voc"]["pictures"]:
        shutil.copy(ATLAS / "emoji-voc" / picture["file"], folder / "emoji-voc")
    (folder / "pictures.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return create_classifier("resnet10t", classes=VOC_CLASSES, head="csra", num_heads=2, lam=0.5, image_size=64).eval()


def test_a_model_is_added_and_read_back(small, network):
    path = add_to_atlas(network, "emoji-voc", name="mine", title="Mine <b>", made={"seed": 1}, folder=small)
    atlas = read_atlas(small)
    model = atlas.models["mine"]
    assert path.name == "mine.safetensors"
    assert (model.title, model.dataset, model.made) == ("Mine <b>", "emoji-voc", {"seed": 1})
    assert model.maps.shape == (3, 2, 20, 2, 2)
    transform = eval_transform(64, mean=network.mean, std=network.std)
    inputs = torch.stack([transform(Image.open(p.path).convert("RGB")) for p in atlas.pictures["emoji-voc"]])
    with torch.inference_mode():
        np.testing.assert_allclose(logits(model), network(inputs), atol=5e-3)


def test_a_run_is_added_by_its_folder(small, network, tmp_path):
    run = tmp_path / "run"
    recipe = get_recipe("emoji-lite0-csra").to_json()
    run.mkdir()
    (run / "recipe.json").write_text(json.dumps({"recipe": recipe, "environment": {}}))
    with pytest.raises(CsraError, match="no trained model"):
        add_run(run, folder=small)
    network.save_pretrained(run / "model")
    add_run(run, folder=small)
    (model,) = read_atlas(small).models.values()
    assert model.name == "emoji-voc-tf_efficientnet_lite0-csra-2-heads"
    assert model.made["recipe"] == recipe


def test_what_does_not_fit_is_one_sentence(small, network, tmp_path, capsys):
    other = create_classifier("resnet10t", num_classes=3, image_size=64)
    with pytest.raises(CsraError, match="3 classes"):
        add_to_atlas(other, "emoji-voc", name="x", title="", made={}, folder=small)
    with pytest.raises(CsraError, match="letters"):
        add_to_atlas(network, "emoji-voc", name="../x", title="", made={}, folder=small)
    with pytest.raises(CsraError, match="no score atlas"):
        read_atlas(tmp_path / "nowhere")
    (small / "models").mkdir()
    (small / "models" / "bad.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(CsraError, match=r"bad\.safetensors"):
        read_atlas(small)
    with pytest.raises(SystemExit):
        main([str(tmp_path / "nowhere")])
    assert "nowhere" in capsys.readouterr().err
