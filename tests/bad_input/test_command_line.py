"""Command lines drawn by hypothesis: exit code 0 or 2, something said about it, and never a traceback."""

import contextlib
import io
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from csra_lab import create_classifier
from csra_lab.cli import main
from tests import toy

VALUES = [
    "", "0", "-1", "1", "2", "nan", "inf", "-inf", "1e999", "0.5", "9" * 30, "é", "a b", "..", "/", "--", "-x",
    "\x1b[2J", "x" * 5000, "None", "True", "{}", "[1]", "1,2", "$(touch was_run)", "; ls", "\udcff", "NOWHERE", "FILE",
    "EMPTY",
    "PICTURES", "DEVKIT", "MODEL", "BROKEN",
]  # fmt: skip
FLAGS = {
    "train": ["--data", "--out", "--epochs", "--batch-size", "--lam", "--num-heads", "--temperatures", "--seed",
              "--loss", "--image-size", "--classes", "--weights", "--backbone", "--workers", "--no-normalize",
              "--what"],
    "evaluate": ["--data", "--split", "--dataset", "--four-lines", "--ap", "--threshold", "--top-k", "--difficult",
                 "--server-format", "--out", "--batch-size", "--json", "--what"],
    "predict": ["--threshold", "--attention", "--json", "--what", "--report", "--csv", "--batch-size", "--workers"],
    "runs": ["--json", "--against", "--data", "--out", "--what"],
    "four-lines": ["--lambdas", "--image-size", "--weights", "--dataset", "--split", "--min-positives", "--limit"],
    "ablate": ["--data", "--out", "--sources", "--seeds", "--quiet"],
    "data": ["download", "prepare", "check", "--root", "--json", "--quiet"],
    "": ["train", "--help", "-h"],
}  # fmt: skip
FIRST = {
    "train": ["voc2012-lite0-csra", "nope"],
    "evaluate": ["MODEL --data DEVKIT --dataset voc2012", "MODEL", "EMPTY", "NOWHERE", "BROKEN"],
    "predict": ["MODEL GOOD", "MODEL PICTURES", "EMPTY", "BROKEN"],
    "four-lines": ["test_resnet", "resnet19", ""],
    "ablate": ["lam", "nope", "BROKEN", "EMPTY"],
    "data": ["check", "download", "wider", "imagenet"],
    "runs": ["list", "compare EMPTY NOWHERE", "report BROKEN", "report MODEL", "lst", "list NOWHERE"],
    "": ["", "trian", "data"],
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """What the words in capital letters stand for."""
    root = tmp_path_factory.mktemp("places")
    devkit = toy.write_devkit(root, trainval=4, test=4)
    create_classifier("test_resnet", classes=toy.CLASSES, image_size=64).save_pretrained(root / "model")
    (root / "file").write_text("x")
    (root / "empty").mkdir()
    (root / "pictures").mkdir()
    Image.new("RGB", (40, 30)).save(root / "pictures" / "a.png")
    (root / "good.png").write_bytes((root / "pictures" / "a.png").read_bytes())
    (root / "pictures" / "b.png").write_text("no picture")
    with contextlib.suppress(OSError):  # not every file system takes a name that is no text
        Image.new("RGB", (40, 30)).save(os.fsencode(root / "pictures") + b"/\xff.png")
    (root / "broken.json").write_text("{")
    return {
        "NOWHERE": root / "nowhere", "FILE": root / "file", "EMPTY": root / "empty", "PICTURES": root / "pictures",
        "DEVKIT": devkit, "MODEL": root / "model", "BROKEN": root / "broken.json", "GOOD": root / "good.png",
    }  # fmt: skip


def run(arguments) -> tuple[int, str, str]:
    """The exit code and what was printed, as a shell would see it."""
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code or 0
        out.flush()
    return code, out.buffer.getvalue().decode(), err.getvalue()


def test_any_command_line(places, tally, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CSRA_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("csra_lab.training.loop.train", lambda *_, **__: pytest.fail("no recipe here can be trained"))

    @settings(max_examples=120, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(command=st.sampled_from(list(FLAGS)), data=st.data())
    def holds(command, data):
        words = data.draw(st.sampled_from(FIRST[command]).map(str.split) | st.sampled_from(VALUES).map(lambda v: [v]))
        for flag in data.draw(st.lists(st.sampled_from(FLAGS[command]), max_size=3)):
            words += [flag, *data.draw(st.lists(st.sampled_from(VALUES), max_size=2))]
        arguments = [str(places.get(word, word)) for word in ([command] if command else []) + words]
        code, out, err = run(arguments)
        assert code in (0, 2), (arguments, code)
        assert "Traceback" not in out + err, arguments
        assert code == 0 or (out + err).strip(), arguments
        assert "\x1b[2J" not in out + err or err.startswith("╭"), arguments  # tyro shows the words it was given
        tally("command lines", "read" if code == 0 else "refused")

    holds()
    assert not list(tmp_path.rglob("was_run"))


def test_a_name_that_is_no_text_is_shown(places):
    if not (places["PICTURES"] / os.fsdecode(b"\xff.png")).exists():
        pytest.skip("this file system takes no such name")
    code, out, err = run(["predict", str(places["MODEL"]), str(places["PICTURES"]), "--threshold", "0"])
    assert code == 2  # for the file that is no picture
    assert "\\udcff.png: " in out
    assert "b.png is not an image" in err


@pytest.mark.parametrize("size", ["0", "-3"])
def test_a_batch_of_nothing(places, size):
    code, _, err = run(["evaluate", str(places["MODEL"]), "--data", str(places["DEVKIT"]), "--dataset", "voc2012",
                        "--batch-size", size])  # fmt: skip
    assert code == 2
    assert f"the batch size must be at least 1, not {size}" in err
