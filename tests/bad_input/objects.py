"""JSON files with something wrong in them: WIDER's and COCO's annotations, model configs, recipes and plans."""

import copy
import json

from csra_lab.datasets import COCO_CLASSES
from csra_lab.recipes import RECIPES
from tests.bad_input.conftest import Case

NAN, INF = float("nan"), float("inf")

# What is no JSON object, whatever was expected.
NO_OBJECT = {
    "nothing": b"", "space": b" ", "a brace": b"{", "a bracket": b"[", "null": b"null", "a number": b"7",
    "a string": b'"text"', "a list": b"[]", "an empty object": b"{}", "two objects": b"{} {}", "a comma": b'{"a": 1,}',
    "single quotes": b"{'a': 1}", "yaml": b"a: 1\n", "html": b"<html></html>", "deep": b"[" * 100_000,
    "deep and closed": b"[" * 60_000 + b"]" * 60_000, "deep objects": b'{"a":' * 60_000 + b"1" + b"}" * 60_000,
    "utf-16": json.dumps({"a": 1}).encode("utf-16"), "bytes": bytes(range(256)), "zeros": bytes(50),
    "a long number": b'{"images": ' + b"9" * 6000 + b"}",
}  # fmt: skip


def no_objects() -> list[Case]:
    return [Case(name, content) for name, content in NO_OBJECT.items()]


def edited(base, *path_and_value):
    """A copy of nested dicts and lists with one place changed; a value of `...` removes it."""
    *path, last, value = path_and_value
    found = result = copy.deepcopy(base)
    for key in path:
        found = found[key]
    if value is ...:
        del found[last]
    else:
        found[last] = value
    return result


def as_case(name: str, content, check=None) -> Case:
    return Case(name, json.dumps(content).encode(), check)


# ---- WIDER -----------------------------------------------------------------------------------------------------------

PERSON = {"bbox": [1, 2, 5, 6], "attribute": [1, 0, -1] + [-1] * 11}
WIDER = {"images": [{"file_name": "test/a.jpg", "targets": [PERSON, PERSON | {"bbox": [3, 3, 4, 4]}]}]}
_FIRST = ("images", 0, "targets", 0)


def two_people(dataset) -> bool:
    return dataset.ids == ("test/a.jpg#0", "test/a.jpg#1") and dataset.targets[0, :3].tolist() == [1, -1, 0]


def wider() -> list[Case]:
    boxes = [
        [0, 0, 5], [0, 0, 5, 5, 5], [], None, "1234", {"x": 1}, [0, 0, 0, 5], [0, 0, 5, -1], [NAN, 0, 5, 5],
        [0, 0, INF, 5], ["a", 0, 5, 5], [[1], 0, 5, 5], [None] * 4, [True, True, True, True], 10**400,
    ]  # fmt: skip
    attributes = [
        [1] * 13, [1] * 15, [], None, "1" * 14, [2] * 14, [0.5] * 14, [NAN] * 14, [None] * 14, ["1"] * 14, [[1]] * 14,
        {"0": 1}, [10**400] * 14,
    ]  # fmt: skip
    names = ["../a.jpg", "/a.jpg", "test/../../a.jpg", "C:\\a.jpg", "", None, 7, ["a.jpg"], "a\0.jpg", "a\n.jpg",
             "\x1b[2J.jpg", "\ud800.jpg"]  # fmt: skip
    cases = [as_case(f"box {b!r:.40}", edited(WIDER, *_FIRST, "bbox", b)) for b in boxes]
    cases += [as_case(f"attributes {a!r:.40}", edited(WIDER, *_FIRST, "attribute", a)) for a in attributes]
    cases += [as_case(f"name {n!r}", edited(WIDER, "images", 0, "file_name", n)) for n in names]
    cases += [
        as_case("no box", edited(WIDER, *_FIRST, "bbox", ...)),
        as_case("no attributes", edited(WIDER, *_FIRST, "attribute", ...)),
        as_case("no name", edited(WIDER, "images", 0, "file_name", ...)),
        as_case("no people", edited(WIDER, "images", 0, "targets", [])),
        as_case("people are a number", edited(WIDER, "images", 0, "targets", 3)),
        as_case("a person is a number", edited(WIDER, *_FIRST, 3)),
        as_case("images are a dict", edited(WIDER, "images", {"0": 1})),
        as_case("an image is a string", edited(WIDER, "images", 0, "test/a.jpg")),
        as_case("a picture listed twice", edited(WIDER, "images", WIDER["images"] * 2)),
        as_case("plain", WIDER, two_people),
        as_case("more keys", edited(WIDER, "images", 0, "scene_id", 3), two_people),
    ]
    return cases + no_objects()


