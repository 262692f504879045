"""Words that tell one bearer of a name from another: professions, countries and their people, centuries."""

from __future__ import annotations

import re

_PROFESSIONS = frozenset(
    (
        "accountant actor actress anthropologist archaeologist architect astronaut astronomer athlete author baker "
        "banker barber biologist blacksmith botanist boxer broadcaster builder butcher carpenter cartographer chef "
        "chemist chancellor cellist cinematographer clergyman coach comedian composer conductor cricketer curator cyclist "
        "dancer dentist designer detective diplomat director doctor dramatist drummer economist editor electrician "
        "engineer entomologist entrepreneur essayist explorer farmer fencer filmmaker firefighter fisherman florist "
        "footballer gardener general geneticist geographer geologist goalkeeper golfer guitarist gymnast historian "
        "hairdresser illustrator industrialist inventor jeweler jockey journalist judge lawyer librarian linguist lyricist "
        "magician magistrate mathematician mayor mechanic midwife meteorologist minister missionary mountaineer musician "
        "naturalist novelist nun nurse oceanographer optician painter paramedic pharmacist philanthropist philosopher "
        "photographer physician physicist pianist pilot plumber poet policeman politician potter presenter president priest "
        "printer producer programmer psychologist publisher rabbi racer rapper referee rower sailor saxophonist scientist "
        "sculptor senator singer skater skier sociologist soldier soprano sprinter statistician statesman surgeon surveyor "
        "swimmer tailor teacher tenor theologian translator trumpeter umpire veterinarian violinist volcanologist waiter "
        "weaver wrestler writer zoologist"
    ).split()
)
# Demonym or adjective → country, so that "Danish" and "Denmark" are one description.
_PEOPLES = {
    word: country
    for country, words in {
        "afghanistan": "afghan",
        "albania": "albanian",
        "algeria": "algerian",
        "angola": "angolan",
        "argentina": "argentine argentinian",
        "armenia": "armenian",
        "australia": "australian aussie",
        "austria": "austrian",
        "azerbaijan": "azerbaijani azeri",
        "bahrain": "bahraini",
        "bangladesh": "bangladeshi",
        "barbados": "barbadian",
        "belarus": "belarusian",
        "belgium": "belgian",
        "benin": "beninese",
        "bolivia": "bolivian",
        "bosnia": "bosnian",
        "botswana": "botswanan",
        "brazil": "brazilian",
        "britain": "british english england scottish scotland welsh wales uk",
        "bulgaria": "bulgarian",
        "cambodia": "cambodian",
        "cameroon": "cameroonian",
        "canada": "canadian",
        "chile": "chilean",
        "china": "chinese",
        "colombia": "colombian",
        "congo": "congolese",
        "croatia": "croatian",
        "cuba": "cuban",
        "cyprus": "cypriot",
        "czechia": "czech",
        "denmark": "danish dane",
        "ecuador": "ecuadorian",
        "egypt": "egyptian",
        "eritrea": "eritrean",
        "estonia": "estonian",
        "ethiopia": "ethiopian",
        "fiji": "fijian",
        "finland": "finnish",
        "france": "french",
        "gambia": "gambian",
        "georgia": "georgian",
        "germany": "german",
        "ghana": "ghanaian",
        "greece": "greek",
        "guatemala": "guatemalan",
        "haiti": "haitian",
        "honduras": "honduran",
        "hungary": "hungarian",
        "iceland": "icelandic icelander",
        "india": "indian",
        "indonesia": "indonesian",
        "iran": "iranian persian",
        "iraq": "iraqi",
        "ireland": "irish",
        "israel": "israeli",
        "italy": "italian",
        "jamaica": "jamaican",
        "japan": "japanese",
        "jordan": "jordanian",
        "kazakhstan": "kazakh kazakhstani",
        "kenya": "kenyan",
        "korea": "korean",
        "kuwait": "kuwaiti",
        "kyrgyzstan": "kyrgyz",
        "laos": "laotian",
        "latvia": "latvian",
        "lebanon": "lebanese",
        "liberia": "liberian",
        "libya": "libyan",
        "lithuania": "lithuanian",
        "luxembourg": "luxembourgish",
        "malawi": "malawian",
        "malaysia": "malaysian",
        "maldives": "maldivian",
        "mali": "malian",
        "malta": "maltese",
        "mauritius": "mauritian",
        "mexico": "mexican",
        "moldova": "moldovan",
        "mongolia": "mongolian",
        "morocco": "moroccan",
        "mozambique": "mozambican",
        "myanmar": "burmese burma",
        "namibia": "namibian",
        "nepal": "nepalese nepali",
        "netherlands": "dutch holland",
        "nicaragua": "nicaraguan",
        "niger": "nigerien",
        "nigeria": "nigerian",
        "norway": "norwegian",
        "oman": "omani",
        "pakistan": "pakistani",
        "palestine": "palestinian",
        "panama": "panamanian",
        "paraguay": "paraguayan",
        "peru": "peruvian",
        "philippines": "filipino philippine",
        "poland": "polish pole",
        "portugal": "portuguese",
        "qatar": "qatari",
        "romania": "romanian",
        "russia": "russian",
        "rwanda": "rwandan",
        "senegal": "senegalese",
        "serbia": "serbian",
        "singapore": "singaporean",
        "slovakia": "slovak",
        "slovenia": "slovenian slovene",
        "somalia": "somali",
        "spain": "spanish spaniard",
        "sudan": "sudanese",
        "sweden": "swedish swede",
        "switzerland": "swiss",
        "syria": "syrian",
        "taiwan": "taiwanese",
        "tanzania": "tanzanian",
        "thailand": "thai",
        "tunisia": "tunisian",
        "turkey": "turkish",
        "uganda": "ugandan",
        "ukraine": "ukrainian",
        "uruguay": "uruguayan",
        "america": "american usa",
        "uzbekistan": "uzbek",
        "venezuela": "venezuelan",
        "vietnam": "vietnamese",
        "yemen": "yemeni",
        "zambia": "zambian",
        "zealand": "zealander",
        "zimbabwe": "zimbabwean",
    }.items()
    for word in (country, *words.split())
}
# Peoples whose adjective is also another word.
for _word in ("pole", "swede", "turkey"):
    _PEOPLES.pop(_word, None)
