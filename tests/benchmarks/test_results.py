"""Medians, ratios and tables show the measured numbers."""

from __future__ import annotations

import contextlib
from unittest.mock import ANY

import pytest

from benchmarks import cases
from benchmarks.benchmark import Benchmark, take_turns
from benchmarks.contenders import CONTENDERS, SERVERS, chosen
from benchmarks.document import NoMarker, standing, update
from benchmarks.processes import ROOT, ChildFailed
from benchmarks.results import Metric, Result, Row, ratio, reference
from benchmarks.session import MissingDeliveries, Moment, measured
from benchmarks.settings import Place, Settings
from benchmarks.tables import comparison, table_of_case, tables

FAST = Metric("per_second", "deliveries/s")
BUSY = Metric("client_share", "client busy", is_share=True)


def row(contender, *per_second, **others):
    made = Row("a case", contender, f"label of {contender}")
    for value in per_second:
        made.add({"per_second": value, **others})
    return made


def benchmark(run=None, *metrics, **options):
    return Benchmark("fanout", "Fan-out: so many", metrics or (FAST,), run, **options)


def result(*rows):
    return Result("fanout", "python -m benchmarks fanout", {"Python": "3"}, 0.5, list(rows))


def test_row_gives_median_and_spread_of_its_rounds():
    """A disturbed round changes the median little, and shows in the spread."""
    measured_row = row("ours-pubsub", 90, 10, 100)
    assert measured_row.median("per_second") == 90
    assert measured_row.spread("per_second") == (10, 100)
    assert measured_row.median("cpu") is None


def test_ratio_is_of_medians_and_absent_without_a_reference():
    """No ratio is shown for a contender without measurements."""
    bare, ours = row("bare-pubsub", 200), row("ours-pubsub", 90, 110)
    assert ratio(ours, bare, "per_second") == 0.5
    assert ratio(ours, None, "per_second") is None
    assert ratio(ours, row("bare-pubsub"), "per_second") is None


def test_reference_is_the_first_of_a_family_that_was_measured():
    """A contender that failed is not a reference."""
    rows = [row("ours-pubsub"), row("ours-queue", 5), row("ours-memory", 6)]
    assert reference(rows, "ours") is rows[1]
    assert reference(rows, "bare") is None


def test_stored_result_comes_back_as_it_was(tmp_path):
    """The result keeps its rows, their rounds and the errors."""
    stored = result(row("ours-pubsub", 1, 2))
    stored.rows[0].error = "too slow"
    stored.save(tmp_path / "deep" / "fanout.json")
    assert Result.load(tmp_path / "deep" / "fanout.json") == stored


def test_table_shows_medians_spreads_and_ratios():
    """One line for each contender."""
    rows = [row("bare-pubsub", 2000), row("ours-pubsub", 900, 1000, 1100)]
    lines = table_of_case(benchmark(), rows).splitlines()
    assert [cell.strip() for cell in lines[3].split("|")[1:-1]] == [
        "label of ours-pubsub",
        "1,000 (900 to 1,100)",
        "0.50",
        "1.00",
    ]


@pytest.mark.parametrize(
    ("shares", "remark"),
    [
        ({"client_share": 0.9}, "limited by the client, busy 90%"),
        ({"publisher_share": 0.9}, "limited by the publisher, busy 90%"),
        ({"load_share": 0.95, "server_share": 0.6}, "limited by the load, busy 95%"),
        ({"others_share": 0.4}, "disturbed: others used 40% of the machine"),
    ],
)
def test_row_that_measured_the_load_says_so(shares, remark):
    """The remark names the process that was saturated."""
    assert remark in table_of_case(benchmark(), [row("ours-pubsub", 1, **shares)])


def test_row_of_a_busy_server_has_no_remark():
    """The server is the measured process, however busy the others were in total."""
    shares = {"client_share": 0.6, "load_share": 0.95, "server_share": 0.99}
    assert "limited" not in table_of_case(benchmark(), [row("ours-pubsub", 1, **shares)])


def test_table_of_sizes_shows_growth():
    """The table compares the largest size with the smallest instead of showing ratios."""
    metrics = [Metric(str(size), str(size)) for size in (10, 100, 1000)]
    grown = Row("a case", "ours-memory", "ours", {"10": [2.0], "100": [3.0]})
    lines = table_of_case(benchmark(None, *metrics, is_scaling=True), [grown]).splitlines()
    assert lines[0].split("|")[-2].strip() == "largest / smallest"
    assert lines[2].split("|")[-2].strip() == "1.50"


def test_table_of_cases_has_a_line_for_each():
    """With one contender there are no ratios; a failed case has a line of its own."""
    made = benchmark(is_by_case=True)
    first, second = row("ours-streams", 1), row("ours-streams", 2)
    first.case, second.case = "few", "many"
    failed = Row("", "ours-streams", "ours", error="no such thing")
    lines = tables(made, result(first, second, failed)).splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == ["", "deliveries/s"]
    assert [line.split("|")[1].strip() for line in lines[2:4]] == ["few", "many"]
    assert lines[-1] == "- ours: no such thing"
    assert standing([(made, result(first))]).count("\n") == 1


def test_comparison_shows_the_change_and_both_ratios_to_bare():
    """A machine that is slow today is slow for bare ASGI, too."""
    before = result(row("bare-pubsub", 100), row("ours-pubsub", 50))
    now = result(row("bare-pubsub", 50), row("ours-pubsub", 40))
    line = comparison(benchmark(), before, now).splitlines()[-1]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == ["50", "40", "-20%", "0.50", "0.80"]


