"""Errors: each of its kind, and with what led to it."""

import ast
from pathlib import Path

import pytest

from csra_lab import create_classifier, multilabel_metrics
from csra_lab.datasets import open_image
from csra_lab.errors import ConfigError, CsraError, DataError, MissingFile
from csra_lab.recipes import get_recipe
from csra_lab.training.run_folder import read_recipe

PACKAGE = Path(__file__).resolve().parents[1] / "csra_lab"
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "cli"]


def raises(path: Path) -> list[tuple[ast.Raise, bool]]:
    """Every raise of a new error, and whether it stands where another error was caught."""
    found = []

    def visit(node: ast.AST, caught: bool) -> None:
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found.append((node, caught))
        inside = isinstance(node, ast.ExceptHandler) or (caught and not isinstance(node, ast.FunctionDef))
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(path.read_text("utf-8")), False)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_cause_is_erased_below_the_command_line(path):
    for node, caught in raises(path):
        place = f"line {node.lineno}: {ast.unparse(node)[:80]}"
        assert not (isinstance(node.cause, ast.Constant) and node.cause.value is None), f"{place} erases its cause"
        assert not caught or node.cause is not None, f"{place} does not say what led to it"


def test_each_kind_says_what_is_wrong(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.json").write_text("[")
    (tmp_path / "image.png").write_bytes(b"no image")
    for kind, wrong in (
        (ConfigError, lambda: get_recipe("nothing")),
        (ConfigError, lambda: get_recipe("emoji-lite0-csra").replace(epochs=-1)),
        (ConfigError, lambda: create_classifier("test_resnet", num_classes=2, num_heads=3)),
        (ConfigError, lambda: multilabel_metrics([[0.5]], [[1]], threshold=2)),
        (MissingFile, lambda: read_recipe(tmp_path)),
        (MissingFile, lambda: open_image(tmp_path / "none.png")),
        (DataError, lambda: read_recipe(tmp_path / "run")),
        (DataError, lambda: open_image(tmp_path / "image.png")),
    ):
        with pytest.raises(CsraError) as caught:
            wrong()
        assert type(caught.value) is kind, caught.value
