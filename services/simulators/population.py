"""A registry of invented people, and questions about them with the errors that registries have.

The same seed makes the same people and the same questions. Every question says whom it is truly
about, so that what an index finds can be counted. Nobody in it is or was a patient.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import accumulate
from random import Random
from typing import Final

OWN: Final = "HOSP"
OTHER: Final = "CLINIC"


def _words(text: str) -> list[str]:
    return text.split()


_FAMILIES: Final = _words(
    "Smith Johnson Williams Brown Jones Garcia Miller Davis Rodriguez Martinez Hernandez Lopez "
    "Gonzalez Wilson Anderson Thomas Taylor Moore Jackson Martin Lee Perez Thompson White Harris "
    "Sanchez Clark Ramirez Lewis Robinson Walker Young Allen King Wright Scott Torres Nguyen Hill "
    "Flores Green Adams Nelson Baker Hall Rivera Campbell Mitchell Carter Roberts Schmidt "
    "Schneider Fischer Weber Meyer Wagner Becker Schulz Hoffmann Bauer Koch Richter Klein Wolf "
    "Neumann Schwarz Zimmermann Krause Lehmann O'Brien O'Connor Murphy Kelly Rossi Ferrari "
    "Bianchi Romano Colombo Ricci Dubois Lefebvre Moreau Laurent Fournier Mercier Yilmaz Kaya "
    "Demir Sahin Celik Novak Svoboda Dvorak Kowalski Wisniewski Nowak Silva Santos Oliveira Souza"
)
_FEMALE: Final = _words(
    "Mary Patricia Jennifer Linda Elizabeth Barbara Susan Jessica Sarah Karen Lisa Nancy Betty "
    "Sandra Margaret Ashley Kimberly Emily Donna Michelle Carol Amanda Melissa Deborah Stephanie "
    "Anna Maria Laura Sophie Julia Claudia Monika Ursula Ingrid Katharina Giulia Chiara Elena "
    "Camille Manon Ayse Fatma Elif Zeynep Jana Eva Hana Zofia Ewa Ines Beatriz Clara Nora Ida"
)
_MALE: Final = _words(
    "James Robert John Michael David William Richard Joseph Thomas Charles Christopher Daniel "
    "Matthew Anthony Mark Donald Steven Paul Andrew Joshua Kenneth Kevin Brian George Timothy "
    "Peter Hans Klaus Stefan Jürgen Wolfgang Markus Luca Marco Giovanni Alessandro Pierre Louis "
    "Antoine Mehmet Mustafa Ahmet Ali Petr Jan Pavel Piotr Krzysztof João Miguel Tiago Erik Lars"
)
_HEADS: Final = _words("B Br C Ch D Dr F G Gr H J K Kl L M N P Pr R S Sch St T Tr V W Z")
_MIDDLES: Final = _words(
    "ab al am an ar as ed el em en er es ib il im in ir ob ol om on or ub ul um un"
)
_TAILS: Final = _words(
    "a e i o er en ert in is ov ski son sen ley man ton berg mann etti ini ez es"
)
# The same name as different desks write it: its own script, and romanisations of it.
_SCRIPTS: Final[tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...]] = (
    (("Müller", "Mueller", "Muller"), ("Jürgen", "Juergen", "Jurgen"), "M"),
    (("Schröder", "Schroeder", "Schroder"), ("Jörg", "Joerg", "Jorg"), "M"),
    (("Größ", "Groess", "Gross"), ("Käthe", "Kaethe", "Kathe"), "F"),
    (("Sørensen", "Soerensen", "Sorensen"), ("Jørgen", "Joergen", "Jorgen"), "M"),
    (("Łukaszewicz", "Lukaszewicz"), ("Łucja", "Lucja"), "F"),
    (("Гончаров", "Goncharov", "Gontscharow"), ("Юрий", "Yuriy", "Juri"), "M"),
    (("Иванов", "Ivanov", "Iwanow"), ("Алексей", "Aleksey", "Alexej"), "M"),
    (("Щукина", "Shchukina", "Schtschukina"), ("Ольга", "Olga"), "F"),
    (("Воробьёва", "Vorobyova", "Worobjowa"), ("Наталья", "Natalya", "Natalja"), "F"),
    (("Παπαδόπουλος", "Papadopoulos"), ("Γεώργιος", "Georgios"), "M"),
    (("Νικολάου", "Nikolaou"), ("Ελένη", "Eleni"), "F"),
    (("王", "Wang"), ("小明", "Xiaoming", "Xiao Ming"), "M"),
    (("李", "Li"), ("秀英", "Xiuying", "Xiu Ying"), "F"),
    (("张", "Zhang"), ("建国", "Jianguo", "Jian Guo"), "M"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """What a registry or a message says of somebody.

    Parameters
    ----------
    identifiers : tuple of (str, str)
        Value and assigning authority.
    """

    family: str
    given: str
    middle: str = ""
    birth_date: date | None
    sex: str
    identifiers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A description of somebody, and who it is."""

    kind: str
    person: Person
    truth: int | None
    """Position in the registry, or None for somebody who is not in it."""


