"""The prompt: which token stands for which character, and which tokens a client wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from unlearn_guard.corruptions.fluency import find_words
from unlearn_guard.corruptions.prompt import Message, Prompt, read_prompt, to_ranges
from unlearn_guard.guard.screening import RENDERED
from unlearn_guard.guard.verdict import Verdict

Chat = Callable[..., Prompt]
SYSTEM, USER = ("system", "You are a helpful assistant."), ("user", "Where was Ann Lee born?")


def decode(tokenizer: Any, prompt: Prompt, positions: set[int]) -> str:
    return tokenizer.decode([prompt.ids[position] for position in sorted(positions)])


def span(*spans: tuple[int, int, int]) -> Verdict:
    return Verdict(True, ("p1",), 9.0, 0.001, "alias", spans)


@pytest.mark.parametrize(
    "text", ["Where was Ann Lee born?", "Änn 你 😀 Lee", "", "  two  spaces ", "<|user|>hi<|end|>"]
)
def test_offsets_cover_the_text(tokenizer: Any, text: str) -> None:
    prompt = read_prompt(tokenizer, tokenizer(text, add_special_tokens=False).input_ids)
    assert prompt.text == text
    assert prompt.offsets is not None
    assert len(prompt.offsets) == len(prompt.ids) == len(prompt.special)
    covered = {place for start, end in prompt.offsets for place in range(start, end)}
    assert covered == set(range(len(text)))


def test_backend_and_wrapped_tokenizer_read_alike(tokenizer: Any) -> None:
    ids = tokenizer(USER[1]).input_ids
    assert read_prompt(tokenizer.backend_tokenizer, ids) == read_prompt(tokenizer, ids)


def test_special_tokens_are_marked_and_never_covered(tokenizer: Any, chat: Chat) -> None:
    prompt = chat(USER)
    marked = [position for position, special in enumerate(prompt.special) if special]
    assert decode(tokenizer, prompt, set(marked)) == "<|user|><|assistant|>"
    assert not prompt.cover([(0, len(prompt.text))]) & set(marked)
    assert not prompt.open_tokens() & set(marked)


def test_messages_are_located(chat: Chat) -> None:
    prompt = chat(SYSTEM, USER, ("assistant", "In Bern."), USER)
    assert [message.role for message in prompt.messages] == ["system", "user", "assistant", "user"]
    texts = [prompt.text[slice(*message.place)] for message in prompt.messages if message.place]
    assert texts == [SYSTEM[1], USER[1], "In Bern.", USER[1]]
    assert prompt.messages[1].place != prompt.messages[3].place


def test_message_that_is_not_in_the_text_has_no_place(tokenizer: Any) -> None:
    ids = tokenizer("<|user|>Where?<|assistant|>").input_ids
    prompt = read_prompt(tokenizer, ids, [("system", "left out"), ("assistant", ""), ("user", "Where?")])
    assert prompt.messages == (Message("system", None), Message("assistant", (0, 0)), Message("user", (8, 14)))


def test_message_that_the_template_trims_is_found(tokenizer: Any) -> None:
    prompt = read_prompt(tokenizer, tokenizer("<|user|>Where?<|assistant|>").input_ids, [("user", "Where? \n")])
    assert prompt.messages[0] == Message("user", (8, 14), 0)


def test_spans_of_a_trimmed_message_are_shifted_and_clipped(tokenizer: Any) -> None:
    ids = tokenizer("<|user|>Who is Bo?<|assistant|>").input_ids
    prompt = read_prompt(tokenizer, ids, [("user", " \n\tWho is Bo? ")])
    assert prompt.messages[0] == Message("user", (8, 18), 3)
    places = prompt.locate(span((0, 10, 12), (0, 0, 6), (0, 10, 14), (0, 0, 3), (0, 13, 14)))
    assert [prompt.text[start:end] for start, end in places] == ["Bo", "Who", "Bo?"]


def test_white_space_that_the_template_keeps_shifts_nothing(tokenizer: Any) -> None:
    prompt = read_prompt(tokenizer, tokenizer("<|user|>  Where?<|assistant|>").input_ids, [("user", "  Where?")])
    assert prompt.messages[0].lead == 0
    assert [prompt.text[start:end] for start, end in prompt.locate(span((0, 2, 7)))] == ["Where"]


@pytest.mark.parametrize("role", ["user", "tool", "function", "document"])
def test_open_tokens_are_what_clients_and_tools_wrote(tokenizer: Any, chat: Chat, role: str) -> None:
    prompt = chat(SYSTEM, (role, "Where was Ann Lee born?"), ("assistant", "In Bern."), ("user", "When?"))
    assert decode(tokenizer, prompt, prompt.open_tokens()) == "Where was Ann Lee born?When?"


def begin(tokenizer: Any, *messages: tuple[str, str], extras: tuple[tuple[str, str], ...] = ()) -> Prompt:
    """Make the prompt of a conversation whose last message goes on."""
    turns = [{"role": role, "content": text} for role, text in messages]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, continue_final_message=True)
    return read_prompt(tokenizer, tokenizer(rendered, add_special_tokens=False).input_ids, (*messages, *extras))


@pytest.mark.parametrize(
    ("begun", "told"),
    [
        (("Ann Lee was",), "Ann Lee was"),
        (("Ann Lee was", "born in"), "Ann Lee wasborn in"),
        (("assistant",), "assistant"),
    ],
)
def test_the_beginning_of_an_answer_is_open(tokenizer: Any, begun: tuple[str, ...], told: str) -> None:
    """Where a conversation ends in an assistant's messages the answer goes on from them: who asks has written them."""
    prompt = begin(tokenizer, SYSTEM, USER, *(("assistant", text) for text in begun))
    assert decode(tokenizer, prompt, prompt.open_tokens()) == "Where was Ann Lee born?" + told