def test_standing_names_who_is_better_first():
    """The main metric decides; where less is better, less comes first."""
    rows = [row("bare-pubsub", 10), row("ours-pubsub", 20), row("fc1-pubsub", 80)]
    slow = benchmark(None, Metric("per_second", "ms", better="lower"))
    behind, ahead = standing([(slow, result(*rows))]).splitlines()[2].split("|")[2:4]
    assert behind.strip() == "label of bare-pubsub (2.0 times)"
    assert ahead.strip() == "label of fc1-pubsub (4.0 times)"


def test_contenders_take_turns():
    """The order is A B A B, not A A B B."""
    turns = []

    def run(contender, place):
        turns.append(contender.name)
        return {"a case": {"per_second": 1.0}}

    found = take(run, "bare,ours-pubsub", rounds=2)
    assert turns == ["bare-pubsub", "ours-pubsub"] * 2
    assert found.rows[0].rounds == {"per_second": [1.0, 1.0], "others_share": ANY}


def test_contender_that_fails_hides_nobody():
    """The contender is left out after its second failure, and the table says why."""
    turns = []

    def run(contender, place):
        turns.append(contender.name)
        if contender.name == "bare-pubsub":
            raise ChildFailed("no such thing")
        return {"a case": {"per_second": 1.0}}

    found = take(run, "bare,ours", rounds=3)
    assert turns.count("bare-pubsub") == 2
    assert turns.count("ours-pubsub") == 3
    assert "- bare ASGI: no such thing" in tables(benchmark(), found)


def test_contenders_that_stand_take_short_turns():
    """They are started once and take turns A B B A; others are started for each round."""
    turns, started = [], []

    @contextlib.contextmanager
    def stand(contender, place):
        started.append(contender.name)
        yield lambda: measured(contender, place)

    def measured(contender, place):
        turns.append((contender.name, place.settings.seconds))
        return {"a case": {"per_second": float(len(turns))}}

    found = take(None, "bare,ours-pubsub,socketio", rounds=2, stand=stand)
    once = [("bare-pubsub", 0.5), ("ours-pubsub", 0.5)]
    whole = [("socketio-pubsub", 2.0)]
    back = once[::-1]
    assert turns == [*once, *whole, *back, *once, *back] * 2
    assert sorted(started) == ["bare-pubsub", "ours-pubsub", *["socketio-pubsub"] * 2]
    assert [len(row.rounds["per_second"]) for row in found.rows] == [8, 8, 2]


def test_contender_that_fails_while_it_stands_hides_nobody():
    """The contender is left out after its second failure; one that cannot start has no turn."""

    @contextlib.contextmanager
    def stand(contender, place):
        if contender.name == "ours-queue":
            raise ChildFailed("cannot start")
        yield lambda: measured(contender)

    def measured(contender):
        if contender.name == "bare-pubsub":
            raise ChildFailed("no such thing")
        return {"a case": {"per_second": 1.0}}

    found = take(None, "bare-pubsub,ours-pubsub,ours-queue", 1, stand, ("pubsub", "queue"))
    assert found.row("a case", "ours-pubsub").rounds["per_second"] == [1.0] * 4
    told = tables(benchmark(), found)
    assert "- bare ASGI: no such thing" in told
    assert "- Fast Channels, queue: cannot start" in told


def test_ratio_is_the_median_of_the_rounds():
    """A slow round was slow for both."""
    mine, theirs = row("ours-pubsub", 10, 40, 90), row("bare-pubsub", 10, 20, 100)
    assert ratio(mine, theirs, "per_second") == 1.0
    assert ratio(row("ours-pubsub", 10, 40), theirs, "per_second") == 1.25


def take(run, words, rounds, stand=None, layers=("pubsub",)):
    """Let contenders take turns, without a server to empty."""
    found = result()
    made = benchmark(run, stand=stand, layers=layers)
    contenders = made.contenders(words.split(","), [])
    place = Place(NoServer(), Settings(rounds=rounds))
    take_turns(made, contenders, place, found, lambda _: None, empty=lambda _: None)
    return found


class NoServer:
    url = "redis://127.0.0.1:1"
    pid = None


def test_unknown_contender_is_an_error_that_names_the_known():
    """A benchmark without any contender is an error, too."""
    with pytest.raises(ValueError, match="'nobody'; there are bare-pubsub"):
        chosen(["nobody"], ["pubsub"], "fanout")


def test_benchmark_without_a_frame_is_a_failure():
    """Dividing by zero frames would measure nothing."""
    moment = Moment(0.0, 5, *[0.0] * 6)
    with pytest.raises(MissingDeliveries, match="not one frame"):
        measured(moment, moment)


def test_names_of_contenders_are_unique_and_their_parts_exist():
    """Each contender has an application, and a known server."""
    assert len({contender.name for contender in CONTENDERS}) == len(CONTENDERS)
    for contender in CONTENDERS:
        assert (ROOT / "benchmarks" / "apps" / f"{contender.app}.py").exists()
        assert contender.server in {"", *SERVERS}


def test_update_replaces_what_is_between_markers_and_nothing_else(tmp_path):
    """A second update changes nothing; a name without markers is an error."""
    page = tmp_path / "page.md"
    page.write_text("one\n<!-- a -->\nold\n<!-- end of a -->\ntwo\n")
    for _ in range(2):
        update(page, {"a": r"new \1"})
        assert page.read_text() == "one\n<!-- a -->\nnew \\1\n<!-- end of a -->\ntwo\n"
    with pytest.raises(NoMarker):
        update(page, {"b": ""})


def test_document_has_a_place_for_every_benchmark():
    """Each benchmark has one place between markers for its tables."""
    text = (ROOT / "docs" / "performance.md").read_text()
    for name in (*cases.ALL, "machine", "standing"):
        assert f"<!-- {name} -->" in text
        assert f"<!-- end of {name} -->" in text
