"""A FastAPI application: every execution is an in-process request to POST /invoke, without a server or a port.

    phalanx deploy examples/fastapi_app.py --entrypoint fastapi_app.py --requirements fastapi

Other routes are reached with the execution's metadata: {"http": {"method": "GET", "path": "/health"}}.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

phrases: dict[str, str] = {}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    phrases["greeting"] = "Hello"
    yield
    phrases.clear()


app = FastAPI(lifespan=lifespan)


class Request(BaseModel):
    name: str = "world"


@app.post("/invoke")
async def invoke(request: Request) -> dict[str, str]:
    return {"message": f"{phrases['greeting']}, {request.name}"}


@app.post("/stream")
async def stream(request: Request) -> StreamingResponse:
    async def events() -> AsyncIterator[str]:
        for letter in request.name:
            yield f'data: {{"letter": "{letter}"}}\n\n'
            await asyncio.sleep(0.001)

    return StreamingResponse(events(), media_type="text/event-stream")


@app.get("/health")
def health() -> dict[str, bool]:
    return {"healthy": True}
