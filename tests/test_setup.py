"""The set-up says everything once, and the package is built floor upon floor."""

import ast
import graphlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TARGETS = re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE)

# ---- what is installed -------------------------------------------------------------------------------------------


def requirements(extra=None):
    listed = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    return {canonicalize_name(r.name): r.specifier for r in map(Requirement, listed)}


@pytest.mark.parametrize(
    ("name", "versions"),
    {
        "torch": ["2.11.0", "2.15.0"],
        "torchvision": ["0.26.0", "0.29.2"],
        "timm": ["1.0.22", "1.0.31"],
        "accelerate": ["1.15.0"],
        "huggingface-hub": ["2.4.0"],
        "numpy": ["2.4.6"],
        "pandas": ["3.1.1"],
        "pillow": ["13.0.0"],
    }.items(),
)
def test_old_and_new_versions_are_admitted(name, versions):
    assert all(requirements()[name].contains(version) for version in versions)


def test_the_version_is_said_once():
    assert PROJECT["dynamic"] == ["version"]
    assert "version" not in PROJECT
    text = (ROOT / "csra_lab/__init__.py").read_text("utf-8")
    assert re.search(r'^__version__ = "\d+\.\d+\.\d+"', text, re.MULTILINE)


def test_the_package_and_the_book_name_the_same_repository():
    book = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["repository"]["url"]
    assert PROJECT.get("urls", {}).get("Repository", "") == book


def test_an_upper_bound_has_a_reason_beside_it():
    for line in (ROOT / "pyproject.toml").read_text("utf-8").splitlines():
        if re.match(r'\s*"[\w-]+[^"]*<', line):
            assert "ruff" in line, (
                f"{line.strip()}: an upper bound locks readers out; give its reason here if it must be"
            )


def test_conda_and_binder_install_this_project_and_nothing_else():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    *conda, pip = environment["dependencies"]
    assert pip == {"pip": ["-e .[book,test]"]}
    assert {"book", "test"} == set(PROJECT["optional-dependencies"])
    python = [Requirement(entry) for entry in conda if entry.startswith("python")]
    assert [r.specifier for r in python] == [SpecifierSet(PROJECT["requires-python"])]
    assert conda[1:] == ["pip"], "a second list of packages would drift from pyproject.toml"


# ---- make, .ci/run and the workflows -----------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_help_lists_every_target():
    # Under `make test` this is a make below a make, which would announce itself.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    shown = subprocess.run(["make"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^make ([\w-]+)", shown, re.MULTILINE) == TARGETS
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split()
    assert phony == TARGETS == ["help", "book", "notebooks", "test", "test-oldest", "lab", "lint", "bench", "clean"]


@pytest.mark.parametrize(
    "path", [ROOT / ".ci/run", *(p for p in WORKFLOWS if p.name != "windows.yml")], ids=lambda path: path.name
)
def test_machines_run_what_people_run(path):
    text = path.read_text("utf-8")
    called = re.findall(r"^\s*(?:- )?(?:run: )?make (\w+)", text, re.MULTILINE)
    assert called, f"{path.name} calls no make target"
    assert set(called) <= set(TARGETS)
    assert not re.search(r"\b(pip|pytest|ruff|jupyter-book) ", text), f"{path.name} should call make for that"


def test_ci_runs_lint_tests_and_book():
    run = ROOT / ".ci/run"
    assert os.access(run, os.X_OK)
    assert re.findall(r"^make (\w+)", run.read_text("utf-8"), re.MULTILINE) == ["lint", "test", "book"]
    subprocess.run(["bash", "-n", str(run)], check=True)


def test_linux_macos_and_windows_are_tested():
    matrix = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text("utf-8"))["jobs"]["test"]["strategy"][
        "matrix"
    ]
    assert {*matrix["system"], *(more["system"] for more in matrix["include"])} == {"ubuntu-latest", "macos-latest"}
    windows = yaml.safe_load((ROOT / ".github/workflows/windows.yml").read_text("utf-8"))["jobs"]["test"]
    assert windows["runs-on"] == "windows-latest"
    assert [step["run"].split()[2] for step in windows["steps"] if "run" in step] == ["pip", "pytest"]


