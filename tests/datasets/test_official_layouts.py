"""VOC2007, VOC2012 and WIDER-Attribute as they are handed out, on generated images: the paper's recipes end to end.

Folders, names and files are those that the official archives unpack to; only the pixels are made here, and the network
is a toy. What the recipes say of the data (splits, augmentation, loss, heads) stays as it is.
"""

import json

import numpy as np
import pytest
from PIL import Image

from csra_lab.catalog import load_dataset
from csra_lab.cli import main
from csra_lab.datasets import VOC_CLASSES
from csra_lab.study import grid
from csra_lab.study.grid_record import read_record
from csra_lab.training.run_folder import read_evaluation, read_recipe

TOY = ["--backbone", "test_resnet", "--weights", "none", "--image-size", "64", "--epochs", "1", "--batch-size", "4",
       "--workers", "0", "--quiet"]  # fmt: skip
XML = """<annotation>
\t<folder>VOC{year}</folder>
\t<filename>{id}.jpg</filename>
\t<source>
\t\t<database>The VOC{year} Database</database>
\t\t<annotation>PASCAL VOC{year}</annotation>
\t\t<image>flickr</image>
\t</source>
\t<size>
\t\t<width>{width}</width>
\t\t<height>{height}</height>
\t\t<depth>3</depth>
\t</size>
\t<segmented>0</segmented>
{objects}</annotation>
"""
OBJECT = """\t<object>
\t\t<name>{name}</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>0</truncated>
\t\t<difficult>{difficult}</difficult>
\t\t<bndbox>
\t\t\t<xmin>3</xmin>
\t\t\t<ymin>4</ymin>
\t\t\t<xmax>30</xmax>
\t\t\t<ymax>20</ymax>
\t\t</bndbox>
{part}\t</object>
"""
PART = """\t\t<part>
\t\t\t<name>head</name>
\t\t\t<bndbox>
\t\t\t\t<xmin>8</xmin>
\t\t\t\t<ymin>5</ymin>
\t\t\t\t<xmax>12</xmax>
\t\t\t\t<ymax>9</ymax>
\t\t\t</bndbox>
\t\t</part>
"""


