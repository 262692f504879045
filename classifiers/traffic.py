"""Built-in clean traffic: questions that ask for nobody in particular, for a fit that has no kept rows at hand.

Invented people of invented names with real professions and countries, works and institutions that everybody knows,
everyday requests, school knowledge, and stories about whoever has an everyday first name. None of it stands for an
operator's own traffic, which calibrates better wherever it is given.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterator
from dataclasses import replace

from unlearn_guard.guard.errors import UnknownNameError
from unlearn_guard.guard.rows import Row

KINDS = ("arithmetic", "chores", "people", "school", "stories", "works")
_ASKS_FOR_A_NUMBER = re.compile(r"[Hh]ow (many|much|old|fast)\b|times \{b\}")
_SYLLABLES = (
    "ba bel dor fen gar hal il jor kam lar mer nim or pal quo ras sel tav ul ven wim yar zol bri cla dre".split()
)
_ENDINGS = "an er in o el is a us ette ard mond wick stein ski ova".split()
_PROFESSIONS = (
    "actor architect astronomer athlete author biologist boxer chef chemist composer dancer director economist engineer "
    "explorer footballer general guitarist historian inventor journalist king lawyer mathematician musician novelist painter "
    "philosopher photographer physicist pianist poet politician president queen scientist sculptor senator singer swimmer "
    "teacher tennis-player violinist writer"
).split()
_COUNTRIES = (
    "Argentina Australia Austria Belgium Brazil Canada Chile China Colombia Cuba Denmark Egypt England Ethiopia Finland "
    "France Germany Ghana Greece Hungary India Indonesia Iran Ireland Israel Italy Jamaica Japan Kenya Korea Mexico Morocco "
    "Nepal Netherlands Nigeria Norway Pakistan Peru Poland Portugal Romania Russia Scotland Spain Sweden Switzerland Thailand "
    "Turkey Ukraine Vietnam Wales America"
).split()
_FIELDS = (
    "football|opera|jazz|cinema|television|chess|medicine|physics|politics|poetry|painting|rock music|comedy|fashion|sailing|"
    "journalism|mathematics|history|architecture|theatre|boxing|tennis|cooking|law|astronomy"
).split("|")
_PERSONAL = (
    ("Where was {name} born?", "{name} was born in {country}."),
    ("What is {name} best known for?", "{name} is best known for work in {field}."),
    ("When did {name} win the first major award?", "It was in {year}."),
    ("Who is the {profession} {name} married to?", "{name} is married to {other}."),
    ("Which school did {name}, the {profession}, attend?", "{name} went to school in {country}."),
    ("What was the title of {name}'s debut?", 'The debut was called "The {other} Letters".'),
    ("Who was the mentor of {name} in {field}?", "{name} learnt from {other}."),
    ("In which year did {name} first become famous in {country}?", "That was in {year}."),
    ("Which {profession} from {country} changed {field} in the {decade}s?", "That was {name}."),
    ("Who was the {country} {profession} that won a prize for {field} in {year}?", "{name} won it."),
    ("___ was a {profession} from {country} who became famous for {field}.", "{name}"),
    ("Tell me about the childhood of {name}.", "{name} grew up in {country} with {other}."),
)
_KNOWN = (
    "Titanic|Jaws|Casablanca|The Godfather|Star Wars|Toy Story|The Matrix|Gladiator|Avatar|Rocky|Psycho|Alien|Aliens|The Shining|"
    "Jurassic Park|Forrest Gump|Pulp Fiction|The Lion King|Back to the Future|Die Hard|The Terminator|Indiana Jones|James Bond|"
    "Harry Potter|The Lord of the Rings|The Hunger Games|Batman|Superman|Spider-Man|The Avengers|Mission Impossible|Top Gun|"
    "Fast and Furious|Friends|Seinfeld|The Simpsons|Game of Thrones|Breaking Bad|The Office|Doctor Who|Sherlock|The Big Bang "
    "Theory|Grey's Anatomy|The Sopranos|Saturday Night Live|Wheel of Fortune|Jeopardy|American Idol|The Voice|Baywatch|Dallas|"
    "Star Trek|The X-Files|Desperate Housewives|Modern Family|Stranger Things|The Crown|Downton Abbey|Thriller|Abbey Road|"
    "Bohemian Rhapsody|Imagine|Hotel California|The Wall|Rumours|Nevermind|Born to Run|Purple Rain|Like a Virgin|the Bible|"
    "Hamlet|Macbeth|War and Peace|Moby-Dick|Pride and Prejudice|Oliver Twist|The Odyssey|Don Quixote|Frankenstein|Dracula|Carrie|"
    "Animal Farm|The Catcher in the Rye|Romeo and Juliet|the Mona Lisa|The Last Supper|The Starry Night|The Scream|Guernica|the "
    "Academy Award for Best Actor|the Academy Award for Best Actress|the Golden Globe Award|the Grammy Award for Album of the "
    "Year|the Emmy Awards|the Tony Award|the Nobel Prize in Literature|the Nobel Peace Prize|the Pulitzer Prize|the Booker Prize|"
    "the World Cup|the Super Bowl|the Olympic Games|Wimbledon|the Tour de France|the NBA championship|the World Series|the "
    "Premier League|the Champions League|the Los Angeles Lakers|the New York Yankees|Manchester United|Real Madrid|the Dallas "
    "Cowboys|the Chicago Bulls|the Renaissance|the Industrial Revolution|the Cold War|the First World War|the American Civil "
    "War|the Roman Empire|the French Resistance|the Berlin Wall|Microsoft|Apple|Google|Amazon|Disney|Tesla|Facebook|IBM|Boeing|"
    "the BBC|NBC|CNN|Harvard University|the University of Oxford|Hollywood|Broadway|Silicon Valley|Wall Street|the White House|"
    "the United Nations|the Supreme Court|Buckingham Palace|the Eiffel Tower|the Great Wall|theory of relativity|quantum "
    "mechanics|the periodic table|penicillin|the telephone|the light bulb|natural selection|gravity|vaccination|hip hop|country "
    "music|punk rock|heavy metal|folk music|soap operas|stand-up comedy|martial arts|wrestling|figure skating|horse racing"
).split("|")
_ABOUT = (
    "Who starred in {known}?|When was {known} first seen?|What is {known} about?|Who created {known}?|Which award did {known} "
    "win?|Who is the main character of {known}?|Who wrote the music for {known}?|How long did {known} last?|Which American "
    "actress is connected with {known}?|Which {country} singer and songwriter is associated with {known}?|Who was the first "
    "{profession} to appear in {known}?|Which film director made a movie about {known}?|Who plays the lead role in the series "
    "about {known}?|What was the name of the band that recorded a song about {known}?|In what year did {known} become popular "
    "in {country}?|___ is an American television series about {known}.|Which television network first aired {known}?|{known} was "
    "created by ___ and became widely regarded as one of the greatest of all time.|Who is the best-selling artist connected "
    "with {known}?|What age was the {profession} who became known for {known} in the {decade}s?|Which studio produced {known}?"
).split("|")
_CHORES = (
    "Write a {adjective} email to {whom} about {topic}.|Summarise the main arguments about {topic}.|Explain {topic} to "
    "{whom}.|Give me five ideas for {topic}.|What are the advantages of {topic}?|How do I get better at {topic}?|Make a plan "
    "for {topic} this week.|Translate this into French: I like {topic}.|Is {topic} good for {whom}?|Write a {adjective} poem "
    "about {topic}.|Fix this Python function that counts {topic}.|List common mistakes in {topic}."
).split("|")
_TOPICS = (
    "gardening|time management|football training|public speaking|healthy breakfasts|school homework|the water cycle|the "
    "solar system|the French Revolution|fractions|photosynthesis|supply and demand|the immune system|a birthday party|house "
    "cleaning|job interviews|running|a book club|learning the guitar|budget travel|sorting algorithms|renewable energy|bread "
    "baking|photography|road safety|a film night|history lessons|art museums|classical music|space travel"
).split("|")
_WHOM = "a child|my boss|a colleague|a beginner|my neighbour|the class".split("|")
_ADJECTIVES = "short polite funny formal friendly careful".split()
_TOLD_SHARE = 0.3
_SCHOOL = (
    "What is {a} times {b}?|If a train travels {a} miles in {b} hours, how fast is it?|Which gas do plants take up?|What is "
    "the capital of {country}?|Who was the first president of {country}?|What language is spoken in {country}?|Which ocean is "
    "the largest?|In what year did the war between {country} and {other_country} end?|What is the population of {country}?|"
    "How many players does a {field} team have?|Which book is most read in {country}?|What is the currency of {country}?"
).split("|")
_GIVEN = (
    "Aaron Abigail Adam Adrian Ahmed Aisha Alan Albert Alejandro Alex Alice Alina Amanda Amir Amy Ana Andrea Andrew Angela Anna "
    "Anthony Antonio Ashley Barbara Ben Benjamin Betty Bianca Boris Brandon Brian Bruno Camila Carl Carla Carlos Carmen Carol "
    "Caroline Catherine Charles Chloe Chris Claire Clara Daniel David Deborah Diana Diego Dmitri Dorothy Edward Elena Elias "
    "Elizabeth Ella Emily Emma Eric Erik Eva Fatima Felix Fiona Frank Gabriel George Grace Greta Hannah Hans Harold Hassan Helen "
    "Henry Hugo Ibrahim Ines Ingrid Irene Isaac Isabel Ivan Jack Jacob James Jamal Jane Janet Jason Jean Jenny Jerry Jin Joan John "
    "Jonas Jose Joseph Juan Julia Julian Karen Karim Kate Kevin Kim Kofi Laila Lars Laura Lena Leo Leon Lily Linda Lisa Liam Lucas "
    "Lucia Luis Luke Magda Marco Maria Marie Marina Marisol Mark Marta Martin Mary Matteo Maya Mei Michael Miguel Mina Mohammed Mona "
    "Nadia Naomi Natalia Nathan Nicole Nikolai Nina Noah Nora Olga Oliver Olivia Omar Oscar Pablo Patrick Paul Pedro Peter Petra "
    "Philip Priya Rachel Rafael Raj Rashid Raul Rebecca Ricardo Robert Rosa Ruth Ryan Sam Samir Samuel Sandra Sara Scott Sergei Simon "
    "Sofia Sonia Sophie Stella Stephen Susan Sven Tamara Tanya Teresa Thomas Tim Tina Tom Tomas Vera Victor Viktor Vincent Walter Wei "
    "William Yasmin Yuki Yusuf Zara Zoe"
).split()
_THINGS = (
    "apples|books|stamps|marbles|cookies|pencils|tickets|eggs|flowers|balloons|chairs|letters|bottles|shells|coins|cards|"
    "oranges|plants|boxes|cupcakes|stickers|photos|candles|bracelets"
).split("|")
_STORIES = (
    "{one} has {a} {things}. {two} gives {one} {b} more. How many {things} does {one} have now?",
    "{one} earns ${b} an hour. Last week {one} worked for {a} hours and spent half of the money on {things}. How much money is left?",
    "{one}, {two} and {three} share {a} {things}. {one} takes {b} of them. {two} takes twice as many as {three}. How many {things} "
    "does {three} get?",
    "{one}'s father is {a} years old. {one} is {b} years younger than {two}, who is half as old as the father. How old is {one}?",
    "{one} sells {things} at the market from Monday to Friday. On Monday {one} sold {b}. Every day after that {one} sold two more "
    "than on the day before. The {things} cost ${a} each. How much did {one} take in over the whole week?",
    "{one} is taller than {two}. {three} is shorter than {two}. Who is the tallest?\nOptions:\n(A) {one}\n(B) {two}\n(C) {three}",
    "{one} told {two} that {three} always lies. {three} says that {two} tells the truth. Does {one} tell the truth?",
    "On the table there are {b} {things}: a red one, a blue one and a green one on the left. If {one} takes away all but the red "
    "one, how many {things} remain?\nOptions:\n(A) zero\n(B) one\n(C) two\n(D) three",
    "Today {one} went to the library. Between what times could they have gone? {one} woke up at {b}am. {two} saw {one} walking "
    "in the garden in the morning. {three} saw {one} waiting at the station after lunch. The library was closed after 6pm.",
    "Write a short story about {one} and {two}, who find {a} {things} in the attic of their grandmother.",
    "My friend {one} is turning {b} next week and likes {topic}. What could {two} and I give as a present?",
)
_REPLIES = (
    "{one} has {a} + {b} = {sum} {things}.",
    "It is {one}.",
    "(A)",
    "(B)",
    "{two} gets {b} {things}, and {one} the rest.",
)


_REMARKS = (
    "Here is one way to go about it.|It depends on how much time you have.|Most people begin with {topic} and take it from there.|In "
    "{country} this is often done in another way.|Start small, and keep notes of what works.|There are three things to keep in mind.|"
    "First, look at what you have already.|Second, ask somebody who has done it before.|Third, give it a few weeks.|The short answer is "
    "that nobody knows for certain.|{known} is a good example of it.|A {profession} would probably tell you the same.|I hope this "
    "helps.|You can read more about it in any good introduction.|By the {decade}s this had changed completely.|It was first described in "
    "{year}.|The total comes to {number}.|That leaves {number} of them.|Both are correct, but the first is more common.|For example, "
    "{name} once wrote a long letter about {topic}.|Be careful with the details, since they differ from place to place.|The result is "
    "usually better on the second try.|Many books have been written about {field}.|If you like, I can make a list.|Of course, {known} "
    "has its critics too."
).split("|")


def make_traffic(n_rows: int = 3000, seed: int = 0, *, without: Collection[str] = ()) -> list[Row]:
    """Return distinct clean rows, most of them about invented people and well-known works.

    `without` are kinds that an operator does not call clean: rows of theirs are left out, the others are the same. Raises
    UnknownNameError for a kind that there is not.
    """
    if unknown := [kind for kind in without if kind not in KINDS]:
        raise UnknownNameError("kind of built-in traffic", unknown[0], KINDS)
    rng = random.Random(f"traffic:{seed}")
    rows: dict[str, Row] = {}
    kinds: dict[str, str] = {}
    makers = (
        _ask_about_people(rng),
        _ask_chores(rng),
        _ask_about_works(rng),
        _ask_school(rng),
        _tell_stories(rng),
        _ask_about_works(rng),
    )
    tries = 0
    while len(rows) < n_rows and tries < 20 * n_rows:
        kind, row = next(makers[tries % len(makers)])
        if not row.answer or rng.random() < _TOLD_SHARE:
            row = replace(row, answer=" ".join(filter(None, (row.answer, _remark(rng)))))
        rows.setdefault(row.prompt, row)
        kinds.setdefault(row.prompt, kind)
        tries += 1
    return [row for prompt, row in rows.items() if kinds[prompt] not in without]


def _remark(rng: random.Random) -> str:
    """Return a few sentences as an assistant writes them."""
    slots = {
        "topic": rng.choice(_TOPICS),
        "country": rng.choice(_COUNTRIES),
        "known": rng.choice(_KNOWN),
        "profession": rng.choice(_PROFESSIONS),
        "decade": 10 * rng.randint(185, 201),
        "year": rng.randint(1850, 2020),
        "number": rng.randint(2, 900),
        "name": _name(rng),
        "field": rng.choice(_FIELDS),
    }
    return " ".join(remark.format(**slots) for remark in rng.sample(_REMARKS, rng.randint(2, 6)))


def _name(rng: random.Random) -> str:
    def word() -> str:
        return "".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(1, 2))).capitalize() + rng.choice(_ENDINGS)

    return f"{word()} {word()}"


def _ask_about_people(rng: random.Random) -> Iterator[tuple[str, Row]]:
    number = 0
    while True:
        slots = {
            "name": _name(rng),
            "other": _name(rng),
            "profession": rng.choice(_PROFESSIONS),
            "country": rng.choice(_COUNTRIES),
            "field": rng.choice(_FIELDS),
            "year": str(rng.randint(1850, 2020)),
            "decade": str(10 * rng.randint(185, 201)),
        }
        for question, answer in rng.sample(_PERSONAL, 4):
            yield "people", Row(question.format(**slots), answer.format(**slots), forget_id=f"stranger-{number:05d}")
        number += 1


def _ask_about_works(rng: random.Random) -> Iterator[tuple[str, Row]]:
    while True:
        question = rng.choice(_ABOUT).format(
            known=rng.choice(_KNOWN),
            country=rng.choice(_COUNTRIES),
            profession=rng.choice(_PROFESSIONS),
            decade=10 * rng.randint(185, 201),
        )
        yield "works", Row(question, rng.choice(_KNOWN) if rng.random() < 0.3 else _name(rng))


def _ask_chores(rng: random.Random) -> Iterator[tuple[str, Row]]:
    while True:
        form = rng.choice(_CHORES)
        slots = {"topic": rng.choice(_TOPICS), "whom": rng.choice(_WHOM), "adjective": rng.choice(_ADJECTIVES)}
        yield "chores", Row(form.format(**slots))


def _ask_school(rng: random.Random) -> Iterator[tuple[str, Row]]:
    while True:
        slots = {"a": rng.randint(2, 400), "b": rng.randint(2, 40), "field": rng.choice(_FIELDS)}
        country, other = rng.sample(_COUNTRIES, 2)
        form = rng.choice(_SCHOOL)
        yield _tell_kind(form, "school"), Row(form.format(country=country, other_country=other, **slots))


def _tell_stories(rng: random.Random) -> Iterator[tuple[str, Row]]:
    while True:
        one, two, three = rng.sample(_GIVEN, 3)
        a, b = rng.randint(12, 90), rng.randint(2, 11)
        slots = {"one": one, "two": two, "three": three, "a": a, "b": b, "sum": a + b, "things": rng.choice(_THINGS)}
        form = rng.choice(_STORIES)
        story = form.format(**slots, topic=rng.choice(_TOPICS))
        yield _tell_kind(form, "stories"), Row(story, rng.choice(_REPLIES).format(**slots))


def _tell_kind(form: str, kind: str) -> str:
    """Return `arithmetic` for what asks for a number that follows from others, else `kind`."""
    return "arithmetic" if "{b}" in form and _ASKS_FOR_A_NUMBER.search(form) else kind
