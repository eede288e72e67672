"""Folders as people bring them: read with the right labels, or one sentence that leads on."""

import json
import time

import numpy as np
import pytest
from PIL import Image

from csra_lab._io.notice import CsraWarning
from csra_lab.catalog import load_dataset
from csra_lab.classifier import create_classifier
from csra_lab.datasets import MultiLabelDataset
from csra_lab.datasets.check import check_folder
from csra_lab.datasets.folder import folder_splits
from csra_lab.datasets.images import image_size, walk_images
from csra_lab.datasets.pair import check_pair, match_classes
from csra_lab.errors import CsraError

TARGETS = [[1, 0], [0, 1], [1, 1]]
ROWS = ["photos/0.png", "photos/1.png", "photos/2.png"]


def images(folder, names=("0.png", "1.png", "2.png"), side=(12, 8)):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(names))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (side[1], side[0], 3)).astype(np.uint8)).save(folder / name)


def table(names=ROWS, header="image,cat,dog", labels=TARGETS, mark=","):
    lines = [header.replace(",", mark)]
    return "\n".join(lines + [mark.join([name, *map(str, row)]) for name, row in zip(names, labels, strict=True)])


TABLES = {
    "plain": ("a.csv", table()),
    "semicolons": ("a.csv", table(mark=";")),
    "tabs": ("a.tsv", table(mark="\t")),
    "capitals": ("a.CSV", table()),
    "no suffix": ("a.csv", table([name.removesuffix(".png") for name in ROWS])),
    "backslashes": ("a.csv", table([name.replace("/", "\\") for name in ROWS])),
    "line numbers": ("a.csv", ",image,cat,dog\n0,photos/0.png,1,0\n1,photos/1.png,0,1\n2,photos/2.png,1,1\n"),
    "rows of commas": ("a.csv", table() + "\n,,\n,,\n"),
    "tags with spaces": ("a.csv", "image,tags\nphotos/0.png,cat\nphotos/1.png,dog\nphotos/2.png,cat dog\n"),
    "tags with bars": ("a.csv", "image,tags\nphotos/0.png,cat\nphotos/1.png,dog\nphotos/2.png,dog|cat\n"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::csra_lab._io.notice.CsraWarning")
@pytest.mark.parametrize("case", TABLES)
def test_tables_as_they_come(tmp_path, case):
    name, text = TABLES[case]
    images(tmp_path / "photos")
    (tmp_path / name).write_text(text)
    data = load_dataset("folder", tmp_path, "a")
    assert (data.classes, data.targets.tolist()) == (("cat", "dog"), TARGETS)
    assert [data.image(i).size for i in range(3)] == [(12, 8)] * 3


def test_absolute_paths_inside_the_folder(tmp_path):
    images(tmp_path / "photos")
    (tmp_path / "a.csv").write_text(table([str(tmp_path / name) for name in ROWS]))
    assert load_dataset("folder", tmp_path, "a").ids == tuple(ROWS)
    (tmp_path / "a.csv").write_text(table(["/elsewhere/0.png", *ROWS[1:]]))
    with pytest.raises(CsraError, match=r"line 2: '/elsewhere/0\.png' does not lie inside"):
        load_dataset("folder", tmp_path, "a")


def test_tags_are_the_classes_of_all_splits_and_are_told(tmp_path):
    (tmp_path / "train.csv").write_text("image,tags\n0.png,cat;hot dog\n1.png,cow\n")
    (tmp_path / "test.csv").write_text("image,tags\n2.png,cow;cat\n3.png,\n")
    with pytest.warns(CsraWarning, match="separated by ';'"):
        data = load_dataset("folder", tmp_path, "test")
    assert data.classes == ("cat", "cow", "hot dog")
    assert data.targets.tolist() == [[1, 1, 0], [0, 0, 0]]


def test_tags_are_separated_alike_in_all_splits(tmp_path):
    """Where no test image has two tags, a class of two words must not be split."""
    (tmp_path / "train.csv").write_text("image,tags\n0.png,person|traffic light\n1.png,dog\n")
    (tmp_path / "test.csv").write_text("image,tags\n2.png,traffic light\n3.png,dog\n")
    with pytest.warns(CsraWarning, match=r"separated by '\|'"):
        train, test = (load_dataset("folder", tmp_path, split) for split in ("train", "test"))
    assert train.classes == test.classes == ("dog", "person", "traffic light")
    assert test.targets.tolist() == [[0, 0, 1], [1, 0, 0]]


def test_a_missing_header_is_noticed(tmp_path):
    (tmp_path / "a.csv").write_text("photos/0.png,1,0\nphotos/1.png,0,1\n")
    with pytest.raises(CsraError, match="write the names of the columns above it"):
        load_dataset("folder", tmp_path, "a")


@pytest.mark.parametrize("text", ["0,0,1\n1,1,0\n2,1,1\n", "0,cat dog\n1,dog\n2,cat\n"])
def test_a_missing_header_is_noticed_where_names_have_no_suffix(tmp_path, text):
    images(tmp_path)
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(CsraError, match="write the names of the columns above it"):
        load_dataset("folder", tmp_path, "a")


def test_lists_as_pandas_writes_them_are_no_names(tmp_path):
    (tmp_path / "a.csv").write_text("image,labels\n0.png,\"['dog', 'cat']\"\n1.png,[]\n")
    with pytest.raises(CsraError, match="write the names alone, separated by"):
        load_dataset("folder", tmp_path, "a")


def test_which_of_two_files_of_a_split_is_read_is_said(tmp_path):
    images(tmp_path / "photos")
    (tmp_path / "train.csv").write_text(table())
    (tmp_path / "train.tsv").write_text(table(mark="\t"))
    with pytest.warns(CsraWarning, match=r"train\.csv is read, and train\.tsv, of the same split, is not"):
        load_dataset("folder", tmp_path, "train")
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    for year in ("2014", "2017"):
        (tmp_path / "coco" / "annotations" / f"instances_train{year}.json").write_text(coco())
    with pytest.warns(CsraWarning, match=r"instances_train2014\.json is read, and instances_train2017\.json"):
        folder_splits(tmp_path / "coco")
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    with pytest.warns(CsraWarning, match=r"read as VOC's layout; train\.csv beside it is not read"):
        folder_splits(tmp_path)


def test_missing_splits_name_the_options(tmp_path):
    for name in ("train", "val"):
        (tmp_path / f"{name}.csv").write_text(table([f"{name}/{row}" for row in ROWS]))
    with pytest.raises(CsraError, match="--train-split train --test-split val"):
        load_dataset("folder", tmp_path, "test")
    assert len(load_dataset("folder", tmp_path, "trainval")) == 6
    assert len(load_dataset("folder", tmp_path, "train+val")) == 6


def devkit(root, ids, objects, suffix=".jpg", lists=("trainval",)):
    for sub in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (root / sub).mkdir(parents=True, exist_ok=True)
    for name in lists:
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(ids), encoding="utf-8")
    images(root / "JPEGImages", [f"{i}{suffix}" for i in ids])
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>2</ymax></bndbox>"
    for i, names in zip(ids, objects, strict=True):
        inside = "".join(f"<object><name>{n}</name>{d}{box}</object>" for n, d in names)
        size = "<size><width>12</width><height>8</height></size>"
        (root / "Annotations" / f"{i}.xml").write_text(f"<annotation>{size}{inside}</annotation>", encoding="utf-8")
    return root


HARD = "<difficult>1</difficult>"


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".png", ".jpeg"])
@pytest.mark.parametrize("ids", [("a", "b"), ("IMG 1 (0)", "IMG 1 (1)"), ("图片0", "图片1")])
def test_labels_from_xml_alone(tmp_path, suffix, ids):
    devkit(tmp_path, ids, [[("cat", ""), ("dog", HARD), ("cat", HARD)], [("dog", "")]], suffix)
    data = load_dataset("folder", tmp_path, "trainval")
    assert (data.classes, data.targets.tolist(), data.ids) == (("cat", "dog"), [[1, -1], [0, 1]], ids)
    assert data.image(1).size == (12, 8)