# ---- COCO ------------------------------------------------------------------------------------------------------------

_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
_CATEGORY_IDS = [i for i in range(1, 92) if i not in _UNUSED]
_THING = {"image_id": 3, "category_id": 18, "bbox": [1, 2, 3.5, 4], "iscrowd": 0}
COCO = {
    "images": [{"id": 3, "file_name": "a.jpg"}, {"id": 7, "file_name": "b.jpg"}],
    "annotations": [_THING],
    "categories": [{"id": i, "name": n} for i, n in zip(_CATEGORY_IDS, COCO_CLASSES, strict=True)],
}


def one_dog(dataset) -> bool:
    dog = COCO_CLASSES.index("dog")
    right = dataset.ids == ("a", "b") and dataset.targets[0, dog] == 1 and dataset.targets.sum() == 1
    return right and [b.name for b in dataset.boxes(0)] == ["dog"] and dataset.boxes(1) == []


def coco() -> list[Case]:
    places = {
        ("annotations", 0, "image_id"): [4, 3.5, "three", None, [3], 10**30, NAN, True],
        ("annotations", 0, "category_id"): [12, 0, -1, 17.9, None, "dog", {}],
        ("annotations", 0, "bbox"): [[1, 2, 3], [1, 2, -3, 4], [NAN, 1, 2, 3], [1, 2, INF, 4], "1234", [[1] * 4],
                                     ["1", "2", "3", "x"], [1e39, 1, 1, 1], ["1", "2", "3", "4"]],
        ("annotations", 0, "iscrowd"): ["no", 2, None, [0]],
        ("annotations", 0): [None, 3, "dog", []],
        ("annotations",): [None, {}, "x"],
        ("images", 1, "id"): [3, None, 7.5, [7]],
        ("images", 1, "file_name"): ["a.jpg", "sub/a.jpg", "../b.jpg", "/b.jpg", None, 5, "", "b\x00.jpg"],
        ("images", 1): [None, 3, {}],
        ("images",): [None, [], {}],
        ("categories", 0, "id"): [2, None, "x", 1.5, 91],
        ("categories", 0, "name"): ["persona", None, 4],
        ("categories", 0): [None, 1],
        ("categories",): [None, [], COCO["categories"][:-1]],
    }  # fmt: skip
    cases = [
        as_case(f"{path} is {value!r:.40}", edited(COCO, *path, value))
        for path, values in places.items()
        for value in values
    ]
    cases += [
        as_case("plain", COCO, one_dog),
        as_case("other order", edited(COCO, "categories", COCO["categories"][::-1]), one_dog),
        as_case("no box", edited(COCO, "annotations", 0, "bbox", None), lambda d: d.targets.sum() == 1),
        as_case("an id in letters", edited(COCO, "images", 1, "id", "x"), lambda d: d.targets.sum() == 1),
        as_case("no crowd flag", edited(COCO, "annotations", 0, "iscrowd", ...), one_dog),
    ]
    return cases + no_objects()


# ---- a model's config ------------------------------------------------------------------------------------------------

CONFIG = {
    "backbone": "test_resnet", "classes": ["a", "b", "c"], "head": {"kind": "csra"}, "image_size": 64,
    "mean": [0.5] * 3, "std": [0.5] * 3,
}  # fmt: skip


