"""The reference pages: they hold the whole package, and docstrings say what a caller must know."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest
from lab_reference import as_lines, definition, entries_of, lay_out, mend_signatures, prose, signature_as_written

import csra_lab
from csra_lab.cost import Cost
from csra_lab.heads import CSRA, AveragePooling
from csra_lab.metrics import MetricValues, average_precision
from csra_lab.recipes import ModelConfig
from csra_lab.residual_attention import csra_logits
from tests.book.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {p.stem: p.read_text("utf-8") for p in (ROOT / "book").glob("api*.md")}
SHOWN = {name: page for page, text in PAGES.items() for name in re.findall(r"automodule:: (\S+)", text)}
LEFT_OUT = {
    "csra_lab": "its names are on the page of the package, each with a link to where it is defined",
    "csra_lab.cli": "commands have --help, and the book shows them at work",
    "csra_lab._io.atomic_write": "how files are written whole; a caller of the lab never writes any",
    "csra_lab._io.validation": "how recipes and plans are checked; its errors are theirs",
    "csra_lab.study.attention_study": "makes the record behind the chapters on seeing, once",
    "csra_lab.widgets": "only gathers the explorers of its modules, which are shown",
    "csra_lab._io": "only says what its room holds",
    "csra_lab.study": "only says what its room holds",
    "csra_lab.synthetic": "only says what its room holds",
    "csra_lab.training": "only says what its room holds",
    "csra_lab.viz": "only says what its room holds",
    "csra_lab.weights": "only says what its room holds",
    "csra_lab._io.cache": "where caches lie and who fills them; `load_dataset` and the feature cache call it",
    "csra_lab._io.lazy": "how the package hands out its names",
    "csra_lab._io.notice": "how notes reach the command line",
    "csra_lab._io.progress": "how long steps show how far they are",
    "csra_lab._io.provenance": "what `write_recipe` records of the code",
    "csra_lab._io.strict_json": "how records are written",
    "csra_lab._io.arrays": "how records hold arrays",
    "csra_lab.training.tensorboard": "what `train --tensorboard` writes",
    "csra_lab.weights.foreign_parts": "what `from_checkpoint` does with a foreign checkpoint",
    "csra_lab.weights.saved": "how `from_pretrained` finds a folder and reads its config.json",
    "csra_lab.training.processes": "how `train` joins the processes of a launcher",
    "csra_lab.datasets.images": "how image files are found and opened; `MultiLabelDataset` calls it",
    "csra_lab.datasets.label_table": "how tables of labels are read; `load_folder` calls it",
    "csra_lab.datasets.pair": "what `train` and `evaluate` check of two splits",
    "csra_lab.datasets.voc_xml": "how VOC's annotations are read; the readers call it",
    "csra_lab.datasets.yolo": "how YOLO's folders are read; `load_folder` calls it",
    "csra_lab.viz.display": "how a chart reaches a page; `shown` of `csra_lab.viz.figures` calls it",
    "csra_lab.datasets.annotations": "how readers open JSON; their errors are shown with them",
    "csra_lab.synthetic.prepare": "how drawn sets are kept; `load_dataset` calls it",
    "csra_lab.datasets.unpack": "how archives are opened; `download` calls it",
    "csra_lab.synthetic.backgrounds": "draws a part of the pictures of a drawn set",
    "csra_lab.synthetic.sprites": "draws a part of the pictures of a drawn set",
    "csra_lab.synthetic.polygons": "draws a part of the pictures of a drawn set",
    "csra_lab.synthetic.paperdoll": "draws a part of the pictures of a drawn set",
    "csra_lab.synthetic.paperdoll_body": "draws a part of the pictures of a drawn set",
    "csra_lab.synthetic.paperdoll_head": "draws a part of the pictures of a drawn set",
    "csra_lab.synthetic.paperdoll_people": "draws a part of the pictures of a drawn set",
    "csra_lab.synthetic.paperdoll_scene": "draws a part of the pictures of a drawn set",
}


def public_modules() -> set[str]:
    files = (p.relative_to(ROOT).with_suffix("") for p in (ROOT / "csra_lab").rglob("*.py"))
    return {".".join(p.parts).removesuffix(".__init__") for p in files if "cli" not in p.parts} | {"csra_lab.cli"}


def members(module: str) -> dict[str, object]:
    """What a page shows of a module: its own public functions and classes, and their methods."""
    loaded, found = importlib.import_module(module), {}
    for name, thing in vars(loaded).items():
        if name.startswith("_") or getattr(thing, "__module__", "") != module:
            continue
        if inspect.isfunction(thing) or inspect.isclass(thing):
            found[name] = thing
        if inspect.isclass(thing):
            inherited = {n for base in thing.__mro__[1:] for n in vars(base)}
            own = ((n, getattr(m, "fget", getattr(m, "__func__", m))) for n, m in vars(thing).items())
            methods = {f"{name}.{n}": m for n, m in own if inspect.isfunction(m) and n[0] != "_"}
            found |= {n: m for n, m in methods.items() if m.__doc__ or n.split(".")[1] not in inherited}
    return found


MEMBERS = {f"{module}.{name}": thing for module in sorted(SHOWN) for name, thing in members(module).items()}
FUNCTIONS = {name: thing for name, thing in MEMBERS.items() if inspect.isfunction(thing)}

# --- the pages --------------------------------------------------------------------------------------------------------


def test_every_module_has_its_place_or_a_reason_to_have_none():
    assert set(SHOWN) | set(LEFT_OUT) == public_modules()
    assert not set(SHOWN) & set(LEFT_OUT)
    for module, page in SHOWN.items():
        assert f"## {module}\n" in PAGES[page]


def test_the_first_page_names_all_that_the_front_door_hands_out():
    named = re.findall(r"^\{py:\w+\}`~([\w.]+)`$", PAGES["api"], re.M)
    homes = [f"{getattr(csra_lab, name).__module__}.{name}" for name in csra_lab.__all__]
    assert sorted(named) == sorted(homes)
    assert set(re.findall(r"\]\((api_\w+)\.md\)", PAGES["api"])) == set(PAGES) - {"api"}


def test_built_pages_show_every_name_and_its_arguments(html):
    ids = {page: Page(html / f"{page}.html").ids for page in PAGES}
    for name in MEMBERS:
        page = next(SHOWN[m] for m in (name.rsplit(".", 1)[0], name.rsplit(".", 2)[0]) if m in SHOWN)
        assert name in ids[page], name
    assert "Recipe" in (html / "genindex.html").read_text("utf-8")


# --- what docstrings owe ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MEMBERS)
def test_every_public_name_has_a_docstring(name):
    assert (MEMBERS[name].__doc__ or "").strip()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_a_function_raises_is_said(name):
    nodes = ast.walk(definition(inspect.unwrap(FUNCTIONS[name])))
    raised = [ast.unparse(node.exc) for node in nodes if isinstance(node, ast.Raise) and node.exc]
    if any(error.startswith("CsraError") for error in raised):
        assert "CsraError" in FUNCTIONS[name].__doc__


@pytest.mark.parametrize("name", FUNCTIONS)
def test_shapes_of_arrays_are_said(name):
    tree = definition(inspect.unwrap(FUNCTIONS[name]))
    types = [ast.unparse(a.annotation) for a in ast.walk(tree.args) if isinstance(a, ast.arg) and a.annotation]
    if any(re.match(r"(Tensor|np\.ndarray|ArrayLike|NDArray)\b", kind) for kind in types):
        assert re.search(r"\([\w.*/ ]+,[^()]*\)|\(\.\.\.\)|any shape", FUNCTIONS[name].__doc__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_documented_arguments_exist(name):
    given = set(inspect.signature(FUNCTIONS[name]).parameters)
    section = re.search(r"^ +Args:\n(.*?)(?:\n\n|\Z)", inspect.getdoc(FUNCTIONS[name]) or "", re.M | re.S)
    body = inspect.cleandoc(section[1]).split("\n") if section else []
    names = {n for entry, _ in entries_of(body) for n in re.split(", | or ", entry)}
    assert names <= given


# --- how they become pages --------------------------------------------------------------------------------------------


def laid_out(text: str, obj=None, what: str = "module") -> str:
    lines = inspect.cleandoc(text).split("\n")
    lay_out(None, what, "", obj, None, lines)
    return "\n".join(lines).strip()


def test_a_formula_and_a_table_keep_their_layout():
    page = laid_out("""It holds:

        f(x) = x

    Two files:

        a.json    the one, which
                  is "long"
        b*        the other
    """)
    assert page == (
        "It holds:\n\n.. code-block:: text\n\n   f(x) = x\n\nTwo files:\n\n.. list-table::\n   :class: lab-columns\n\n"
        '   * - ``a.json``\n     - the one, which is ``"long"``\n   * - ``b*``\n     - the other'
    )


def test_a_table_whose_rows_differ_stays_as_it_was_typed():
    assert prose(["    a   b", "    c"])[0] == ".. code-block:: text"


def test_sections_become_lists_of_names():
    page = laid_out("""Score `n` things.

    Args:
        n: C.
        a, b: (N, C) of 1,
            0. c or d: none.

    Raises:
        CsraError: a bad `n`.
    """)
    assert page.split("\n") == [
        *["Score `n` things.", "", ":Arguments:", "   ``n``", "      \\C.", "", "   ``a``, ``b``"],
        *["      (N, C) of 1, 0.", "", "   ``c`` or ``d``", "      none.", "", "", ":Raises:", "   `CsraError`"],
        "      a bad `n`.",
    ]


def test_own_arguments_lead_nowhere():
    def score(table):
        """Of `table`, see `compare`."""

    assert laid_out(score.__doc__, score, "function") == "Of ``table``, see `compare`."


def test_an_empty_value_of_a_function_without_arguments_is_code():
    def address() -> str:
        """Where it is; "" where it is nowhere."""

    lines = ['Where it is; "" where it is nowhere.']
    lay_out(None, "function", "address", address, None, lines)
    assert lines[0] == 'Where it is; ``""`` where it is nowhere.'


def test_fields_without_a_section_are_told_by_their_comments():
    page = laid_out("A backbone.", ModelConfig, "class")
    assert ":Attributes:" in page
    assert "   ``image_size``\n      side of the square input, pixels" in page
    assert "   ``freeze_statistics``\n      batch norm keeps" in page


def test_signatures_are_those_of_the_source():
    def written(obj, what):
        return signature_as_written(None, what, "", obj, None, "", "")

    assert written(csra_logits, "function") == ("(scores: Tensor, temperatures: Temperatures, lam: float)", "Tensor")
    assert written(average_precision, "function")[0].endswith("*, ap: AveragePrecision='average')")
    assert written(CSRA.without_residual, "method") == ("()", "AveragePooling")
    assert written(AveragePooling, "class")[0].startswith("(in_features: int, num_classes: int, **options)")
    assert written(Cost, "class")[0].startswith("(parameters: int, multiply_adds: int")
    assert "classes: tuple[str, ...] | None" in written(MetricValues, "class")[0]
    assert written(ValueError, "class") == ("", None)


def test_a_long_signature_is_lines_and_no_list_without_terms():
    row = '<dd><em class="sig-param">a</em>,</dd>\n'
    context = {"body": f"<dl><dt>f(<dl>\n{row}{row}</dl>\n)</dt><dd>x</dd></dl>"}
    mend_signatures(None, "", "", context, None)
    line = '<span class="sig-line"><em class="sig-param">a</em>,</span>'
    assert as_lines(row) == line
    assert context["body"] == f"<dl><dt>f({line * 2}\n)</dt><dd>x</dd></dl>"