def test_the_beginning_of_an_answer_is_found_before_tools_and_documents(tokenizer: Any) -> None:
    text = "<|user|>Who?<|assistant|>Ann Lee was<|user|>{tool}"
    messages = [("user", "Who?"), ("assistant", "Ann Lee was"), ("tools", "{tool}")]
    prompt = read_prompt(tokenizer, tokenizer(text, add_special_tokens=False).input_ids, messages)
    assert decode(tokenizer, prompt, prompt.open_tokens()) == "Who?Ann Lee was"


@pytest.mark.parametrize("first", [("system", "Where was Ann Lee born?"), ("user", "")])
def test_where_nobody_asked_the_beginning_alone_is_not_what_is_meant(tokenizer: Any, first: tuple[str, str]) -> None:
    """A template may render what was not read of a message: what is not known to be anybody's is meant, too."""
    text = "<|user|>Where was Ann Lee born?<|assistant|>She was"
    messages = [first, ("assistant", "She was")]
    prompt = read_prompt(tokenizer, tokenizer(text, add_special_tokens=False).input_ids, messages)
    assert decode(tokenizer, prompt, prompt.open_tokens()) == "Where was Ann Lee born?She was"


@pytest.mark.parametrize("role", ["system", "tools"])
def test_a_last_message_of_nobody_who_asks_is_not_open(tokenizer: Any, chat: Chat, role: str) -> None:
    prompt = chat(USER, (role, "Be brief."))
    assert decode(tokenizer, prompt, prompt.open_tokens()) == USER[1]


def test_without_messages_all_but_special_tokens_are_open(tokenizer: Any) -> None:
    prompt = read_prompt(tokenizer, tokenizer("<|user|>Where?<|assistant|>").input_ids)
    assert decode(tokenizer, prompt, prompt.open_tokens()) == "Where?"


def test_a_message_without_a_place_opens_everything(tokenizer: Any) -> None:
    ids = tokenizer("<|user|>rules<|user|>Where?<|assistant|>").input_ids
    prompt = read_prompt(tokenizer, ids, [("system", "rules"), ("user", "elsewhere")])
    assert decode(tokenizer, prompt, prompt.open_tokens()) == "rulesWhere?"


def test_conversation_without_client_text_opens_everything(tokenizer: Any, chat: Chat) -> None:
    prompt = chat(SYSTEM)
    assert decode(tokenizer, prompt, prompt.open_tokens()) == SYSTEM[1]


def test_spans_are_located_in_their_own_message(tokenizer: Any, chat: Chat) -> None:
    prompt = chat(SYSTEM, USER, ("user", "Ann Lee or Bo Li?"))
    places = prompt.locate(span((1, 10, 17), (2, 11, 16)))
    assert [prompt.text[start:end] for start, end in places] == ["Ann Lee", "Bo Li"]
    assert places[0][0] < places[1][0]


def test_rendered_spans_point_into_the_whole_text(chat: Chat) -> None:
    prompt = chat(SYSTEM, USER)
    start = prompt.text.index("Ann Lee")
    assert prompt.locate(span((RENDERED, start, start + 7))) == [(start, start + 7)]