_PEOPLES["turkish"] = "turkey"
_COUNTRIES = frozenset(_PEOPLES.values())
_CONTINENTS = frozenset("africa african america american arab asia asian europe european latin latina latino".split())
_CENTURY = re.compile(r"\b(\d{1,2})(?:st|nd|rd|th)?[ -]century\b|\b(1[0-9]|20)(\d)0s\b")
_YEAR = re.compile(r"\b(1[0-9]\d\d|20\d\d)\b")
_ERA = re.compile(r"\b(medieval|victorian|renaissance|ancient|elizabethan|byzantine|edwardian)\b")
_WORD = re.compile(r"[^\W\d_]+")
# One trade under several names does not make two people.
_SAME = dict.fromkeys("writer novelist essayist poet dramatist storyteller".split(), "author") | {
    "actress": "actor",
    "clergyman": "priest",
    "doctor": "physician",
    "fisherman": "sailor",
    "filmmaker": "director",
    "rapper": "singer",
    "soprano": "singer",
    "tenor": "singer",
}
# What a person makes tells the profession too, where rows describe somebody; not where a text distinguishes one.
_WORKS = {
    "author": "book books fiction literary literature manuscript novel novels poem poems poetry writing writings wrote",
    "director": "film films movie movies",
    "singer": "album albums song songs",
    "footballer": "football goal goals soccer striker",
    "scientist": "discovery laboratory research theorem",
    "politician": "election elections parliament presidency senate",
    "painter": "canvas painting paintings",
    "composer": "opera sonata symphony",
}
_PROFESSION_OF = {word: profession for profession, words in _WORKS.items() for word in words.split()}
_ASKING = frozenset("being did do does has have how is that was were what when where which who whose why".split())
# A description belongs to a name only where it stands in apposition to it: "the Danish botanist NAME",
# "NAME, the plumber from Ohio", "NAME (footballer)", "NAME the mayor", "NAME, a 17th-century …".
_ARTICLES = frozenset("the a an famous former late our my".split())
_DESCRIPTION_WORDS = 5
_BEFORE_CHARACTERS = 120
_AFTER = re.compile(
    r"^\s*(?:[,(–-]\s*(?:the|a|an|who is a|who was a|is a|was a)?\s*|(?:the|a|an)\s+)((?:[\w'-]+\s*){1,6})"
)


