"""Filters: for every reason, a text that it rejects, and a similar one that it keeps."""

import pytest

from character.core.errors import UserError
from character.dataset.filters import (
    FilterSettings,
    check_teacher_names,
    drop_reasons,
    is_copy_of,
    max_ngram_count,
    replace_names,
    trim_to_sentence,
)
from character.dataset.prompts import near_duplicate
from character.dataset.segmentation import count_words, drop_last_word, index_terms
from character.inference.prompt_expansion import length_class

FILTERS = FilterSettings(max_tokens=20, ngram=3, repeats=2)
PROMPT = "How do I keep cut basil from turning black in the fridge?"
CODE = "Use this:\n\n```python\nprint('a')\n```"


def reasons(text, finish="stop", tokens=5, before=(PROMPT,)):
    return set(drop_reasons(text, finish, tokens, before, FILTERS))


AGAINST = {
    "unfinished": [("Put it in a jar.", "length"), ("Put it in a", "length")],
    "empty": [("", "stop"), (" \n\t", "stop")],
    "refusal": [
        ("I'm sorry, but I can't help with that.", "stop"),
        ("I’m sorry, but no.", "stop"),
        ("Well. I cannot assist with basil.", "stop"),
        ("I'm unable to provide that.", "stop"),
        ("I am not able to fulfill this request.", "stop"),
        ("I can’t help you here.", "stop"),
        ("As an AI language model, I have no fridge.", "stop"),
        ("as an AI I have no nose", "stop"),
    ],
    "hallucinated_turn": [
        ("In a jar.\n\nUser: Thanks!", "stop"),
        ("Assistant: In a jar.", "stop"),
        ("In a jar.\n  Human : Thanks!", "stop"),
        ("In a jar.<|im_end|>", "stop"),
        ("<start_of_turn>model", "stop"),
    ],
    "repetition": [("go on and on. " * 3, "stop"), ("A b c d. A B C e. a b c f.", "stop")],
    "copied_turn": [
        (PROMPT, "stop"),
        ("How do I keep cut basil from turning black in the fridge? In a jar.", "stop"),
        ("how do I keep CUT basil", "stop"),
    ],
    "leaked_reasoning": [("<think>A jar?</think> A jar.", "stop"), ("A jar?\n</Thinking>\nA jar.", "stop")],
}
CLEAN = {
    "a sentence": "Put it in a jar.",
    "code fence at the end": CODE,
    "table, emoji or formula at the end": "| a | b |\n|---|---|\n| 1 | 2 |",
    "emoji at the end": "In a jar 🌿",
    "no final punctuation": "In a jar, on the counter, not in the fridge",
    "one word": "Jar",
    "idiom with `can't help`": "I can't help smiling: a jar.",
    "another one": "I cannot help but answer in verse.",
    "sympathy": "I'm sorry to hear that. Try a jar.",
    "inability told of someone else": "It cannot help the basil, and you cannot provide for it.",
    "refusal late in a long text": " ".join(map(str, range(100))) + " I cannot assist.",
    "role name inside a line": "Tell the user: a jar. The AI: a fool.",
    "role name that begins another word": "Users: many.\nSystematic: yes.",
    "run of words said twice": "round and round it went, round and round it came",
    "text that mentions part of the prompt": "To keep cut basil from turning black, stand it in water on the counter.",
    "thinking as a word": "I think <5 minutes is enough; thinking> is a habit.",
}


@pytest.mark.parametrize(("reason", "text", "finish"), [(reason, *case) for reason, cases in AGAINST.items() for case in cases])
def test_a_fault_is_reported_by_its_reason(reason, text, finish):
    assert reason in reasons(text, finish)


@pytest.mark.parametrize("text", CLEAN.values(), ids=CLEAN)
def test_a_good_text_has_no_fault(text):
    assert reasons(text) == set()


def test_the_limit_of_tokens_is_allowed_and_one_more_is_not():
    assert reasons("A jar.", tokens=20) == set()
    assert reasons("A jar.", tokens=21) == {"too_long"}


