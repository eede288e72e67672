"""Sphinx extension: docstrings of the package as reference pages.

Docstrings here are plain text with sections (Args, Attributes, Returns, Raises), formulas that are indented, and tables
whose columns are made with spaces. autodoc finds them; this file says them in reStructuredText, writes signatures as
they stand in the source, links names to what they name, and mends the one piece of Sphinx's HTML that is not valid.
"""

import ast
import dataclasses
import inspect
import re
import sys
import textwrap

from sphinx.addnodes import pending_xref
from sphinx.util.nodes import make_refnode

SECTION = re.compile(r"(Args|Attributes|Returns|Raises):$")
TITLES = {"Args": "Arguments"}
NEXT_ENTRY = re.compile(r"(?<=[.;]) (?=[a-z_]\w*(?:(?:, | or )[a-z_]\w*)*: )")
COLUMNS = re.compile(r" {2,}(?=\S)")
CODE_OR_VALUE = re.compile(r'`[^`]+`|"((?:[\w.:+-][\w.:,+-]*)?)"')
SINGLE_NAME = re.compile(r"(?<![\w`:])`(\w+)`(?!`)")
PARAMETER_LIST = re.compile(r"<dl>\s*((?:<dd><em class=\"sig-param\">.*?</dd>\s*)+)</dl>", re.DOTALL)


def setup(app) -> dict:
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", lay_out)
    app.connect("autodoc-process-signature", signature_as_written)
    app.connect("doctree-read", search_by_import)
    app.connect("missing-reference", link_by_short_name)
    app.connect("html-page-context", mend_signatures)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


# --- signatures -------------------------------------------------------------------------------------------------------


def signature_as_written(app, what, name, obj, options, signature, returns) -> tuple[str, str | None] | None:
    """Arguments and result as the source has them: short names of types, and no value that only this machine has."""
    if what == "class" and dataclasses.is_dataclass(obj):
        return f"({', '.join(map(ast.unparse, fields(obj)))})", None
    function = inspect.unwrap(obj.__init__ if what == "class" else obj)
    function = getattr(function, "__func__", function)  # of a class method
    if not inspect.isfunction(function) or not function.__module__.startswith("csra_lab"):
        return ("", None) if what == "class" else None
    tree = definition(function)
    ordinary = tree.args.posonlyargs or tree.args.args
    if ordinary and ordinary[0].arg in ("self", "cls"):
        del ordinary[0]
    result = tree.returns.value if isinstance(tree.returns, ast.Constant) and tree.returns.value else tree.returns
    return f"({ast.unparse(tree.args)})", result if isinstance(result, str | None) else ast.unparse(result)


def definition(obj) -> ast.FunctionDef | ast.ClassDef:
    return ast.parse(textwrap.dedent(inspect.getsource(obj))).body[0]


def fields(cls: type) -> list[ast.AnnAssign]:
    """The fields of a dataclass, in order, as its source has them."""
    return [node for node in definition(cls).body if isinstance(node, ast.AnnAssign)]


# --- docstrings -------------------------------------------------------------------------------------------------------


def lay_out(app, what, name, obj, options, lines: list[str]) -> None:
    """Rewrite the lines of a docstring in place."""
    entries = []
    if what == "class" and dataclasses.is_dataclass(obj) and "Attributes:" not in lines:
        entries = commented_fields(obj)
    out = [line for kind, body in sections(lines) for line in (said(kind, body) if kind else prose(body))]
    lines[:] = [*out, *(field_list("Attributes", entries) if entries else [])]
    if what in ("function", "method"):
        own = inspect.signature(obj).parameters
        lines[:] = [SINGLE_NAME.sub(lambda m: f"``{m[1]}``" if m[1] in own else m[0], line) for line in lines]


def sections(lines: list[str]) -> list[tuple[str, list[str]]]:
    """(name of the section, its lines less their indent) in order; the text around sections has the name ""."""
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in lines:
        if match := SECTION.match(line):
            found.append((match[1], []))
        else:
            if found[-1][0] and line and not line.startswith(" "):
                found.append(("", []))
            found[-1][1].append(line.removeprefix("    ") if found[-1][0] else line)
    return [(kind, body) for kind, body in found if any(body)]


def said(kind: str, body: list[str]) -> list[str]:
    """A section as a field of the description."""
    if kind == "Returns":
        return [":Returns:", *indented(prose(body)), ""]
    return field_list(TITLES.get(kind, kind), entries_of(body), quote="`" if kind == "Raises" else "``")


