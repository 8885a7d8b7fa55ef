"""Made-up people for a new project: what they did on some days, and whether they slept well after them."""

from __future__ import annotations

import numpy as np

__all__ = ["people_as_csv"]

_PEOPLE = 200


def people_as_csv() -> str:
    """Return a table with a row for each day of each person, the same every time.

    Coffee late in the day costs everybody sleep, and each person more or less of it; sport helps some and harms others.
    """
    rng = np.random.default_rng(7)
    lines = ["person,age,sex,coffee_hour,sport_minutes,slept_well"]
    for number in range(1, _PEOPLE + 1):
        age, sex, days = int(rng.integers(18, 80)), str(rng.choice(["f", "m"])), int(rng.integers(8, 17))
        late, sport = -1.5 + 0.5 * rng.normal(), rng.normal()
        for _ in range(days):
            hour, minutes = int(rng.integers(6, 23)), int(rng.integers(0, 91))
            drive = late * (hour - 14) / 4 + sport * (minutes - 45) / 25 + 0.01 * (50 - age)
            slept = int(rng.random() < 1 / (1 + np.exp(-drive)))
            lines.append(f"p{number:03},{age},{sex},{hour},{minutes},{slept}")
    return "\n".join([*lines, ""])