def find_country(word: str) -> str:
    """Return the country of a demonym, or the word itself."""
    return _PEOPLES.get(word, word)


def is_origin_or_trade(word: str) -> bool:
    """Return whether a folded word says where somebody is from, or what somebody does."""
    return word in _PEOPLES or word in _COUNTRIES or word in _CONTINENTS or _singular(word) in _PROFESSIONS


def describes(before: str, after: str) -> frozenset[str]:
    """Return the descriptions in apposition to a name, from the folded text before and after it."""
    pieces = []
    words = before[-_BEFORE_CHARACTERS:].split() if before[-1:].isspace() else []
    tail = words[-_DESCRIPTION_WORDS - 1 :]
    # From the last article on: "my neighbour is the plumber NAME" describes by "plumber".
    opens = max((place for place, word in enumerate(tail) if word in _ARTICLES), default=-1)
    if 0 <= opens < len(tail) - 1 and _is_description(tail[-1]):
        pieces.append(" ".join(tail[opens + 1 :]))
    if match := _AFTER.search(after):
        pieces.append(match.group(1))
    return frozenset(word for piece in pieces if not _ASKING & set(piece.split()) for word in find_descriptions(piece))


def _is_description(word: str) -> bool:
    return _singular(word) in _PROFESSIONS or word in _PEOPLES


def find_profile(text: str) -> frozenset[str]:
    """Return the descriptions that rows about somebody hold: professions, also by what one makes, countries, centuries."""
    works = {_PROFESSION_OF[word] for word in _WORD.findall(text) if word in _PROFESSION_OF}
    years = {f"century {int(year[:2]) + 1}" for year in _YEAR.findall(text)}
    return find_descriptions(text) | works | years


def differs(described: frozenset[str], profile: frozenset[str]) -> bool:
    """Return whether a description is of somebody else: of another century, or with nothing in common.

    Only kinds that both sides have are compared: rows that name no profession do not say that somebody is no biologist.
    """
    said, known = _sort_by_kind(described), _sort_by_kind(profile)
    both = said.keys() & known.keys()
    agreeing = {kind for kind in both if said[kind] & known[kind]}
    # A Victorian may have lived in the 19th century, and written of ancient Rome.
    conflicting = both - agreeing - {"era"}
    return "century" in conflicting or bool(conflicting and not agreeing)


def _sort_by_kind(descriptions: frozenset[str]) -> dict[str, set[str]]:
    """Return descriptions by what they say: when somebody lived, where, what they do."""
    found: dict[str, set[str]] = {}
    for word in descriptions:
        if word.startswith("century "):
            kind = "century"
        else:
            kind = "era" if _ERA.fullmatch(word) else "place" if word in _COUNTRIES else "trade"
        found.setdefault(kind, set()).add(word)
    return found


def find_descriptions(text: str) -> frozenset[str]:
    """Return professions, countries and centuries named in folded text."""
    words = [_singular(word) for word in _WORD.findall(text)]
    found = {_SAME.get(word, word) for word in words if word in _PROFESSIONS}
    found |= {_PEOPLES[word] for word in words if word in _PEOPLES}
    found |= {f"century {match.group(1) or int(match.group(2)) + 1}" for match in _CENTURY.finditer(text)}
    found |= {match.group(1) for match in _ERA.finditer(text)}
    return frozenset(found)


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and word[:-1] in _PROFESSIONS else word
