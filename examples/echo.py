"""The smallest agent: gives back what it was sent.

phalanx deploy examples/echo.py --entrypoint handler
"""

from typing import Any


def handler(input: Any, context: Any) -> dict[str, Any]:
    context.log("echo was called", keys=sorted(input) if isinstance(input, dict) else None)
    return {"echo": input, "session_id": context.session_id}
