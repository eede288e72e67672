"""Fields of every kind that a recipe or a plan has, with values of the kind and of others."""

import dataclasses
import math
from typing import Literal

import numpy as np
import pytest

from csra_lab._io.validation import check_types, is_plain
from csra_lab.errors import CsraError


@dataclasses.dataclass
class Kinds:
    count: int = 1
    rate: float = 1.0
    name: str = "x"
    on: bool = True
    limit: int | None = None
    parts: tuple[float, ...] = ()
    way: Literal["up", "down"] = "up"
    changes: dict = dataclasses.field(default_factory=dict)
    words: dict[str, str] = dataclasses.field(default_factory=dict)


@pytest.mark.parametrize(
    ("field", "values"),
    {
        "count": [0, -3, 10**40, np.int64(4)],
        "rate": [0, 2.5, math.inf, np.float32(1), 10**400],
        "on": [False],
        "limit": [None, 3],
        "parts": [(), (1, 2.5, math.inf)],
        "way": ["down"],
        "changes": [{"a": object()}],
        "words": [{"a": "b"}],
    }.items(),
)
def test_values_of_their_kind(field, values):
    for value in values:
        check_types(Kinds(**{field: value}), "it")


@pytest.mark.parametrize(
    ("field", "values", "says"),
    [
        ("count", [1.0, "1", True, None, [1], math.nan], "a whole number"),
        ("rate", [math.nan, "1", True, None, 1j], "a number"),
        ("name", [3, None, b"x"], "a text"),
        ("on", [1, 0, "false", None], "true or false"),
        ("limit", [1.5, "1", False], "a whole number or nothing"),
        ("parts", [[1.0], 1.0, "12", (1, "2"), (math.nan,), (True,)], "a list of which each is a number"),
        ("way", ["left", None, 1, ["up"], {}], "one of up, down"),
        ("changes", [None, [], "x"], "a table"),
        ("words", [{"a": 1}, {1: "a"}, None], "a table"),
    ],
)
def test_values_of_other_kinds_are_named(field, values, says):
    for value in values:
        with pytest.raises(CsraError, match=f"^it: {field} must be {says}, not "):
            check_types(Kinds(**{field: value}), "it")


def test_a_long_value_is_cut():
    with pytest.raises(CsraError) as caught:
        check_types(Kinds(count="x" * 10_000), "it")
    assert len(str(caught.value)) < 200


def test_plain_names():
    assert all(map(is_plain, ["dog", "potted plant", "chien élégant", "犬", "a\u202fb", "\U0001f415"]))
    assert not any(map(is_plain, ["", " ", "a\nb", "\x1b[2J", "a\0", "\ud800", "\x85"]))
