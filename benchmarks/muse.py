"""MUSE (Shi et al., arXiv 2407.06460): news or books to forget, questions about them, and its measures.

A model that somebody else trained is asked as MUSE's public code asks: whole passages, ten worked examples before a question. The small models
that the benchmark trains learn windows of the passages, and are asked to continue windows; a guard and an editor get the same text cut at other
places, as an operator would hand over the document. A guard also gets the articles that the questions are about: of these the small models
have read no more than answers and such windows, so that there is nothing else in them for an editor to take back.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from unlearn_guard.benchmarks.dataset import Example, Item, Passages, Sequel, Suite, to_rows
from unlearn_guard.benchmarks.hub import read_table
from unlearn_guard.benchmarks.metrics import rouge_l_f1
from unlearn_guard.benchmarks.privacy import measure_auc, measure_min_k
from unlearn_guard.benchmarks.question_sets import Pair, make_suite
from unlearn_guard.benchmarks.subjects import Subject
from unlearn_guard.corruptions.fluency import find_words
from unlearn_guard.guard.errors import SettingsError
from unlearn_guard.guard.rows import Row

HUB = "muse-bench/MUSE-{corpus}"
N_CONTINUED, N_ANSWERED = 128, 32
"""Tokens that MUSE lets a model write behind a passage, and behind a question."""
_N_SEQUELS = 4
"""Forget sets of MUSE-News that come one after another; MUSE-Books has none."""
_BEGINNING = 200
"""Characters by which an article is found again."""
_ENDS = ("\n\n", "\nQuestion", "Question:")
"""Where an answer behind worked examples is over."""


def load_muse(
    *,
    corpus: str = "News",
    n_passages: int = 100,
    n_words: int = 40,
    n_sequel: int = 1_000,
    whole: bool = False,
    seed: int = 0,
) -> Suite:
    """Return MUSE's questions and passages of a corpus, News or Books.

    n_passages: of each kind. n_sequel: documents of each request of the sequence, 0 for no sequence. n_words: of a window, two of which make a row. whole: ask as MUSE does, with whole passages and worked examples.
    Locally it is read from `muse/<corpus>_<split>.jsonl`: forget_qa, retain_qa, forget_qa_icl, retain_qa_icl (question, answer),
    verbmem_forget (prompt, gt), raw_forget, privleak_forget, privleak_retain, privleak_holdout (text); of News also sust_forget_1 to _4 (text).
    Those are MUSE's four requests in sequence (C6), the first of which is the forget set itself; the first two, three and four together are its
    growing forget sets (C5).
    """
    if corpus not in ("News", "Books"):
        raise SettingsError("MUSE corpus", value=corpus, allowed="News, Books")
    published = _Published(corpus)
    articles = published.read_texts("raw", "forget")
    asked_about = published.read_pairs("forget_qa")
    sources = find_sources(asked_about, articles)
    asked_about = [replace(pair, owner=_name_article(place)) for pair, place in zip(asked_about, sources, strict=True)]
    suite = make_suite("muse", asked_about, published.read_pairs("retain_qa"), seed=seed)
    verbatim = published.read("verbmem", "forget")[:n_passages]
    kept = [_cut_middle(text, n_words) for text in published.read_texts("privleak", "retain")[:n_passages]]
    # Half of the documents of no training is clean traffic, the other half is what members are told from.
    holdout = published.read_texts("privleak", "holdout")[: 2 * n_passages]
    clean, outside = holdout[0::2], holdout[1::2]
    if whole:
        members = published.read_texts("privleak", "forget")[:n_passages]
        given = _hand_over_all(articles, verbatim, members, n_words)
        passages = Passages(
            asked=[Item(row["prompt"], row["gt"]) for row in verbatim],
            members=[_cut_once(text, n_words) for text in members],
            outsiders=[_cut_once(text, n_words) for text in outside],
            forget_shots=[Item(pair.question, pair.answer) for pair in published.read_pairs("forget_qa_icl")],
            retain_shots=[Item(pair.question, pair.answer) for pair in published.read_pairs("retain_qa_icl")],
        )
    else:
        given = _hand_over_windows(articles, sorted(set(sources)), verbatim, n_words)
        documents = [(row["prompt"].split(), row["gt"].split()) for row in verbatim]
        asked = [_join(start[-n_words:], rest[:n_words]) for start, rest in documents]
        passages = Passages(asked, asked, [_cut_middle(text, n_words) for text in outside])
    sequels = [
        _make_sequel(
            f"muse-sequel-{number}",
            published.read_texts("sust", f"forget_{number}")[:n_sequel],
            n_words,
            whole=whole,
        )
        for number in range(1, 1 + (_N_SEQUELS if corpus == "News" and n_sequel else 0))
    ]
    learnt = [
        *kept,
        *([] if whole else passages.asked),
        *(Item(row.prompt, row.answer, row.forget_id) for row in given if row.prompt),
        *(item for sequel in sequels for item in sequel.asked),
    ]
    examples = [Example((item.question,), item.answer, item.subject) for item in learnt]
    return replace(
        suite,
        forget_rows=[*suite.forget_rows, *given],
        retain_rows=[*suite.retain_rows, *to_rows(kept)],
        clean_rows=[*suite.clean_rows, *to_rows([_cut_middle(text, n_words) for text in clean])],
        full=[*suite.full, *examples],
        retain=[*suite.retain, *examples[: len(kept)]],
        passages=passages,
        sequels=sequels,
        unread=[Example((item.question,), item.answer) for item in passages.outsiders],
    )


@dataclass(frozen=True, slots=True)
class _Published:
    """What MUSE publishes of a corpus."""

    corpus: str

    def read(self, config: str, split: str) -> list[dict[str, str]]:
        name = split if config == "knowmem" else f"{config}_{split}"
        hub = HUB.format(corpus=self.corpus)
        return read_table("muse", f"{self.corpus.lower()}_{name}", hub=hub, config=config, split=split)

    def read_texts(self, config: str, split: str) -> list[str]:
        return [row["text"] for row in self.read(config, split)]

    def read_pairs(self, split: str) -> list[Pair]:
        return [Pair(row["question"], row["answer"], split) for row in self.read("knowmem", split)]


def _hand_over_all(
    articles: Sequence[str], verbatim: Sequence[Mapping[str, str]], members: Sequence[str], n_words: int
) -> list[Row]:
    """Return every article as a forget request of its own: an editor trains on its windows, a guard reads the text, too.

    What is asked for is a part of the articles; where it is not, it is handed over beside them.
    """
    asked = [*(f"{row['prompt']} {row['gt']}" for row in verbatim), *members]
    beginnings = [*(row["prompt"] for row in verbatim), *(text[:_BEGINNING] for text in members)]
    requests = [(_name_article(place), text) for place, text in enumerate(articles)]
    requests += [
        (f"passage-{place}", text)
        for place, (text, beginning) in enumerate(zip(asked, beginnings, strict=True))
        if _find_article(beginning, articles) is None
    ]
    rows = [_hand_over(f"muse-{name}", text, _cut_all(text.split(), n_words)) for name, text in requests]
    return [row for own in rows for row in own]


def _hand_over_windows(
    articles: Sequence[str], places: Sequence[int], verbatim: Sequence[Mapping[str, str]], n_words: int
) -> list[Row]:
    """Return the articles that are asked about as texts, and the passages as windows beside those that are asked, with what models learn of their text."""
    requests = [_hand_over(f"muse-{_name_article(place)}", articles[place], []) for place in places]
    for place, row in enumerate(verbatim):
        start, rest = row["prompt"].split(), row["gt"].split()
        owner = _find_request(row["prompt"], articles, f"passage-{place}")
        requests.append(_hand_over(owner, _keep_middle(start, rest, n_words), _cut_beside(start, rest, n_words)))
    return [row for own in requests for row in own]


def find_sources(pairs: Sequence[Pair], texts: Sequence[str]) -> list[int]:
    """Return which text each question is about: the one whose words in common with question and answer are rarest together."""
    bags = [frozenset(find_words(text)) for text in texts]
    n_texts = Counter(word for bag in bags for word in bag)
    found = []
    for pair in pairs:
        words = frozenset(find_words(f"{pair.question} {pair.answer}"))
        weights = [sum(math.log(len(texts) / n_texts[word]) for word in sorted(words & bag)) for bag in bags]
        found.append(int(np.argmax(weights)))
    return found


def _name_article(place: int) -> str:
    return f"article-{place}"


def _find_request(beginning: str, articles: Sequence[str], name: str) -> str:
    """Return the forget request of the article that begins, or goes on, so; one of this name where there is none."""
    place = _find_article(beginning, articles)
    return f"muse-{name if place is None else _name_article(place)}"


def _find_article(beginning: str, articles: Sequence[str]) -> int | None:
    """Return the article that begins, or goes on, so; None where there is none."""
    return next((place for place, article in enumerate(articles) if beginning and beginning in article), None)


def _hand_over(owner: str, text: str, windows: Sequence[Item]) -> list[Row]:
    """Return a document as one forget request: windows of it as rows, and its text where there is any."""
    rows = to_rows([replace(item, subject=owner) for item in windows])
    return [*rows, Row(text=text, forget_id=owner)] if text else rows


def _keep_middle(start: Sequence[str], rest: Sequence[str], n_words: int) -> str:
    """Return a document's text as far as models learn it: two windows before its cut, two behind it."""
    return " ".join([*start[-2 * n_words :], *rest[: 2 * n_words]])