def test_spans_of_a_bare_prompt_are_characters_of_its_text(tokenizer: Any) -> None:
    assert read_prompt(tokenizer, tokenizer(USER[1]).input_ids).locate(span((0, 10, 17))) == [(10, 17)]


def test_spans_without_a_place_are_dropped(tokenizer: Any) -> None:
    prompt = read_prompt(tokenizer, tokenizer("Where?").input_ids, [("user", "elsewhere")])
    assert prompt.locate(span((0, 0, 3), (4, 0, 3))) == []


def test_covering_tokens_touch_the_span_and_no_more(tokenizer: Any, chat: Chat) -> None:
    prompt = chat(USER)
    assert prompt.offsets is not None
    start = prompt.text.index("Ann Lee")
    covered = prompt.cover([(start, start + 7)])
    assert "Ann Lee" in decode(tokenizer, prompt, covered)
    for position, (left, right) in enumerate(prompt.offsets):
        assert (position in covered) == (left < start + 7 and right > start)
    assert prompt.cover([]) == set()


def test_places_that_overlap_repeat_and_touch_cover_what_each_covers(tokenizer: Any) -> None:
    prompt = read_prompt(tokenizer, tokenizer("Where was Ann Lee born, and who is Bo Li?").input_ids)
    places = [(10, 17), (12, 20), (10, 17), (20, 22), (35, 37), (3, 3), (0, 2)]
    assert prompt.cover(places) == set().union(*(prompt.cover([place]) for place in places))
    touched = {at for at, (left, right) in enumerate(prompt.offsets or ()) for start, end in places if start < end and left < end and right > start}  # fmt: skip
    assert prompt.cover(places) == {at for at in touched if not prompt.special[at]}


def test_ids_that_are_not_the_tokenizers_own_are_aligned(tokenizer: Any) -> None:
    ids = [token for letter in "Ann Lee" for token in tokenizer(letter).input_ids]
    assert ids != tokenizer("Ann Lee").input_ids
    prompt = read_prompt(tokenizer, ids)
    assert prompt.offsets == tuple((place, place + 1) for place in range(7))
    assert prompt.cover([(4, 7)]) == {4, 5, 6}


def test_special_tokens_spelt_out_are_not_special(tokenizer: Any) -> None:
    ids = [token for letter in "<|end|>" for token in tokenizer(letter).input_ids]
    prompt = read_prompt(tokenizer, ids)
    assert not any(prompt.special)
    assert prompt.open_tokens() == set(range(len(ids)))


def test_ids_that_cannot_be_aligned_cover_everything(tokenizer: Any) -> None:
    half = tokenizer("你").input_ids[:1]
    ids = [*tokenizer("<|user|>a").input_ids, *half, *tokenizer("😀").input_ids, tokenizer.convert_tokens_to_ids("b")]
    prompt = read_prompt(tokenizer, ids, [("system", "a")])
    assert prompt.offsets is None
    assert prompt.cover([(1, 2)]) == prompt.open_tokens() == set(range(1, len(ids)))


def test_tokenizer_without_a_backend_gives_no_offsets() -> None:
    class Slow:
        def decode(self, ids: list[int]) -> str:
            return "".join(map(chr, ids))

    prompt = read_prompt(Slow(), [104, 105], [("user", "hi")])
    assert prompt == Prompt((104, 105), "hi", None, (False, False), (Message("user", (0, 2)),))
    assert prompt.cover([(0, 1)]) == {0, 1}


def test_words_are_folded_with_their_places(tokenizer: Any) -> None:
    assert read_prompt(tokenizer, tokenizer("Who, Ünal 3?").input_ids).words() == [
        (0, 3, "who"),
        (5, 9, "ünal"),
        (10, 11, "3"),
    ]


def test_words_are_those_that_common_words_are_counted_from(tokenizer: Any) -> None:
    text = "Don't a well-known snake_case?"
    found = read_prompt(tokenizer, tokenizer(text).input_ids).words()
    assert [word for _, _, word in found] == find_words(text) == ["don't", "a", "well-known", "snake", "case"]


@pytest.mark.parametrize(
    ("positions", "ranges"),
    [([], ()), ([3], ((3, 4),)), ([5, 1, 2, 2, 3], ((1, 4), (5, 6))), (range(4), ((0, 4),))],
)
def test_positions_merge_into_ranges(positions: list[int], ranges: tuple[tuple[int, int], ...]) -> None:
    assert to_ranges(positions) == ranges
