"""What rungs cost by epochs and pictures, and when recording pays."""

from dataclasses import replace

import numpy as np
import pytest

from convspec.timings import cost
from convspec.timings.cost import Cost, Point

RECORDED = Cost("feature_extraction", 4.0, 0.01, 0.001, [Point(30, 100, 8.0, 5.0)])
LITERAL = Cost("frozen_end_to_end", 2.0, 0.0, 0.006, [Point(10, 100, 8.0), Point(5, 50, 3.5)])
PROBE = Cost("feature_extraction_fast", 1.0, 0.01, 0.0, [Point(0, 20, 3.0, 1.2), Point(0, 100, 2.0, 1.5)])


@pytest.mark.parametrize("rung", [RECORDED, LITERAL, PROBE], ids=lambda rung: rung.rung)
def test_the_parts_of_a_cost_are_found_in_runs_that_have_them(rung: Cost) -> None:
    points = []
    for epochs, pictures in ((2, 20), (10, 80)):
        recording = 0.5 + rung.once * pictures if rung.once else 0.0  # the first batch builds a graph
        training = rung.each * epochs * pictures
        points.append(Point(epochs, pictures, rung.seconds(epochs, pictures), recording, training))
    fitted = cost.fit(rung.rung, points)
    assert (fitted.fixed, fitted.once, fitted.each) == pytest.approx((rung.fixed, rung.once, rung.each), abs=1e-9)


def test_no_part_of_a_cost_is_negative_where_other_work_disturbed_a_run() -> None:
    fitted = cost.fit("rung", [Point(2, 20, 9.0, 6.0, 2.0), Point(10, 80, 3.0, 1.0, 1.0)])
    assert min(fitted.fixed, fitted.once, fitted.each) >= 0


@pytest.mark.parametrize("pictures", [1, 100, 10_000])
def test_recording_pays_from_the_first_epoch_count_that_costs_less(pictures: int) -> None:
    recorded = replace(RECORDED, fixed=4.0003)  # no tie
    costs = [(recorded.seconds(number, pictures), LITERAL.seconds(number, pictures)) for number in range(1, 1000)]
    assert cost.pays_from(recorded, LITERAL, pictures) == [ours < theirs for ours, theirs in costs].index(True) + 1


def test_recording_never_pays_where_an_epoch_costs_as_much() -> None:
    dear = Cost("recorded", 4.0, 0.01, 0.006, [])
    assert cost.pays_from(dear, LITERAL, 100) is None
    assert cost.pays_from(Cost("recorded", 1.0, 0.0, 0.006, []), LITERAL, 100) == 1


def test_recording_never_pays_where_its_epochs_cost_more_in_the_end() -> None:
    """Cheaper for a single epoch, and dearer from the tenth on."""
    assert cost.pays_from(Cost("recorded", 1.0, 0.0, 0.007, []), LITERAL, 100) is None


def test_the_table_has_each_rungs_parts_and_says_what_is_extrapolated() -> None:
    table = cost.table([RECORDED, LITERAL, PROBE], 30, 1000)
    shown = "feature_extraction | 30 x 100 | 8.00 | 4.00 | 10.0 | 1.00 | 1.00 | 44.0 | epoch 3"
    assert " | ".join(table.rows[0]) == shown
    assert table.rows[1] == ["frozen_end_to_end", "10 x 100", "8.00", "2.00", "-", "6.00", "6.00", "182", "-"]
    assert table.rows[2] == ["feature_extraction_fast", "1 x 100", "2.00", "1.00", "10.0", "-", "-", "11.0", "epoch 2"]
    assert "30 x 1,000: by the line, extrapolated unless it was measured." in table.text()


def test_a_rung_that_records_is_never_what_recording_is_held_against() -> None:
    """Where other work disturbed a run, its recording may come out as free."""
    disturbed = cost.fit("feature_extraction", [Point(2, 20, 9.0, 6.0, 2.0), Point(10, 80, 3.0, 1.0, 1.0)])
    assert disturbed.once == 0
    table = cost.table([disturbed, LITERAL], 30, 1000)
    assert [row[-1] for row in table.rows] == ["epoch 1", "-"]
    assert "costs less than frozen_end_to_end" in table.text()


def test_the_chart_has_a_line_for_each_rung_and_dots_that_are_measured() -> None:
    (axes,) = cost.chart([RECORDED, LITERAL], 30, 100).axes
    curves = {str(line.get_label()): np.array(line.get_xydata()) for line in axes.lines}
    assert curves["frozen_end_to_end"][[0, 29], 1] == pytest.approx([2.6, 20.0])
    dots = [tuple(curve[0]) for line in axes.lines if len(curve := np.array(line.get_xydata())) == 1]
    assert dots == [(30, 8.0), (10, 8.0)], "those on as many pictures"
