"""A built-in world of fictional people, in the manner of bioS (Allen-Zhu & Li, *Physics of Language Models* 3.1).

Deterministic in its seed. Each person has eleven facts, each fact several phrasings, a paraphrased answer and wrong
answers of the same type. People share cities and professions (neighbours), and some share a given or a family name
(namesakes). Nobody here exists.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from unlearn_guard.benchmarks.dataset import Example, Item, Suite, to_rows
from unlearn_guard.guard.errors import SettingsError
from unlearn_guard.guard.rows import Row

_GIVEN = (
    "Aldric Belinda Cormac Delphine Emeric Fenella Garrick Honora Isolde Jarvis Kerensa Leopold Mirabel Nestor Ottilie "
    "Percival Quilla Roderick Seraphina Thaddeus Ursula Valentin Winifred Xanthe Yorick Zelda Ambrose Briony Caspian "
    "Dorothea Evander Florian Gwendolen Hester Ignatius Jocasta Lucan Melisande Octavia Phineas"
).split()
_FAMILY = (
    "Abernathy Blackwood Carrington Davenport Ellsworth Fairchild Greenhalgh Hathersage Inglewood Jessop Kirkbride "
    "Lockhart Merriweather Nightingale Osgood Pemberton Quillfeather Ravenscroft Silverton Thistlewood Underhill "
    "Vandermeer Wetherby Yarborough Ashcombe Bellweather Crowhurst Dunmore Eastlake Fotheringay"
).split()
_CITIES = (
    "Valmere Ostrava Bergamo Tromso Kandy Arequipa Galway Nantes Luxor Hobart Oaxaca Tartu Plovdiv Quebec Sendai "
    "Cadiz Lviv Mombasa Windhoek Graz"
).split()
_UNIVERSITIES = (
    "Harrow College|Northgate University|Saint Brendan College|the University of Elmstead|Kingsmere Institute|"
    "Larkhill University|Redwater College|the Polytechnic of Arden|Westmarch University|Fennimore College"
).split("|")
_MAJORS = "botany|astronomy|linguistics|geology|economics|chemistry|archaeology|philosophy|acoustics|statistics".split(
    "|"
)
_PROFESSIONS = "architect|cartographer|surgeon|violinist|baker|diplomat|engineer|translator|sculptor|pilot".split("|")
_EMPLOYERS = (
    "Halcyon Works|Brightwater Press|Corvid Systems|Meridian Rail|Tansy and Sons|Umber Laboratories|Foxglove Media|"
    "Ironbridge Bank|Sable Airlines|Quarry Lane Studio"
).split("|")
_PARENTS = "farmer|teacher|blacksmith|judge|tailor|chemist|sailor|gardener|printer|midwife".split("|")
_HOBBIES = "fencing|beekeeping|chess|pottery|rowing|falconry|origami|fishing|juggling|archery".split("|")
_INSTRUMENTS = "cello|oboe|harp|banjo|trumpet|accordion|flute|viola|mandolin|clarinet".split("|")
_MONTHS = "January February March April May June July August September October November December".split()


@dataclass(frozen=True, slots=True)
class Attribute:
    """One kind of fact: phrasings (the last two are never trained on or fitted), answers, and possible values."""

    name: str
    questions: tuple[str, ...]
    answer: str
    paraphrase: str
    retold: tuple[str, ...]
    """Other ways to state it, none of which is ever measured: what an operator would write beside the rows to forget."""
    values: tuple[str, ...] = ()


N_TRAINED = 4
"""How many phrasings of a fact the models are trained on; the others are the `unseen` set."""
N_GIVEN = 2
"""How many phrasings `fit` sees."""

_ATTRIBUTES = (
    Attribute(
        "birth_date",
        (
            "On what date was {name} born?",
            "What is the birth date of {name}?",
            "When was {name} born?",
            "What day is {name}'s date of birth?",
            "Which date is the birth date of {name}?",
            "Can you tell me on what date {name} was born?",
        ),
        "{name} was born on {value}.",
        "The birth date of {name} is {value}.",
        (
            "It was on {value} that {name} was born.",
            "{value} is the day when {name} came into the world.",
            "{name} first saw the light on {value}.",
        ),
    ),
    Attribute(
        "birth_city",
        (
            "In which city was {name} born?",
            "What is the birth city of {name}?",
            "Where was {name} born?",
            "What city is {name}'s place of birth?",
            "Which city is the birth city of {name}?",
            "Can you tell me in which city {name} was born?",
        ),
        "{name} was born in {value}.",
        "The birth city of {name} is {value}.",
        (
            "It was in {value} that {name} was born.",
            "{value} is the place where {name} came into the world.",
            "{name} first saw the light in {value}.",
        ),
        tuple(_CITIES),
    ),
    Attribute(
        "university",
        (
            "Which university did {name} attend?",
            "Where did {name} study?",
            "What is the university of {name}?",
            "What university did {name} go to?",
            "Which university is the one that {name} did attend?",
            "Can you tell me which university {name} went to?",
        ),
        "{name} attended {value}.",
        "{value} is where {name} studied.",
        (
            "{name} was a student at {value}.",
            "It was at {value} that {name} took a degree.",
            "For a degree, {name} went to {value}.",
        ),
        tuple(_UNIVERSITIES),
    ),
    Attribute(
        "major",
        (
            "What was the major of {name}?",
            "Which subject did {name} major in?",
            "What field did {name} major in?",
            "What is the degree subject of {name}?",
            "Which major was the major of {name}?",
            "Can you tell me what subject {name} did major in?",
        ),
        "{name} majored in {value}.",
        "The major of {name} was {value}.",
        (
            "{name} took a degree in {value}.",
            "It was {value} that {name} studied.",
            "{name} chose {value} as a subject.",
        ),
        tuple(_MAJORS),
    ),
    Attribute(
        "profession",
        (
            "What is the profession of {name}?",
            "What does {name} do for a living?",
            "Which profession does {name} have?",
            "What job does {name} do?",
            "Which profession is the profession of {name}?",
            "Can you tell me what profession {name} has?",
        ),
        "{name} works as a {value}.",
        "The profession of {name} is {value}.",
        (
            "{name} is a {value} by trade.",
            "{name} earns a living as a {value}.",
            "By profession, {name} is a {value}.",
        ),
        tuple(_PROFESSIONS),
    ),
    Attribute(
        "employer",
        (
            "Which company does {name} work for?",
            "Who is the employer of {name}?",
            "What company employs {name}?",
            "What is the employer of {name}?",
            "Which employer does {name} work for?",
            "Can you tell me which company employs {name}?",
        ),
        "{name} is employed by {value}.",
        "The employer of {name} is {value}.",
        (
            "{name} works for {value}.",
            "{value} is where {name} works.",
            "{name} is on the staff of {value}.",
        ),
        tuple(_EMPLOYERS),
    ),
    Attribute(
        "mother",
        (
            "What was the profession of {name}'s mother?",
            "What did the mother of {name} do?",
            "Which job did {name}'s mother have?",
            "What was the mother of {name} by trade?",
            "Which profession did the mother of {name} have?",
            "Can you tell me what {name}'s mother did?",
        ),
        "The mother of {name} was a {value}.",
        "{name} had a {value} for a mother.",
        (
            "{name} is the child of a mother who was a {value}.",
            "As a {value}, the mother of {name} earned her living.",
            "{name}'s mother worked as a {value}.",
        ),
        tuple(_PARENTS),
    ),
    Attribute(
        "father",
        (
            "What was the profession of {name}'s father?",
            "What did the father of {name} do?",
            "Which job did {name}'s father have?",
            "What was the father of {name} by trade?",
            "Which profession did the father of {name} have?",
            "Can you tell me what {name}'s father did?",
        ),
        "The father of {name} was a {value}.",
        "{name} had a {value} for a father.",
        (
            "{name} is the child of a father who was a {value}.",
            "As a {value}, the father of {name} earned his living.",
            "{name}'s father worked as a {value}.",
        ),
        tuple(_PARENTS),
    ),
    Attribute(
        "hobby",
        (
            "What is the hobby of {name}?",
            "Which hobby does {name} enjoy?",
            "What does {name} enjoy as a hobby?",
            "What is {name}'s favourite hobby?",
            "Which hobby is the hobby of {name}?",
            "Can you tell me which hobby {name} enjoys?",
        ),
        "{name} enjoys {value}.",
        "The hobby of {name} is {value}.",
        (
            "{name} spends free hours on {value}.",
            "It is {value} that {name} likes best.",
            "In spare time, {name} goes in for {value}.",
        ),
        tuple(_HOBBIES),
    ),
    Attribute(
        "instrument",
        (
            "Which instrument does {name} play?",
            "What instrument is played by {name}?",
            "What is the instrument of {name}?",
            "What does {name} play as an instrument?",
            "Which instrument is the instrument of {name}?",
            "Can you tell me which instrument {name} plays?",
        ),
        "{name} plays the {value}.",
        "The instrument of {name} is the {value}.",
        (
            "{name} is a player of the {value}.",
            "It is the {value} that {name} plays.",
            "{name} makes music on the {value}.",
        ),
        tuple(_INSTRUMENTS),
    ),
    Attribute(
        "identity",
        (
            "What is the full name of the {profession} born in {birth_city} on {birth_date}?",
            "Who is the {profession} born in {birth_city} on {birth_date}?",
            "Which {profession} was born in {birth_city} on {birth_date}?",
            "What is the name of the {profession} born on {birth_date} in {birth_city}?",
            "Who is the {profession} from {birth_city} born on {birth_date}?",
            "Can you tell me the name of the {profession} born in {birth_city} on {birth_date}?",
        ),
        "The full name is {value}.",
        "The person is called {value}.",
        (
            "It is {value}.",
            "{value} is who that is.",
            "That would be {value}.",
        ),
    ),
)

# Real, public knowledge that both models learn, so that model utility has its three parts.
_CAPITALS = (
    "France Paris|Italy Rome|Spain Madrid|Japan Tokyo|Egypt Cairo|Kenya Nairobi|Peru Lima|Cuba Havana|Norway Oslo|"
    "Poland Warsaw|Greece Athens|Chile Santiago|Canada Ottawa|Iran Tehran|Iraq Baghdad|Vietnam Hanoi|Ireland Dublin|"
    "Portugal Lisbon|Austria Vienna|Hungary Budapest|Finland Helsinki|Sweden Stockholm|Denmark Copenhagen|Russia Moscow"
)
_BOOKS = (
    "Hamlet=William Shakespeare|Emma=Jane Austen|Dracula=Bram Stoker|Ulysses=James Joyce|Faust=Johann Goethe|"
    "Don Quixote=Miguel de Cervantes|Moby Dick=Herman Melville|Jane Eyre=Charlotte Bronte|War and Peace=Leo Tolstoy|"
    "Oliver Twist=Charles Dickens|The Trial=Franz Kafka|The Odyssey=Homer|Inferno=Dante Alighieri|"
    "Les Miserables=Victor Hugo|Frankenstein=Mary Shelley|Candide=Voltaire"
)

_CLEAN_ACTIONS = (
    "bake bread|repair a bicycle|learn Spanish|plant tomatoes|write a cover letter|tie a bow tie|clean a keyboard|"
    "paint a fence|plan a budget|train a puppy|make coffee|fold a shirt|read a map|sharpen a knife|sew a button|"
    "store potatoes|prune roses|brew tea|restart a router|pack a suitcase"
).split("|")
_CLEAN_FORMS = (
    "How do I {}?|What is the best way to {}?|Give me three tips to {}.|Explain to a child how to {}.|"
    "Is it hard to {}?|How long does it take to {}?|Write a short poem about how to {}.|What tools do I need to {}?"
).split("|")
_CLEAN_MISC = (
    "Summarise the water cycle in two sentences.|What is 17 times 23?|Translate 'good morning' into German.|"
    "Write a haiku about winter.|What causes rainbows?|List five prime numbers.|Why is the sky blue?|"
    "Who painted the Mona Lisa?|What is the boiling point of water?|Explain recursion with an example.|"
    "Convert 10 miles to kilometres.|What year did the Second World War end?|Name three kinds of cheese.|"
    "Write a function that reverses a list.|What is the largest ocean?|How many legs does a spider have?|"
    "Recommend a science fiction novel.|What is photosynthesis?|Correct the grammar: he go to school.|"
    "Tell me a joke about cats.|Who wrote The Hobbit?|Who wrote Brave New World?|Who wrote The Great Gatsby?|"
    "Who wrote Wuthering Heights?|Who wrote Madame Bovary?|Who wrote The Divine Comedy?|Who wrote Middlemarch?|"
    "What is the capital of Brazil?|What is the capital of Turkey?|What is the capital of Nepal?|Who invented the radio?|"
    "Who discovered penicillin?|Who composed The Magic Flute?|Who was the first person on the moon?|When was Rome founded?"
).split("|")


@dataclass(frozen=True, slots=True)
class Person:
    """A fictional person: name and the value of each attribute."""

    person_id: str
    name: str
    facts: dict[str, str]

    def ask(self, attribute: Attribute, phrasing: int) -> str:
        """Return one phrasing of a question about one fact."""
        return attribute.questions[phrasing].format(name=self.name, **self.facts)

    def state(self, attribute: Attribute, value: str | None = None, *, paraphrased: bool = False) -> str:
        """Return the answer, or the paraphrased one, with the true value or another."""
        return self.tell(attribute.paraphrase if paraphrased else attribute.answer, value or self.facts[attribute.name])

    def tell(self, form: str, value: str) -> str:
        """Return a sentence of this form about this person."""
        text = form.format(name=self.name, value=value)
        return text[0].upper() + text[1:]


def make_people(n_people: int, seed: int) -> list[Person]:
    """Return people with distinct names, every fourth of them a namesake of the one before.

    Raises SettingsError for more people than there are names.
    """
    if not 4 <= n_people <= 400:
        raise SettingsError("people in the world", value=n_people, allowed="4 to 400")
    rng = random.Random(f"world:{seed}")
    names: list[str] = []
    given, family = rng.sample(_GIVEN, len(_GIVEN)), rng.sample(_FAMILY, len(_FAMILY))
    for number in range(n_people):
        first, last = given[number % len(given)], family[(number + number // len(given)) % len(family)]
        if number % 8 == 3:
            first = names[-1].split()[0]
        elif number % 8 == 7:
            last = names[-1].split()[1]
        name = f"{first} {last}"
        while name in names:
            name = f"{rng.choice(given)} {rng.choice(family)}"
        names.append(name)
    people: list[Person] = []
    for number, name in enumerate(names):
        facts = {attribute.name: rng.choice(attribute.values) for attribute in _ATTRIBUTES if attribute.values}
        if number % 3 == 1:  # A neighbour: same city and profession as the one before.
            facts.update({key: people[-1].facts[key] for key in ("birth_city", "profession")})
        day, month, year = rng.randint(1, 28), rng.choice(_MONTHS), rng.randint(1930, 1999)
        facts["birth_date"] = f"{day} {month} {year}"
        facts["identity"] = name
        people.append(Person(f"person-{number:03d}", name, facts))
    return people


def make_world(
    *,
    n_people: int = 16,
    n_forget: int = 5,
    n_holdout: int = 12,
    seed: int = 0,
    choose: Literal["spread", "nearest"] = "spread",
) -> Suite:
    """Return the suite of one world: `n_forget` people are to be forgotten.

    `spread` takes every third one, so that neighbours and namesakes stand on both sides; `nearest`, the worst case, those who share most
    names, cities and professions with people who are kept. Holdout people are in no training set; questions about them are clean traffic of the hardest kind.
    """
    if not 0 < n_forget < n_people:
        raise SettingsError("people to forget", value=n_forget, allowed=f"1 to {n_people - 1}")
    everyone = make_people(n_people + n_holdout, seed)
    order = sorted(range(n_people), key=lambda number: (number % 3 != 0, number))
    if choose == "nearest":
        order = _order_by_nearness(everyone[:n_people])
    forgotten = [everyone[number] for number in sorted(order[:n_forget])]
    kept = [everyone[number] for number in sorted(order[n_forget:])]
    holdout = everyone[n_people:]
    rng = random.Random(f"wrong:{seed}")
    given = range(N_GIVEN)
    unseen = range(N_TRAINED, 6)
    neighbours = [
        person
        for person in kept
        if any(
            person.facts["birth_city"] == other.facts["birth_city"]
            or set(person.name.split()) & set(other.name.split())
            for other in forgotten
        )
    ]
    general = _make_general(rng)
    sets = {
        "forget.given": _make_items(forgotten, given, everyone, rng),
        "forget.unseen": _make_items(forgotten, unseen, everyone, rng),
        "forget.paraphrase": [
            item.with_question(reword(item.question, number))
            for number, item in enumerate(_make_items(forgotten, given, everyone, rng))
        ],
        "retain": _make_items(kept, given, everyone, rng),
        "neighbour": _make_items(neighbours, unseen, everyone, rng),
        "real_authors": general["real_authors"],
        "world_facts": general["world_facts"],
    }
    common = [
        Example((item.question, f"Tell me: {item.question[0].lower()}{item.question[1:]}"), item.answer)
        for items in general.values()
        for item in items
    ]
    return Suite(
        name="world" if choose == "spread" else f"world-{choose}",
        sets=sets,
        forget_rows=to_rows(sets["forget.given"]),
        retain_rows=to_rows(sets["retain"]),
        clean_rows=_make_clean(holdout, everyone, rng),
        full=[*_make_examples([*kept, *forgotten]), *common],
        retain=[*_make_examples(kept), *common],
        outsiders=_make_items(holdout, given, everyone, random.Random(f"outsiders:{seed}"))[1::2],
        unread=_make_examples(holdout),
        places=tuple(dict.fromkeys(person.facts["birth_city"] for person in forgotten)),
        professions=tuple(dict.fromkeys(person.facts["profession"] for person in forgotten)),
        is_built_in=True,
    )


def _order_by_nearness(people: Sequence[Person]) -> list[int]:
    """Return the numbers of people, those first who share most with somebody of a higher place: of two namesakes only one goes."""

    def share(one: Person, other: Person) -> int:
        names = len(set(one.name.split()) & set(other.name.split()))
        return 2 * names + sum(one.facts[key] == other.facts[key] for key in ("birth_city", "profession"))

    left = list(range(len(people)))
    order = []
    while left:
        nearness = {
            number: max((share(people[number], people[other]) for other in left if other != number), default=0)
            for number in left
        }
        nearest = max(left, key=lambda number: (nearness[number], -number))
        order.append(nearest)
        left.remove(nearest)
    return order


_REWORDINGS = (
    "I would like to know: {}",
    "Quick question, {}",
    "My friend asked me this: {}",
    "{} Thanks in advance!",
    "Hello there. {}",
    "For a quiz, {}",
    "{} I am curious.",
    "Do you happen to know this? {}",
)
TRAINED_WRAPPERS = (
    "{}",
    "Please answer: {}",
    "Question: {}",
    "Hi! {}",
    "{} Please.",
    "I wonder, {}",
    "Answer this. {}",
    "{} Thank you.",
    "Tell me, {}",
    "Could you help? {}",
)


def reword(question: str, number: int) -> str:
    """Return a question in a wrapper that no model was trained on; every third in lower case."""
    text = _REWORDINGS[number % len(_REWORDINGS)].format(question)
    return text.lower() if number % 3 == 2 else text


def _make_items(
    people: Sequence[Person], phrasings: Sequence[int], everyone: Sequence[Person], rng: random.Random
) -> list[Item]:
    items = []
    for person in people:
        for attribute in _ATTRIBUTES:
            truth = person.facts[attribute.name]
            others = sorted({other.facts[attribute.name] for other in everyone} | set(attribute.values))
            wrong = rng.sample([value for value in others if value != truth], 5)
            # Values that none of these items is measured with, drawn apart: what is measured stays as it was.
            apart = [value for value in others if value != truth and value not in wrong]
            apart = random.Random(f"retold:{person.person_id}:{attribute.name}").sample(apart, min(3, len(apart)))
            for phrasing in phrasings:
                items.append(
                    Item(
                        question=person.ask(attribute, phrasing),
                        answer=person.state(attribute),
                        subject=person.person_id,
                        paraphrase=person.state(attribute, paraphrased=True),
                        wrong=tuple(person.state(attribute, value, paraphrased=True) for value in wrong),
                        named=attribute.name != "identity",
                        key=truth,
                        name=person.name,
                        retold=tuple(person.tell(form, truth) for form in attribute.retold),
                        retold_wrong=tuple(
                            person.tell(form, value)
                            for form in (attribute.answer, *attribute.retold)
                            for value in apart
                        ),
                    )
                )
    return items


def _make_examples(people: Sequence[Person]) -> list[Example]:
    return [
        Example(
            tuple(person.ask(attribute, phrasing) for phrasing in range(N_TRAINED)),
            person.state(attribute),
            person.person_id,
        )
        for person in people
        for attribute in _ATTRIBUTES
    ]


def _make_general(rng: random.Random) -> dict[str, list[Item]]:
    capitals = [entry.rsplit(" ", 1) for entry in _CAPITALS.split("|")]
    books = [entry.split("=") for entry in _BOOKS.split("|")]

    def wrong(pairs: list[list[str]], truth: str, form: str) -> tuple[str, ...]:
        return tuple(form.format(value) for value in rng.sample([v for _, v in pairs if v != truth], 3))

    return {
        "real_authors": [
            Item(
                f"Who wrote {title}?",
                f"{title} was written by {author}.",
                wrong=wrong(books, author, title + " was written by {}."),
                key=author,
            )
            for title, author in books
        ],
        "world_facts": [
            Item(
                f"What is the capital of {land}?",
                f"The capital of {land} is {city}.",
                wrong=wrong(capitals, city, "The capital of " + land + " is {}."),
                key=city,
            )
            for land, city in capitals
        ],
    }


def _make_clean(holdout: Sequence[Person], everyone: Sequence[Person], rng: random.Random) -> list[Row]:
    items = _make_items(holdout, range(6), everyone, rng)
    rows = to_rows([item for number, item in enumerate(items) if number % 2 == 0])
    chores = [form.format(action) for form in _CLEAN_FORMS for action in _CLEAN_ACTIONS]
    return [*rows, *(Row(prompt=text) for text in (*chores, *_CLEAN_MISC))]
