import pickle
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from csra_lab.datasets import MultiLabelDataset, open_image
from csra_lab.datasets.transforms import eval_transform
from csra_lab.errors import CsraError


def picture(path, *, size=(40, 30), seed=0, **save):
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path, **save)
    return path


@pytest.fixture
def dataset(tmp_path):
    paths = [picture(tmp_path / f"{k}.png", seed=k) for k in range(4)]
    targets = [[1, 0, -1], [0, 0, 1], [1, 1, 0], [-1, 0, 0]]
    return MultiLabelDataset(
        name="toy", split="test", classes=("a", "b", "c"), ids=("0", "1", "2", "3"), paths=paths, targets=targets
    )


def test_reading_in_threads_leaves_the_filters_of_warnings_alone(tmp_path):
    """Where each reading set and restored them, one that overlapped another left all later warnings ignored."""
    path, before = picture(tmp_path / "x.png", size=(200, 200)), list(warnings.filters)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(open_image, [path] * 200))
    assert warnings.filters == before


def test_pillow_does_not_warn_beside_our_sentence(tmp_path):
    path = picture(tmp_path / "large.png", size=(40, 30))
    code = (
        "from PIL import Image; from csra_lab.datasets import open_image; "
        f"Image.MAX_IMAGE_PIXELS = 1000; print(open_image({str(path)!r}).size)"  # it warns above its own limit
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("(40, 30)\n", "")


def test_items_are_image_and_int8_target(dataset):
    image, target = dataset[1]
    assert image.mode == "RGB"
    assert image.size == (40, 30)
    assert target.dtype == torch.int8
    assert target.tolist() == [0, 0, 1]
    assert dataset.with_transform(lambda im: im.size)[1][0] == (40, 30)
    assert dataset.transform is None  # the first one is untouched
    target[0] = 9
    assert dataset.targets[1, 0] == 0  # and an item is a copy
    with pytest.raises(IndexError):
        dataset[4]


def test_subset_and_classes(dataset):
    part = dataset.subset([2, 0]).select_classes(["c", "a"])
    assert part.ids == ("2", "0")
    assert part.classes == ("c", "a")
    assert part.targets.tolist() == [[0, 1], [-1, 1]]
    assert part[0][0].tobytes() == dataset[2][0].tobytes()
    assert dataset.positives().tolist() == [2, 1, 1]
    assert dataset.subset(np.array([True, False, False, True])).ids == ("0", "3")
    assert len(dataset.subset([])) == 0
    assert len(dataset.select_classes(["b"])) == 4  # images without a positive stay


@pytest.mark.parametrize("names", [["a", "zebra"], ["a", "a"], []])
def test_wrong_classes(dataset, names):
    with pytest.raises(CsraError):
        dataset.select_classes(names)


def test_wrong_class_is_named(dataset):
    with pytest.raises(CsraError, match="no class 'zebra'; its classes are a, b, c"):
        dataset.select_classes(["a", "zebra"])


@pytest.mark.parametrize("indices", [[4], [-5], np.array([True]), ["0"], [0.9], [[0, 1]]])
def test_wrong_indices(dataset, indices):
    with pytest.raises(CsraError):
        dataset.subset(indices)


def test_no_boxes(dataset):
    with pytest.raises(CsraError, match="no boxes"):
        dataset.boxes(0)


@pytest.mark.parametrize(
    "changes",
    [
        {"targets": [[2, 0], [0, 0]]},
        {"targets": [[1, 0]]},
        {"ids": ("x",)},
        {"ids": (1, 2)},
        {"classes": {"a", "b"}},
        {"crops": [[0, 0, 1, 1]]},
    ],
)
def test_pieces_that_do_not_fit(tmp_path, changes):
    good = {"ids": ("x", "y"), "paths": [tmp_path, tmp_path], "targets": [[1, 0], [0, 1]]}
    with pytest.raises(CsraError):
        MultiLabelDataset(name="toy", split="test", **{"classes": ("a", "b"), **good, **changes})


def test_crops_are_widened_clipped_and_share_one_decoding(tmp_path, monkeypatch):
    path = picture(tmp_path / "p.png")
    opened = []
    monkeypatch.setattr("csra_lab.datasets.dataset.open_image", lambda p, **k: opened.append(p) or open_image(p, **k))
    crops = [[2.5, 3, 4, 5], [-5, -5, 10, 10], [35, 25, 99, 99], [50, 0, 5, 5]]
    people = MultiLabelDataset(
        name="toy", split="t", classes=("a",), ids=list("abcd"), paths=[path] * 4, targets=[[1]] * 4, crops=crops
    )
    assert people.image(0).size == (5, 5)  # columns 2 to 6: every pixel that the box touches
    assert people.image(0).tobytes() == open_image(path).crop((2, 3, 7, 8)).tobytes()
    assert people.image(1).size == (5, 5)
    assert people.image(2).size == (5, 5)
    assert opened == [path]
    with pytest.raises(CsraError, match="outside"):
        people.image(3)
    assert pickle.loads(pickle.dumps(people))._last_image is None
    assert people.subset([1]).image(0).size == (5, 5)


def test_the_fingerprint_knows_ids_classes_targets_and_crops():
    def fingerprint(**changes):
        fields = {
            "ids": ["a", "b"], "classes": ("x", "y"), "targets": np.eye(2, dtype=np.int8), "crops": np.ones((2, 4)),
        }  # fmt: skip
        fields |= changes
        return MultiLabelDataset(name="tiny", split="test", paths=["1.jpg", "1.jpg"], **fields).fingerprint()

    changes = {
        "ids": ["a", "c"], "classes": ("x", "z"), "targets": np.ones((2, 2), np.int8), "crops": 2 * np.ones((2, 4)),
    }  # fmt: skip
    found = [fingerprint(), *(fingerprint(**{field: value}) for field, value in changes.items())]
    assert len(set(found)) == len(found)
    assert fingerprint() == found[0]


def test_workers_give_the_same_items(dataset):
    tensors = dataset.with_transform(_to_array)
    here = [tensors[i][0] for i in range(4)]
    loader = torch.utils.data.DataLoader(tensors, batch_size=None, num_workers=1)
    for mine, (theirs, _) in zip(here, loader, strict=True):
        assert np.array_equal(mine, theirs)


def _to_array(image):
    return np.asarray(image).copy()


# ---- photographs as they come --------------------------------------------------------------------------------------


def test_cmyk(tmp_path):
    path = tmp_path / "c.jpg"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, quality=95)
    red = np.asarray(open_image(path)).reshape(-1, 3).mean(0)
    assert red[0] > 240
    assert red[1:].max() < 15


