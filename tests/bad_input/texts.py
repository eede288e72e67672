"""XML annotations, id lists, class lists and CSV files with something wrong in them, or odd but right."""

from tests.bad_input.conftest import Case

BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>10</xmax><ymax>20</ymax></bndbox>"
OBJECT = f"<object><name>dog</name>{BOX}</object>"
XML = f"<annotation>{OBJECT}</annotation>"


def one_dog(boxes) -> bool:
    return [(b.name, b.xmin, b.ymin, b.xmax, b.ymax) for b in boxes] == [("dog", 0.0, 1.0, 10.0, 20.0)]


def laughs(levels: int, each: int) -> str:
    """The billion laughs: each entity is ten times the one before."""
    entities = "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * each}">' for i in range(levels))
    return f'<!DOCTYPE a [<!ENTITY l0 "ha">{entities}]><annotation><name>&l{levels};</name></annotation>'


def changed(old: str, new: str) -> str:
    assert old in XML
    return XML.replace(old, new)


def xml() -> list[Case]:
    texts = {
        "billion laughs": laughs(9, 10),
        "quadratic blow-up": f'<!DOCTYPE a [<!ENTITY a "{"x" * 50_000}">]><a>{"&a;" * 50_000}</a>'[:900_000],
        "external file": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>',
        "external address": '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/x.dtd"><annotation/>',
        "parameter entity": '<!DOCTYPE a [<!ENTITY % p SYSTEM "file:///etc/passwd">%p;]><annotation/>',
        "small letters": '<!doctype a [<!entity x "y">]><annotation>&x;</annotation>',
        "space before": '  <!DOCTYPE a [<!ENTITY x "y">]><annotation/>',
        "entity nobody defined": "<annotation>&nobody;</annotation>",
        "nothing": "",
        "spaces": "   \n ",
        "text": "dog 1 2 3 4",
        "html": "<html><body><p>404<br></body></html>",
        "json": '{"annotation": []}',
        "cut short": XML[: len(XML) // 2],
        "closed twice": XML + "</annotation>",
        "two roots": XML + XML,
        "wrong nesting": "<annotation><object></annotation></object>",
        "no corner": changed("<xmax>10</xmax>", ""),
        "no box": changed(BOX, ""),
        "empty corner": changed("<xmax>10</xmax>", "<xmax/>"),
        "word for a number": changed("10", "ten"),
        "comma for a point": changed("10", "10,5"),
        "underscore in a number": changed("10", "1_0"),
        "hexadecimal": changed("10", "0x10"),
        "nan": changed("10", "nan"),
        "inf": changed("10", "inf"),
        "minus inf": changed("<xmin>1", "<xmin>-inf"),
        "too large for a float": changed("10", "9" * 400),
        "left of its left": changed("10", "0"),
        "above its top": changed("20", "1"),
        "two numbers": changed("10", "10 11"),
        "no name": changed("<name>dog</name>", ""),
        "blank name": changed("dog", "   "),
        "difficult maybe": changed("<name>", "<difficult>maybe</difficult><name>"),
        "difficult two": changed("<name>", "<difficult>2</difficult><name>"),
        "two boxes in one": changed(BOX, BOX + BOX),
        "two names in one": changed("<name>dog</name>", "<name>dog</name><name>cat</name>"),
        "deep": "<a>" * 140_000 + "</a>" * 140_000,
        "a megabyte": XML + " " * (1 << 20),
        "two boxes, the second wrong": XML.replace("</annotation>", OBJECT.replace("20", "x") + "</annotation>"),
    }
    cases = [Case(name, text.encode()) for name, text in texts.items()]
    cases += [
        Case("utf-16", XML.encode("utf-16")),
        Case("utf-32", XML.encode("utf-32")),
        Case("zeros", bytes(100)),
        Case("noise", bytes(range(256))),
        Case("gzip", b"\x1f\x8b\x08\x00" + bytes(40)),
        Case("utf-7 entity", b'<?xml version="1.0" encoding="utf-7"?>+ADwAIQ-DOCTYPE a+AD4-<annotation/>'),
    ]
    cases += [
        Case("plain", XML.encode(), one_dog),
        Case("deep inside", changed(BOX, BOX + "<part>" * 2000 + "</part>" * 2000).encode(), one_dog),
        Case("byte order mark", b"\xef\xbb\xbf" + XML.encode(), one_dog),
        Case("windows lines", XML.replace("><", ">\r\n<").encode(), one_dog),
        Case("latin-1 owner", changed("<object>", "<owner>Jos\xe9</owner><object>").encode("latin-1"), one_dog),
        Case("declared", b'<?xml version="1.0" encoding="UTF-8"?>' + XML.encode(), one_dog),
        Case("spaces around", changed("10", " 10 \n").encode(), one_dog),
        Case("fraction", changed("10", "10.0").encode(), one_dog),
        Case("comment", changed(BOX, BOX + "<!-- <bndbox/> -->").encode(), one_dog),
        Case("no object", b"<annotation/>", lambda boxes: boxes == []),
        Case("character reference", changed("dog", "d&#111;g").encode(), one_dog),
    ]  # fmt: skip
    return cases


IDS = "a\nb\nc\n"


def three(dataset) -> bool:
    return dataset.ids == ("a", "b", "c") and dataset.targets.tolist() == [[0], [-1], [1]]


def id_lists() -> list[Case]:
    wrong = {
        "empty": "", "blank": "\n\n", "twice": "a\nb\na\n", "a gap": "a\n\nb\n", "two columns": "a 1\nb 1\nc 1\n",
        "up": "a\n../b\nc\n", "root": "/a\nb\nc\n", "drive": "C:a\nb\nc\n", "backslash": "a\\b\nb\nc\n",
        "dots": "..\nb\nc\n", "hidden": ".a\nb\nc\n", "option": "-rf\nb\nc\n", "shell": "$(touch x)\nb\nc\n",
        "quotes": '"a"\nb\nc\n', "tab": "a\tb\nc\n", "bell": "a\x07\nb\nc\n", "letters beyond ascii": "ä\nb\nc\n",
        "commas": "a,b,c\n", "json": '["a", "b", "c"]', "old mac lines": "a\rb\rc\r", "line separator": "a\u2028b\nc\n",
    }  # fmt: skip
    cases = [Case(name, {"test.txt": text.encode()}) for name, text in wrong.items()]
    cases += [
        Case("utf-16", {"test.txt": IDS.encode("utf-16")}),
        Case("utf-16 without its mark", {"test.txt": IDS.encode("utf-16-be")}),
        Case("latin-1", {"test.txt": "a\nb\n\xe9\n".encode("latin-1")}),
        Case("zeros", {"test.txt": bytes(9)}),
        Case("windows lines", {"test.txt": b"a\r\nb\r\nc\r\n"}, three),
        Case("byte order mark", {"test.txt": b"\xef\xbb\xbf" + IDS.encode()}, three),
        Case("no last line end", {"test.txt": IDS.strip().encode()}, three),
        Case("blank tail", {"test.txt": IDS.encode() + b"\n \r\n\n"}, three),
    ]
    return cases


LABELS = "a -1\nb  0\nc  1\n"


def class_lists() -> list[Case]:
    wrong = {
        "empty": "", "two": "a -1\nb 2\nc 1\n", "minus two": "a -2\nb 0\nc 1\n", "a fraction": "a 0.5\nb 0\nc 1\n",
        "nan": "a nan\nb 0\nc 1\n", "inf": "a inf\nb 0\nc 1\n", "yes": "a yes\nb no\nc yes\n",
        "true": "a True\nb 0\nc 1\n",
        "no label": "a\nb 0\nc 1\n", "two labels": "a -1 1\nb 0\nc 1\n", "other order": "b 0\na -1\nc 1\n",
        "one short": "a -1\nb 0\n", "one more": LABELS + "d 1\n", "twice": "a -1\na -1\nb 0\nc 1\n",
        "stranger": "a -1\nb 0\nz 1\n", "on one line": "a -1 b 0 c 1 d\n", "commas": "a,-1\nb,0\nc,1\n",
        "long minus": "a \u22121\nb 0\nc 1\n", "shifted": "-1 a\n0 b\n1 c\n",
    }  # fmt: skip
    cases = [Case(name, {"dog_test.txt": text.encode()}) for name, text in wrong.items()]
    cases += [
        Case("utf-16", {"dog_test.txt": LABELS.encode("utf-16")}),
        Case("bytes", {"dog_test.txt": bytes(range(256))}),
        Case("windows lines", {"dog_test.txt": LABELS.replace("\n", "\r\n").encode()}, three),
        Case("byte order mark", {"dog_test.txt": b"\xef\xbb\xbf" + LABELS.encode()}, three),
        Case("plus one", {"dog_test.txt": LABELS.replace(" 1", "+1").encode()}, three),
        Case("a gap", {"dog_test.txt": b"a -1\n\nb 0\nc 1\n"}, three),
        Case("tabs", {"dog_test.txt": b"a\t-1\nb\t0\nc\t1"}, three),
    ]
    return cases


TABLE = "image,cat,dog\na.png,1,0\nb/c.png,0,-1\n"


def two_rows(dataset) -> bool:
    plain = dataset.targets.tolist() == [[1, 0], [0, -1]] and dataset.ids == ("a.png", "b/c.png")
    return plain and dataset.classes == ("cat", "dog")


def tables() -> list[Case]:
    wrong = {
        "empty": "", "header only": "image,cat,dog\n", "no class": "image\na.png\n",
        "short row": TABLE + "d.png,1\n", "long row": TABLE + "d.png,1,0,1\n",
        "two": TABLE + "d.png,2,0\n", "a fraction": TABLE + "d.png,0.5,0\n", "nan": TABLE + "d.png,nan,0\n",
        "inf": TABLE + "d.png,inf,0\n", "yes": TABLE + "d.png,yes,no\n", "blank value": TABLE + "d.png,,0\n",
        "true": TABLE + "d.png,True,0\n", "minus one half": TABLE + "d.png,-0.5,0\n",
        "up": TABLE + "../d.png,1,0\n", "up within": TABLE + "b/../../d.png,1,0\n", "root": TABLE + "/etc/passwd,1,0\n",
        "drive": TABLE + "C:d.png,1,0\n", "backslash up": TABLE + "..\\d.png,1,0\n", "no name": TABLE + ",1,0\n",
        "zero in a name": TABLE + "a\0b.png,1,0\n", "escape in a name": TABLE + "\x1b[2Jd.png,1,0\n",
        "line end in a name": TABLE + '"d\ne.png",1,0\n',
        "twice": TABLE + "a.png,1,0\n", "twice in two spellings": TABLE + "./a.png,0,1\n",
        "twice by a double slash": TABLE + "b//c.png,0,1\n", "a class twice": TABLE.replace("dog", "cat"),
        "a class without a name": TABLE.replace("dog", " "), "escape in a class": TABLE.replace("dog", "d\x1b[31mog"),
        "line end in a class": TABLE.replace("dog", '"do\ng"'), "a quote too few": TABLE + '"d.png,1,0\n',
        "a field of 200 kB": TABLE + "x" * 200_000 + ",1,0\n", "the name last": "cat,dog,image\n1,0,a.png\n",
        "json": '{"a.png": ["cat"]}\n{"b.png": ["dog"]}\n',
    }  # fmt: skip
    cases = [Case(name, text.encode()) for name, text in wrong.items()]
    cases += [
        Case("utf-16", TABLE.encode("utf-16")),
        Case("latin-1", TABLE.replace("dog", "d\xf6g").encode("latin-1")),
        Case("spreadsheet", b"PK\x03\x04" + bytes(60)),
        Case("windows lines", TABLE.replace("\n", "\r\n").encode(), two_rows),
        Case("byte order mark", b"\xef\xbb\xbf" + TABLE.encode(), two_rows),
        Case("quotes", b'"image","cat","dog"\n"a.png","1","0"\n"b/c.png","0","-1"\n', two_rows),
        Case("spaces", TABLE.replace(",", " , ").encode(), two_rows),
        Case("fractions", TABLE.replace(",1,0", ",1.0,0.0").encode(), two_rows),
        Case("blank lines", TABLE.replace("\n", "\n\n").encode(), two_rows),
        Case("semicolons", TABLE.replace(",", ";").encode(), two_rows),
        Case("tabs", TABLE.replace(",", "\t").encode(), two_rows),
        Case("rows of commas", (TABLE + ",,\n" * 3).encode(), two_rows),
        Case("line numbers", b",image,cat,dog\n0,a.png,1,0\n1,b/c.png,0,-1\n", two_rows),
        Case("backslash", TABLE.replace("b/c", "b\\c").encode(), two_rows),
        Case("letters", TABLE.replace("dog", "chien \u00e9l\u00e9gant").encode(), lambda d: len(d) == 2),
    ]
    return cases