def configs() -> list[Case]:
    places = {
        ("backbone",): ["", "..", "hf-hub:somebody/something", "local-dir:/etc", "/etc/passwd", "resnet18; ls", None],
        ("classes",): [{"a": 1}, [["a"], "b", "c"], ["a", "b", "\x1b[2J"], ["a", "b", "c\nd"], ["a", "b", ""],
                       ["a", "b", "\ud800"], ["a", "b"] * 500],
        ("image_size",): [0, -64, 64.0, True, None, "64", NAN, 10**6, 10**30, 30_000],
        ("mean",): [[NAN] * 3, [INF] * 3, [True] * 3, [10**400] * 3, ["0.5"] * 3, 0.5],
        ("std",): [[0, 1, 1], [-1] * 3, [INF] * 3],
        ("head",): [
            {"kind": "csra", "num_heads": 10**9, "temperatures": [1]}, {"kind": "csra", "num_heads": 3},
            {"kind": "csra", "num_heads": 0}, {"kind": "csra", "num_heads": 1.0}, {"kind": "csra", "num_heads": True},
            {"kind": "csra", "lam": None}, {"kind": "csra", "lam": "0.1"}, {"kind": "csra", "lam": INF},
            {"kind": "csra", "lam": 10**400}, {"kind": "csra", "lam": True},
            {"kind": "csra", "temperatures": "1"}, {"kind": "csra", "temperatures": ["hot"]},
            {"kind": "csra", "temperatures": [-1]}, {"kind": "csra", "temperatures": [NAN]},
            {"kind": "csra", "temperatures": [[1]]}, {"kind": "csra", "temperatures": 1},
            {"kind": "csra", "temperatures": [True]}, {"kind": "csra", "normalize": "false"},
            {"kind": "csra", "normalize": 0}, {"kind": "csra", "bias": "no"}, {"kind": "csra", "in_features": 3},
            {"kind": "csra", "num_classes": 3}, {"kind": "csra", "__class__": "x"}, {"kind": "csra", "": 1},
            {"kind": "topk", "k": 0}, {"kind": "topk", "k": 1.5}, {"kind": "topk", "k": "3"},
            {"kind": "topk", "k": True},
            {"kind": "gem", "p": 0}, {"kind": "gem", "p": "3"}, {"kind": "gem", "p": INF}, {"kind": "lse", "r": -1},
            {"kind": "spatial", "temperature": "warm"}, {"kind": "spatial", "temperature": None},
            {"kind": "average", "num_heads": 2}, {"kind": ""}, {"kind": None}, {"kind": "__init__"}, None, [],
        ],
    }  # fmt: skip
    cases = [
        as_case(f"{path[-1]} is {value!r:.60}", edited(CONFIG, *path, value))
        for path, values in places.items()
        for value in values
    ]
    cases += [as_case(f"no {key}", edited(CONFIG, key, ...)) for key in CONFIG]
    cases += [as_case("one key more", CONFIG | {"auto_map": "evil.py"}), as_case("plain", CONFIG, callable)]
    return cases + no_objects()


# ---- recipes ---------------------------------------------------------------------------------------------------------

RECIPE = RECIPES["voc2012-lite0-csra"].to_json()
_WRONG = {
    "epochs": ["3", 1.5, True, None, [3], 0, -1, NAN, INF, 10**30],
    "image_size": [0, "224", 224.0, None],
    "batch_size": [0, 0.5, "16", INF],
    "accumulate": [0, 1.5],
    "num_heads": [0, "1", 1.5],
    "seed": [-1, 0.5, "0", None, 10**30],
    "workers": [-2, 1.5, 10**9, "all"],
    "head_lr": [-1, NAN, INF, "0.1", None, [0.1], True],
    "lam": [NAN, INF, "0.1", None],
    "momentum": [1.5, -0.1, NAN, "0.9"],
    "crop_scale": [0, 2, NAN],
    "validation_fraction": [-0.1, 1, "half"],
    "temperatures": ["1", [NAN], ["hot"], [-1], 3, [[1]], [True]],
    "classes": ["dog", [3], [None], {"a": 1}, ["dog", "dog"]],
    "subset": [0, 1.5, "all"],
    "head": ["csra", None, 3, ["csra"], {"kind": "attention"}, {"kind": ["csra"]}, {}],
    "loss": ["bce", 0, {"kind": "mse"}, {"kind": ["bce"]}, {"kind": "bce", "unknown": "maybe"}, {}],
    "data": [None, 3, [], {}],
    "optimizer": ["adam", ""],
    "schedule": ["linear"],
    "precision": ["int8"],
    "freeze_backbone": ["yes", 1, None],
    "normalize": ["false", 0],
    "backbone": [None, 3],
    "dataset": [None, 3],
    "weights": [None, 3],
    "name": [None, 3],
    "epoch": [3],
    "__class__": ["x"],
}


