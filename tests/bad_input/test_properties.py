"""Whatever is put in: an answer that keeps its promises, or one sentence. Inputs are drawn by hypothesis."""

import copy
import csv
import io
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from csra_lab.catalog import load_dataset
from csra_lab.datasets.voc import load_devkit
from csra_lab.datasets.voc_xml import read_voc_boxes
from csra_lab.errors import CsraError
from csra_lab.heads import HEADS, create_head, head_config, head_json
from csra_lab.metrics import multilabel_metrics
from csra_lab.recipes import RECIPES, learning_rate_factor
from csra_lab.study.plans import get_plan
from csra_lab.training.run_folder import read_recipe
from tests.bad_input.conftest import is_one_sentence

# The same inputs every time, so that a build does not break on a day without a change.
few = settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
NUMBERS = st.none() | st.booleans() | st.integers(-3, 40) | st.floats() | st.sampled_from(["inf", "1", ""])


@pytest.fixture
def tried(tally):
    """`tried(kind, call)` calls, counts, and gives what came out; None where it was refused in one sentence."""

    def run(kind, call):
        found, refused = None, None
        try:
            found = call()
        except CsraError as error:
            refused = error
        assert refused is None or is_one_sentence(refused), refused
        tally(kind, "read" if refused is None else "refused")
        return found

    return run


@pytest.fixture
def folder(tmp_path):
    """A new folder for each example: hypothesis runs many in one test."""
    return lambda: Path(tempfile.mkdtemp(dir=tmp_path))


# ---- heads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HEADS)
def test_heads_keep_their_promises_for_any_features(kind, tried):
    @few
    @given(
        x=hnp.arrays(
            np.float32,
            st.tuples(st.integers(1, 3), st.just(4), st.integers(1, 4), st.integers(1, 4)),
            elements=st.floats(-1e4, 1e4, width=32),
        ),
        seed=st.integers(0, 99),
        normalize=st.booleans(),
    )
    def holds(x, seed, normalize):
        torch.manual_seed(seed)
        head = tried("properties of heads", lambda: create_head(kind, 4, 3, normalize=normalize))
        features = torch.from_numpy(x)
        logits, attention = head(features), head.attention(features)
        assert logits.shape == (len(x), 3)
        assert logits.isfinite().all()
        assert (attention >= 0).all()
        torch.testing.assert_close(attention.flatten(3).sum(-1), torch.ones(attention.shape[:3]), rtol=0, atol=1e-4)
        order = torch.randperm(x.shape[2] * x.shape[3])
        moved = features.flatten(2)[:, :, order].transpose(1, 2)  # tokens, in another order
        scale = float(features.abs().max()) + 1
        torch.testing.assert_close(head(moved), logits, rtol=1e-3, atol=1e-4 * scale)
        broken = features.clone()
        broken[0, 0, 0, 0] = math.nan
        assert head(broken)[0].isnan().all() or kind == "gem"  # NaN never becomes a number in silence
        assert not head(broken)[0].isfinite().all()

    holds()


OPTIONS = ("num_heads", "lam", "temperatures", "temperature", "r", "p", "k", "normalize", "bias", "colour")


def test_head_options(tried):
    @settings(few, max_examples=150)
    @given(
        kind=st.sampled_from([*HEADS, "attention"]),
        options=st.dictionaries(st.sampled_from(OPTIONS), NUMBERS | st.lists(NUMBERS, max_size=3), max_size=3),
    )
    def holds(kind, options):
        head = tried("head options", lambda: create_head(kind, 4, 3, **options))
        if head is not None:
            torch.nn.init.normal_(head.weight)
            assert not head(torch.randn(2, 4, 3, 3)).isnan().any()
            written = json.loads(json.dumps(head_json(head.config), allow_nan=False))
            assert head_config(written.pop("kind"), **written) == head.config

    holds()


# ---- metrics ---------------------------------------------------------------------------------------------------------

NO_SCORES = [math.nan, math.inf, -math.inf, -1e-9, 1 + 1e-9, 7.5]
NO_TARGETS = [2, -2, 0.5, math.nan, math.inf, 257, 255]


def check_metrics(found, scores, targets) -> None:
    numbers = [getattr(found, name) for name in ("mAP", "CP", "CR", "CF1", "CF1_macro", "OP", "OR", "OF1")]
    assert all(0 <= number <= 1 for number in numbers)
    assert ((np.asarray(scores) >= 0) & (np.asarray(scores) <= 1)).all()
    assert np.isin(np.asarray(targets), (-1, 0, 1)).all()


