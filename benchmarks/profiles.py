"""Interface profiles: what reading a message by its sender's profile costs, in CPU time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure, Outcome
from services.hl7.er7 import Message, parse
from services.hl7.profiles import SHIPPED, Profiles, files, read_file
from services.hl7.requests import read_orders
from services.hl7.standardising import Standardiser

ROUNDS = 15
MESSAGES = 1000
RAW = "\r".join(
    [
        "MSH|^~\\&|EPIC|HOSP|||20260301080000||ORM^O01|1|P|2.3",
        "PID|1||0012345^^^HOSP^MRN~E777^^^EPI^EPI||DOE^JANE^Q||19800214|F",
        "PV1|1|EMERGENCY|ED^B12^1|||||9876^REF^ANNA|||||||||||V123^^^HOSP",
        "ORC|NW|987654^EPC|A2026000123||SC||^^^20260301090000^^STAT|||||9876^REF^ANNA||||||MR1AE",
        "OBR|1|987654^EPC|A2026000123|MRBRWO^MRI brain w/o contrast^EAP|||||||||Headache|||"
        "9876^REF^ANNA||D7|own|own||||MRI|||^^^20260301090000^^STAT",
        "OBX|1|NM|BW^Body Weight^L||72|kg|||||F",
        "",
    ]
).encode()


def run(directory: Path) -> Outcome:
    """Measure each shipped profile, none, and for comparison the reading of the message itself."""
    message = parse(RAW)
    # The shipped ones are not in force: this is a message that no profile is for.
    outcome = Outcome(figures=[_figure("no profile for the sender", Profiles(directory), message)])
    for path in files(SHIPPED):
        standardiser = Standardiser(read_file(path, "shipped"))
        outcome.figures.append(_figure(f"profile {path.stem}", standardiser, message))
    seconds = [_seconds(lambda: (parse(RAW), read_orders(message))) for _ in range(ROUNDS)]
    outcome.notes.append(
        f"profiles: CPU time of a message of {len(RAW)} bytes; parsing it and reading its order "
        f"take {median(seconds) * 1e6:.0f} µs"
    )
    return outcome


def _figure(what: str, by: Profiles | Standardiser, message: Message) -> Figure:
    taken = [_seconds(lambda: by.standardised(message, RAW)) * 1e6 for _ in range(ROUNDS)]
    return Figure(
        part="profiles",
        what=f"{what}, median",
        unit="µs",
        ours=median(taken),
        lower_is_better=True,
        samples=ROUNDS * MESSAGES,
        our_samples=tuple(taken),
    )


def _seconds(call: Callable[[], object]) -> float:
    begun = time.process_time()
    for _ in range(MESSAGES):
        call()
    return (time.process_time() - begun) / MESSAGES
