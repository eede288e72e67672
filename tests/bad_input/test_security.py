"""What SECURITY.md promises: nothing in the code runs a file's content, and every package has its reason."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from csra_lab.datasets.images import IMAGE_FORMATS

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "csra_lab").rglob("*.py"))
TEXT = (ROOT / "SECURITY.md").read_text("utf-8")

# Calls that run what they are given, or read files that can. Each may stand in no file.
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "pickle.load", "pickle.loads",
    "cPickle.load", "marshal.loads", "shelve.open", "dill.load", "joblib.load", "yaml.load", "yaml.unsafe_load",
    "subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_output", "importlib.import_module",
    "shutil.unpack_archive", "torch.hub.load", "torch.jit.load", "pd.read_pickle", "np.fromregex", "webbrowser.open",
    "tempfile.mktemp", "ElementTree.parse", "ElementTree.iterparse", "minidom.parse", "minidom.parseString",
}  # fmt: skip
FORBIDDEN_METHODS = {"extractall", "extract", "unpack_from_archive"}
# Calls whose arguments are written in the package and never read from a file or a command line.
FIXED = {
    ("csra_lab/_io/lazy.py", "importlib.import_module"),  # the package's own modules by name
    ("csra_lab/cli/__init__.py", "importlib.import_module"),  # the module of a command
    ("csra_lab/datasets/images.py", "importlib.import_module"),  # pillow_heif, where it is installed
    ("csra_lab/_io/provenance.py", "subprocess.run"),  # git, for the commit that a record names
}
# Calls that may stand where a keyword makes them safe.
SAFE_WITH = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
# Where XML is parsed, after a look for a DOCTYPE.
XML = {"ElementTree.fromstring": {"csra_lab/datasets/voc_xml.py"}}


def calls(path: Path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_runs_what_it_reads(path):
    name = path.relative_to(ROOT).as_posix()
    for function, node in calls(path):
        where = f"{name}, line {node.lineno}: {function}"
        assert function not in FORBIDDEN or (name, function) in FIXED, where
        safely = any(k.arg == "filter" and ast.unparse(k.value) == "'data'" for k in node.keywords)  # tarfile's
        assert function.rsplit(".", 1)[-1] not in FORBIDDEN_METHODS or safely, where
        if function in SAFE_WITH:
            keyword, value = SAFE_WITH[function]
            given = {k.arg: ast.literal_eval(k.value) for k in node.keywords if isinstance(k.value, ast.Constant)}
            assert given.get(keyword) is value, f"{where} needs {keyword}={value}"
        if function in XML:
            assert name in XML[function], where
        if function == "Image.open":
            assert any(k.arg == "formats" for k in node.keywords), f"{where} needs the formats that are allowed"


def test_no_library_that_runs_what_it_reads_is_imported():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.split(".")[0]
                # git alone is asked for the commit of a record, by a fixed command
                assert top != "subprocess" or path.name == "provenance.py", path
                assert top not in {"marshal", "shelve", "dill", "joblib", "cloudpickle", "yaml"}, path
                assert top != "pickle" or path.parent.name == "weights", path  # for the name of an error
    weights = "".join(p.read_text("utf-8") for p in (ROOT / "csra_lab" / "weights").glob("*.py"))
    assert set(re.findall(r"pickle\.(\w+)", weights)) == {"UnpicklingError"}


def test_no_format_of_pictures_that_runs_a_program():
    assert not {"EPS", "PS", "PDF", "WMF", "MSP", "FPX", "IPTC", "GBR"} & set(IMAGE_FORMATS)
    assert "seven formats" in TEXT
    assert len(IMAGE_FORMATS) == 7


def test_the_table_lists_what_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *(r for rs in project["optional-dependencies"].values() for r in rs)]
    wanted = {r.name: str(r.specifier) for r in map(Requirement, wanted) if r.name != "csra-lab"}
    rows = re.findall(r"^\| ([\w-]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", TEXT, re.MULTILINE)
    rows = rows[2:]  # below the head and its line
    listed = {name: str(Requirement(f"{name}{span}").specifier) for name, span, _, _ in rows}
    assert listed == wanted, "pyproject.toml and the table of SECURITY.md differ: look at the change, then enter it"
    assert all(len(why.strip()) > 4 and len(looked.strip()) > 4 for _, _, why, looked in rows)
