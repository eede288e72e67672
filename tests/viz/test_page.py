"""Numbers in the text and tables on the page, as HTML that a browser reads."""

from html.parser import HTMLParser

import pytest

from csra_lab.errors import CsraError
from csra_lab.viz.page import say, table, tiles


class Cells(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.rows, self.open = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.rows[-1][-1] += data


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (1.25, 1, "1.2"),
        (-3.14159, 2, "\N{MINUS SIGN}3.14"),
        (12.7, 0, "13"),
        ("ResNet-18", 1, "ResNet-18"),
        ("-1 to -0.5", 1, "\N{MINUS SIGN}1 to \N{MINUS SIGN}0.5"),
    ],
)
def test_numbers_are_said_with_a_true_minus(monkeypatch, value, digits, shown):
    said = {}
    monkeypatch.setattr("myst_nb.glue", lambda key, text, display: said.update({key: (text, display)}))
    say("key", value, digits)
    assert said == {"key": (shown, False)}


def test_a_table_shows_its_rows_and_nothing_of_them_is_markup():
    shown = table([{"a": 1, "b & c": "<script>"}, {"a": 2.5, "b & c": "x"}])
    assert Cells(shown.html).rows == [["a", "b & c"], ["1", "<script>"], ["2.5", "x"]]
    assert "<script" not in shown.html
    assert shown.alt == "A table of 2 rows: a, b & c."


def test_short_cells_stay_on_one_line_with_a_true_minus():
    shown = table([{"a": "-0.1 MB", "b": "a sentence that may be broken"}])
    assert Cells(shown.html).rows[1] == ["\N{MINUS SIGN}0.1 MB", "a sentence that may be broken"]
    assert shown.html.count("nowrap") == 1


def test_markup_and_widths_where_they_are_asked_for():
    shown = table([{"a": "<code>x</code>", "b": 1}], widths=(7, 4), markup=True).html
    assert "<code>x</code>" in shown
    assert shown.count("min-width:7em") == shown.count("min-width:4em") == 2


@pytest.mark.parametrize(("rows", "options"), [([], {}), ([{"a": 1}, {"b": 1}], {}), ([{"a": 1}], {"widths": (1, 2)})])
def test_a_table_that_is_none_is_refused(rows, options):
    with pytest.raises(CsraError, match=r"columns"):
        table(rows, **options)


def test_tiles_say_in_words_what_they_show():
    shown = tiles({"set <a>": ("-1.5", "points, -2.0 to -1.0")})
    assert "set &lt;a&gt;" in shown.html
    assert "\N{MINUS SIGN}1.5" in shown.html
    assert shown.alt == "set <a>: -1.5 points, -2.0 to -1.0"


def test_two_tables_beside_each_other_have_no_png():
    from csra_lab.viz.display import Inline

    both = Inline("<table></table>", "one") + Inline("<table></table>", "two")
    assert set(both._repr_mimebundle_()) == {"text/html"}