class Population:
    """A registry and the questions that are put to it.

    Parameters
    ----------
    size : int
        People in the registry.
    seed : int
    """

    def __init__(self, size: int, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311 (repeatable, not secret)
        self._families = _Pool(self._random, _FAMILIES, 8000, 10)
        self._given = {
            "F": _Pool(self._random, _FEMALE, 1500, 5),
            "M": _Pool(self._random, _MALE, 1500, 5),
        }
        self._today = date(2026, 3, 1)
        self.registry: list[Person] = []
        self._native: list[tuple[int, int]] = []
        self._twins: list[int] = []
        self._newborns: list[int] = []
        self._named: list[int] = []
        while len(self.registry) < size:
            self._register()
        del self.registry[size:]
        for group in (self._twins, self._newborns, self._named):
            group[:] = [n for n in group if n < size]
        self._native = [n for n in self._native if n[0] < size]

    # --- the registry

    def _register(self) -> None:
        chance = self._random.random()
        if chance < 0.02:
            self._native.append((len(self.registry), self._random.randrange(len(_SCRIPTS))))
            families, givens, sex = _SCRIPTS[self._native[-1][1]]
            self._add(
                replace(
                    self.somebody(),
                    family=self._random.choice(families),
                    given=self._random.choice(givens),
                    sex=sex,
                )
            )
        elif chance < 0.03:
            self._register_twins()
        elif chance < 0.035:
            born = self._today - timedelta(days=self._random.randrange(400))
            given = self._random.choice(("Baby Girl", "Baby Girl A", "BABY OF ANNA", "Newborn"))
            self._newborns.append(len(self.registry))
            self._add(replace(self.somebody(), given=given, middle="", birth_date=born, sex="F"))
        elif chance < 0.036:
            family, given = self._random.choice((("Doe", "John"), ("Unknown", "Trauma 7")))
            self._add(replace(self.somebody(), family=family, given=given, birth_date=None))
        else:
            self._named.append(len(self.registry))
            self._add(self.somebody())

    def _register_twins(self) -> None:
        first = self.somebody()
        self._twins.append(len(self.registry))
        self._add(first)
        self._add(self._sibling(first))

    def _add(self, person: Person) -> None:
        # Consecutive numbers: who registers together differs in the last digit.
        own = (f"{2_000_000 + len(self.registry):08d}", OWN)
        self.registry.append(replace(person, identifiers=(own,)))

    def somebody(self) -> Person:
        """Return a person at random."""
        sex = self._random.choice("FM")
        days = self._random.triangular(0, 95 * 365, 55 * 365)
        born = self._today - timedelta(days=int(days))
        if self._random.random() < 0.01:
            born = date(born.year, 1, 1)
        has_middle = self._random.random() < 0.4
        return Person(
            family=self._families.draw(),
            given=self._given[sex].draw(),
            middle=self._given[sex].draw() if has_middle else "",
            birth_date=born,
            sex=sex,
        )

    def _sibling(self, of: Person) -> Person:
        sex = of.sex if self._random.random() < 0.7 else self._random.choice("FM")
        given = of.given
        while given == of.given:
            given = self._given[sex].draw()
        if self._random.random() < 0.2 and len(of.given) > 3:  # Maria and Marie
            given = of.given[:-1] + self._random.choice("aeiouy".replace(of.given[-1], ""))
            sex = of.sex
        return replace(of, given=given, middle="", sex=sex, identifiers=())

    # --- questions about somebody who is in it

    def questions(self, count: int) -> Iterator[Question]:
        """Yield `count` questions about people of the registry, each kind as often."""
        kinds = self._errors()
        for number in range(count):
            kind = list(kinds)[number % len(kinds)]
            truth = self._random.choice(self._named)
            if kind == "transliterated":
                truth = self._random.choice(self._native)[0]
            elif kind == "newborn now named":
                truth = self._random.choice(self._newborns)
            elif kind == "twin, exact":
                truth = self._random.choice(self._twins)
            yield Question(kind=kind, person=kinds[kind](truth), truth=truth)

    def _errors(self) -> dict[str, Callable[[int], Person]]:
        def changed(change: Callable[[Person], Person]) -> Callable[[int], Person]:
            return lambda truth: self._elsewhere(change(self.registry[truth]))

        def here(change: Callable[[Person], Person]) -> Callable[[int], Person]:
            return lambda truth: change(self.registry[truth])

        return {
            "exact, own number": here(lambda p: p),
            "exact, other authority": changed(lambda p: p),
            "twin, exact": changed(lambda p: p),
            "number without zeros": here(self._rewritten),
            "number without zeros, typo": here(lambda p: self._misspelt(self._rewritten(p))),
            "number mistyped": here(self._mistyped),
            "typo in family": changed(lambda p: replace(p, family=self._typo(p.family))),
            "typo in given": changed(lambda p: replace(p, given=self._typo(p.given))),
            "typo in both names": changed(self._misspelt),
            "typo in birth date": changed(self._misdated),
            "typos in name and date": changed(
                lambda p: self._misdated(replace(p, given=self._typo(p.given)))
            ),
            "day and month exchanged": changed(self._exchanged),
            "only the year known": changed(
                lambda p: replace(p, birth_date=date(_born(p).year, 1, 1))
            ),
            "family and given exchanged": changed(
                lambda p: replace(p, family=p.given, given=p.family)
            ),
            "surname changed": changed(
                lambda p: replace(p, family=self._families.draw(), sex=p.sex)
            ),
            "surname doubled": changed(
                lambda p: replace(p, family=f"{p.family}-{self._families.draw()}")
            ),
            "initial only": changed(lambda p: replace(p, given=p.given[0], middle="")),
            "sex missing": changed(lambda p: replace(p, sex="")),
            "capitals without accents": changed(
                lambda p: replace(p, family=p.family.upper(), given=p.given.upper(), middle="")
            ),
            "transliterated": lambda truth: self._elsewhere(self._transliterated(truth)),
            "newborn now named": here(lambda p: replace(p, given=self._given["F"].draw())),
        }

    def _elsewhere(self, person: Person) -> Person:
        number = f"C{self._random.randrange(10**7):07d}"
        return replace(person, identifiers=((number, OTHER),))

    def _rewritten(self, person: Person) -> Person:
        value = person.identifiers[0][0]
        forms = (value.lstrip("0"), f"000{value}", f"{value[:4]}-{value[4:]}", f" {value} ")
        return replace(person, identifiers=((self._random.choice(forms), OWN),))

    def _mistyped(self, person: Person) -> Person:
        value = person.identifiers[0][0]
        place = self._random.randrange(3, len(value))
        digit = self._random.choice(string.digits.replace(value[place], ""))
        return replace(person, identifiers=((value[:place] + digit + value[place + 1 :], OWN),))

    def _typo(self, word: str) -> str:
        place = self._random.randrange(len(word))
        letter = self._random.choice(string.ascii_lowercase)
        kind = self._random.randrange(4)
        if kind == 0:
            return word[:place] + letter + word[place + 1 :]
        if kind == 1 and len(word) > 3:
            return word[:place] + word[place + 1 :]
        if kind == 2:
            return word[:place] + letter + word[place:]
        place = min(place, len(word) - 2)
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]

    def _misspelt(self, person: Person) -> Person:
        return replace(person, family=self._typo(person.family), given=self._typo(person.given))

    def _misdated(self, person: Person) -> Person:
        born = _born(person)
        while True:
            text = born.isoformat()
            place = self._random.choice((2, 3, 5, 6, 8, 9))
            text = text[:place] + self._random.choice(string.digits) + text[place + 1 :]
            try:
                wrong = date.fromisoformat(text)
            except ValueError:
                continue
            if wrong != born and wrong <= self._today:
                return replace(person, birth_date=wrong)

    def _exchanged(self, person: Person) -> Person:
        born = _born(person)
        if born.day > 12:
            return person
        return replace(person, birth_date=date(born.year, born.day, born.month))

    def _transliterated(self, truth: int) -> Person:
        family, given, _ = _SCRIPTS[dict(self._native)[truth]]
        return replace(
            self.registry[truth],
            family=self._random.choice(family),
            given=self._random.choice(given),
            middle="",
        )

    # --- questions about somebody who is not in it

    def strangers(self, count: int) -> Iterator[Question]:
        """Yield `count` questions about people who are not in the registry, each kind as often."""
        kinds: dict[str, Callable[[], Person]] = {
            "ordinary stranger": self.somebody,
            "stranger of common name": self._common,
            "namesake of another day": self._namesake,
            "namesake of the same day": self._double,
            "twin not registered": lambda: self._sibling(self._known()),
            "of the same household": lambda: replace(self.somebody(), family=self._known().family),
            "newborn of the household": lambda: replace(
                self._known(),
                given=self._random.choice(("Baby Boy", "Baby Girl B", "Newborn of")),
                middle="",
                birth_date=self._today,
            ),
            "trauma name": lambda: replace(self.somebody(), family="Doe", given="John"),
            "mistyped number of another": lambda: replace(
                self.somebody(), identifiers=self._known().identifiers
            ),
            "twin with the other's number": self._confused,
        }
        for number in range(count):
            kind = list(kinds)[number % len(kinds)]
            person = kinds[kind]()
            if not kind.endswith("number") and "number of" not in kind:
                person = self._elsewhere(person)
            yield Question(kind=kind, person=person, truth=None)

    def _known(self) -> Person:
        return self.registry[self._random.choice(self._named)]

    def _common(self) -> Person:
        person = self.somebody()
        return replace(
            person,
            family=self._random.choice(_FAMILIES[:10]),
            given=self._random.choice(self._given[person.sex].words[:10]),
        )

    def _namesake(self) -> Person:
        known = self._known()
        born = known.birth_date
        while born == known.birth_date:
            born = self.somebody().birth_date
        return replace(known, birth_date=born)

    def _double(self) -> Person:
        # It happens to bearers of common names: one name, one birth date, two people.
        while True:
            person = self._known()
            common = self._given[person.sex].words[:20]
            if person.family in _FAMILIES[:20] and person.given in common:
                return replace(person, middle="")

    def _confused(self) -> Person:
        person = self._known()
        return replace(self._sibling(person), identifiers=person.identifiers)


class _Pool:
    """Names, few of them common: the frequency falls with the rank."""

    def __init__(self, random: Random, common: Sequence[str], size: int, flat: int) -> None:
        self._random = random
        words = dict.fromkeys(common)
        while len(words) < size:
            words[_composed(random)] = None
        self.words = list(words)
        self._weights = list(accumulate(1 / (rank + flat) for rank in range(size)))

    def draw(self) -> str:
        """Return a name at random."""
        return self._random.choices(self.words, cum_weights=self._weights)[0]


def _composed(random: Random) -> str:

    middle = "".join(random.choice(_MIDDLES) for _ in range(random.choice((1, 1, 2))))
    return random.choice(_HEADS) + middle + random.choice(_TAILS)


def _born(person: Person) -> date:
    if person.birth_date is None:
        raise ValueError("this person has no birth date to be mistaken")
    return person.birth_date
