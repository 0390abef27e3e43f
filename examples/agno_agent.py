"""An Agno agent. Its model is offline, so the file runs as it stands, without a key and without a network.

    phalanx deploy examples/agno_agent.py --entrypoint agent --requirements agno

For a real model: add `openai` to the requirements, set OPENAI_API_KEY with `--env-var`, and write

    from agno.models.openai import OpenAIChat
    agent = Agent(model=OpenAIChat(id="gpt-4o-mini"), ...)
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from agno.agent import Agent
from agno.metrics import MessageMetrics
from agno.models.base import Model
from agno.models.message import Message
from agno.models.response import ModelResponse


@dataclass
class OfflineModel(Model):
    """Answers from the question alone."""

    id: str = "offline"
    name: str = "Offline"
    provider: str = "offline"

    def answer(self, messages: list[Message]) -> str:
        asked = [message.get_content_string() for message in messages if message.role == "user"]
        return f"You asked: {asked[-1] if asked else 'nothing'}"

    def response(self, text: str) -> ModelResponse:
        tokens = len(text.split())
        usage = MessageMetrics(input_tokens=tokens, output_tokens=tokens, total_tokens=2 * tokens)
        return ModelResponse(role="assistant", content=text, response_usage=usage)

    def invoke(self, messages: list[Message], *args: Any, **kwargs: Any) -> ModelResponse:
        return self.response(self.answer(messages))

    async def ainvoke(self, messages: list[Message], *args: Any, **kwargs: Any) -> ModelResponse:
        return self.invoke(messages)

    def invoke_stream(self, messages: list[Message], *args: Any, **kwargs: Any) -> Iterator[ModelResponse]:
        for word in self.answer(messages).split():
            yield self.response(word + " ")

    async def ainvoke_stream(self, messages: list[Message], *args: Any, **kwargs: Any) -> AsyncIterator[ModelResponse]:
        for word in self.answer(messages).split():
            yield self.response(word + " ")

    def _parse_provider_response(self, response: Any, **kwargs: Any) -> ModelResponse:
        return ModelResponse(content=str(response))

    def _parse_provider_response_delta(self, response: Any) -> ModelResponse:
        return ModelResponse(content=str(response))


agent = Agent(name="assistant", model=OfflineModel(), instructions="Answer briefly.")