def test_class_lists_with_spaces_in_the_ids(tmp_path):
    ids = ("IMG 1 (0)", "IMG 1 (1)")
    devkit(tmp_path, ids, [[("cat", "")], []])
    (tmp_path / "ImageSets" / "Main" / "cat_trainval.txt").write_text(f"{ids[0]} 1\n{ids[1]} -1\n")
    assert load_dataset("folder", tmp_path, "trainval").targets.tolist() == [[1], [0]]


def test_a_class_in_another_case_is_told_and_not_dropped(tmp_path):
    devkit(tmp_path, ("a", "b"), [[("Cat", "")], []])
    (tmp_path / "ImageSets" / "Main" / "cat_trainval.txt").write_text("a 1\nb -1\n")
    data = load_dataset("folder", tmp_path, "trainval")
    with pytest.raises(CsraError, match="the class 'Cat', the labels 'cat'"):
        data.boxes(0)


def coco(file_names=("0.png", "1.png"), ids=("p", "q"), bbox=(1, 2, 3, 4)):
    things = [{"image_id": ids[0], "category_id": 7, "bbox": list(bbox)}, {"image_id": ids[1], "category_id": 3}]
    return json.dumps({
        "images": [{"id": i, "file_name": n} for i, n in zip(ids, file_names, strict=True)],
        "annotations": things, "categories": [{"id": 7, "name": "rust"}, {"id": 3, "name": "crack"}],
    })  # fmt: skip


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("annotations/instances_train.json", "train"),
        ("annotations/instances_train2017.json", "train2017"),
        ("train/_annotations.coco.json", "train"),
        ("train.json", "images"),
    ],
)
def test_coco_of_ones_own(tmp_path, file, folder):
    images(tmp_path / folder)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(coco())
    data = load_dataset("folder", tmp_path, "train")
    assert (data.classes, data.targets.tolist()) == (("crack", "rust"), [[0, 1], [1, 0]])
    assert data.image(0).size == (12, 8)
    assert [(b.name, b.xmin, b.xmax) for b in data.boxes(0)] == [("rust", 1, 4)]
    assert data.boxes(1) == []