def photograph(path, rng, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = rng.integers(0, 255, (6, 8, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR).save(path)


def unpack_voc(root, year, splits, seed):
    """What one official archive adds to VOCdevkit/VOC{year}: split -> ids; labels of every class by split and id."""
    rng, base = np.random.default_rng(seed), root / "VOCdevkit" / f"VOC{year}"
    for folder in ("Annotations", "ImageSets/Main", "ImageSets/Layout", "ImageSets/Segmentation", "JPEGImages",
                   "SegmentationClass", "SegmentationObject"):  # fmt: skip
        (base / folder).mkdir(parents=True, exist_ok=True)
    labels = {}
    for image_id in dict.fromkeys(i for ids in splits.values() for i in ids):
        names = rng.choice(VOC_CLASSES, size=3, replace=False)
        labels[image_id] = {names[0]: 1, names[1]: 1, names[2]: 0}  # the last: only difficult objects
        size = (48, 36) if rng.random() < 0.7 else (36, 48)
        photograph(base / "JPEGImages" / f"{image_id}.jpg", rng, size)
        objects = "".join(
            OBJECT.format(name=name, difficult=1 - value, part=PART if year == "2012" and name == "person" else "")
            for name, value in labels[image_id].items()
        )
        xml = XML.format(year=year, id=image_id, width=size[0], height=size[1], objects=objects)
        (base / "Annotations" / f"{image_id}.xml").write_text(xml)
    lists = base / "ImageSets" / "Main"
    for split, ids in splits.items():
        (lists / f"{split}.txt").write_text("".join(f"{i}\n" for i in ids))
        for name in VOC_CLASSES:
            lines = (f"{i} {labels[i].get(name, -1):2d}\n" for i in ids)
            (lists / f"{name}_{split}.txt").write_text("".join(lines))
    return labels


def voc2007(root):
    """VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar, unpacked one after the other into the same folder."""
    trainval = [f"{i:06d}" for i in (5, 7, 9, 12, 16, 17, 19, 20)]
    test = [f"{i:06d}" for i in (1, 2, 3, 4, 6, 8)]
    labels = unpack_voc(root, "2007", {"train": trainval[:4], "val": trainval[4:], "trainval": trainval}, 0)
    return labels | unpack_voc(root, "2007", {"test": test}, 1), trainval, test


def voc2012(root):
    """VOCtrainval_11-May-2012.tar: no test list and no test labels."""
    train, val = ([f"2008_{i:06d}" for i in part] for part in (range(2, 10), range(20, 26)))
    return unpack_voc(root, "2012", {"train": train, "val": val, "trainval": sorted(train + val)}, 2), train, val


def voc2012_test(root):
    """VOC2012test.tar, unpacked into the same folder: photographs and their list, without labels. The ids."""
    ids, base, rng = [f"2008_{i:06d}" for i in (1, 11, 13)], root / "VOCdevkit" / "VOC2012", np.random.default_rng(4)
    for image_id in ids:
        photograph(base / "JPEGImages" / f"{image_id}.jpg", rng, (48, 36))
    (base / "ImageSets" / "Main" / "test.txt").write_text("".join(f"{i}\n" for i in ids))
    return ids


def wider(root):
    """wider_attribute_image.tgz and wider_attribute_annotation.zip. People of each part: how many."""
    rng, people = np.random.default_rng(3), {}
    for file, parts in (("trainval", ("train", "val")), ("test", ("test",))):
        images = []
        for part in parts:
            for i in range(3):
                name = f"{part}/{i}--Event/{i}_Event_event_{i}_{100 + i}.jpg"
                photograph(root / "Image" / name, rng, (90, 60))
                targets = [
                    {"attribute": rng.choice([-1, 0, 1], 14, p=[0.6, 0.1, 0.3]).tolist(),
                     "bbox": [8.5 + 25 * k, 3.25, 14.0, 50.5]}
                    for k in range(3)
                ]  # fmt: skip
                images.append({"file_name": name, "scene_id": i, "targets": targets})
                people[part] = people.get(part, 0) + len(targets)
        (root / "Annotations").mkdir(exist_ok=True)
        content = {
            "images": images,
            "attribute_id_map": {str(k): f"a{k}" for k in range(14)},
            "scene_id_map": {str(k): f"{k}--Event" for k in range(30)},
        }
        (root / "Annotations" / f"wider_attribute_{file}.json").write_text(json.dumps(content))
    return people


def trained(recipe, data, out, *more):
    """A paper's recipe by its command, with a toy network: the recipe that ran, and the scored test split."""
    main(["train", recipe, "--data", str(data), "--out", str(out), *TOY, *more])
    return read_recipe(out), read_evaluation(out)


@pytest.mark.parametrize("head", ["csra", "avg"])
def test_voc2007_trainval_and_test_in_one_folder(tmp_path, head, capsys):
    labels, trainval, test = voc2007(tmp_path)
    sets = [load_dataset("voc2007", tmp_path, split) for split in ("trainval", "test")]
    assert [list(each.ids) for each in sets] == [trainval, test]
    meaning = {1: 1, 0: -1, -1: 0}  # difficult only is ignored
    for dataset in sets:
        for image_id, row in zip(dataset.ids, dataset.targets, strict=True):
            assert row.tolist() == [meaning[labels[image_id].get(name, -1)] for name in VOC_CLASSES]
    recipe, scored = trained(f"resnet101-{head}_voc07-448px", tmp_path / "VOCdevkit", tmp_path / "run")
    assert recipe.loss.unknown == "negative"
    assert recipe.optimisation.augmentation == "crop"
    assert recipe.optimisation.step_epochs == 4
    assert list(scored.ids) == test
    assert (scored.targets == -1).sum() == len(test)  # the test ignores what is difficult
    assert "6 images" in capsys.readouterr().out


def test_voc2012_has_no_test_labels_and_trains_on_its_own_lists(tmp_path):
    _, train, val = voc2012(tmp_path)
    lists = ["--train-split", "train", "--test-split", "val"]
    recipe, scored = trained("resnet101-csra_voc12-448px", tmp_path / "VOCdevkit", tmp_path / "run", *lists)
    assert recipe.head.lam == 0.1
    assert list(scored.ids) == val
    assert list(load_dataset("voc2012", tmp_path, "train+val").ids) == train + val
    boxes = load_dataset("voc2012", tmp_path, "val").boxes(0)
    assert len(boxes) == 3  # the parts of a person are no objects
    assert (boxes[0].xmin, boxes[0].ymin, boxes[0].xmax, boxes[0].ymax) == (2, 3, 30, 20)


def test_voc2012_with_its_test_photographs_goes_to_the_server(tmp_path, capsys):
    """The paper's command trains on the whole trainval and measures nothing; `evaluate` writes what is submitted."""
    _, train, val = voc2012(tmp_path)
    test, devkit, run = voc2012_test(tmp_path), str(tmp_path / "VOCdevkit"), tmp_path / "run"
    main(["train", "resnet101-csra_voc12-448px", "--data", devkit, "--out", str(run), *TOY])
    assert "voc2012 test has no labels, so the run ends without a test score" in capsys.readouterr().err
    assert not (run / "metrics.json").exists()
    with pytest.raises(SystemExit):
        main(["evaluate", str(run), "--data", devkit])
    assert "for VOC's server, --server-format FOLDER" in capsys.readouterr().err
    assert list(load_dataset("voc2012", tmp_path, "trainval").ids) == sorted(train + val)
    main(["evaluate", str(run), "--data", devkit, "--server-format", str(tmp_path / "submission")])
    folder = tmp_path / "submission" / "results" / "VOC2012" / "Main"
    assert sorted(p.name for p in folder.iterdir()) == sorted(f"comp2_cls_test_{c}.txt" for c in VOC_CLASSES)
    assert [line.split()[0] for line in (folder / "comp2_cls_test_cat.txt").read_text().splitlines()] == test
    assert str(folder) in capsys.readouterr().out


@pytest.mark.parametrize("recipe", ["vitb16-csra_wider-224px", "resnet18-avg_wider-224px"])
def test_wider_trains_on_people_and_cuts_nothing_off_them(tmp_path, recipe):
    people = wider(tmp_path)
    sets = {split: load_dataset("wider", tmp_path, split) for split in ("train", "val", "trainval", "test")}
    assert {split: len(each) for split, each in sets.items()} == {**people, "trainval": people["train"] + people["val"]}
    assert sets["test"].image(0).size == (15, 51)  # 8.5 to 22.5 and 3.25 to 53.75, in whole pixels
    ran, scored = trained(recipe, tmp_path, tmp_path / "run")
    assert ran.optimisation.augmentation == "flip"
    assert "crop_ratio" in ran.unused()
    assert ran.loss.unknown == "negative"
    assert len(scored.ids) == people["test"]
    assert (scored.targets == -1).any()  # unspecified, which the test ignores


def test_the_papers_grid_runs_on_both(tmp_path, monkeypatch, capsys):
    """`csra-lab grid --data voc2007 A wider B`, with toy networks in the paper's recipes."""
    voc2007(tmp_path / "a")
    wider_root = tmp_path / "b"
    wider_root.mkdir()
    wider(wider_root)
    small = {"backbone": "test_resnet", "image_size": 64, "weights": "none", "epochs": 1, "batch_size": 4, "workers": 0}
    toys = {name: recipe.replace(**small) for name, recipe in grid.RECIPES.items() if "-csra_" in name}
    monkeypatch.setattr(grid, "RECIPES", toys)
    main(["grid", "--data", "voc2007", str(tmp_path / "a"), "wider", str(wider_root), "--out", str(tmp_path / "out"),
          "--backbones", "resnet18", "--seeds", "1", "--quiet"])  # fmt: skip
    record = read_record(tmp_path / "out" / "paper" / "record")
    assert len(record.results) == 4
    assert record.about["test_sets"]["wider"]["units"] == 3  # photographs, not people
    assert "4 of 4 runs are done" in capsys.readouterr().out