def test_metrics_of_scores_and_targets_with_something_wrong(tried):
    @settings(few, max_examples=100)
    @given(
        shape=st.tuples(st.integers(1, 6), st.integers(1, 4)),
        wrong=st.none() | st.none() | st.sampled_from(NO_SCORES),
        astray=st.none() | st.none() | st.sampled_from(NO_TARGETS),
        threshold=st.just(0.5) | st.floats(0, 1) | st.floats(),
        top_k=st.none() | st.integers(-1, 5),
        data=st.data(),
    )
    def holds(shape, wrong, astray, threshold, top_k, data):
        kind = data.draw(st.sampled_from([np.float16, np.float32, np.float64]))
        width = np.dtype(kind).itemsize * 8
        scores = data.draw(hnp.arrays(kind, shape, elements=st.floats(0, 1, width=width)))
        targets = data.draw(hnp.arrays(np.float64, shape, elements=st.sampled_from([-1.0, 0.0, 1.0])))
        if wrong is not None:
            scores = scores.astype(np.float64)
            scores[0, 0] = wrong
        if astray is not None:
            targets[-1, -1] = astray
        options = {"threshold": threshold, "top_k": top_k}
        found = tried("metrics", lambda: multilabel_metrics(scores, targets, **options))
        if found is not None:
            check_metrics(found, scores, targets)
        fits = 0 <= threshold <= 1 and (top_k is None or 1 <= top_k <= shape[1]) and (targets == 1).any()
        assert (found is None) == (wrong is not None or astray is not None or not fits)

    holds()


def test_metrics_of_anything(tried):
    shapes = st.tuples(st.integers(0, 4), st.integers(0, 3))
    arrays = hnp.arrays(st.sampled_from([np.dtype(t) for t in ("?", "i2", "U2", "c16", "M8[s]", "S1", "f4")]), shapes)

    @few
    @given(scores=arrays | ANYTHING, targets=arrays | ANYTHING)
    def holds(scores, targets):
        found = tried("metrics", lambda: multilabel_metrics(scores, targets))
        if found is not None:
            check_metrics(found, scores, targets)

    holds()


# ---- readers ---------------------------------------------------------------------------------------------------------

TEXT = st.text(max_size=60) | st.lists(
    st.sampled_from(["a", "b", "../x", " ", "\n", "\t", "-1", "1", "0", "2", ",", "image", '"', "\r\n", "\0", "é"]),
    max_size=25,
).map("".join)  # fmt: skip


def check_dataset(dataset, root) -> None:
    assert dataset.targets.shape == (len(dataset.ids), len(dataset.classes))
    assert np.isin(dataset.targets, (-1, 0, 1)).all()
    assert len(set(dataset.ids)) == len(dataset.ids) == len(dataset.paths) > 0
    assert all(path.resolve().is_relative_to(root.resolve()) for path in dataset.paths)


def test_lists_of_any_text(tried, folder):
    names = st.lists(st.sampled_from(["a", "b", "c", "a.b", "-", "..", ""]), min_size=1, max_size=3)
    labels = st.lists(st.sampled_from(["1", "0", "-1", "+1", "2"]), min_size=3, max_size=3)
    rows = st.tuples(names, labels).map(
        lambda pair: ("\n".join(pair[0]), "\n".join(f"{i} {label}" for i, label in zip(*pair, strict=False)))
    )

    @settings(few, max_examples=100)
    @given(texts=rows | st.tuples(TEXT, TEXT) | st.tuples(st.just("a\nb"), TEXT))
    def holds(texts):
        ids, labels = texts
        root = folder()
        lists = root / "ImageSets" / "Main"
        lists.mkdir(parents=True)
        (lists / "test.txt").write_text(ids, encoding="utf-8", errors="surrogatepass", newline="")
        (lists / "dog_test.txt").write_text(labels, encoding="utf-8", errors="surrogatepass", newline="")
        found = tried("lists of any text", lambda: load_devkit(root, "test", name="x", classes=("dog",)))
        if found is not None:
            check_dataset(found, root)
            assert set(found.ids) == set(ids.split())

    holds()


def test_tables_of_any_text(tried, folder):
    @few
    @given(
        text=TEXT
        | st.lists(
            st.sampled_from(["b.png,0", "c d.png, -1", "./é.png,1.0", "b.png,1", "../b,1", "b,2", ""]), max_size=3
        ).map(lambda rows: "\n".join(["image,cat", "a.png,1", *rows]))
    )
    def holds(text):
        root = folder()
        (root / "test.csv").write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
        found = tried("tables of any text", lambda: load_dataset("folder", root, "test"))
        if found is not None:
            check_dataset(found, root)

    holds()