def test_coco_with_other_categories_leads_to_the_folder_loader(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text(coco())
    with pytest.raises(CsraError, match=r"80 categories.*folder-lite0-csra"):
        load_dataset("coco2014", tmp_path, "val")


@pytest.mark.parametrize(
    "names", ["names: [cat, 'hot dog']", "names:\n  - cat\n  - hot dog", "names:\n  0: cat\n  1: hot dog"]
)
@pytest.mark.parametrize("layout", ["images/train", "train/images"])
def test_yolo(tmp_path, names, layout):
    images(tmp_path / layout)
    labels = tmp_path / layout.replace("images", "labels")
    labels.mkdir(parents=True)
    (labels / "0.txt").write_text("1 0.5 0.5 0.1 0.1\n")
    (labels / "1.txt").write_text("0 0.5 0.5 0.1 0.1\n1 0.5 0.5 0.1 0.1\n")
    (tmp_path / "data.yaml").write_text(f"path: .\nnc: 2\n{names}\n")
    data = load_dataset("folder", tmp_path, "train")
    assert (data.classes, data.targets.tolist()) == (("cat", "hot dog"), [[0, 1], [1, 1], [0, 0]])
    (labels / "0.txt").write_text("2 0.5 0.5 0.1 0.1\n")
    with pytest.raises(CsraError, match="class 2 is not among the 2"):
        load_dataset("folder", tmp_path, "train")


def yolo_names(folder, text, file="data.yaml"):
    """The names of the classes of a folder with two images, in the order of their numbers."""
    images(folder / "images" / "train")
    (folder / "labels" / "train").mkdir(parents=True)
    (folder / file).write_text(text)
    return load_dataset("folder", folder, "train").classes


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("names:\n  1: dog\n\n  # the first\n  0: cat\n\nnc: 2", ("cat", "dog")),
        ("names: {1: dog, 0: cat}", ("cat", "dog")),
        ("names: ['hot dog, plain', \"[cat]\", it's]", ("hot dog, plain", "[cat]", "it's")),
        ("names: [\n  cat, # one\n  C#,\n]", ("cat", "C#")),
        (r'names: ["\xC4rger", "\u732B", "\U0001F408", "on\/off\\"]', ("Ärger", "猫", "🐈", "on/off\\")),
        ("names:\n- 'it''s # one' # two\n- \"a \\\"b\\\"\"\nnc: 2", ("it's # one", 'a "b"')),
    ],
)
def test_names_of_yolo_keep_their_numbers_and_quotes(tmp_path, names, expected):
    assert yolo_names(tmp_path, names) == expected


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("names:\n  0: cat\n  2: dog", "the numbers of the 2 classes must be 0 to 1"),
        ("names: {0: cat, 0: dog}", "the numbers of the 2 classes must be 0 to 1"),
        ("names: [cat, 'dog]", "cannot be read"),
        ("names:\n  -\n  - dog", "cannot be read"),
        ("names: [cat, '']", "must be distinct and not empty"),
        (r'names: [cat, "a\tb"]', "must be distinct and not empty"),
    ],
)
def test_names_of_yolo_that_leave_a_class_unknown_are_refused(tmp_path, names, words):
    with pytest.raises(CsraError, match=words):
        yolo_names(tmp_path, names)