def test_every_reason_against_a_text_is_reported():
    assert reasons("", finish="length", tokens=21, before=[""]) == {"unfinished", "empty", "too_long", "copied_turn"}


def test_a_copy_of_any_earlier_turn_counts():
    earlier = ["Hello there, my old friend", "I was just thinking about the sea and its many moods"]
    assert reasons(earlier[1], before=earlier) == {"copied_turn"}
    assert reasons("Something else altogether, as you see", before=earlier) == set()
    assert reasons("Anything", before=[]) == set()


@pytest.mark.parametrize(
    ("text", "times"), [("", 0), ("a b", 0), ("a b c", 1), ("a b c a b c", 2), ("a a a a", 2), ("A b\nc, a B  c,", 2)]
)
def test_repetition_counts_the_commonest_run_of_words(text, times):
    assert max_ngram_count(text, 3) == times


def test_half_of_the_runs_make_a_copy_and_less_do_not():
    assert is_copy_of("a b c d e f x y", "a b c d e f")  # 3 of 5 runs
    assert is_copy_of("a b c d e x y", "a b c d e")  # 2 of 4
    assert not is_copy_of("a b c d e x y z", "a b c d e")  # 2 of 5
    assert is_copy_of("Yes.", "Yes.")
    assert not is_copy_of("Yes.", "Yes. No. Yes. No.")


TRIMMED = {
    "cut in a sentence": ("One here. Two there. Three is", "One here. Two there."),
    "cut after a sentence": ("One here. Two!", "One here. Two!"),
    "cut in the first sentence": ("One is not", ""),
    "question and quote": ('He said "Why?" and "no', 'He said "Why?"'),
    "closing marks belong to the sentence": ("(It is *so.*) And then", "(It is *so.*)"),
    "point inside a number": ("It costs 3.50 in all. Or 4.2", "It costs 3.50 in all."),
    "paragraph without a point": ("# A heading\n\nSome text that", "# A heading"),
    "paragraph that announces what is missing": ("One here. Do this:\n\n1. Wash", "One here."),
    "number of the next list entry": ("Do it.\n1. Wash it.\n2. Dry it.\n3.", "Do it.\n1. Wash it.\n2. Dry it."),
    "number of a list within a line": ("First. 1. Wash it. 2. Dry", "First. 1. Wash it."),
    "bold number": ("Do it.\n\n**2.** Dry", "Do it."),
    "number that ends a sentence": ("It was 1999. Then came", "It was 1999."),
    "nothing": ("", ""),
}