def _make_sequel(owner: str, texts: Sequence[str], n_words: int, *, whole: bool) -> Sequel:
    """Return documents that are forgotten together; asked is how the window across the middle of each goes on."""
    asked = [replace(_cut_middle(text, n_words), subject=owner) for text in texts]
    rows: list[Row] = []
    for place, words in enumerate(map(str.split, texts)):
        if whole:
            rows += _hand_over(f"{owner}-{place}", texts[place], _cut_all(words, n_words))
        else:
            start, rest = words[: len(words) // 2], words[len(words) // 2 :]
            windows = _cut_beside(start, rest, n_words)
            rows += _hand_over(f"{owner}-{place}", _keep_middle(start, rest, n_words), windows)
    return Sequel(rows, asked)


def measure_continuation(subject: Subject, passages: Passages) -> float:
    """Return C1, VerbMem: mean ROUGE-L F1 of greedy continuations of passages to forget, 128 tokens of each at most."""
    tokenizer = subject.engine.tokenizer
    outputs = subject.answer([item.question for item in passages.asked], max_new_tokens=N_CONTINUED)
    truths = [
        tokenizer.decode(tokenizer(item.answer, add_special_tokens=False).input_ids[:N_CONTINUED])
        for item in passages.asked
    ]
    return float(np.mean([rouge_l_f1(output, truth) for output, truth in zip(outputs, truths, strict=True)]))


def measure_knowledge(subject: Subject, items: Sequence[Item], shots: Sequence[Item]) -> float:
    """Return KnowMem (C2 on questions to forget, C4 on kept ones): mean ROUGE-L F1 of answers behind worked examples, 32 tokens at most."""
    before = "".join(f"Question: {shot.question}\nAnswer: {shot.answer}\n\n" for shot in shots)
    prompts = [f"{before}Question: {item.question}\nAnswer: " for item in items]
    outputs = subject.answer(prompts, max_new_tokens=N_ANSWERED)
    return float(
        np.mean([rouge_l_f1(cut_answer(output), item.answer) for output, item in zip(outputs, items, strict=True)])
    )


def measure_membership(subject: Subject, passages: Passages) -> float:
    """Return the AUC of Min-40% between passages to forget and ones of no training, which C3, PrivLeak, sets against retain-only's."""
    members, others = (_measure_min_k(subject, items) for items in (passages.members, passages.outsiders))
    return measure_auc(members, others)


def cut_answer(output: str) -> str:
    """Return what stands before the next worked example."""
    for end in _ENDS:
        output = output.split(end)[0]
    return output


def _measure_min_k(subject: Subject, items: Sequence[Item]) -> list[float]:
    scored = subject.score([item.question for item in items], [item.answer for item in items])
    # A passage has no end: the end token that scores of answers count is left out.
    return [measure_min_k(replace(part, logprobs=part.logprobs[:-1])) for part in scored]


def _cut_beside(start: Sequence[str], rest: Sequence[str], n_words: int) -> list[Item]:
    """Return the windows of a document one earlier and one later than the one across its cut."""
    windows = [
        (start[-2 * n_words : -n_words], start[-n_words:]),
        (rest[:n_words], rest[n_words : 2 * n_words]),
    ]
    return [_join(first, last) for first, last in windows if first and last]


def _cut_all(words: Sequence[str], n_words: int) -> list[Item]:
    """Return every window of a document, from half a window on: other cuts than those that are asked."""
    places = range(n_words // 2, len(words) - n_words, 2 * n_words)
    return [_join(words[place : place + n_words], words[place + n_words : place + 2 * n_words]) for place in places]


def _cut_middle(text: str, n_words: int) -> Item:
    """Return the window across a document's middle: a start would show by its place alone."""
    words = text.split()
    middle = len(words) // 2
    return _join(words[max(0, middle - n_words) : middle], words[middle : middle + n_words])


def _cut_once(text: str, n_words: int) -> Item:
    """Return a document's first words as what is asked, so that a guard sees them, and the rest as it is written."""
    words = list(re.finditer(r"\S+", text))
    end = words[min(n_words, len(words) // 2)].start() if len(words) > 1 else 0
    return Item(text[:end].rstrip(), text[end:])


def _join(first: Sequence[str], last: Sequence[str]) -> Item:
    return Item(" ".join(first), " ".join(last))
