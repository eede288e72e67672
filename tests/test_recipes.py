"""A recipe is what its run builds: every option of every head, by replacement, plan, command line, JSON and disk."""

import dataclasses
import json
import math
import warnings

import pytest
import torch

from csra_lab import MultiLabelClassifier, create_classifier
from csra_lab._io.notice import CsraWarning
from csra_lab.cli.train import read_options
from csra_lab.errors import ConfigError, CsraError
from csra_lab.heads import HEADS, head_config, head_json
from csra_lab.recipes import RECIPES, Recipe, get_recipe
from csra_lab.study.plans import Entry, Plan

INF = math.inf
OPTIONS = {
    ("csra", "num_heads"): 2,
    ("csra", "lam"): 0.7,
    ("csra", "temperatures"): (INF,),
    ("spatial", "temperature"): INF,
    ("lse", "r"): 4.0,
    ("topk", "k"): 5,
    ("gem", "p"): 2.0,
    ("learned-csra", "lam"): 0.7,
    ("learned-csra", "temperature"): 2.0,
    ("wildcat", "num_heads"): 2,
    ("wildcat", "k_max"): 5,
    ("wildcat", "k_min"): 5,
    ("wildcat", "alpha"): 0.5,
    ("attention-mil", "hidden"): 7,
    ("class-queries", "width"): 8,
    ("class-queries", "attention_heads"): 2,
    ("class-queries", "hidden"): 7,
    ("group-queries", "width"): 8,
    ("group-queries", "attention_heads"): 2,
    ("group-queries", "hidden"): 7,
    ("group-queries", "groups"): 1,
    ("regularised", "hidden"): 7,
    ("regularised", "alpha"): 0.3,
    ("label-graph", "embedding"): 7,
    ("label-graph", "hidden"): 7,
    ("label-graph", "threshold"): 0.3,
    ("label-graph", "share"): 0.1,
    ("label-graph", "lam"): 0.3,
    ("label-graph", "temperature"): 2.0,
}
BOOLEANS = {("attention-mil", "gated")}
NEEDS = {("wildcat", "bias"): {"num_heads": 1}}  # an option that is taken with another only
CASES = [
    (kind, field.name, OPTIONS.get((kind, field.name), not field.default))
    for kind, (config, _) in HEADS.items()
    for field in dataclasses.fields(config)
]
START = get_recipe("emoji-lite0-csra")


def test_every_option_has_a_case_with_another_value_than_its_default():
    for kind, option, value in CASES:
        assert not isinstance(value, bool) or option in ("normalize", "bias") or (kind, option) in BOOLEANS, (
            f"add a value of {kind}.{option}"
        )
        assert value != getattr(head_config(kind), option)


def flags(option: str, value) -> list[str]:
    if isinstance(value, bool):
        return [f"--{'' if value else 'no-'}{option}"]
    values = value if isinstance(value, tuple) else (value,)
    return [f"--{option.replace('_', '-')}", *map(str, values)]


def recipe_of_the_command_line(*arguments: str) -> Recipe:
    return read_options(list(arguments))[0]