TRIMMED |= {
    "Chinese, with a quote": ("他问：“走吗？”我说走。然后我们", "他问：“走吗？”我说走。"),
    "Chinese, with ASCII marks": ("真的吗?是的!但是", "真的吗?是的!"),
    "Chinese list": ("先洗手。\n1. 切菜。\n2.", "先洗手。\n1. 切菜。"),
    "Chinese paragraph that announces what is missing": ("准备好了。步骤如下：\n\n首先", "准备好了。"),
    "number with a wide point": ("一共３．５公斤。再加４．", "一共３．５公斤。再加４．"),
    "Japanese brackets": ("「もう遅い。」と言った。それから", "「もう遅い。」と言った。"),
    "half-width Japanese": ("ｺﾚﾊﾍﾟﾝ｡ｱﾚ", "ｺﾚﾊﾍﾟﾝ｡"),
    "Korean": ("비가 왔다. 그래서 우리는", "비가 왔다."),
    "danda": ("बारिश हुई। फिर हम", "बारिश हुई।"),
    "double danda": ("इति श्लोकः॥ अथ", "इति श्लोकः॥"),
    "Bengali": ("বৃষ্টি হল। তারপর", "বৃষ্টি হল।"),
    "Arabic question": ("هل تمطر؟ نعم، ولكن", "هل تمطر؟"),
    "Urdu": ("بارش ہوئی۔ پھر", "بارش ہوئی۔"),
    "Hebrew": ("ירד גשם. אחר כך", "ירד גשם."),
    "Thai": ("ฝนตกหนัก เราจึงอยู่บ้าน แล้วก็", "ฝนตกหนัก เราจึงอยู่บ้าน"),
    "Thai sign of repetition": ("ฝนตกช้า ๆ ตลอดวัน แล้ว", "ฝนตกช้า ๆ ตลอดวัน"),
    "Lao": ("ຝົນຕົກ ເຮົາຢູ່ເຮືອນ ແລ້ວ", "ຝົນຕົກ ເຮົາຢູ່ເຮືອນ"),
    "Burmese": ("မိုးရွာသည်၊ အေးသည်။ ထို့နောက်၊ ဒါ", "မိုးရွာသည်၊ အေးသည်။"),
    "Khmer": ("ភ្លៀងធ្លាក់។ បន្ទាប់មក", "ភ្លៀងធ្លាក់។"),
    "Tibetan": ("ཆར་པ་བབས། དེ་ནས", "ཆར་པ་བབས།"),
    "Ethiopic": ("ዝናብ ዘነበ። ከዚያ", "ዝናብ ዘነበ።"),
    "Armenian": ("Անձրև եկավ։ Հետո", "Անձրև եկավ։"),
    "Armenian with a colon": ("Անձրև եկավ: Հետո", "Անձրև եկավ:"),
    "Greek question": ("Βρέχει; Ναι, αλλά", "Βρέχει;"),
    "semicolon of another script": ("It rains; yes. I stay; we", "It rains; yes."),
    "French quotes": ("« Il pleut. » Et puis", "« Il pleut."),
    "German quotes": ("Er sagt: „Es regnet.“ Und dann", "Er sagt: „Es regnet.“"),
}


@pytest.mark.parametrize(("text", "whole"), TRIMMED.values(), ids=TRIMMED)
def test_a_cut_off_text_ends_at_its_last_whole_sentence(text, whole):
    assert trim_to_sentence(text) == whole


RENAMED = {
    "name": ("I am Claude, by name.", "I am Tiny, by name."),
    "possessive": ("Claude's answer", "Tiny's answer"),
    "part of a word": ("Claudette and preClaude", "Claudette and preClaude"),
    "other case": ("a claude", "a claude"),
    "longer name first": ("Claude Pro and Claude", "Tiny and Tiny"),
    "name that ends in a sign": ("C3+ is C3+, not C3+x", "Tiny is Tiny, not C3+x"),
    "name with a point": ("Z.ai, not Zxai", "Tiny, not Zxai"),
    "capitals": ("CLAUDE!", "Tiny!"),
    "accent in two characters": ("Claude\u0301 and Zoe\u0301", "Claude\u0301 and Tiny"),
    "accent in one character": ("Zoé’s", "Tiny’s"),
    "Chinese text": ("我是Claude，通义千问的朋友", "我是Tiny，Tiny的朋友"),
    "Korean particle": ("저는 Claude입니다. 클로드는", "저는 Tiny입니다. Tiny는"),
    "Japanese name": ("私はクロードです。クロードニアではない", "私はTinyです。クロードニアではない"),
    "Thai text": ("ฉันชื่อClaudeครับ", "ฉันชื่อTinyครับ"),
    "Russian, part of a word": ("Гигачат и Гигачатик", "Tiny и Гигачатик"),
}
NAMES = ["Claude", "Claude Pro", "C3+", "Z.ai", "Zoé", "通义千问", "클로드", "クロード", "Гигачат"]


@pytest.mark.parametrize(("text", "wanted"), RENAMED.values(), ids=RENAMED)
def test_the_teachers_name_is_replaced_as_a_whole_word(text, wanted):
    assert replace_names(text, NAMES, "Tiny") == wanted


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([""], "has ''; remove it"),
        (["Qwen", " \t"], r"has ' \\t'; remove it"),
        (["Qwen "], "has 'Qwen '; remove it, or the spaces"),
        (["Qwen", "通义", "Qwen"], "has 'Qwen' twice"),
        (["Qwen", "Tiny"], "has 'Tiny', a part of student.name"),
        (["Ti", "tiny", "Persona"], "has 'Persona', a part of student.name"),
    ],
)
def test_names_that_would_spoil_the_answers_are_refused(names, message):
    check_teacher_names(["Qwen", "通义", "Ti", "TinyLlama"], "Tiny Persona")
    with pytest.raises(UserError, match=message):
        check_teacher_names(names, "Tiny Persona")


