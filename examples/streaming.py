"""An async generator: each word is a chunk as it comes, all of them together are the output.

phalanx deploy examples/streaming.py --entrypoint stream
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any


async def stream(input: Any, context: Any) -> AsyncIterator[dict[str, Any]]:
    text = input.get("text", "one two three") if isinstance(input, dict) else str(input)
    words = text.split()
    for number, word in enumerate(words, 1):
        await asyncio.sleep(0.01)  # here a real agent waits for its model
        yield {"number": number, "word": word}
        context.progress(100 * number / len(words))
    context.metric("tokens", len(words))
