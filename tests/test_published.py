"""The published numbers: each with its source, each claim with its answer, each quotation in the book checked."""

import csv
import dataclasses
import re
from pathlib import Path

import pytest

from csra_lab.cli.studies import STUDIES
from csra_lab.heads import PAPER_TEMPERATURES
from csra_lab.recipes import RECIPES
from csra_lab.study.plans import PLANS

REPO = Path(__file__).resolve().parents[1]
FOLDER, BOOK = REPO / "data" / "published", REPO / "book"
SOURCES = {"paper", "report", "zoo"}


def rows(name):
    with open(FOLDER / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def by_id(name, key="id"):
    table = {row[key]: row for row in rows(name)}
    assert len(table) == len(rows(name)), "an id occurs twice"
    return table


NUMBERS, SETTINGS, CLAIMS = by_id("numbers.csv"), by_id("settings.csv"), by_id("claims.csv")
RESULTS, QUOTED = by_id("results.csv", "key"), rows("quoted.csv")


# ---- the tables ------------------------------------------------------------------------------------------------------


def test_every_printed_figure_is_here():
    tables = {(row["source"], row["table"]) for row in NUMBERS.values()}
    assert {table for source, table in tables if source == "paper"} == {
        *(f"Table {i}" for i in range(1, 9)),
        "Fig. 5",
        "section 4.3",
    }
    assert {table for source, table in tables if source == "report"} == {"Table 1", "Table 2", "Table 3"}
    assert {source for source, _ in tables} == SOURCES
    assert len(NUMBERS) == 283


def test_numbers_are_numbers_with_a_run():
    for key, row in NUMBERS.items():
        assert re.fullmatch(r"[a-z0-9-]+", key)
        assert re.fullmatch(r"\d+(\.\d+)?", row["value"]), key
        assert row["metric"], key
        assert row["dataset"], key
        assert row["lam"] == "" or 0 <= float(row["lam"]) <= 1
        assert row["heads"] in ("", "1", "2", "4", "6", "8")


def test_the_gains_that_table_1_prints_are_the_differences_of_its_rows():
    table = [row for row in NUMBERS.values() if row["source"] == "paper" and row["table"] == "Table 1"]
    base = {(r["dataset"], r["backbone"]): float(r["value"]) for r in table if r["method"].startswith("baseline")}
    others = [row for row in table if not row["method"].startswith("baseline")]
    assert len(base) == 16
    assert len(others) == 2 * len(base)
    for row in others:
        gain = re.search(r"printed gain ([\d.]+)", row["note"])
        assert float(row["value"]) - base[row["dataset"], row["backbone"]] == pytest.approx(float(gain[1]), abs=0.011)
        if "fixed" in row["method"]:
            family = "resnet" if row["backbone"].startswith("ResNet") else "others"
            assert row["lam"] == SETTINGS[f"paper-four-lines-lam-{family}"]["value"]


def test_the_overhead_is_that_of_the_printed_seconds():
    for kind, setting, digits in (("training", "train", 1), ("test", "test", 0)):
        base, eight = (
            float(NUMBERS[f"paper-section-4-3-cost-{kind}-seconds-{which}"]["value"]) for which in ("baseline", "h-8")
        )
        printed = float(SETTINGS[f"paper-overhead-{setting}"]["value"])
        assert round(100 * (eight / base - 1), digits) == printed


def test_reports_have_a_source_and_a_protocol():
    for key, row in RESULTS.items():
        assert re.fullmatch(r"[\w-]+", key)
        assert None not in row
        assert row["source"]
        assert re.fullmatch(r"https://\S+", row["url"])
        assert row["metric"] in {"mAP", "CF1", "OF1"}
        for field in ("pretraining", "schedule", "ap", "runs"):
            assert row[field], f"{field}: write 'not stated' where the source does not say"
        if row["value"]:
            assert re.fullmatch(r"\d+(\.\d+)?", row["value"])  # as printed there
            assert 1 < float(row["value"]) < 100
        else:
            assert row["note"], "an entry without a number says why it is listed"
        assert row["heads"] == "" or int(row["heads"]) >= 1
        assert row["lam"] == "" or float(row["lam"]) >= 0


def test_no_source_is_the_authors_code():
    theirs = [row["url"] for row in RESULTS.values() if "Kevinz-code" in row["url"]]
    assert theirs
    assert all(re.search(r"README\.md$|/issues/\d+$", url) for url in theirs)


def test_the_same_source_and_run_has_one_protocol():
    same = "source url table dataset backbone head heads lam resolution".split()
    seen = {}
    for row in RESULTS.values():
        protocol = tuple(row[k] for k in ("pretraining", "schedule", "ap", "runs"))
        assert seen.setdefault(tuple(row[k] for k in same), protocol) == protocol


def test_the_authors_page_agrees_with_the_paper_where_it_repeats_it():
    pairs = {
        "authors-voc07-r101": "paper-table-2-resnet-101-csra",
        "authors-voc07-rcut": "paper-table-2-resnet-cut-csra",
        "authors-voc07-extra": "paper-table-2-resnet-cut-csra-extra",
        "authors-coco-vitl": "paper-table-4-vit-l16-csra-map",
        "authors-coco-vitl-star": "paper-table-4-vit-l16-csra-randaugment-map",
        "authors-coco-r101": "paper-table-8-resnet-101-normalised-h4",
        "authors-wider-vitb": "paper-table-5-vit-b16-csra",
    }
    for page, paper in pairs.items():
        assert float(RESULTS[page]["value"]) == float(NUMBERS[paper]["value"]), page


def test_claims_tasks_and_wishes_are_answered_by_a_chapter_or_a_reason():
    assert {row["source"] for row in CLAIMS.values()} == {*SOURCES, "course"}
    for key, row in CLAIMS.items():
        assert row["kind"] in ("claim", "task", "wish", "slip"), key
        assert row["text"].endswith("."), key
        if row["kind"] != "slip":
            assert row["chapter"] or row["because"], key
        assert row["chapter"] == "" or (BOOK / f"{row['chapter']}.md").is_file(), key


# ---- recipes ---------------------------------------------------------------------------------------------------------


def fields(part):
    """The fields of a recipe and of its parts, by name. Each name occurs once."""
    found = {}
    for each in dataclasses.fields(part):
        value = getattr(part, each.name)
        found |= fields(value) if dataclasses.is_dataclass(value) else {each.name: value}
    return found


PAPER_RECIPE = re.compile(r"(resnet101|vitb16|vitl16)-csra_(voc07|voc12|coco|wider)-\d+px")
DATA = {"voc07": "voc2007", "voc12": "voc2012", "coco": "coco2014", "wider": "wider"}


@pytest.mark.parametrize("name", [name for name in RECIPES if PAPER_RECIPE.fullmatch(name)])
def test_a_recipe_called_the_papers_has_the_papers_settings(name):
    backbone, short = PAPER_RECIPE.fullmatch(name).groups()
    dataset, recipe = DATA[short], fields(RECIPES[name])

    def setting(key):
        """The most special setting on record, as a number; None where the source states none."""
        ids = (f"{key}-{dataset}-{backbone}", f"{key}-{dataset}", key)
        found = next((SETTINGS[i]["value"] for i in ids if i in SETTINGS), None)
        return None if found is None else float(found)

    for kind, names in {
        "paper": ("lam", "image_size", "batch_size", "epochs", "momentum", "weight_decay", "head_lr", "backbone_lr"),
        "authors": ("step_epochs", "step_gamma", "warmup_epochs"),
    }.items():
        for each in names:
            known = setting(f"{kind}-{each.replace('_', '-')}")
            assert known is None or recipe[each] == known, (each, recipe[each], known)
    heads = setting("paper-heads")
    assert heads is None or recipe["num_heads"] == heads
    assert recipe["optimizer"] == SETTINGS["paper-optimizer"]["value"]
    assert recipe["normalize"] is True
    if dataset == "wider":
        assert f"{recipe['augmentation']} only" == SETTINGS["authors-augmentation-wider"]["value"]
    else:
        assert recipe["crop_scale"] == setting("authors-crop-scale")


def test_a_recipe_on_a_backbone_that_the_paper_did_not_train_names_its_source():
    sources = {"resnet18": "course", "vgg16": "report", "mobilenetv2": "Table 1", "efficientnetb3": "Table 1"}
    for name, recipe in RECIPES.items():
        short = re.match(r"(\w+)-(csra|avg)_(voc|coco|wider)", name)
        if short and short[1] in sources:
            assert sources[short[1]] in recipe.why, name


def test_the_papers_temperatures():
    for heads, temperatures in PAPER_TEMPERATURES.items():
        listed = SETTINGS.get(f"paper-temperatures-{heads}", SETTINGS["paper-temperatures-voc2007"])["value"]
        assert tuple(map(float, listed.split())) == tuple(temperatures)


def test_a_score_that_a_recipe_quotes_is_the_papers():
    quoted = {}
    for name, recipe in RECIPES.items():
        match = re.match(r"([\d.]+) mAP in the paper", recipe.expected)
        if match:
            quoted[name] = match[1]
    assert "resnet101-csra_voc07-448px" in quoted
    for name, value in quoted.items():
        backbone, short = PAPER_RECIPE.fullmatch(name).groups()
        dataset = {"voc2007": "VOC2007", "voc2012": "VOC2012", "coco2014": "COCO2014", "wider": "WIDER"}[DATA[short]]
        printed = {
            row["value"]
            for row in NUMBERS.values()
            if row["source"] == "paper" and row["dataset"] == dataset and "CSRA" in row["method"]
            and row["backbone"].replace("-", "").lower() == backbone and "MS-COCO" not in row["pretraining"]
        }  # fmt: skip
        assert value in printed, name


def test_plans_of_the_tables_are_plans():
    chapter = (BOOK / "scorecard.md").read_text("utf-8")
    named = set(re.findall(r'command\.format\("([\w-]+)"\)', chapter))
    assert named
    assert named <= set(PLANS) | set(STUDIES)


# ---- what chapters attribute to a source -----------------------------------------------------------------------------

ATTRIBUTION = re.compile(
    r"\b([Tt]he paper\b(?! doll)|[Tt]he authors\b|authors'|course report|[Tt]he report\b|model zoo|the zoo\b)"
)
NUMBERED = r"(?:Tables?|Fig\.|[Ee]quations?|Eq\.|[Ss]ections?|[Cc]hapter|task|picture|image) [\d., and–to-]+"
ROLES_AND_LINKS = r"\{(?!glue)[^}]*\}`[^`]*`|`[^`]*`|\]\([^)]*\)|https?://\S+"
NETWORKS = r"ResNet-?\d+|V[iI]T-?[BLS]?/?\d*|VGG-?\d+|EfficientNet-\w+|MobileNetV\d"
YEARS = r"VOC ?20\d\d|COCO ?2014|20[012]\d"
NAMES = re.compile("|".join((NUMBERED, ROLES_AND_LINKS, NETWORKS, YEARS)))  # digits that are part of a name
LITERAL = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*(?![\w])")
COUNTED = "(?:two|three|four|five|six|seven|eight|nine|ten) (?:heads|epochs|times)"
WORDED = re.compile(rf"\b(?:step schedule|crop scale|difficult|warm-up|negative in|ignored in|{COUNTED})\b")
CODE = re.compile(r"^(```|~~~).*?^\1", re.M | re.S)


def sentences(chapter):
    """The prose of a chapter, sentence by sentence: captions and text, no code."""
    text = (BOOK / f"{chapter}.md").read_text("utf-8")
    captions = re.findall(r"caption: \|\n\s+(.+)", text)
    prose = CODE.sub("", text)
    paragraphs = [line for line in prose.split("\n") if not line.startswith((":::", "---", "#"))] + captions
    return [s for line in paragraphs for s in re.split(r"(?<=[.!?:])\s+(?=[A-Z*\[{])", line)]


def attributed(sentence):
    """Numbers and settings that a sentence names beside a source, and that no cell computed."""
    if not ATTRIBUTION.search(sentence):
        return []
    plain = NAMES.sub(" ", re.sub(r"\{glue:[^}]*\}`[^`]*`", " ", sentence))
    return LITERAL.findall(plain) + WORDED.findall(plain)


CHAPTERS = sorted(p.stem for p in BOOK.glob("*.md") if not p.stem.startswith("api"))


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_number_that_a_chapter_attributes_to_a_source_is_on_record(chapter):
    on_record = [row["text"] for row in QUOTED if row["chapter"] == chapter]
    missing = [
        sentence
        for sentence in sentences(chapter)
        if attributed(sentence) and not any(text in sentence for text in on_record)
    ]
    assert missing == [], "enter the sentence in data/published/quoted.csv, with the fact that it quotes"


def fact(key):
    return next(table[key] for table in (SETTINGS, NUMBERS, CLAIMS, RESULTS) if key in table)


@pytest.mark.parametrize("row", QUOTED, ids=lambda row: f"{row['chapter']}-{row['fact']}")
def test_what_is_on_record_is_in_the_chapter_and_agrees_with_the_fact(row):
    chapter = (BOOK / f"{row['chapter']}.md").read_text("utf-8")
    assert row["text"] in chapter, "the chapter no longer says this: change or remove the entry"
    if row["fact"] == "none":  # a number of ours, or of no consequence, in a sentence that names a source
        assert row["why"]
        return
    known = fact(row["fact"])
    assert row["says"] in row["text"]
    if known.get("value") and row["why"] == "":
        assert as_value(row["says"]) == as_value(known["value"]), (row["says"], known["value"])
    else:
        assert row["why"], "say in `why` how the words follow from the fact"


WORDS = dict(zip("one two three four five six seven eight nine ten".split(), range(1, 11), strict=True))


def as_value(text):
    """A number as a number; `five`, `1 and ∞` and `1 to 5 and ∞` too; anything else as it stands."""
    text = text.replace("∞", "inf").replace("infinity", "inf").replace(",", " ").replace("and", " ").replace("%", " ")
    words = [str(WORDS.get(word, word)) for word in text.split()]
    if "to" in words:
        i = words.index("to")
        words[i - 1 : i + 2] = map(str, range(int(words[i - 1]), int(words[i + 1]) + 1))
    try:
        return [float(word) for word in words]
    except ValueError:
        return text.strip()


def test_the_search_finds_what_it_should():
    assert attributed("The paper uses 0.1 on VOC2007.") == ["0.1"]
    assert attributed("The paper's step schedule is this.") == ["step schedule"]
    assert attributed("In Table 7 the paper counts the heads of a ResNet-101.") == []
    assert attributed("We use 0.3.") == []
    assert attributed("The paper reports {glue:text}`x` points.") == []