@pytest.mark.parametrize(("kind", "option", "value"), CASES)
def test_what_is_recorded_is_what_was_built(kind, option, value, tmp_path):
    options = {option: value} | NEEDS.get((kind, option), {})
    recipe = START.replace(head=kind, **options)
    assert getattr(recipe.head, option) == value

    written = json.loads(json.dumps(recipe.to_json(), allow_nan=False))
    assert written["head"]["kind"] == kind
    assert written["head"][option] == head_json(recipe.head)[option]
    again = Recipe.from_json(written)
    assert again.head == recipe.head
    assert again.to_json() == written

    plan = Plan("test", "?", ("emoji",), (Entry("one", {"head": kind, **options}),))
    assert getattr(plan.recipe(plan.entries[0], 0, "emoji").head, option) == value
    given = [flag for name, each in options.items() for flag in flags(name, each)]
    asked = recipe_of_the_command_line(START.name, "--head", kind, *given)
    assert asked.to_json() == written

    torch.manual_seed(0)
    model = create_classifier("test_efficientnet", classes=["a", "b"], head=again.head, image_size=64).eval()
    model.save_pretrained(tmp_path)
    saved = MultiLabelClassifier.from_pretrained(tmp_path)
    assert type(saved.head) is HEADS[kind][1]
    assert saved.head.config == model.head.config == recipe.head
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(saved(images), model(images))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"head": "average", "lam": 0.3}, "lam"),
        ({"head": "spatial", "temperatures": (7.0,)}, "temperatures"),
        ({"head": "max", "num_heads": 2}, "num_heads"),
        ({"randaugment": True}, "randaugment"),
        ({"augmentation": "flip"}, "augmentation"),
        ({"image_cache": "memory"}, "image_cache"),
        ({"step_epochs": 3.0}, "step_epochs"),
        ({"backbone_lr": 1e-4}, "backbone_lr"),
        ({"freeze_backbone": False, "augmentation": "flip", "crop_scale": 0.5}, "crop_scale"),
        ({"schedule": "one-cycle", "warmup_epochs": 1.0}, "warmup_epochs"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_a_change_that_would_do_nothing_is_refused_by_name(changes, name):
    with pytest.raises(CsraError, match=name):
        START.replace(**changes)


def test_momentum_that_forgets_nothing_is_refused():
    """AdamW cannot be built with it."""
    with pytest.raises(ConfigError, match=r"momentum must be from 0 to 0\.999999, not 1"):
        START.replace(momentum=1.0)


def test_a_warm_up_longer_than_the_run_is_said():
    with pytest.warns(CsraWarning, match="1 epochs end within the warm-up of 2, .* a smaller warmup_epochs helps"):
        START.replace(epochs=1, warmup_epochs=2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        START.replace(epochs=2, warmup_epochs=2.0)
        START.replace(epochs=1, schedule="one-cycle")


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("optimisation", {"randaugment": True}),
        ("optimisation", {"step_gamma": 0.5}),
        ("data", {"image_cache": "off"}),
        ("model", {"freeze_statistics": True}),
    ],
)
def test_a_recipe_cannot_be_made_with_a_field_that_would_do_nothing(part, changes):
    parts = {f.name: getattr(START, f.name) for f in dataclasses.fields(Recipe)}
    parts[part] = dataclasses.replace(parts[part], **changes)
    with pytest.raises(ConfigError, match=f"{next(iter(changes))} would do nothing"):
        Recipe(**parts)
    with pytest.raises(ConfigError, match=f"{next(iter(changes))} would do nothing"):
        START.replace(**{part: parts[part]})


def test_a_head_cannot_be_configured_with_another_heads_option():
    for config, options in ((HEADS["average"][0], {"temperature": 1.0}), (HEADS["max"][0], {"lam": 0.1})):
        with pytest.raises(TypeError, match=next(iter(options))):
            config(**options)


def test_what_a_change_makes_useless_goes_back_to_its_default():
    recipe = get_recipe("resnet101-csra_voc07-448px").replace(randaugment=True)
    assert recipe.optimisation.step_epochs == 4.0
    assert recipe.replace(schedule="cosine").optimisation.step_epochs == 5.0
    frozen = recipe.replace(freeze_backbone=True)
    assert not frozen.optimisation.randaugment
    assert Recipe.from_json(frozen.to_json()) == dataclasses.replace(frozen, why="", cost="", expected="")


def test_unknown_labels_of_the_data_are_not_those_of_the_loss():
    recipe = recipe_of_the_command_line("folder-lite0-csra", "--unknown", "0", "--loss.unknown", "negative")
    assert (recipe.data.unknown, recipe.loss.unknown) == ("0", "negative")


@pytest.mark.parametrize("arguments", [(), ("--loss", "asl")])
@pytest.mark.parametrize("name", ["folder-lite0-csra", "folder-lite0-avg"])
def test_labels_that_a_reader_calls_unknown_pull_at_nothing(name, arguments):
    recipe = recipe_of_the_command_line(name, "--unknown", "0", *arguments)
    logits = torch.zeros(1, 2, requires_grad=True)
    recipe.loss(logits, torch.tensor([[1.0, -1.0]])).backward()
    assert logits.grad[0, 0] != 0 == logits.grad[0, 1]


def test_the_command_line_sets_fields_of_every_part():
    arguments = ("--lam 0.3 --num-heads 4 --image-size 288 --epochs 3 --subset 100 --seed 5 --loss asl "
                 "--loss.gamma-negative 2").split()  # fmt: skip
    recipe = recipe_of_the_command_line(START.name, *arguments)
    expected = START.replace(lam=0.3, num_heads=4, image_size=288, epochs=3, subset=100, seed=5, loss="asl")
    loss = dataclasses.replace(expected.loss, gamma_negative=2.0)
    assert recipe.to_json() == expected.replace(loss=loss).to_json()
    assert recipe.head.temperatures == (1.0, 2.0, 4.0, INF)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name):
    recipe = RECIPES[name]
    written = json.loads(json.dumps(recipe.to_json(), allow_nan=False))
    again = Recipe.from_json(written)
    assert again.to_json() == written
    assert (again.head, again.loss, again.data, again.run) == (recipe.head, recipe.loss, recipe.data, recipe.run)
