"""JSON that every parser reads, whatever went in."""

import json
import math

import numpy as np
import pytest

from csra_lab._io import strict_json
from csra_lab.errors import CsraError


def strict(text):
    """As a parser outside Python reads it."""

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        ({"T": (1, math.inf)}, {"T": [1, "inf"]}),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([[1.0, np.inf]]), [[1.0, "inf"]]),
        ({3: None, "a": "é"}, {"3": None, "a": "é"}),
        (True, True),
    ],
)
def test_what_json_has_no_word_for_becomes_plain(value, read):
    assert strict(strict_json.dumps(value)) == read


def test_nan_is_refused_with_its_place_or_written_as_null():
    value = {"rows": [{"ap": 0.5}, {"ap": np.float64("nan")}]}
    with pytest.raises(CsraError, match=r"\['rows'\]\[1\]\['ap'\]"):
        strict_json.dumps(value)
    assert strict(strict_json.dumps(value, nan="null")) == {"rows": [{"ap": 0.5}, {"ap": None}]}


@pytest.mark.parametrize("value", [object(), {1.5: 1}, {True: 1}, {"a": {1, 2}}])
def test_other_types_are_refused(value):
    with pytest.raises(TypeError):
        strict_json.dumps(value)


def test_a_file_is_whole_or_unchanged(tmp_path):
    strict_json.write(tmp_path / "a.json", {"x": 1})
    before = (tmp_path / "a.json").read_text()
    with pytest.raises(CsraError):
        strict_json.write(tmp_path / "a.json", {"x": math.nan})
    assert (tmp_path / "a.json").read_text() == before == '{\n  "x": 1\n}\n'
