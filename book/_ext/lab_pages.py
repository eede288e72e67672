"""Sphinx extension: what each page offers beside its text.

Every chapter's executed notebook lies in `notebooks/` beside the pages, with a link in the page's header. With the
address of the repository in _config.yml, each page also links to its source, to a form for suggestions, and to Binder.
"""

import re
import shutil
from contextlib import suppress
from html import escape
from pathlib import Path
from urllib.parse import quote

import nbformat
from chapter_notebooks import Book, chapter_notebook, cited, figure_numbers, glued_values
from jupyter_cache import get_cache
from pybtex.database import parse_file

INLINE_MATH_AND_MARK = re.compile(r'<span class="math notranslate nohighlight">[^<]*</span>[,.;:!?)]+')


def setup(app) -> dict:
    app.connect("config-inited", offer_binder)
    app.connect("html-page-context", add_links, priority=502)  # after the theme's own buttons
    app.connect("html-page-context", add_preview)
    app.connect("html-page-context", tidy_body)
    app.connect("build-finished", write_notebooks)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def repository(app) -> tuple[str, str]:
    """The address of the repository, "" if none is set, and its branch."""
    options = app.config.html_theme_options
    return (options.get("repository_url") or "").rstrip("/"), options.get("repository_branch") or "main"


def offer_binder(app, _) -> None:
    url, _ = repository(app)
    if url:
        app.config.html_theme_options["launch_buttons"] = {
            "binderhub_url": "https://mybinder.org",
            "notebook_interface": "jupyterlab",
        }
        app.config.html_theme_options["repository_provider"] = "gitlab" if "gitlab" in url else "github"


def is_chapter(app, page: str) -> bool:
    return "kernelspec" in app.env.metadata.get(page, {})


def source_links(url: str, branch: str, page: str) -> dict[str, str]:
    """Where to edit a page, and where to say something about it, on GitHub or GitLab."""
    base, title = (f"{url}/-", "issue[title]") if "gitlab" in url else (url, "title")
    return {
        "Edit": f"{base}/edit/{branch}/book/{page}.md",
        "Suggest": f"{base}/issues/new?{title}={quote(f'On the page {page}: ')}",
    }


def add_preview(app, pagename, templatename, context, doctree) -> None:
    """What a shared link shows: a sentence, and a picture where the address of the book is set (`html_baseurl`)."""
    about = (
        "Class-specific residual attention: see what the average misses. Derived, trained, measured, and to play with."
    )
    tags = {"og:title": context.get("title") or "CSRA Lab", "og:description": about, "og:type": "article"}
    if base := app.config.html_baseurl.rstrip("/"):
        tags |= {"og:image": f"{base}/_static/preview.png", "og:url": f"{base}/{pagename}.html"}
    lines = [f'<meta property="{key}" content="{escape(re.sub("<.*?>", "", text))}">' for key, text in tags.items()]
    lines.append(f'<meta name="description" content="{escape(about)}">')
    context["metatags"] = "\n".join([context.get("metatags", ""), *lines])


def tidy_body(app, pagename, templatename, context, doctree) -> None:
    """The title of a solution links its words alone, and lines break after a joint of a name, not before a comma."""
    if body := context.get("body"):
        body = re.sub(r'(<p class="admonition-title">[^<]*)(<a [^>]*>) ', r"\1 \2", body)
        body = re.sub(r"<h2>csra_lab[\w.]+", lambda heading: breakable(heading[0]), body)
        body = INLINE_MATH_AND_MARK.sub(r'<span class="lab-joined">\g<0></span>', body)
        context["body"] = re.sub(r"<td.*?</td>", breakable_names, body, flags=re.S)


def breakable_names(cell: re.Match) -> str:
    """A cell of a table whose code of more than 12 letters may go on in a new line after _, . and /."""

    return re.sub(r'(?<=<span class="pre">)[^<]{13,}(?=</span>)', lambda name: breakable(name[0]), cell[0])


def breakable(name: str) -> str:
    """A name that may go on in a new line after its joints."""
    return re.sub(r"(?<=\w)([_./])(?=\w)", r"\1<wbr>", name)


def add_links(app, pagename, templatename, context, doctree) -> None:
    buttons = context.get("header_buttons", [])
    if is_chapter(app, pagename):
        for group in buttons:
            if group.get("label") == "download-buttons":
                group["buttons"] = [b for b in group["buttons"] if b["label"] != "download-notebook-button"]
                group["buttons"].insert(0, {
                    "type": "link", "url": context["pathto"](f"notebooks/{pagename}.ipynb", 1), "text": ".ipynb",
                    "tooltip": "Download the executed notebook", "icon": "fas fa-book",
                    "label": "download-notebook-button",
                })  # fmt: skip
    url, branch = repository(app)
    if url and doctree is not None:
        links = source_links(url, branch, pagename).items()
        icons = {"Edit": "fas fa-pencil-alt", "Suggest": "fas fa-lightbulb"}
        group = [{"type": "link", "url": to, "text": name, "icon": icons[name]} for name, to in links]
        buttons.insert(0, {
            "type": "group", "tooltip": "Edit or suggest", "icon": "fas fa-pencil-alt", "buttons": group,
            "label": "source-buttons",
        })  # fmt: skip


def write_notebooks(app, exception) -> None:
    """One notebook a chapter, from the execution that made the pages.

    What the build leaves in jupyter_execute has no outputs where the execution cache had them, so they are put back.
    """
    if exception is not None or app.builder.format != "html":
        return
    executed, folder = Path(app.outdir).parent / "jupyter_execute", Path(app.outdir) / "notebooks"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    labels = {name: page for name, (page, _) in app.env.get_domain("std").anonlabels.items()}
    cache, (url, _) = get_cache(app.env.mystnb_config.execution_cache_path), repository(app)
    figures = figure_numbers(app)
    for page in sorted(filter(lambda name: is_chapter(app, name), app.env.found_docs)):
        values = glued_values(executed / f"{page}.glue.json")
        book = Book(glued=values, citations=citations(app), figures=figures, labels=labels, repository=url)
        notebook = nbformat.read(executed / f"{page}.ipynb", as_version=4)
        with suppress(KeyError):  # a page that did not run is not in the cache; the build has said so
            _, notebook = cache.merge_match_into_notebook(notebook)
        nbformat.write(chapter_notebook(notebook, page, book), folder / f"{page}.ipynb")


def citations(app) -> dict[str, tuple[str, str]]:
    """BibTeX key -> authors as the text names them, and the year."""
    return {
        key: cited(entry)
        for file in app.config.bibtex_bibfiles
        for key, entry in parse_file(Path(app.srcdir) / file).entries.items()
    }
