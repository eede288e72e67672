"""The model carries its preprocessing; prediction is batched, in order, in constant memory, and equal to evaluate."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from csra_lab import MultiLabelClassifier, create_classifier
from csra_lab.datasets import MultiLabelDataset
from csra_lab.datasets.transforms import eval_transform
from csra_lab.errors import CsraError, DataError
from csra_lab.prediction import iterate_predictions
from csra_lab.training.evaluation import evaluate, predict_scores

CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return create_classifier("test_resnet", classes=CLASSES, image_size=64, num_heads=2).eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Noise of odd sizes; the first two so large that they are decoded smaller."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    paths = []
    for i, (width, height) in enumerate([(900, 700), (1000, 300), (64, 64), (70, 130), (40, 30)]):
        low = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        low.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg")
        paths.append(folder / f"{i}.jpg")
    return paths


def test_the_model_carries_its_preprocessing(model, files):
    image = Image.open(files[3])
    expected = eval_transform(64, mean=model.mean, std=model.std)(image)
    assert torch.equal(model.transform(image), expected)
    assert model.train_transform(crop_scale=(0.5, 1.0))(image).shape == (3, 64, 64)
    assert model.device == torch.device("cpu")


def test_predict_and_evaluate_give_equal_scores_for_every_image(model, files):
    targets = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 0]])
    ids = [str(i) for i in range(5)]
    data = MultiLabelDataset(name="x", split="test", classes=CLASSES, ids=ids, paths=files, targets=targets)
    _, scores = evaluate(model, data, batch_size=2)
    found = model.predict(files, batch_size=2)
    np.testing.assert_array_equal(np.stack([p.probabilities for p in found]), scores)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 32])
def test_the_order_is_that_of_the_images_whatever_the_batch(model, files, batch_size):
    alone = [model.predict(path)[0].probabilities for path in files]
    found = [p.probabilities for p in model.predict(files, batch_size=batch_size, workers=3)]
    np.testing.assert_allclose(found, alone, atol=1e-6)


def test_files_images_and_tensors_say_the_same(model, files):
    image = Image.open(files[3])
    (a,), (b,), (c,) = (model.predict(x) for x in (files[3], image, model.transform(image)))
    np.testing.assert_array_equal(a.probabilities, b.probabilities)
    np.testing.assert_array_equal(a.probabilities, c.probabilities)
    grey = model.predict(image.convert("L"))[0]
    assert np.isfinite(grey.probabilities).all()


def test_labels_attention_and_score_maps(model, files):
    (found,) = model.predict(files[2], top=2, attention=True, score_maps=True)
    best = np.argsort(-found.probabilities)[:2]
    assert found.labels == tuple((CLASSES[k], found.probabilities[k]) for k in best)
    assert found.attention.shape == (3, *model.backbone.grid)
    np.testing.assert_allclose(found.attention.sum((1, 2)), 1, atol=1e-5)
    logits = model.head.pool(torch.from_numpy(found.score_maps)[None].flatten(3))
    np.testing.assert_allclose(torch.sigmoid(logits)[0].detach().numpy(), found.probabilities, atol=1e-5)
    (plain,) = model.predict(files[2])
    assert plain.attention is None
    assert plain.score_maps is None


def test_a_stream_is_read_only_a_little_ahead(model, files):
    read = []

    def stream():
        for i in range(10_000):
            read.append(i)
            yield files[4]

    predictions = iterate_predictions(model, stream(), batch_size=4)
    for _ in range(8):
        next(predictions)
    predictions.close()
    assert len(read) <= 8 + 3 * 4


def test_prediction_leaves_training_mode_as_it_was(model, files):
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.predict(files[:2])
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.eval()


def test_predictions_that_overlap_are_those_of_one_alone(model, files):
    alone = [p.probabilities for p in model.predict(files)]
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    few, every = (iterate_predictions(model, some, batch_size=1) for some in (files[:2], files))
    seen = [p for pair in zip(few, every, strict=False) for p in pair] + list(every)  # few ends while every goes on
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    for found, expected in zip([*seen[1:4:2], *seen[4:]], alone, strict=True):
        np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    model.eval()


def test_what_cannot_be_predicted_is_named(model, files, tmp_path):
    with pytest.raises(CsraError, match=r"missing\.jpg"):
        model.predict([files[0], tmp_path / "missing.jpg"])
    with pytest.raises(CsraError, match=r"\(3, 64, 64\)"):
        model.predict(torch.zeros(3, 32, 32))
    with pytest.raises(CsraError, match="batch_size"):
        model.predict(files, batch_size=0)
    with pytest.raises(CsraError, match="top"):
        model.predict(files, top=0)


def test_classifiers_that_share_weights_share_no_state():
    model = create_classifier("test_resnet", classes=CLASSES, image_size=64, head="average").train()
    other = model.with_four_lines(0.5)
    assert other.training
    other.eval()
    assert model.training
    assert all(m.training for m in model.modules())
    ours, theirs = dict(model.backbone.named_parameters()), dict(other.backbone.named_parameters())
    assert all(ours[name].data_ptr() == theirs[name].data_ptr() for name in ours)  # the weights are not copied
    assert model.head.weight.data_ptr() == other.head.weight.data_ptr()
    other.requires_grad_(False)
    assert all(p.requires_grad for p in model.parameters())
    other.double()
    assert model.head.weight.dtype == torch.float32
    assert next(model.buffers()).dtype == torch.float32
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 3)


def test_weights_trained_in_one_are_seen_in_the_other():
    model = create_classifier("test_resnet", classes=CLASSES, image_size=64, head="average").eval()
    other, images = model.with_four_lines(0.0), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    torch.testing.assert_close(other(images), model(images))


def test_whole_numbers_of_numpy_are_whole_numbers(files, tmp_path):
    three, two = np.int64(3), np.int32(2)
    model = create_classifier("test_resnet", num_classes=three, image_size=np.int64(64), num_heads=two).eval()
    model.save_pretrained(tmp_path)
    again = MultiLabelClassifier.from_pretrained(tmp_path)
    assert again.config() == model.config()
    (found,) = again.predict(files[2], batch_size=two, top=np.int64(1), workers=np.int64(1))
    assert len(found.labels) == 1


def test_what_was_frozen_stays_frozen(model, files):
    """A batch norm in evaluation mode inside a network that trains."""
    model.train()
    model.backbone.eval()
    model.predict(files[:1])
    predict_scores(model, [(torch.zeros(3, 64, 64), 0)])
    with pytest.raises(CsraError, match="not"):
        model.predict(files[0].with_name("missing.jpg"))
    assert model.training
    assert model.head.training
    assert not any(module.training for module in model.backbone.modules())
    model.eval()


def save_turned(image, folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folder / "turned.jpg", exif=exif)


def save_clear(image, folder):
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(folder / "clear.png")


def save_deep(image, folder):
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")


@pytest.mark.parametrize("save", [save_turned, save_clear, save_deep])
def test_a_pil_image_is_read_as_its_file(model, files, tmp_path, save):
    save(Image.open(files[3]), tmp_path)
    (path,) = tmp_path.iterdir()
    with Image.open(path) as image:
        (file,), (pil,) = model.predict(path), model.predict(image)
    np.testing.assert_array_equal(pil.probabilities, file.probabilities)


def test_a_torn_pil_image_is_one_sentence(model, files, tmp_path):
    path = tmp_path / "torn.jpg"
    path.write_bytes(files[3].read_bytes()[:-500])
    with Image.open(path) as image, pytest.raises(DataError, match=r"torn\.jpg is damaged or cut short"):
        model.predict(image)
    with pytest.raises(DataError, match=r"This PIL image \(F, 4 x 3\) holds floating-point"):
        model.predict(Image.new("F", (4, 3)))


def test_one_lazy_pil_image_is_decoded_once(model, files):
    image = Image.open(files[0])
    found = model.predict([image] * 8, batch_size=4, workers=4)
    assert len({p.probabilities.tobytes() for p in found}) == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_with_fewer_inputs_than_processes_every_process_gets_all_scores(monkeypatch, rank):
    network, inputs = torch.nn.Linear(3, 2), [(torch.ones(3), 0)]
    alone = predict_scores(network, inputs)
    shares = {}

    def gather(own):  # as every process sees it, with the other's share
        shares[rank] = own[0]
        other = {0: None, 1: alone}[rank]
        return [own[0], other] if rank == 0 else [other, own[0]]

    monkeypatch.setattr("accelerate.utils.gather_object", gather)
    np.testing.assert_array_equal(predict_scores(network, inputs, rank=rank, world=2), alone)
    assert (shares[rank] is None) == (rank == 1)


def test_what_is_no_image_is_refused_with_what_is_one():
    model = create_classifier("test_resnet", num_classes=3, image_size=32)
    with pytest.raises(CsraError, match=r"not ndarray; Image\.fromarray of PIL takes arrays"):
        list(iterate_predictions(model, [np.zeros((40, 30, 3), np.uint8)]))
    for number in (3.0, 0, "3"):
        with pytest.raises(CsraError, match="num_classes must be a whole number"):
            create_classifier("test_resnet", num_classes=number, image_size=32)
    with pytest.raises(CsraError, match="mean must be three numbers"):
        create_classifier("test_resnet", num_classes=3, image_size=32, mean=(1, 2), std=(1, 1, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_in_another_precision_predicts(dtype):
    torch.manual_seed(0)
    model = create_classifier("test_resnet", num_classes=3, image_size=32)
    image = Image.new("RGB", (40, 30), "orange")
    (plain,), (other,) = (list(iterate_predictions(m, [image])) for m in (model, copy.deepcopy(model).to(dtype)))
    assert np.allclose(plain.probabilities, other.probabilities, atol=0.02)
