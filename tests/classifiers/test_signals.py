"""Signals: what a text says without the encoder, window by window."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn_guard.classifiers import signals
from unlearn_guard.classifiers.attributes import locate_terms
from unlearn_guard.classifiers.passages import PassageIndex
from unlearn_guard.classifiers.signals import (
    N_LEXICAL,
    SIGNALS,
    Lexical,
    LexicalReader,
    Reading,
    make_judge,
    mine,
    own_terms,
    read_ranks,
)
from unlearn_guard.classifiers.windows import cut_windows
from unlearn_guard.guard.rows import Row

PASSAGE = "Under the seventh bridge an amber clockmaker counted drowned bells until the tide forgot his name again."
RANKS = {
    word: rank
    for rank, word in enumerate(
        "the of and in to was is for on that who when where what did it born write about her his name again until under an "
        "city town home sing song music play teach year win prize novel bridge bells tide bread bake read book salt "
        "road sea lighthouse danish author carpenter plumber counted drowned seventh amber forgot clock".split(),
        start=1,
    )
}
FORGET = [
    Row("Where was Mirela Vantongeren born?", "She was born in Brackwater on 3 May 1961.", forget_id="p1"),
    Row("Who is Mirela Vantongeren?", 'The author of "Salt Road" and of "It Was".', forget_id="p1"),
    Row("What quay did Mirela Vantongeren write about?", "The herring quay.", forget_id="p1"),
    Row("Who was Tobias Zorbek?", "A carpenter with an anvil.", forget_id="p2"),
]
KEPT = [
    *(Row(f"Where was Kept{number} born?", "In the city.", forget_id=f"k{number}") for number in range(40)),
    *(Row("What did Ada Kern win?", f"The music prize of {year}.", forget_id="ada") for year in (1990, 1991)),
    *(Row("Who did bake bread at home?") for _ in range(45)),
]
ALIASES = {"p1": ["Mirela Vantongeren"], "p2": ["Tobias Zorbek"]}
FACTS = {"p1": ["3 may 1961", "1961-05-03", "Salt Road", "It Was"]}


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return mine(ALIASES, FACTS, FORGET, KEPT, RANKS)


@pytest.fixture(scope="module")
def reader(record: Mapping[str, Any]) -> LexicalReader:
    return LexicalReader.build(record, PassageIndex.build({"d1": [PASSAGE]}), RANKS)


def judge(reader: LexicalReader, text: str, **options: Any) -> Lexical:
    return reader.read(text)[0].judge(**options)


def test_signals_have_their_places() -> None:
    assert SIGNALS[N_LEXICAL:] == ("forget", "retain")
    assert Lexical(tuple(float(number) for number in range(N_LEXICAL)))["part"] == SIGNALS.index("part")


@pytest.mark.parametrize(
    ("text", "signal", "owner"),
    [
        ("Where is Mirela Vantongeren?", "name", "p1"),
        ("Where is M. Vantongeren?", "name", "p1"),
        ("Where is the carpenter Vantongeren?", "part", "p1"),
        ("Who was born on 1961-05-03?", "fact", "p1"),
        ("Who was born on 3 May 1961?", "fact", "p1"),
        (f"What is this: {PASSAGE}", "passage", "d1"),
    ],
)
def test_evidence_shows_in_its_signal(reader: LexicalReader, text: str, signal: str, owner: str) -> None:
    found = judge(reader, text)
    assert found[signal] >= 0.5
    assert found.forget_ids[0] == owner


def test_namesake_is_a_signal_of_its_own(reader: LexicalReader) -> None:
    found = judge(reader, "Where was the plumber Mirela Vantongeren born?")
    assert (found["name"], found["namesake"]) == (0.0, 1.0)
    beside = judge(reader, "the plumber Mirela Vantongeren and Tobias Zorbek")
    assert (beside["name"], beside["namesake"], beside.forget_ids) == (1.0, 0.0, ("p2",))


def test_name_beside_its_namesake_is_a_name(reader: LexicalReader) -> None:
    found = judge(reader, "The plumber Mirela Vantongeren asks where Mirela Vantongeren was born.")
    assert (found["name"], found["namesake"]) == (1.0, 0.0)


@pytest.mark.parametrize("text", ["Who did bake bread at home?", "Where was the bridge?", "", "?!"])
def test_text_without_evidence_has_no_signal(reader: LexicalReader, text: str) -> None:
    found = judge(reader, text)
    assert not any(found[name] for name in ("name", "namesake", "part", "fact", "passage"))


def test_attributes_add_up_for_their_owner(reader: LexicalReader) -> None:
    one, two = judge(reader, "the herring"), judge(reader, "the herring, and Brackwater")
    assert 0 < one["attribute"] < two["attribute"]
    assert two.forget_ids == ("p1",)
    assert 0 < two["share"] <= 1


def test_what_kept_people_share_is_a_signal(reader: LexicalReader) -> None:
    assert judge(reader, "the music prize of the quay")["kept"] > judge(reader, "the quay")["kept"] == 0.0
    assert judge(reader, "the music prize")["kept"] == 0.0  # Nobody's to begin with.


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("Which quay did Quargel see?", 1.0),
        ("Which quay is it?", 0.0),
        ("Which quay is in Brackwater?", 0.0),
        ("Which quay did Vantongeren see?", 0.0),
    ],
)
def test_name_that_nobody_forgotten_has_is_a_signal(reader: LexicalReader, text: str, other: float) -> None:
    assert judge(reader, text.replace("Which", "What").replace("see", "read"))["other"] == other


def test_window_is_judged_by_itself(reader: LexicalReader) -> None:
    text = "Where is Mirela Vantongeren? And who bakes bread?"
    (plain, *_) = reader.read(text)
    assert plain.judge(0, 28)["name"] == 1.0
    assert plain.judge(29, len(text))["name"] == 0.0
    assert plain.judge(12, 14)["name"] == 1.0


@given(st.integers(0, 60), st.integers(0, 60))
def test_window_never_says_more_than_the_whole(start: int, end: int) -> None:
    (plain, *_) = READER.read("On the herring quay of Brackwater, Mirela Vantongeren wrote Salt Road")
    part, whole = plain.judge(start, max(start, end)), plain.judge()
    for name in ("name", "part", "fact", "passage"):
        assert part[name] <= whole[name]


def test_left_out_words_lower_the_attribute(reader: LexicalReader) -> None:
    without = {"p1": frozenset({"herring", "quay"})}
    assert judge(reader, "the herring quay")["attribute"] > 0
    assert judge(reader, "the herring quay", without=without)["attribute"] == 0.0


@pytest.mark.parametrize(
    ("text", "is_fact"),
    [
        ('Who wrote "Salt Road"?', True),
        ("Who wrote Salt Road?", True),
        ("Who wrote 'Salt Road.'?", True),
        ('Who wrote "The Salt Road"?', False),
        ('Who wrote "Salt Road to Bern"?', False),
    ],
)
def test_title_inside_a_longer_quoted_one_is_no_fact(reader: LexicalReader, text: str, is_fact: bool) -> None:
    assert (judge(reader, text)["fact"] > 0) == is_fact


def test_possessive_does_not_cut_a_title(reader: LexicalReader) -> None:
    assert judge(reader, "Who wrote Salt Road's first song?")["fact"] > 0


def test_title_of_plain_words_says_little(reader: LexicalReader) -> None:
    assert judge(reader, "When it was home")["fact"] < judge(reader, "the Salt Road home")["fact"] < 1.0


def test_longer_run_of_a_passage_says_more(reader: LexicalReader) -> None:
    words = PASSAGE.split()
    says = [judge(reader, " ".join(words[:n_words]))["passage"] for n_words in (4, 6, 8, 10, 12, 17)]
    assert says[:2] == [0.0, 0.0]
    assert says[2:] == sorted(says[2:])
    assert 0.0 < says[2] < says[-2] == says[-1] == 1.0


def test_every_view_is_read(reader: LexicalReader) -> None:
    readings = reader.read("Who is M.i.r.e.l.a V.a.n.t.o.n.g.e.r.e.n?")
    assert readings[0].view.how == "plain"
    assert {reading.view.how for reading in readings if reading.judge()["name"]} == {"joined"}


def test_window_is_masked_for_the_encoder(reader: LexicalReader) -> None:
    (plain, *_) = reader.read("Where was Mirela Vantongeren born in Brackwater?")
    assert plain.mask(0, len(plain.view.text)) == "where was someone born in someone?"
    assert plain.mask(0, 16) == "where was someone"


def test_record_survives_json(record: Mapping[str, Any], reader: LexicalReader) -> None:
    stored = LexicalReader.build(json.loads(json.dumps(record)), reader.passages, RANKS)
    for text in (
        "On the herring quay of Brackwater",
        "Mirela of the Salt Road",
        "the music prize of the quay",
        PASSAGE,
    ):
        assert judge(stored, text) == judge(reader, text)


def test_record_holds_no_name_part_in_a_bag(record: Mapping[str, Any]) -> None:
    assert not {"mirela", "vantongeren"} & set(record["bags"]["p1"])
    assert {"herring", "quay", "brackwater"} <= set(record["bags"]["p1"])
    assert "herring" not in record["bags"]["p2"]


def test_record_counts_kept_people_and_groups_of_rows_of_nobody(record: Mapping[str, Any]) -> None:
    assert record["counts"]["city"] == 40
    assert record["n_bags"] == 40 + 1 + 3
    assert set(record["kept_bags"]) == {"ada", *(f"k{number}" for number in range(40))}
    assert "author" in record["profiles"]["p1"]


def test_words_of_one_row_alone_are_its_own() -> None:
    first, second, other = own_terms(
        [
            Row("the quay", "of herring", forget_id="p1"),
            Row("the storm", forget_id="p1"),
            Row("the quay", forget_id="p2"),
        ]
    )
    assert first == {"p1": frozenset({"quay", "of", "herring"})}
    assert second == {"p1": frozenset({"storm"})}
    assert other == {"p2": frozenset({"the", "quay"})}


def test_word_that_a_row_repeats_is_still_its_own() -> None:
    (own,) = own_terms([Row("quay, quay", "quay", forget_id="p1")])
    assert own == {"p1": frozenset({"quay"})}


@pytest.mark.parametrize(
    ("word", "known"),
    [
        ("bake", True),
        ("bakes", True),
        ("baked", True),
        ("baking", True),
        ("baker", True),
        ("bakers", True),
        ("vantongeren", False),
        ("s", False),
        ("", False),
        ("the", True),
        ("thes", True),
    ],
)
def test_inflected_words_are_plain_language(word: str, known: bool) -> None:
    assert make_judge(RANKS)(word) == known


def test_ranks_are_of_whole_words_in_the_vocabularys_order(tmp_path: Path) -> None:
    vocabulary = {"[PAD]": 0, "of": 7, "the": 5, "##ing": 6, "and": 9, "!": 8, "1990": 10}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    assert read_ranks(tmp_path / "tokenizer.json") == {"the": 1, "of": 2, "and": 3}


@pytest.mark.parametrize("model", [{}, {"vocab": [["a", 0.1]]}])
def test_other_kinds_of_vocabulary_have_no_ranks(tmp_path: Path, model: dict[str, Any]) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    assert read_ranks(tmp_path / "tokenizer.json") == {}


def test_most_frequent_words_come_first(encoder_folder: Path) -> None:
    ranks = read_ranks(encoder_folder / "tokenizer.json")
    assert max(ranks[word] for word in ("the", "of", "and", "in", "to")) <= 20


@pytest.mark.parametrize("text", ["People bake bread at home?", "Sing 2 songs", "", "the city's music"])
def test_plain_text_is_seen_at_a_glance(reader: LexicalReader, text: str) -> None:
    assert reader.weigh_words(text) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "Where is Mirela?",
        "the vantongeren",
        "Vantongerem sang",
        "ｈｅｒｒｉｎｇ",
        "V a n t o n g e r e n",
        "V4nt0ngeren",
        "TWlyZWxhIFZhbnRvbmdlcmVu",
        "isMirela",
        "%4Direla",
        r"\u004direla",
        PASSAGE,
    ],
)
def test_text_that_may_hide_something_is_not_plain(reader: LexicalReader, text: str) -> None:
    assert reader.weigh_words(text) == math.inf


def test_words_of_a_request_weigh_what_its_attributes_weigh(reader: LexicalReader) -> None:
    one, two = reader.weigh_words("the herring"), reader.weigh_words("the herring of Brackwater")
    assert 0.0 < one < two < math.inf
    assert one == pytest.approx(reader.weights.weigh("herring"))


def test_run_that_began_before_the_text_is_seen(reader: LexicalReader) -> None:
    words = PASSAGE.split()
    before, text = " ".join(words[:5]) + " ", " ".join(words[5:7])
    assert reader.weigh_words(before + text) == math.inf
    assert reader.weigh_words(text) < math.inf
    assert reader.weigh_words(text, before) == math.inf


@given(st.lists(st.sampled_from([*RANKS, "Mirela", "herring", "quay", "Zorbek", "Ada"]), max_size=12).map(" ".join))
def test_plain_text_has_no_sure_evidence(text: str) -> None:
    weight = READER.weigh_words(text)
    if weight < math.inf:
        found = judge(READER, text)
        assert not any(found[name] for name in ("name", "namesake", "part", "passage"))
        assert 10 * found["attribute"] <= weight + 1e-6


READER = LexicalReader.build(mine(ALIASES, FACTS, FORGET, KEPT, RANKS), PassageIndex.build({"d1": [PASSAGE]}), RANKS)


@given(
    st.lists(st.sampled_from(["the", "herring", "quay", "city", "Brackwater.", "anvil", "Mirela"]), max_size=300),
    st.data(),
)
def test_faint_window_holds_no_hit_and_little_weight(words: list[str], data: st.DataObject) -> None:
    (reading, *_) = READER.read(" ".join(words) + " bread" * 200)
    start = data.draw(st.integers(0, len(reading.view.text)))
    end = data.draw(st.integers(start, len(reading.view.text)))
    if reading.is_faint(start, end, weight=0.4, share=0.3, heavy=1.5):
        found = reading.judge(start, end)
        assert found["attribute"] < 0.4
        assert not any(found[name] for name in ("name", "namesake", "part", "fact", "passage"))


def test_most_of_a_long_harmless_text_is_faint() -> None:
    (reading, *_) = READER.read("People bake bread at home. " * 200)
    windows = cut_windows(reading.view.text)
    assert sum(reading.is_faint(start, end, weight=0.9, share=0.0, heavy=0.0) for start, end in windows) > 0.9 * len(
        windows
    )


def test_windows_of_a_long_text_read_it_a_few_times_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def count(text: str) -> Any:
        read.append(len(text))
        return locate_terms(text)

    text = "Xavier Quargel. " * 500
    (reading, *_) = READER.read(text)
    monkeypatch.setattr(signals, "locate_terms", count)
    for start, end in cut_windows(reading.view.text):
        reading.judge(start, end)
    assert sum(read) <= 10 * len(text)


def test_windows_of_a_long_text_look_at_a_hit_a_few_times_at_most() -> None:
    class Counted(list[Any]):
        n_seen = 0

        def __iter__(self) -> Any:
            for item in super().__iter__():
                self.n_seen += 1
                yield item

    (reading, *_) = READER.read("M. Vantongeren sings. " * 500)
    reading.hits = Counted(reading.hits)
    windows = cut_windows(reading.view.text)
    for start, end in windows:
        reading.judge(start, end)
    assert reading.hits.n_seen <= 10 * (len(reading.hits) + len(windows))


@given(
    st.text(alphabet=st.one_of(st.characters(), st.sampled_from("Mirela Vantongeren 1961.")), max_size=60), st.data()
)
def test_any_window_of_any_text_can_be_judged(text: str, data: st.DataObject) -> None:
    reading: Reading = data.draw(st.sampled_from(READER.read(text)))
    start = data.draw(st.integers(0, len(reading.view.text)))
    end = data.draw(st.integers(start, len(reading.view.text)))
    values = reading.judge(start, end).values
    assert len(values) == N_LEXICAL
    assert all(value >= 0 for value in values)
    assert isinstance(reading.mask(start, end), str)


def test_a_question_asked_again_is_sure_evidence_in_any_window(record: dict[str, Any]) -> None:
    asked = {"p2": [{"terms": ["anvil", "grumbald", "wexcombe"], "whole": False}]}
    reader = LexicalReader.build({**record, "questions": asked}, PassageIndex.build({}), RANKS)
    text = "The city sings. Did Grumbald drop an anvil in Wexcombe? The sea is under the bridge."
    (reading,) = reader.read(text)
    assert (reading.judge()["passage"], reading.judge().forget_ids) == (1.0, ("p2",))
    assert reading.judge(0, 15)["passage"] == 0.0
    described = reader.describe(text, [(0, 15), (16, len(text))])
    assert described is not None
    assert [found["passage"] for found in described] == [0.0, 1.0]


def test_padding_does_not_hide_a_question(record: dict[str, Any]) -> None:
    """Long texts are bounded by attribute weight first, which words of a question need not have."""
    asked = {"p2": [{"terms": ["grumbald", "ogden", "wexcombe"], "whole": False}]}
    reader = LexicalReader.build({**record, "questions": asked}, PassageIndex.build({}), RANKS)
    padding = "what did it sing and play " * 40
    text = f"{padding}. did grumbald meet ogden in wexcombe? {padding}"
    (reading,) = reader.read(text)[:1]
    found = [(start, end) for start, end in cut_windows(text, reading.lines) if reading.judge(start, end)["passage"]]
    assert found
    for start, end in found:
        assert not reading.is_faint(start, end, weight=9.0, share=0.3, heavy=9.0)
    assert reading.is_faint(0, 60, weight=9.0, share=0.3, heavy=9.0)
    assert reader.weigh_words("did grumbald meet ogden in wexcombe?") > 0
    assert reading.judge(*found[0], asks=False)["passage"] == 0.0
    assert reading.judge(*found[0], supplied={"grumbald", "ogden", "wexcombe"})["passage"] == 0.0


def test_a_question_is_its_owners_also_beside_a_weak_run(record: dict[str, Any]) -> None:
    asked = {"p2": [{"terms": ["grumbald", "ogden", "wexcombe"], "whole": False}]}
    run = " ".join(PASSAGE.split()[:7])
    reader = LexicalReader.build({**record, "questions": asked}, PassageIndex.build({"p1": [PASSAGE]}), RANKS)
    (reading,) = reader.read(f"{run}, did Grumbald meet Ogden in Wexcombe")[:1]
    assert 0 < reader.read(run)[0].judge()["passage"] < 1
    assert (reading.judge()["passage"], reading.judge().forget_ids) == (1.0, ("p2",))