def test_16_bit_grey_keeps_its_range(tmp_path):
    path = tmp_path / "g.png"
    Image.fromarray(np.array([[0, 257, 32768, 65535]], dtype=np.uint16)).save(path)
    assert np.asarray(open_image(path))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_transparency_lies_over_white(tmp_path):
    rgba = tmp_path / "a.png"
    Image.fromarray(np.array([[[200, 0, 0, 0], [200, 0, 0, 255]]], dtype=np.uint8)).save(rgba)
    assert np.asarray(open_image(rgba))[0].tolist() == [[255, 255, 255], [200, 0, 0]]
    palette = tmp_path / "p.png"
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 255, 0, 255, 0])
    image.putpixel((1, 0), 1)
    image.save(palette, transparency=0)
    assert np.asarray(open_image(palette))[0].tolist() == [[255, 255, 255], [0, 255, 0]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / "m.png"
    Image.new("RGB", (8, 6), (255, 255, 255)).convert(mode).save(path)
    image = open_image(path)
    assert (image.mode, image.size) == ("RGB", (8, 6))
    assert np.asarray(image).min() == 255


def test_first_frame_of_an_animation(tmp_path):
    path = tmp_path / "a.gif"
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert open_image(path).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = picture(tmp_path / "o.jpg", size=(24, 16), exif=exif)
    with Image.open(path) as stored:
        expected = ImageOps.exif_transpose(stored).convert("RGB")
        plain = stored.convert("RGB")
    assert open_image(path).tobytes() == expected.tobytes()
    assert open_image(path).size == expected.size
    assert open_image(path, upright=False).tobytes() == plain.tobytes()


def test_min_side_decodes_small_but_not_too_small(tmp_path):
    path = picture(tmp_path / "big.jpg", size=(800, 600))
    assert open_image(path).size == (800, 600)
    assert open_image(path, min_side=600).size == (800, 600)
    assert open_image(path, min_side=301).size == (800, 600)
    assert open_image(path, min_side=300).size == (400, 300)
    assert open_image(path, min_side=100).size == (200, 150)
    assert open_image(path, min_side=1).size == (100, 75)
    png = picture(tmp_path / "big.png", size=(80, 60))
    assert open_image(png, min_side=1).size == (80, 60)


def test_a_set_for_a_size_decodes_large_photographs_small_and_the_same(tmp_path):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, size=(6, 8, 3), dtype=np.uint8))
    path = tmp_path / "big.jpg"
    coarse.resize((1600, 1200), Image.Resampling.BICUBIC).save(path, quality=95)
    options = {"name": "x", "split": "test", "classes": ["a"], "ids": ["0"], "paths": [path]}
    whole = MultiLabelDataset(**options, targets=np.ones((1, 1)))
    assert whole.for_size(64).image(0).size == (200, 150)
    assert whole.for_size(700).image(0).size == whole.image(0).size == (1600, 1200)
    transform = eval_transform(64, mean=(0, 0, 0), std=(1, 1, 1))
    apart = whole.with_transform(transform)[0][0] - whole.for_size(64).with_transform(transform)[0][0]
    assert apart.abs().max() < 0.02  # of 1
    for crop_scale, size in ((0.5, (200, 150)), (0.34, (200, 150)), (0.2, (400, 300)), (0.02, (800, 600))):
        smaller = whole.for_size(64, crop_scale=crop_scale).image(0)
        assert smaller.size == size
        assert min(smaller.size) * (crop_scale * 3 / 4) ** 0.5 >= 64  # the narrowest crop has the pixels that are read
    for crop_ratio, size in ((1, (200, 150)), (6, (400, 300)), (24, (800, 600))):
        assert whole.for_size(64, crop_scale=0.5, crop_ratio=crop_ratio).image(0).size == size
        assert min(size) * (0.5 / crop_ratio) ** 0.5 >= 64
    cut = MultiLabelDataset(**options, targets=np.ones((1, 1)), crops=np.array([[100.0, 200.0, 300.0, 400.0]]))
    assert cut.for_size(64).image(0).size == (300, 400)  # boxes are in pixels of the whole picture


