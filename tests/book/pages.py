"""Pages of the book as files: which there are, their tags, and what none of them may hold."""

import re
from html.parser import HTMLParser
from pathlib import Path

import yaml

REPO = Path(__file__).parents[2]
TOC = yaml.safe_load((REPO / "book/_toc.yml").read_text())
PAGES = [TOC["root"], *(c["file"] for part in TOC["parts"] for c in part["chapters"]), "search"]
SLIDES = [
    f"slides/session-{k + 1}" for k in range(len(yaml.safe_load((REPO / "book/teaching.yml").read_text())["sessions"]))
]


class Page(HTMLParser):
    """Tags with their attributes, and all ids."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.ids = {a["id"] for _, a in self.tags if "id" in a}
        self.links = [a["href"] for tag, a in self.tags if tag == "a" and "href" in a]

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def leaks(text: str) -> list[str]:
    """What a page or notebook holds of the machine that built it, and of programs that complained."""
    here = (str(REPO), str(Path.home()) + "/", "site-packages", "/tmp/", "ipykernel_", "Traceback (most recent")
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "base64,", text)  # an image can hold any of these by chance
    return [leak for leak in here if leak in text]