def test_the_oldest_python_is_tested():
    (oldest,) = SpecifierSet(PROJECT["requires-python"])
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text("utf-8"))
    assert oldest.version in workflow["jobs"]["test"]["strategy"]["matrix"]["python"]


# ---- what is in the repository -----------------------------------------------------------------------------------

LARGE = {
    "book/_assets/vendor/tex-svg-full.js": "MathJax in one file, so that the book's formulas show without a network",
    "data/runs/own-best/coco/scores.npz": "scores of 1,049 images, 80 classes, 4 runs: intervals come from it",
    "data/runs/four-lines/emoji/scores.npz": "scores of 2 x 1,000 pictures, 3 methods, 5 seeds: metrics come from it",
}


@pytest.fixture(scope="module")
def tracked():
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode != 0:
        pytest.skip("this is not a git checkout")
    return [name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_is_large_without_a_reason(tracked):
    large = {name for name in tracked if (ROOT / name).stat().st_size > 1_000_000}
    assert large <= set(LARGE), "large files make every clone slow; shrink it, or add it to LARGE with its reason"


def test_no_file_knows_the_machine_it_was_written_on(tracked):
    here = [str(ROOT), str(ROOT.parent / "shared")]
    someone = re.compile(r"(?<![\w.~-])(" + "|".join(map(re.escape, here)) + r"|/(home|Users)/\w+/|/roo[t]/)")
    for name in tracked:
        if name in LARGE:
            continue
        found = someone.search((ROOT / name).read_bytes().decode("utf-8", errors="ignore"))
        assert found is None, f"{name} holds the path {found[0]}"


# ---- the floors --------------------------------------------------------------------------------------------------

PLAN = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("csra_lab/                 floor")[2].partition("```")[0]
FLOORS = {
    name.removesuffix(".py"): int(floor) for name, floor in re.findall(r"^  (\w+)(?:\.py|/) +(\d)", PLAN, re.MULTILINE)
}

# Between an image and a metric nothing else is imported, so that a run on a cluster needs little and starts fast.
TRAINING_PATH = {"torch", "torchvision", "timm", "accelerate", "safetensors", "huggingface_hub", "numpy", "pandas"}
TRAINING_PATH |= {"PIL", "tqdm", "csra_lab", "filelock", "platformdirs", "scipy", "defusedxml"}
BESIDE_THE_PATH = (
    "csra_lab.cli",
    "csra_lab.viz.display",
    "csra_lab.viz.figures",
    "csra_lab.viz.gallery",
    "csra_lab.viz.images",
    "csra_lab.viz.result_figures",
    "csra_lab.viz.page",
    "csra_lab.widgets",
    "csra_lab.datasets.download",
    "csra_lab.metrics.synced",  # torchmetrics is optional
    "csra_lab.study.calibration",  # scikit-learn, when it is used
)
NEVER_ON_THE_PATH = {"tyro", "pooch", "matplotlib", "skimage", "IPython", "sklearn"}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted((ROOT / "csra_lab").rglob("*.py"))}
PATH_FILES = [m for m in FILES if not any(m == b or m.startswith(b + ".") for b in BESIDE_THE_PATH)]


def imports(module):
    """The full names of all that a file imports, wherever in the file it does."""
    path = FILES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in FILES else base


def floor(module):
    name = module.split(".")[1]
    assert name in FLOORS, f"csra_lab/{name} stands on no floor; give it one in CONTRIBUTING.md"
    return FLOORS[name]


@pytest.mark.parametrize("module", [m for m in FILES if m != "csra_lab"])
def test_a_file_imports_from_no_higher_floor(module):
    for name in imports(module):
        assert name != "csra_lab", f"{module} imports the package's front door; import the file that holds it"
        if name.startswith("csra_lab."):
            assert floor(name) <= floor(module), f"{module} is below {name} and must not import it"