def entries_of(body: list[str]) -> list[tuple[str, str]]:
    """(names, text) of each entry of a section. One line may hold several: "logits: (B, C). targets: (B, C)."."""
    joined = re.sub(r"\n +", " ", "\n".join(body).strip()).split("\n")
    entries = [entry.partition(": ") for line in joined if line for entry in NEXT_ENTRY.split(line)]
    return [(names, text) for names, _, text in entries]


def field_list(title: str, entries: list[tuple[str, str]], quote: str = "``") -> list[str]:
    """A field whose body is a list of names, each with its text below it."""
    out = [f":{title}:"]
    for names, text in entries:
        term = re.sub(r"\b(?!or\b)\w+", rf"{quote}\g<0>{quote}", names)
        text = re.sub(r"^(?=(\w|\d+|[ivxlcdm]+)\.( |$))", r"\\", values_as_code(text))  # "C." would start a list
        out += indented([term, f"   {text}", ""])
    return [*out, ""]


def commented_fields(cls: type) -> list[tuple[str, str]]:
    """The fields of a dataclass that have a comment at their end, and the comments."""
    source = textwrap.dedent(inspect.getsource(cls)).splitlines()
    rows = [(f.target.id, "\n".join(source[f.lineno - 1 : f.end_lineno])) for f in fields(cls)]
    return [(name, comment[1]) for name, lines in rows if (comment := re.search("  # (.+)", lines))]


def prose(lines: list[str]) -> list[str]:
    """Paragraphs: a table made with spaces becomes a table, what else is indented stays as it is."""
    out = []
    for paragraph in "\n".join(lines).strip("\n").split("\n\n"):
        rows = textwrap.dedent(paragraph).split("\n")
        table = table_of(rows)
        if table:
            out += table
        elif paragraph.startswith("  "):
            out += [".. code-block:: text", "", *indented(rows)]
        else:
            out += values_as_code("\n".join(rows)).split("\n")
        out.append("")
    return out


def table_of(rows: list[str]) -> list[str]:
    """Lines in columns as a table, or nothing. A line that starts far in goes on with the last column.

    Formulas beside each other are no table.
    """
    cells: list[list[str]] = []
    for row in rows:
        if row.startswith("   ") and cells:
            cells[-1][-1] += " " + row.strip()
        else:
            cells.append(COLUMNS.split(row))
    if len({len(row) for row in cells}) > 1 or len(cells[0]) == 1 or (len(cells) == 1 and " = " in cells[0][0]):
        return []
    out = [".. list-table::", "   :class: lab-columns", ""]
    for first, *others in cells:
        texts = [f"``{first}``", *map(values_as_code, others)]
        out += [f"   {'*' if i == 0 else ' '} - {text}" for i, text in enumerate(texts)]
    return out


def values_as_code(text: str) -> str:
    """Quoted words, such as "bce" and "", are values that one types, and no place for curly quotes."""
    return CODE_OR_VALUE.sub(lambda match: f'``"{match[1]}"``' if match[1] is not None else match[0], text)


def indented(lines: list[str]) -> list[str]:
    return [f"   {line}" if line else "" for line in lines]


# --- links and HTML ---------------------------------------------------------------------------------------------------


def link_by_short_name(app, env, node, contnode):
    """A name in a docstring or a signature leads to the function, class or constant of the package that it names.

    What the module imports goes first. A name that several have, or none, stays as it is; a full name that leads
    nowhere is left to Sphinx, which warns.
    """
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or target.startswith("csra_lab."):
        return None
    imported = getattr(sys.modules.get(node.get("py:module")), target, None)
    home = f"{getattr(imported, '__module__', None)}.{target}"
    kinds = ("function", "class", "exception", "data")
    objects = env.get_domain("py").objects
    named = [name for name, o in objects.items() if o.objtype in kinds and name.rpartition(".")[2] == target]
    found = [home] if home in objects else named
    if len(found) != 1:
        return contnode
    entry = objects[found[0]]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, found[0])


def search_by_import(app, doctree) -> None:
    """Types in signatures are looked for as names in docstrings are, not among all names that end like them."""
    for node in doctree.findall(pending_xref):
        if node.get("refdomain") == "py":
            node.attributes.pop("refspecific", None)


def mend_signatures(app, pagename, templatename, context, doctree) -> None:
    """Sphinx writes the arguments of a long signature as a list without terms. They become lines."""
    if "sig-param" in context.get("body", ""):
        context["body"] = PARAMETER_LIST.sub(lambda match: as_lines(match[1]), context["body"])


def as_lines(rows: str) -> str:
    return re.sub(r"<dd>(.*?)</dd>\s*", r'<span class="sig-line">\1</span>', rows, flags=re.DOTALL)
