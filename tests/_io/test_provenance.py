"""Which code ran: in a checkout, changed or not, and where there is none."""

import subprocess

import pytest

import csra_lab
from csra_lab._io.provenance import checkout, code_version


def git(root, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", root, *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "csra_lab").mkdir()
    (tmp_path / "csra_lab/__init__.py").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "csra_lab")
    git(tmp_path, "commit", "-q", "-m", "x")
    return tmp_path


def test_a_checkout_says_its_commit_and_whether_it_was_changed(repository):
    commit = git(repository, "rev-parse", "HEAD")
    assert checkout(repository) == {"commit": commit, "clean": True}
    (repository / "runs").mkdir()
    (repository / "runs/result.json").write_text("{}")  # what a run writes changes no code
    assert checkout(repository)["clean"] is True
    (repository / "csra_lab/new.py").write_text("")
    assert checkout(repository) == {"commit": commit, "clean": False}


def test_an_installation_inside_another_repository_names_no_commit(repository):
    assert checkout(repository / "csra_lab") == {}


def test_without_git_there_is_the_version_only(repository, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert checkout(repository) == {}
    assert code_version()["csra_lab"] == csra_lab.__version__
