"""Where the cache lies, and that one process at a time fills a folder in it."""

from pathlib import Path

import pytest

from csra_lab._io.cache import cache_folder, only_one
from csra_lab.errors import CsraError


def test_the_cache_lies_where_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("CSRA_LAB_CACHE", raising=False)
    assert cache_folder().name == "csra-lab"
    assert cache_folder() == tmp_path / "xdg/csra-lab"
    monkeypatch.setenv("CSRA_LAB_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_the_first_makes_it_and_no_lock_stays(tmp_path):
    with only_one(tmp_path / "set") as first:
        assert first
        assert (tmp_path / "set.lock").exists()
        (tmp_path / "set").mkdir()
    with only_one(tmp_path / "set") as first:
        assert not first
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_a_failure_gives_the_lock_back(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), only_one(tmp_path / "set"):
            raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_sentence_with_its_cause(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CsraError, match="CSRA_LAB_CACHE") as caught, only_one(Path(tmp_path / "file/set")):
        pass
    assert isinstance(caught.value.__cause__, OSError)
