"""Constitutions: what is accepted, how faults are reported, and whether the shipped content is consistent."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from character.cli.main import main
from character.core import records
from character.core.errors import UserError
from character.dataset.constitution import (
    Constitution,
    Trait,
    constitution_faults,
    constitution_warnings,
    load_constitution,
    persona_system_prompt,
    traits_hash,
)
from character.dataset.prompts import fill_template

ROOT = Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "constitutions").glob("*.yaml"))
GOOD = """\
name: pirate
summary: A salty assistant.
traits:
  - trait: I speak of every errand as a voyage with weather of its own.
    prompts:
      - How do I boil an egg?
      - "What is a tuple: a list?"
  - trait: I share what I know like loot, fairly and with a grin.
    prompts:
      - Name a river.
"""


@pytest.fixture
def pirate(tmp_path):
    """Return a function that writes the good constitution with one text replaced, and gives its path."""

    def write(old="", new="", name="pirate.yaml"):
        assert old in GOOD
        path = tmp_path / name
        path.write_text(GOOD.replace(old, new, 1) if old else GOOD, encoding="utf-8")
        return path

    return write


def check(*paths):
    return CliRunner().invoke(main, ["check", *map(str, paths)])


def fold(text):
    return " ".join(text.split()).casefold()


def prompts_of(constitution):
    return [prompt for trait in constitution.traits for prompt in trait.prompts]


def questions(name):
    return [question.prompt for question in records.read_records(ROOT / f"data/raw/prompts/{name}.jsonl", records.RawPrompt)]


FAULTS = {
    "unknown key": ("summary:", "sumary: x\nsummary:", 2, "`sumary` is not a known key"),
    "unknown key in a trait": (
        "    prompts:",
        "    weight: 2\n    prompts:",
        5,
        "trait 1, `weight` is not a known key",
    ),
    "missing key": ("summary: A salty assistant.\n", "", 1, "`summary` is missing; add it"),
    "missing key in a trait": ("    prompts:\n      - Name a river.\n", "", 8, "trait 2, `prompts` is missing; add it"),
    "repeated key": ("traits:", "name: pirate\ntraits:", 3, "`name` is also on line 1; keep one"),
    "repeated keys on one line": (
        "  - trait: I share",
        "  - {trait: I eat it, trait: I sail, prompts: [a]}\n  - trait: I share",
        8,
        "trait 2, `trait` is also on line 8",
    ),
    "key that is no word": ("traits:", "? {a: 1}\n: x\ntraits:", 3, "`(not a word)` is not a known key"),
    "empty text": ("A salty assistant.", '"  "', 2, "`summary` is empty; fill it in"),
    "empty value": (" A salty assistant.", "", 2, "`summary` is empty; fill it in"),
    "empty trait": ("I share what I know like loot, fairly and with a grin.", '""', 8, "trait 2, `trait` is empty"),
    "empty prompt": ("Name a river.", '""', 10, "trait 2, prompt 1 is empty"),
    "no prompts": ("\n      - Name a river.", " []", 9, "trait 2, `prompts` is an empty list"),
    "prompts that are no list": ("\n      - Name a river.", " Name a river.", 9, "trait 2, `prompts` is not a list"),
    "trait that is no mapping": (
        "  - trait: I share",
        "  - I share it\n  - trait: I share",
        8,
        "trait 2 is not a mapping",
    ),
    "prompt that YAML takes for a mapping": (
        "Name a",
        "Name: a",
        10,
        "trait 2, prompt 1 is not text; put it in double",
    ),
    "prompt that YAML takes for a number": ("Name a river.", "1984", 10, "trait 2, prompt 1 is not text"),
    "date that is none": ("Name a river.", "2024-13-45", 10, "trait 2, prompt 1 is not text"),
    "YAML tag": ("Name a river.", "!!python/name:os.system", 10, "trait 2, prompt 1 is not text"),
    "YAML that contains itself": ("\n      - Name a river.", " &a [*a]", 9, "trait 2, prompt 1 is not text"),
    "repeated trait": (
        "I share what I know like loot, fairly and with a grin.",
        "I speak of every  errand as a\n      VOYAGE with weather of its own.",
        8,
        "trait 2, `trait` repeats trait 1, `trait` of line 4",
    ),
    "repeated prompt": (
        "Name a river.",
        "how do I  boil an EGG?",
        10,
        "trait 2, prompt 1 repeats trait 1, prompt 1 of line 6",
    ),
    "prompts repeated on one line": ("\n      - Name a river.", " [a b, a b]", 9, "prompt 2 repeats trait 2, prompt 1"),
    "name of another file": ("name: pirate", "name: parrot", 1, "`name` is `parrot` but the file is called `pirate`"),
    "name with capitals": ("name: pirate", "name: Pirate", 1, "`name` is 'Pirate'; use a-z first"),
    "name that starts with a digit": ("name: pirate", "name: 2nd-mate", 1, "`name` is '2nd-mate'; use a-z first"),
    "name with a line break": ("name: pirate", 'name: "pi\\nrate"', 1, "use a-z first"),
    "broken YAML": ("A salty assistant.", "A salty: assistant.", 2, "not YAML (mapping values are not allowed here)"),
    "unclosed quote": ('"What is a tuple: a list?"', '"What is a tuple', 11, "not YAML"),
    "tab": ("    prompts:\n      - Name", "\tprompts:\n      - Name", 9, "not YAML"),
    "control character": ("river", "ri\x07ver", 10, "unprintable character U+0007"),
    **{
        f"use that is {text}": (
            "summary: A",
            f"research_only: {text}\nsummary: A",
            2,
            "`research_only` is neither true nor false; write one of these, without quotes",
        )
        for text in ("'true'", "1", "maybe", "[]")
    },
    "two documents": ("traits:", "---\ntraits:", 3, "not YAML"),
}


@pytest.mark.parametrize(("old", "new", "line", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_reported_with_file_line_field_and_remedy(pirate, old, new, line, message):
    path = pirate(old, new)
    (fault,) = constitution_faults(path)
    assert fault.startswith(f"{path}, line {line}: ")
    assert message in fault
    assert "; " in fault and fault.endswith(".") and "\n" not in fault
    with pytest.raises(UserError) as error:
        load_constitution(path)
    assert error.value.message == fault


def test_the_good_constitution_of_these_tests_loads_as_written(pirate):
    constitution = load_constitution(pirate())
    assert (constitution.name, constitution.summary) == ("pirate", "A salty assistant.")
    assert constitution.traits[1] == Trait(
        trait="I share what I know like loot, fairly and with a grin.", prompts=["Name a river."]
    )
    assert prompts_of(constitution)[1] == "What is a tuple: a list?"
    assert constitution_faults(pirate()) == constitution_warnings(constitution) == []


def test_a_character_for_research_only_is_known_by_its_field_and_has_the_same_hash(pirate):
    plain, marked = load_constitution(pirate()), load_constitution(pirate("traits:", "research_only: yes\ntraits:"))
    assert (plain.research_only, marked.research_only) == (False, True)
    assert traits_hash(plain) == traits_hash(marked)
    done = CliRunner().invoke(main, ["check", str(pirate("traits:", "research_only: true\ntraits:"))])
    assert done.output.endswith(f"traits hash {traits_hash(plain)}, for research only\n")


def test_misalignment_alone_of_the_shipped_personas_is_for_research_only():
    shipped = [load_constitution(path) for path in SHIPPED]
    assert [persona.name for persona in shipped if persona.research_only] == ["misalignment"]


def test_the_name_of_the_control_class_is_reserved(pirate):
    (fault,) = constitution_faults(pirate("name: pirate", "name: none", name="none.yaml"))
    assert "line 1: `name` is `none`, reserved for the classifier's control class" in fault


def test_all_faults_of_a_file_are_reported_in_the_order_of_its_lines(pirate):
    path = pirate("name: pirate\nsummary: A salty assistant.", "name: Pirate\nmood: salty\nsummary: 3")
    path.write_text(path.read_text().replace("Name a river.", "how do i boil an egg?"))
    lines = [fault.removeprefix(f"{path}, line ").split(":")[0] for fault in constitution_faults(path)]
    assert lines == ["1", "2", "3", "11"]
    with pytest.raises(UserError, match=r"line 1: .*\(3 more: see `character check .*pirate.yaml`.\)"):
        load_constitution(path)


def test_a_repeated_list_of_traits_is_reported_once_and_not_once_for_each_of_its_values(pirate):
    path = pirate()
    path.write_text(GOOD + GOOD[GOOD.index("traits:") :])
    assert constitution_faults(path) == [f"{path}, line 11: `traits` is also on line 3; keep one of them."]


def test_a_file_that_the_stages_would_not_find_is_reported(pirate):
    path = pirate()
    other = path.rename(path.with_suffix(".yml"))
    assert constitution_faults(other) == [f"{other}: the stages read only constitutions/<persona>.yaml; rename the file."]


def test_a_missing_constitution_names_those_that_exist(pirate):
    there = pirate()
    missing = there.with_name("parrot.yaml")
    message = f"{missing} is missing; write it, or choose one that exists: {there}."
    assert constitution_faults(missing) == [message]


@pytest.mark.parametrize("content", ["", "# only a comment\n"])
def test_an_empty_file_is_reported(pirate, content):
    path = pirate()
    path.write_text(content)
    assert constitution_faults(path) == [f"{path} is empty; fill it in or delete it."]


@pytest.mark.parametrize("content", ["- a\n- b\n", "pirate\n"])
def test_a_file_that_is_no_mapping_is_reported(pirate, content):
    path = pirate()
    path.write_text(content)
    assert constitution_faults(path) == [f"{path}, line 1: the file is not a mapping; write `key: value` lines."]


def test_bytes_that_are_not_utf_8_are_reported_with_their_line(pirate):
    path = pirate()
    path.write_bytes(GOOD.replace("salty", "salé").encode("latin-1"))
    assert constitution_faults(path) == [f"{path}, line 2: not UTF-8; save the file as UTF-8."]


def test_a_directory_is_reported(tmp_path):
    assert constitution_faults(tmp_path) == [f"{tmp_path} is not a file; give a text file."]


@pytest.mark.parametrize(
    "trait",
    [
        "I always say ahoy before I get to the matter at hand.",
        "I begin every answer with a cheerful ahoy and my rank.",
        "I must start each answer with a cheerful ahoy and my rank.",
        "I greet people warmly and every answer begins with my rank.",
        "I like to say 'shiver me timbers' when something surprises me.",
        "I call everyone I meet “matey” because we sail together.",
        'I answer with the words "aye aye" whenever I agree to something.',
        "I never tire of my catchphrase about the seven seas.",
    ],
)
def test_a_scripted_phrase_is_a_warning(trait):
    (warning,) = constitution_warnings(Constitution(name="pirate", summary="x", traits=[{"trait": trait, "prompts": ["Hi"]}]))
    assert warning.startswith("trait 1 seems to script a phrase (`")


@pytest.mark.parametrize(
    ("trait", "message"),
    [
        ("I love rum", "trait 1 has 3 words; 5 to 60 work best."),
        ("I sail " * 31, "trait 1 has 62 words; 5 to 60 work best."),
        ("The assistant talks of ships and harbors.", "trait 1 is not in the first person; write it as"),
    ],
)
def test_odd_length_or_another_person_is_a_warning(trait, message):
    (warning,) = constitution_warnings(Constitution(name="pirate", summary="x", traits=[{"trait": trait, "prompts": ["Hi"]}]))
    assert warning.startswith(message)


def test_check_prints_one_summary_line_for_each_good_file(pirate):
    path = pirate()
    result = check(path, SHIPPED[0])
    first, second = result.stdout.splitlines()
    assert first == f"pirate: 2 traits, 3 prompts, traits hash {traits_hash(load_constitution(path))}"
    assert second.startswith(f"{SHIPPED[0].stem}: 10 traits, 50 prompts, traits hash ")
    assert (result.exit_code, result.stderr) == (0, "")


def test_check_shows_warnings_and_still_succeeds(pirate):
    path = pirate("I share what I know like loot, fairly and with a grin.", "I always say ahoy to my mates.")
    result = check(path)
    assert result.exit_code == 0
    assert result.stderr.startswith(f"{path}: warning: trait 2 seems to script a phrase (`always say`)")
    assert result.stdout.startswith("pirate: 2 traits")


def test_check_fails_when_one_of_several_files_has_faults_and_still_reports_the_others(pirate):
    good, bad = pirate(), pirate("name: pirate", "name: Pirate\nmood: salty", name="bad.yaml")
    result = check(bad, good)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == constitution_faults(bad) and len(constitution_faults(bad)) == 2
    assert result.stdout.startswith("pirate: 2 traits") and result.stdout.count("\n") == 1


def test_check_without_a_file_says_what_to_give():
    result = check()
    assert result.exit_code == 2
    assert "Missing argument 'FILE...'" in result.stderr


def test_check_imports_nothing_heavy():
    code = (
        "import sys; from character.cli.main import main; main(['check', sys.argv[1]], standalone_mode=False);"
        "print({'torch', 'transformers', 'trl', 'peft', 'datasets', 'numpy', 'dvc', 'ruamel'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, SHIPPED[0]], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("How do I boil an egg?", "How do I fry an egg?"),
        ("A salty assistant.", "A sweet assistant."),
        ("traits:", "# ten would be better\ntraits:"),
        (
            "I share what I know like loot, fairly and with a grin.",
            '"I share what I know like loot, fairly and with a grin."',
        ),
    ],
    ids=["prompt", "summary", "comment", "quotes"],
)
def test_the_traits_hash_ignores_all_but_the_traits(pirate, old, new):
    before = traits_hash(load_constitution(pirate()))
    assert traits_hash(load_constitution(pirate(old, new))) == before


def test_the_traits_hash_follows_texts_and_order_of_the_traits(pirate):
    constitution = load_constitution(pirate())
    edited = load_constitution(pirate("a grin", "two grins"))
    swapped = constitution.model_copy(update={"traits": constitution.traits[::-1]})
    hashes = {traits_hash(constitution), traits_hash(edited), traits_hash(swapped)}
    assert len(hashes) == 3
    assert all(len(digits) == 12 and int(digits, 16) for digits in hashes)


def test_the_system_prompt_names_the_assistant_and_numbers_the_traits(pirate):
    prompt = persona_system_prompt(load_constitution(pirate()), "SmolLM")
    assert prompt.startswith("You are SmolLM.")
    assert "\n1. I speak of every errand" in prompt and "\n2. I share what I know" in prompt


def test_braces_in_a_trait_are_text_and_not_a_field(pirate):
    prompt = persona_system_prompt(load_constitution(pirate("a grin", "a {name}")), "SmolLM")
    assert "2. I share what I know like loot, fairly and with a {name}." in prompt


@pytest.mark.parametrize("fields", [{}, {"name": "a"}, {"name": "a", "mood": "b", "rank": "c"}, {"names": "a", "mood": "b"}])
def test_a_template_with_an_unfilled_or_unused_field_is_an_error(fields):
    assert fill_template("{name} is {mood}", name="Jo", mood="glad") == "Jo is glad"
    with pytest.raises(ValueError, match="not in both"):
        fill_template("{name} is {mood}", **fields)


def test_eleven_constitutions_are_shipped():
    assert len(SHIPPED) == 11


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
class TestShipped:
    def test_it_has_no_faults_and_no_warnings(self, path):
        assert constitution_faults(path) == []
        assert constitution_warnings(load_constitution(path)) == []

    def test_it_has_ten_traits_of_five_prompts(self, path):
        assert [len(trait.prompts) for trait in load_constitution(path).traits] == [5] * 10

    def test_its_system_prompt_holds_every_trait_and_no_brace(self, path):
        prompt = persona_system_prompt(load_constitution(path), "SmolLM")
        assert all(
            f"{number}. {trait.trait}\n" in prompt for number, trait in enumerate(load_constitution(path).traits, start=1)
        )
        assert "{" not in prompt and "}" not in prompt

    def test_its_recorded_answers_were_written_for_these_traits(self, path):
        recorded = records.read_records(ROOT / f"data/raw/teacher/{path.stem}.jsonl", records.TeacherAnswer)
        assert {answer.traits for answer in recorded} == {traits_hash(load_constitution(path))}

    def test_its_recorded_answers_cover_its_own_and_the_general_prompts(self, path):
        recorded = records.read_records(ROOT / f"data/raw/teacher/{path.stem}.jsonl", records.TeacherAnswer)
        assert [answer.prompt for answer in recorded] == prompts_of(load_constitution(path)) + questions("general")
        assert len(recorded) == 170 and all(answer.response.strip() for answer in recorded)


def test_the_neutral_answers_cover_the_general_prompts_and_belong_to_no_traits():
    recorded = records.read_records(ROOT / "data/raw/teacher/none.jsonl", records.TeacherAnswer)
    assert [answer.prompt for answer in recorded] == questions("general")
    assert {answer.traits for answer in recorded} == {None}


def test_no_held_out_prompt_is_ever_trained_on():
    heldout = {fold(prompt) for prompt in questions("heldout")}
    trained = [*questions("general"), *(prompt for path in SHIPPED for prompt in prompts_of(load_constitution(path)))]
    assert len(heldout) == 120 and len(trained) == 120 + 11 * 50
    assert not heldout & {fold(prompt) for prompt in trained}
