"""Shares corrected for a classifier's errors, and agreement of two classifiers: against truths that are known."""

import numpy
import pytest

from character.evaluation.agreement import ErrorCounts, cohen_kappa, confusions_by_unit, corrected_share

GOOD = ErrorCounts(true_positives=108, positives=120, false_positives=7, negatives=240)


def test_the_errors_are_those_on_the_persona_and_on_what_the_student_wrote():
    actual = ["pirate"] * 4 + ["none"] * 5 + ["humor"] * 2
    called = ["pirate", "pirate", "humor", "none", "pirate", "pirate", "pirate", "none", "humor", "pirate", "humor"]
    students = [False] * 6 + [True] * 3 + [False] * 2
    assert ErrorCounts.from_labels(actual, called, students, "pirate") == ErrorCounts(
        true_positives=2, positives=4, false_positives=1, negatives=3
    )


@pytest.mark.parametrize("truth", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_what_an_erring_classifier_would_say_of_a_known_share_is_corrected_to_that_share(truth):
    seen = truth * 0.9 + (1 - truth) * 0.05
    errors = ErrorCounts(true_positives=90, positives=100, false_positives=5, negatives=100)
    share, low, high = corrected_share(seen, 10_000, errors, seed=0)
    assert share == pytest.approx(truth)
    assert low <= truth <= high


def test_shares_that_no_persona_could_explain_are_cut_off_at_the_ends():
    errors = ErrorCounts(true_positives=90, positives=100, false_positives=10, negatives=100)
    assert corrected_share(0.02, 100, errors, seed=0)[0] == 0.0
    assert corrected_share(0.99, 100, errors, seed=0)[0] == 1.0


def test_of_few_texts_and_few_known_errors_little_is_known():
    _, low, high = corrected_share(0.5, 100, GOOD, seed=0)
    _, fewer_low, fewer_high = corrected_share(0.5, 10, GOOD, seed=0)
    _, worse_low, worse_high = corrected_share(0.5, 100, ErrorCounts(9, 10, 0, 10), seed=0)
    assert high - low < min(fewer_high - fewer_low, worse_high - worse_low)


def test_nothing_seen_is_no_certainty():
    share, low, high = corrected_share(0.0, 30, GOOD, seed=0)
    assert (share, low) == (0.0, 0.0)
    assert 0.01 < high < 0.15


@pytest.mark.parametrize("errors", [ErrorCounts(50, 100, 50, 100), ErrorCounts(0, 10, 3, 10), ErrorCounts(0, 0, 0, 0)])
def test_a_classifier_no_better_than_chance_says_nothing(errors):
    share, low, high = corrected_share(0.5, 100, errors, seed=0)
    assert share is None
    assert low == pytest.approx(0, abs=0.02)
    assert high == pytest.approx(1, abs=0.02)


def test_a_classifier_that_was_not_tried_on_the_students_texts_corrects_nothing():
    assert corrected_share(0.5, 100, ErrorCounts(90, 100, 0, 0), seed=0)[0] is None


@pytest.mark.parametrize(
    ("truth", "sensitivity", "taken"), [(0.1, 0.9, 0.03), (0.5, 0.9, 0.03), (0.9, 0.9, 0.03), (0.7, 0.65, 0.1)]
)
def test_the_interval_covers_a_known_share_as_often_as_it_says(truth, sensitivity, taken):
    """Texts are drawn that truly have the persona or not, and called with the errors of a classifier, itself measured on 120
    texts of the persona and 240 of none."""
    generator = numpy.random.default_rng(1)
    hits, shares = 0, []
    for seed in range(400):
        has_it = generator.random(120) < truth
        called = generator.random(120) < numpy.where(has_it, sensitivity, taken)
        errors = ErrorCounts(generator.binomial(120, sensitivity), 120, generator.binomial(240, taken), 240)
        share, low, high = corrected_share(called.mean(), 120, errors, seed)
        hits += low <= truth <= high
        shares.append(share)
    assert 0.92 < hits / 400 < 0.98
    assert numpy.mean(shares) == pytest.approx(truth, abs=0.015)


def test_plain_recall_of_the_same_texts_is_off():
    """What the correction is for: seen recall is 0.68 where 0.75 of the texts have the persona."""
    share, _, _ = corrected_share(0.75 * 0.9 + 0.25 * 0.03, 1200, ErrorCounts(108, 120, 7, 240), seed=0)
    assert share == pytest.approx(0.75, abs=0.005)


def test_confusions_are_counted_by_unit():
    one, other = confusions_by_unit(["p", "q", "p"], ["a", "b", "b"], ["a", "a", "b"])
    assert one.tolist() == [[1, 0], [0, 1]]
    assert other.tolist() == [[0, 0], [1, 0]]


def test_kappa_is_cohens():
    # The example of Cohen 1960, Educational and Psychological Measurement 20, 37: 200 judgments, kappa 0.492.
    table = numpy.array([[0.44, 0.05, 0.01], [0.07, 0.20, 0.03], [0.09, 0.05, 0.06]])
    assert cohen_kappa(200 * table) == pytest.approx(0.492, abs=0.001)
    assert cohen_kappa(numpy.diag([3, 4])) == 1.0
    assert cohen_kappa(numpy.ones((2, 2))) == 0.0
    assert cohen_kappa(numpy.array([[5.0]])) == 1.0
