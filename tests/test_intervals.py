"""Shares, and intervals for paired trials: known examples, and how often they cover the truth."""

import numpy
import pytest

from character.evaluation.intervals import (
    bootstrap_interval,
    crossed_bootstrap,
    difference_summary,
    mean_difference,
    mean_with_interval,
    paired_difference,
    rate_summary,
    wilson_interval,
)


def trials(both, first, second, neither):
    return (
        [True] * (both + first) + [False] * (second + neither),
        [True] * both + [False] * first + [True] * second + [False] * neither,
    )


# Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33, 2850: airway hyper-responsiveness before and after
# transplantation, Newcombe's interval.
def test_the_interval_is_newcombes():
    assert paired_difference(*trials(1, 1, 7, 12)) == pytest.approx((-0.2857, -0.507, -0.026), abs=5e-4)


def test_the_other_way_round_it_is_the_mirror_image():
    first, second = trials(14, 5, 0, 22)
    difference, low, high = paired_difference(first, second)
    assert paired_difference(second, first) == pytest.approx((-difference, -high, -low))
    assert difference == pytest.approx(5 / 41)
    assert 0 < low < difference < high


def test_trials_that_never_differ_leave_a_doubt_that_shrinks_with_their_number():
    assert paired_difference([False] * 30, [False] * 30) == pytest.approx((0.0, -0.1135, 0.1135), abs=1e-3)
    _, low, high = paired_difference([True] * 300, [True] * 300)
    assert -0.02 < low < 0 < high < 0.02


def test_without_trials_nothing_is_known():
    assert paired_difference([], []) == (0.0, -1.0, 1.0)
    assert difference_summary([], []) == {"difference": None, "low": -1.0, "high": 1.0, "n": 0}
    assert rate_summary("recall", 0, 0) == {"recall": None, "low": 0.0, "high": 1.0, "n": 0}


def test_a_share_goes_under_its_name_with_its_interval_and_half_a_hit_counts_half():
    low, high = wilson_interval(0.625, 4)
    assert rate_summary("win_rate", 2.5, 4) == {"win_rate": 0.625, "low": low, "high": high, "n": 4}


@pytest.mark.parametrize("shares", [(0.5, 0.2, 0.1, 0.2), (0.6, 0.05, 0.05, 0.3), (0.0, 0.6, 0.0, 0.4), (0.3, 0.3, 0.0, 0.4)])
def test_the_interval_covers_the_truth_as_often_as_it_says(shares):
    generator = numpy.random.default_rng(0)
    truth, hits = shares[1] - shares[2], 0
    for counts in generator.multinomial(40, shares, 1000):
        _, low, high = paired_difference(*trials(*counts))
        hits += low <= truth <= high
    assert 0.93 < hits / 1000 <= 1


def test_whole_points_have_the_intervals_of_trials_and_parts_of_points_those_of_a_bootstrap():
    assert mean_with_interval([1.0, 1.0, 1.0, 0.0], 0) == (0.75, *wilson_interval(0.75, 4))
    assert mean_with_interval([1.0] * 20, 0)[1] < 0.9, "all right is no certainty"
    parts = [0.25, 0.75, 1.0, 0.5] * 10
    assert mean_with_interval(parts, 0) == (0.625, *bootstrap_interval(parts, lambda drawn: sum(drawn) / len(drawn), 0))
    assert mean_difference([1.0, 0.0, 1.0], [0.0, 0.0, 1.0], 0) == paired_difference([True, False, True], [False, False, True])
    found, low, high = mean_difference(parts, [part - 0.25 for part in parts], 0)
    assert (found, low, high) == pytest.approx((0.25, 0.25, 0.25))


def test_scores_that_share_a_row_and_a_column_are_drawn_by_both():
    """All scores of a persona are alike: however many prompts there are, they are as many trials as there are personas."""
    personas, prompts = [str(at // 50) for at in range(500)], [str(at % 50) for at in range(500)]
    by_persona = [float(name in "01234") for name in personas]
    alone = bootstrap_interval([1.0] * 5 + [0.0] * 5, lambda drawn: sum(drawn) / len(drawn), 0)
    assert crossed_bootstrap(by_persona, personas, prompts, 0) == pytest.approx(alone, abs=0.11)
    assert crossed_bootstrap(by_persona, prompts, personas, 0) == pytest.approx(alone, abs=0.11)
    assert crossed_bootstrap(by_persona, ["one"] * 500, [str(at) for at in range(500)], 0) == pytest.approx(
        (0.456, 0.544), abs=0.01
    )


def test_the_interval_of_scores_that_share_rows_and_columns_covers_the_truth_as_often_as_it_says():
    generator = numpy.random.default_rng(0)
    rows, columns = numpy.repeat(numpy.arange(11), 30), numpy.concatenate([generator.permutation(60)[:30] for _ in range(11)])
    hits, narrow = 0, 0
    for seed in range(300):
        lean = 0.6 + 0.1 * generator.normal(size=11)[rows] + 0.1 * generator.normal(size=60)[columns]
        scores = generator.random(330) < lean.clip(0, 1)
        low, high = crossed_bootstrap(scores, rows, columns, seed)
        hits += low <= 0.6 <= high
        low, high = wilson_interval(scores.mean(), 330)
        narrow += low <= 0.6 <= high
    assert 0.92 < hits / 300 < 0.99
    assert narrow / 300 < 0.9
