"""Attacks, each a function that tries one thing and says what came of it: words of errors, or GOT and what it got."""

import calls
import files
import network
import others
from tried import outcomes

ATTACKS = {
    name: attack
    for module in (files, calls, network, others)
    for name, attack in vars(module).items()
    if not name.startswith("_") and callable(attack) and getattr(attack, "__module__", None) == module.__name__
}


def handler(input):
    if input.get("list"):
        return sorted(ATTACKS)
    return outcomes(ATTACKS[input["attack"]], input["given"])