def write(path, content):
    path.write_bytes(content)
    return path


def truncated(tmp_path):
    whole = picture(tmp_path / "whole.jpg", size=(200, 200)).read_bytes()
    return write(tmp_path / "cut.jpg", whole[: len(whole) // 2])


def truncated_png(tmp_path):
    whole = picture(tmp_path / "whole.png", size=(200, 200)).read_bytes()
    return write(tmp_path / "cut.png", whole[: len(whole) // 2])


def png_of(size):
    """A PNG that claims to have size x size pixels and holds none."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0), b"IDAT")
    packed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def floats(tmp_path):
    path = tmp_path / "f.tiff"
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(path)
    return path


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (truncated, "damaged or cut short"),
        (truncated_png, "damaged or cut short"),
        (lambda d: write(d / "bomb.png", png_of(20_000)), "pixels"),
        (lambda d: write(d / "large.png", png_of(10_000)), "10000 x 10000 pixels"),  # Pillow itself only warns
        (floats, "floating-point"),
        (lambda d: write(d / "text.jpg", b"this is no photograph"), "not an image"),
        (lambda d: write(d / "page.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not an image"),
        (lambda d: write(d / "empty.jpg", b""), "empty"),
        (lambda d: d / "missing.jpg", "does not exist"),
        (lambda d: d, "is a folder"),
    ],
)
def test_bad_images_are_one_sentence_with_the_path(tmp_path, make, says):
    path = make(tmp_path)
    with pytest.raises(CsraError, match=says) as caught:
        open_image(path)
    assert str(path) in str(caught.value)


def test_crops_of_a_turned_tiff_are_refused(tmp_path):
    """Pillow turns it as it is read, and crops are of the pixels as they are stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.tif", exif=exif)
    Image.new("RGB", (8, 4)).save(tmp_path / "plain.tif")
    with pytest.raises(CsraError, match=r"turned\.tif is a TIFF turned by its EXIF tag, .* save it as a PNG"):
        open_image(tmp_path / "turned.tif", upright=False)
    assert open_image(tmp_path / "plain.tif", upright=False).size == (8, 4)