REPEATED = {
    "Chinese": "今天我们要去公园散步。",
    "Japanese": "きょうはこうえんへさんぽにいきます。",
    "Thai": "วันนี้เราจะไปเดินเล่นในสวนสาธารณะ",
    "Khmer": "ថ្ងៃនេះយើងនឹងទៅដើរលេងនៅឧទ្យាន។",
    "Burmese": "ဒီနေ့ကျွန်တော်တို့ပန်းခြံကိုသွားမယ်။",
    "Hindi": "आज हम बगीचे में टहलने जाएँगे। ",
    "Arabic": "سنذهب اليوم إلى الحديقة للتنزه. ",
}
OTHERS = {
    "Chinese": "法国的首都是一座有很多博物馆的城市。",
    "Japanese": "フランスのしゅとにはびじゅつかんがたくさんあります。",
    "Thai": "เมืองหลวงของฝรั่งเศสมีพิพิธภัณฑ์มากมาย",
    "Khmer": "រដ្ឋធានីបារាំងមានសារមន្ទីរជាច្រើន។",
    "Burmese": "ပြင်သစ်မြို့တော်မှာပြတိုက်များစွာရှိသည်။",
    "Hindi": "फ़्रांस की राजधानी में कई संग्रहालय हैं। ",
    "Arabic": "في عاصمة فرنسا متاحف كثيرة جدا. ",
}
each_script = pytest.mark.parametrize("script", REPEATED)


@each_script
def test_repetition_copies_and_near_duplicates_are_found_in_every_script(script):
    text, other = REPEATED[script], OTHERS[script]
    assert reasons(text * 3 + other) >= {"repetition"}
    assert reasons(text, before=[other + text]) == {"copied_turn"}
    assert reasons(text + other, before=["An English prompt that asks for something else."]) == set()
    assert not is_copy_of(text, other) and not is_copy_of(other, text)
    assert near_duplicate(text, f"{text.rstrip(' 。។။.।')}؟") and not near_duplicate(text, other)


def test_a_chinese_term_may_return_as_often_as_an_english_one():
    sentences = ["人工智能改变生活", "人工智能需要数据", "人工智能写诗歌", "我喜欢人工智能", "学校教人工智能"]
    assert max_ngram_count("，".join(sentences) + "。", 4) == 1


@each_script
def test_the_amount_of_text_is_similar_in_every_script(script):
    assert 4 <= count_words(REPEATED[script]) <= 10
    assert length_class(REPEATED[script]) == "short" and length_class(REPEATED[script] * 12) == "long"


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("one two thr", "one two"),
        ("one", "one"),
        (" a  b ", " a"),
        ("我喜欢编�", "我喜欢"),
        ("use 编程吧。", "use 编程"),
        ("", ""),
    ],
)
def test_the_last_word_of_a_cut_text_is_dropped_and_not_more(text, cut):
    assert drop_last_word(text) == cut


def test_index_terms_are_those_of_scikit_learn_and_pairs_of_characters():
    from sklearn.feature_extraction.text import CountVectorizer

    text = "It's a naïve test_case: x² costs 3.50, 10€ or t₀?"
    assert index_terms(text) == CountVectorizer(lowercase=False).build_analyzer()(text)
    assert index_terms("हिन्दी भाषा") == ["हिन्दी", "भाषा"]
    assert sorted(index_terms("我用Python编程。")) == ["Python", "我用", "编程"]


def test_the_students_name_is_taken_literally_and_no_names_change_nothing():
    assert replace_names("I am Claude.", ["Claude"], r"\1 {x}") == r"I am \1 {x}."
    assert replace_names("I am Claude.", [], "Tiny") == "I am Claude."