def test_text_files_of_yolo_that_belong_to_no_image_are_told(tmp_path):
    yolo_names(tmp_path, "names: [cat, dog]")
    (tmp_path / "labels" / "train" / "1.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    load_dataset("folder", tmp_path, "train")
    for name in ("x_0.txt", "2.TXT"):
        (tmp_path / "labels" / "train" / name).write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.warns(CsraWarning, match=r"2 of 3 text files belong to no image and are not read, such as 2\.TXT"):
        load_dataset("folder", tmp_path, "train")


def test_data_yaml_names_the_classes_whatever_lies_beside_it(tmp_path):
    yolo_names(tmp_path, "names: [cat, dog]")
    (tmp_path / "a.yaml").write_text("names: [x, y]")
    with pytest.warns(CsraWarning, match=r"data\.yaml names; a\.yaml names others"):
        assert load_dataset("folder", tmp_path, "train").classes == ("cat", "dog")


def test_a_blank_line_among_the_names_of_yolo_shifts_no_class(tmp_path):
    assert yolo_names(tmp_path / "a", "cat\ndog\n\n", "classes.txt") == ("cat", "dog")
    with pytest.raises(CsraError, match=r"classes\.txt: the names"):
        yolo_names(tmp_path / "b", "cat\n\ndog\n", "classes.txt")


# ---- pairs, keys and images ------------------------------------------------------------------------------------------


def two_tables(folder, test_text):
    (folder / "trainval.csv").write_text(table())
    (folder / "test.csv").write_text(test_text)
    return [load_dataset("folder", folder, split) for split in ("trainval", "test")]


def test_order_is_no_fault_and_extra_classes_are_told(tmp_path):
    names = ["3.png", "4.png", "5.png"]
    train, test = two_tables(tmp_path, table(names, "image,dog,cat", [row[::-1] for row in TARGETS]))
    assert check_pair(train, test).targets.tolist() == TARGETS
    train, test = two_tables(tmp_path, table(names, "image,cat,dog,cow", [[*row, 0] for row in TARGETS]))
    with pytest.warns(CsraWarning, match="cow were not trained"):
        assert check_pair(train, test).classes == ("cat", "dog")


def test_classes_and_images_that_do_not_fit(tmp_path):
    train, test = two_tables(tmp_path, table(["3.png", "4.png", "5.png"], "image,Cat,dog"))
    with pytest.raises(CsraError, match=r"'cat' \('Cat' there\)"):
        match_classes(train.classes, test)
    train, test = two_tables(tmp_path, table([ROWS[0], "4.png", "5.png"]))
    with pytest.raises(CsraError, match="1 items are in trainval and in test"):
        check_pair(train, test)


def test_a_test_on_the_training_images_is_told(tmp_path):
    (tmp_path / "trainval.csv").write_text(table())
    train = load_dataset("folder", tmp_path, "trainval")
    with pytest.warns(CsraWarning, match="the test split is the training split, trainval"):
        check_pair(train, train)


@pytest.mark.parametrize("classes", [("a", "b\n"), ("a", ""), ("a", 1), "ab"])
def test_classes_that_no_file_could_hold_are_refused_at_once(classes):
    with pytest.raises(CsraError, match="classes must be a list of names"):
        MultiLabelDataset(name="n", split="s", classes=classes, ids=["i"], paths=["p"], targets=[[0, 1]])
    with pytest.raises(CsraError, match="distinct class names"):
        create_classifier("test_resnet", classes=("x", 2) if classes == "ab" else classes, image_size=32)


def test_keys_tell_images_apart_by_their_path(tmp_path):
    names = [f"patient{i}/study1/view1.jpg" for i in range(3)]
    (tmp_path / "a.csv").write_text(table(names))
    data = load_dataset("folder", tmp_path, "a")
    assert data.keys == tuple(names)
    assert data.subset([2, 0]).keys == (names[2], names[0])
    (tmp_path / "a.csv").write_text(table())
    assert load_dataset("folder", tmp_path, "a").keys == ("0.png", "1.png", "2.png")  # one folder: the file name


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("drawn", ["stored", "upright"])
@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_boxes_turn_with_their_image(tmp_path, orientation, drawn, suffix):
    devkit(tmp_path, ("a",), [[("cat", "")]], suffix=f".{suffix}")  # a box of columns 0 to 3, rows 0 and 1 of 12 x 8
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[0:2, 0:4] = 255
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    upright_size = (8, 12) if orientation >= 5 else (12, 8)
    if drawn == "upright" and orientation >= 5:  # the annotation's size says which
        xml = tmp_path / "Annotations" / "a.xml"
        xml.write_text(xml.read_text().replace("<width>12</width><height>8<", "<width>8</width><height>12<"))
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    image.save(tmp_path / "JPEGImages" / f"a.{suffix}", exif=image.getexif(), **options)
    (tmp_path / "ImageSets" / "Main" / "cat_trainval.txt").write_text("a 1\n")
    data = load_dataset("folder", tmp_path, "trainval")
    (box,) = data.boxes(0)
    seen = np.asarray(data.image(0))[..., 0] > 128
    assert data.image(0).size == image_size(data.paths[0]) == upright_size
    if drawn == "upright" and orientation >= 5:
        assert (box.xmin, box.ymin, box.xmax, box.ymax) == (0, 0, 4, 2)
    else:
        rows, columns = np.where(seen)
        assert (box.xmin, box.ymin, box.xmax, box.ymax) == (
            columns.min(),
            rows.min(),
            columns.max() + 1,
            rows.max() + 1,
        )


def test_a_turned_image_that_fits_no_annotation_is_refused(tmp_path):
    devkit(tmp_path, ("a",), [[("cat", "")]])
    image = Image.new("RGB", (20, 30))
    image.getexif()[0x0112] = 6
    image.save(tmp_path / "JPEGImages" / "a.jpg", exif=image.getexif())
    (tmp_path / "ImageSets" / "Main" / "cat_trainval.txt").write_text("a 1\n")
    with pytest.raises(CsraError, match="save the image upright"):
        load_dataset("folder", tmp_path, "trainval").boxes(0)


def test_hidden_files_are_no_images_and_the_skipped_are_counted(tmp_path):
    images(tmp_path, ("a.png", ".ipynb_checkpoints/a.png", "__MACOSX/a.png", "sub/b.PNG"))
    for name in ("._a.png", "notes.txt", "c.heic"):
        (tmp_path / name).write_bytes(b"x")
    found, skipped = walk_images(tmp_path)
    assert [p.name for p in found if p.suffix != ".heic"] == ["a.png", "b.PNG"]
    assert skipped[".txt"] == 1
    assert sum(skipped.values()) + len(found) == 4


# ---- data check ------------------------------------------------------------------------------------------------------


def checked(folder):
    return {f.message: f for f in check_folder(folder)}


def many(folder, count=24):
    names = [f"{i}.png" for i in range(count)]
    images(folder, names)
    (folder / "trainval.csv").write_text(table(names, labels=[TARGETS[i % 2] for i in range(count)]))
    return names


def test_a_quarter_black_is_named_in_full(tmp_path):
    names = many(tmp_path)
    for name in names[:6]:
        Image.new("RGB", (12, 8)).save(tmp_path / name)
    (finding,) = [f for f in check_folder(tmp_path) if "black or flat" in f.message]
    assert finding.level == "error"
    assert sorted(finding.files) == sorted(str(tmp_path / name) for name in names[:6])


def test_twelve_bits_in_sixteen(tmp_path):
    names = many(tmp_path)
    rng = np.random.default_rng(0)
    for name in names[:12]:
        Image.fromarray(rng.integers(0, 4096, (8, 12)).astype(np.uint16)).save(tmp_path / name)
    (finding,) = [f for f in check_folder(tmp_path) if "16 bits" in f.message]
    assert "use 12 of them" in finding.message
    assert len(finding.files) == 12


def test_the_same_image_with_other_labels(tmp_path):
    names = many(tmp_path)
    (tmp_path / names[1]).write_bytes((tmp_path / names[0]).read_bytes())
    (finding,) = [f for f in check_folder(tmp_path) if "with other labels" in f.message]
    assert finding.level == "error"


def test_what_is_no_fault(tmp_path):
    many(tmp_path)
    (tmp_path / "sample_submission.csv").write_text("image,label\nx.jpg,cat dog\n")
    assert {f.level for f in check_folder(tmp_path)} == {"fine"}
    assert any("left alone" in message for message in checked(tmp_path))


def test_numbered_classes_are_not_misspelt(tmp_path):
    classes = [f"category_{i:03d}" for i in range(120)]
    images(tmp_path, ["0.png"])
    (tmp_path / "a.csv").write_text("image," + ",".join(classes) + "\n0.png" + ",1" * 120)
    assert not [f for f in check_folder(tmp_path) if "spelt" in f.message]


def test_trainval_may_be_train_and_val(tmp_path):
    names = many(tmp_path)
    text = (tmp_path / "trainval.csv").read_text().splitlines()
    (tmp_path / "train.csv").write_text("\n".join(text[:13]))
    (tmp_path / "val.csv").write_text("\n".join([text[0], *text[13:]]))
    assert len(names) == 24
    assert not [f for f in check_folder(tmp_path) if f.level == "error"]


def test_time_grows_with_the_rows_and_no_faster(tmp_path):
    def seconds(count):
        names = [f"{i}.jpg" for i in range(count)]
        (tmp_path / "a.csv").write_text(table([*names, names[-1]], labels=[[1, 0]] * count + [[1, 0]]))
        start = time.process_time()
        with pytest.raises(CsraError, match="listed twice"):
            load_dataset("folder", tmp_path, "a")
        return time.process_time() - start

    seconds(1000)
    small, large = (min(seconds(count) for _ in range(3)) for count in (4_000, 16_000))
    assert large < 10 * small + 0.1  # 4 times where it grows with the rows, 16 times with their square


def test_a_photograph_in_a_circle_of_links_is_one(tmp_path):
    images(tmp_path, ("a/1.png", "b/2.png"))
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "across").symlink_to(tmp_path / "a")
    found, _ = walk_images(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a/1.png", "b/2.png"]


def yolo(root):
    for split in ("train", "val"):
        images(root / "images" / split)
        (root / "labels" / split).mkdir(parents=True)
        for k in range(3):
            (root / "labels" / split / f"{k}.txt").write_text(f"{int(split == 'val')} 0.5 0.5 0.1 0.1\n")
    (root / "data.yaml").write_text("names: [cat, dog]\n")


def test_splits_of_yolo_whose_images_share_their_names_are_joined_whole(tmp_path):
    yolo(tmp_path)
    data = load_dataset("folder", tmp_path, "trainval")
    names = [f"{split}/{k}.png" for split in ("train", "val") for k in range(3)]
    assert list(data.ids) == names
    assert [path.relative_to(tmp_path / "images").as_posix() for path in data.paths] == names
    assert data.targets.tolist() == [[1, 0]] * 3 + [[0, 1]] * 3
    assert len(set(data.keys)) == 6


@pytest.mark.parametrize("shared", [True, False])
def test_joined_splits_of_coco_ask_each_its_own_boxes(tmp_path, shared):
    for k, split in enumerate(("train", "valid")):
        names = [f"{i if shared else 10 * k + i}.png" for i in range(3)]
        images(tmp_path / split, names)
        content = {
            "images": [{"id": i, "file_name": name, "width": 12, "height": 8} for i, name in enumerate(names)],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [k, i, 2, 2]} for i in range(3)],
        }
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(content))
    data = load_dataset("folder", tmp_path, "trainval")
    assert data.ids == (
        ("train/0", "train/1", "train/2", "valid/0", "valid/1", "valid/2") if shared
        else ("0", "1", "2", "10", "11", "12")
    )  # fmt: skip
    corners = [(box.xmin, box.ymin) for i in range(6) for box in data.boxes(i)]
    assert corners == [(k, i) for k in range(2) for i in range(3)]
    assert data.box_reader.size(data.ids[4]) == (12, 8)


@pytest.mark.parametrize("stray", ["results.csv", "log.json"])
def test_a_stray_file_hides_no_layout(tmp_path, stray):
    yolo(tmp_path)
    (tmp_path / stray).write_text("epoch,loss\n1,2\n" if stray.endswith("csv") else "{}")
    assert folder_splits(tmp_path) == ["train", "val"]
    assert len(load_dataset("folder", tmp_path, "val")) == 3
    assert not [finding for finding in check_folder(tmp_path) if finding.level == "error" and stray in finding.message]