def test_tables_come_back_as_they_were_written(tried, folder):
    name = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="\\:/."), min_size=1, max_size=8)

    @few
    @given(classes=st.lists(name, min_size=1, max_size=4, unique=True), data=st.data())
    def holds(classes, data):
        ids = data.draw(st.lists(name, min_size=1, max_size=5, unique=True))
        targets = data.draw(hnp.arrays(np.int8, (len(ids), len(classes)), elements=st.integers(-1, 1)))
        root, text = folder(), io.StringIO()
        rows = [[i, *row] for i, row in zip(ids, targets.tolist(), strict=True)]
        csv.writer(text).writerows([["image", *classes], *rows])
        (root / "test.csv").write_text(text.getvalue(), encoding="utf-8", newline="")
        stated = {"absent": "0", "unknown": "-1"}  # so that splits without an absent label are read too
        found = tried("tables written and read", lambda: load_dataset("folder", root, "test", **stated))
        assert (found.ids, found.classes) == (tuple(ids), tuple(classes))
        np.testing.assert_array_equal(found.targets, targets)

    holds()


def test_json_of_anything(tried, folder):
    person = st.fixed_dictionaries({"bbox": ANYTHING, "attribute": ANYTHING})
    image = st.fixed_dictionaries({"file_name": ANYTHING, "targets": st.lists(person | ANYTHING, max_size=2)})
    thing = st.fixed_dictionaries({"image_id": ANYTHING, "category_id": ANYTHING, "bbox": ANYTHING})
    whole = st.fixed_dictionaries(
        {"images": st.lists(image | ANYTHING, max_size=2), "annotations": st.lists(thing, max_size=2)},
        optional={"categories": st.lists(ANYTHING, max_size=2)},
    )

    @settings(few, max_examples=60)
    @given(content=ANYTHING | whole)
    def holds(content):
        root = folder()
        (root / "annotations").mkdir()
        for name in ("annotations/instances_val2014.json", "wider_attribute_test.json", "plan.json", "recipe.json"):
            (root / name).write_text(json.dumps(content))
        for name in ("coco2014", "wider"):
            found = tried("json of anything", lambda name=name: load_dataset(name, root, "test"))
            if found is not None:
                check_dataset(found, root)
        assert tried("json of anything", lambda: get_plan(str(root / "plan.json"))) is None
        assert tried("json of anything", lambda: read_recipe(root)) is None

    holds()


def test_xml_with_anything_in_it(tried, folder):
    field = st.text(st.characters(codec="utf-8"), max_size=6) | st.floats().map(str) | st.integers(-5, 50).map(str)

    @settings(few, max_examples=80)
    @given(name=field, corners=st.lists(st.integers(1, 40).map(str) | field, min_size=4, max_size=4))
    def holds(name, corners):
        root = folder()
        inside = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
        text = f"<annotation><object><name>{name}</name><bndbox>{inside}</bndbox></object></annotation>"
        (root / "a.xml").write_text(text, encoding="utf-8", newline="")
        found = tried("xml with anything", lambda: read_voc_boxes(root, "a"))
        for box in found or []:
            assert box.name.strip() == box.name != ""
            assert all(map(math.isfinite, (box.xmin, box.ymin, box.xmax, box.ymax)))
            assert box.xmin < box.xmax
            assert box.ymin < box.ymax

    holds()


# ---- recipes ---------------------------------------------------------------------------------------------------------


def test_recipes_with_any_field(tried, folder):
    whole = RECIPES["voc2012-lite0-csra"].to_json()
    fields = [(part, None) for part in whole]
    fields += [(part, name) for part in whole if isinstance(whole[part], dict) for name in whole[part]]

    @settings(few, max_examples=150)
    @given(
        changes=st.dictionaries(
            st.sampled_from(fields), ANYTHING | NUMBERS | st.sampled_from(["csra", "sgd", "step", "bce"]), max_size=2
        )
    )
    def holds(changes):
        root = folder()
        content = copy.deepcopy(whole)
        for (part, name), value in sorted(changes.items(), key=lambda item: item[0][1] is None):
            if name is None:
                content[part] = value
            else:
                content[part][name] = value
        (root / "recipe.json").write_text(json.dumps({"recipe": content}))
        recipe = tried("recipes", lambda: read_recipe(root))
        if recipe is not None:
            assert hash(recipe) is not None  # frozen, with tuples for lists
            assert 0 <= learning_rate_factor(recipe.optimisation.epochs / 2, recipe.optimisation) <= 1
            assert type(recipe.optimisation.epochs) is type(recipe.optimisation.batch_size) is int
            assert all(math.isfinite(v) for v in (recipe.optimisation.head_lr, recipe.optimisation.backbone_lr))

    holds()
