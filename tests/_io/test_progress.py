"""Who has no terminal sees a line at least every half a minute, with the rate and the time left."""

import csra_lab._io.progress as module
from csra_lab._io.progress import in_words, progress_bar, watched


def clock(monkeypatch, times):
    monkeypatch.setattr(module.time, "monotonic", lambda: times[0])
    return times


def test_lines_say_how_far_how_fast_and_how_long(monkeypatch, capsys):
    now = clock(monkeypatch, [0.0])
    with progress_bar(100, desc="scoring") as bar:
        for i in range(100):
            now[0] = i + 1.0
            bar.update(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "scoring: 30 of 100, 1 img/s, 70 s left",
        "scoring: 60 of 100, 1 img/s, 40 s left",
        "scoring: 90 of 100, 1 img/s, 10 s left",
    ]


def test_items_done_before_do_not_count_for_the_rate(monkeypatch, capsys):
    now = clock(monkeypatch, [0.0])
    with progress_bar(100, desc="features", initial=80) as bar:
        bar.set_description("features again")
        bar.set_postfix(loss="0.1")
        now[0] = 40.0
        bar.update(10)
    assert capsys.readouterr().err == "features again: 90 of 100, 4 s/img, 40 s left, loss 0.1\n"


def test_nothing_is_written_where_it_is_not_asked_for(monkeypatch, capsys):
    now = clock(monkeypatch, [0.0])
    for i in watched(range(5), 5, desc="x", shown=False):
        now[0] = 100.0 * i
    assert capsys.readouterr() == ("", "")


def test_every_item_comes_through():
    assert list(watched(iter("abc"), 3, desc="x", shown=True)) == list("abc")


def test_times_as_one_reads_them():
    assert [in_words(s) for s in (3, 99, 600, 7200)] == ["3 s", "99 s", "10 min", "2.0 h"]
