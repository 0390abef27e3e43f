"""Which settings there are: phalanx/default.toml has every one. For the checks of what is deployed."""

from collections.abc import Iterable
from pathlib import Path

import tomllib

DEFAULTS = Path(__file__).resolve().parents[1] / "phalanx/default.toml"


def unknown_settings(names: Iterable[str]) -> list[str]:
    """Those of PHALANX__SECTION__KEY that the program would not know."""
    known = tomllib.loads(DEFAULTS.read_text())
    faults = []
    for name in names:
        if not name.startswith("PHALANX__"):
            continue
        at: object = known
        for part in name.removeprefix("PHALANX__").lower().split("__"):
            at = at.get(part) if isinstance(at, dict) else None
        if at is None or isinstance(at, dict):
            faults.append(f"{name} is no setting of phalanx/default.toml")
    return faults