def with_field(field: str, value) -> dict:
    """The recipe as JSON with another value in the part that holds the field."""
    part = next((p for p in RECIPE if isinstance(RECIPE[p], dict) and field in RECIPE[p]), None)
    return RECIPE | ({field: value} if part is None else {part: RECIPE[part] | {field: value}})


def recipes() -> list[Case]:
    cases = [
        as_case(f"{field} is {value!r:.40}", {"recipe": with_field(field, value)})
        for field, values in _WRONG.items()
        for value in values
    ]
    cases += [as_case(f"the recipe is {value!r}", {"recipe": value}) for value in (None, 3, "x", [], [["epochs", 3]])]
    cases += [
        as_case("no name", {"recipe": {k: v for k, v in RECIPE.items() if k != "name"}}),
        as_case("plain", {"recipe": RECIPE}, lambda r: r.to_json() == RECIPE),
        as_case("infinity among temperatures",
                {"recipe": edited(with_field("temperatures", [1.0, "inf"]), "head", "num_heads", 2)},
                lambda r: r.head.temperatures == (1.0, INF)),
        as_case("whole numbers for fractions", {"recipe": edited(with_field("lam", 1), "optimisation", "head_lr", 1)},
                lambda r: r.head.lam == 1),
    ]  # fmt: skip
    return cases + no_objects()


# ---- plans -----------------------------------------------------------------------------------------------------------

PLAN = {
    "name": "mine", "question": "?", "sources": ["photographs"], "seeds": 2,
    "entries": [{"label": "a", "changes": {"head": "average"}}, {"label": "b", "against": "a"}],
}  # fmt: skip


def plans() -> list[Case]:
    places = {
        ("name",): ["", "../x", "a/b", "a b", None, 3, ".", "-", "a\0"],
        ("question",): [None, 3],
        ("sources",): [[], ["moon"], "photographs", None, 3, [None], [["photographs"]]],
        ("seeds",): [0, -1, 1.5, "2", None, True, 10**9],
        ("base",): [None, 3, [], {"epoch": 3}, {"epochs": "3"}, {"lam": NAN}, {"seed": 3}],
        ("choose",): [None, 3, {"z": "x"}, ["a"]],
        ("conditions",): ["no"],
        ("entries",): [[], None, 3, {}, ["a"], [None]],
        ("entries", 0, "label"): ["b", None, 3, "", ["a"], {}],
        ("entries", 0, "changes"): [None, 3, [], {"head": "attention"}, {"wat": 1}, {"head_lr": "x"}, {"seed": 1}],
        ("entries", 0, "four_lines"): [0.1, ["x"], [NAN], "abc", None, [[0.1]]],
        ("entries", 0, "keep"): ["no", 3],
        ("entries", 1, "against"): ["z", 3, None, "b", ["a"]],
        ("entries", 1, "four_lines"): [[0.1]],
        ("entries", 1, "extra"): [1],
        ("extra",): [1],
    }  # fmt: skip
    cases = [
        as_case(f"{path} is {value!r:.40}", edited(PLAN, *path, value))
        for path, values in places.items()
        for value in values
    ]
    cases += [as_case(f"no {key}", edited(PLAN, key, ...)) for key in ("name", "question", "sources", "entries")]
    cases.append(as_case("plain", PLAN, lambda plan: [e.label for e in plan.entries] == ["a", "b"]))
    return cases + no_objects()
