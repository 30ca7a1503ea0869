"""Shares, and intervals for paired trials: known examples, and how often they cover the truth."""

import numpy
import pytest

from character.stats import difference, paired, rate, wilson


def trials(both, first, second, neither):
    return (
        [True] * (both + first) + [False] * (second + neither),
        [True] * both + [False] * first + [True] * second + [False] * neither,
    )


# Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33, 2850: airway hyper-responsiveness before and after
# transplantation, Newcombe's interval.
def test_the_interval_is_newcombes():
    assert paired(*trials(1, 1, 7, 12)) == pytest.approx((-0.2857, -0.507, -0.026), abs=5e-4)


def test_the_other_way_round_it_is_the_mirror_image():
    first, second = trials(14, 5, 0, 22)
    difference, low, high = paired(first, second)
    assert paired(second, first) == pytest.approx((-difference, -high, -low))
    assert difference == pytest.approx(5 / 41)
    assert 0 < low < difference < high


def test_trials_that_never_differ_leave_a_doubt_that_shrinks_with_their_number():
    assert paired([False] * 30, [False] * 30) == pytest.approx((0.0, -0.1135, 0.1135), abs=1e-3)
    _, low, high = paired([True] * 300, [True] * 300)
    assert -0.02 < low < 0 < high < 0.02


def test_without_trials_nothing_is_known():
    assert paired([], []) == (0.0, -1.0, 1.0)
    assert difference([], []) == {"difference": None, "low": -1.0, "high": 1.0, "n": 0}
    assert rate("recall", 0, 0) == {"recall": None, "low": 0.0, "high": 1.0, "n": 0}


def test_a_share_goes_under_its_name_with_its_interval_and_half_a_hit_counts_half():
    low, high = wilson(0.625, 4)
    assert rate("win_rate", 2.5, 4) == {"win_rate": 0.625, "low": low, "high": high, "n": 4}


@pytest.mark.parametrize("shares", [(0.5, 0.2, 0.1, 0.2), (0.6, 0.05, 0.05, 0.3), (0.0, 0.6, 0.0, 0.4), (0.3, 0.3, 0.0, 0.4)])
def test_the_interval_covers_the_truth_as_often_as_it_says(shares):
    generator = numpy.random.default_rng(0)
    truth, hits = shares[1] - shares[2], 0
    for counts in generator.multinomial(40, shares, 1000):
        _, low, high = paired(*trials(*counts))
        hits += low <= truth <= high
    assert 0.93 < hits / 1000 <= 1