def test_the_plan_names_what_there_is_and_nothing_else():
    rooms = {p.stem for p in (ROOT / "csra_lab").iterdir() if p.suffix == ".py" or (p.is_dir() and any(p.iterdir()))}
    assert set(FLOORS) == rooms - {"__init__", "__pycache__"}
    for name in re.findall(r"^  ([\w/.]+)", PLAN, re.MULTILINE):
        path = ROOT / "csra_lab" / name
        assert path.is_dir() if name.endswith("/") else path.is_file(), name


def test_no_file_imports_itself_in_a_circle():
    graph = {m: {name for name in imports(m) if name in FILES} for m in FILES}
    list(graphlib.TopologicalSorter(graph).static_order())  # a circle raises CycleError and shows the way round


def test_the_front_door_defines_nothing():
    tree = ast.parse(FILES["csra_lab"].read_text("utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)]


@pytest.mark.parametrize("module", PATH_FILES)
def test_the_training_path_names_few_packages(module):
    tops = {name.split(".")[0] for name in imports(module)}
    assert tops <= TRAINING_PATH | sys.stdlib_module_names


def loaded_by(code):
    """Top-level packages that a fresh interpreter has loaded after this code."""
    command = [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}


def test_imports_are_light():
    heavy = {"torch", "torchvision", "timm", "accelerate", "pandas", "scipy", "PIL", "matplotlib", "tyro", "tqdm"}
    assert not (heavy | {"numpy"}) & loaded_by("import csra_lab; dir(csra_lab); csra_lab.__version__")
    assert not heavy & loaded_by("import csra_lab.metrics; from csra_lab import multilabel_metrics")
    for arguments in (["--help"], ["--version"], ["trian"], []):
        code = f"from csra_lab.cli import main\ntry: main({arguments})\nexcept SystemExit: pass"
        assert not (heavy | {"numpy"}) & loaded_by(code), arguments


def test_every_public_name_is_there():
    import csra_lab

    for name in csra_lab.__all__:
        assert getattr(csra_lab, name) is not None
        assert name in dir(csra_lab)
    assert {"train", "evaluate", "explore", "Recipe", "get_recipe", "recorded"} <= set(csra_lab.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        csra_lab.no_such_name  # noqa: B018


def test_the_training_path_loads_nothing_for_people():
    """In a fresh interpreter, since here pytest and its friends are loaded already."""
    code = f"import importlib, sys; [importlib.import_module(m) for m in {PATH_FILES}]; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not NEVER_ON_THE_PATH & {name.split(".")[0] for name in loaded.split()}


def test_every_imported_package_is_declared():
    names = {
        "PIL": "pillow",
        "myst_nb": "jupyter-book",
        "yaml": "pyyaml",
        "sklearn": "scikit-learn",
        "skimage": "scikit-image",
    }
    declared = set(requirements()) | {"csra-lab"}
    for module in FILES:
        tops = {name.split(".")[0] for name in imports(module)} - sys.stdlib_module_names
        used = {canonicalize_name(names.get(top, top)) for top in tops}
        for_the_book = module.startswith(("csra_lab.widgets", "csra_lab.viz.page", "csra_lab.viz.gallery"))
        allowed = declared | set(requirements("book")) if for_the_book else declared
        if module == "csra_lab.metrics.synced":  # says itself what to install
            allowed = allowed | {"torchmetrics"}
        assert used <= allowed, f"{module} imports {used - allowed}, which pyproject.toml does not list"


def test_the_oldest_versions_are_the_lower_bounds():
    lines = subprocess.run([sys.executable, ROOT / "tests" / "oldest.py"], capture_output=True, text=True, check=True)
    pins = dict(line.split("==") for line in lines.stdout.split())
    extras = PROJECT["optional-dependencies"].values()
    wanted = [Requirement(text) for text in (*PROJECT["dependencies"], *(x for extra in extras for x in extra))]
    assert pins.keys() == {requirement.name for requirement in wanted}
    assert all(pins[requirement.name] in requirement.specifier for requirement in wanted)
