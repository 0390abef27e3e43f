"""Agno, AgentCore and ASGI with the real packages; nothing touches the network."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import REPOSITORY, Worker, packages

AGNO = (REPOSITORY / "examples" / "agno_agent.py").read_text()


def agno(extra: str) -> Worker:
    return Worker({"model.py": AGNO, "agent.py": "from model import *\n" + extra}, "target", site_dirs=packages())


def test_agno_agent() -> None:
    with agno("target = agent\nagent.add_history_to_context = False") as worker:
        assert worker.ready()["entrypoint_kind"] == "agno"
        for given, asked in [
            ({"message": "hi"}, "hi"),
            ({"x": 1}, '{"x":1}'),
            ("plain", "plain"),
            ({"query": "q"}, "q"),
        ]:
            outcome = worker.run(given, session_id="s", user_id="u")
            assert outcome.output == f"You asked: {asked}"
        assert outcome.body["tokens"] == 6
        streamed = worker.run({"input": "a b"}, stream=True, session_id="s7")
        events = [chunk["event"] for chunk in streamed.chunks]
        assert events[0] == "RunStarted" and events[-1] == "RunCompleted" and events.count("RunContent") == 4
        assert {chunk["session_id"] for chunk in streamed.chunks} == {"s7"}
        assert streamed.output.strip() == "You asked: a b"
        assert streamed.body["tokens"]


@pytest.mark.parametrize("stream", [False, True])
def test_agno_failure(stream: bool) -> None:
    extra = """
class Broken(OfflineModel):
    def answer(self, messages): raise RuntimeError("the model is down")
target = Agent(model=Broken())
"""
    with agno(extra) as worker:
        worker.ready()
        error = worker.run("hi", stream=stream).body
        assert error["code"] == "HANDLER_RAISED" and "the model is down" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_agno_team_and_workflow(stream: bool) -> None:
    extra = """
from agno.team import Team
from agno.workflow import Workflow, Step
team = Team(name="t", model=OfflineModel(), members=[Agent(name="m", model=OfflineModel())])
flow = Workflow(name="w", steps=[Step(name="one", agent=Agent(name="a", model=OfflineModel())),
                                 Step(name="two", agent=Agent(name="b", model=OfflineModel()))])
"""
    for name, answer in (("team", "You asked: hi"), ("flow", "You asked: You asked: hi")):
        with agno(extra + f"target = {name}\n") as worker:
            assert worker.ready()["entrypoint_kind"] == "agno"
            outcome = worker.run({"message": "hi"}, stream=stream, session_id="s")
            assert outcome.ok, outcome
            assert " ".join(outcome.output.split()) == answer
            assert outcome.body["tokens"]
            assert bool(outcome.chunks) == stream


AGENTCORE = """
import asyncio, time, threading
from bedrock_agentcore import BedrockAgentCoreApp, BedrockAgentCoreContext
app = BedrockAgentCoreApp()
@app.entrypoint
{handler}
{run}
"""


def agentcore(handler: str, run: str = "app.run()") -> Worker:
    source = AGENTCORE.format(handler=handler, run=run)
    return Worker({"my_agent.py": source}, "my_agent.py", site_dirs=packages(), concurrency=20)


@pytest.mark.parametrize("run", ["app.run()", "if __name__ == '__main__':\n    app.run(port=9000)"])
def test_agentcore_sync(run: str) -> None:
    handler = """
def invoke(payload, context):
    time.sleep(0.2)
    if payload == "raise": raise ValueError("really")
    print("working")
    return {"got": payload, "session": context.session_id, "same": BedrockAgentCoreContext.get_session_id(),
            "loop": threading.current_thread() is threading.main_thread()}
"""
    with agentcore(handler, run) as worker:
        assert worker.ready()["entrypoint_kind"] == "bedrock_agentcore"
        ids = [worker.call(n, session_id=f"s{n}") for n in range(10)]
        for n, id_ in enumerate(ids):
            outcome = worker.wait(id_)
            assert outcome.output == {"got": n, "session": f"s{n}", "same": f"s{n}", "loop": False}
            assert "working" in outcome.messages
        error = worker.run("raise").body
        assert error["exception_type"] == "ValueError" and "my_agent.py" in error["traceback"]


def test_agentcore_async_and_busy() -> None:
    handler = """
async def invoke(payload):
    if payload == "start":
        app.task = app.add_async_task("background")
        return "started"
    if payload == "model":
        class Odd:
            def __str__(self): return "odd"
        return {"odd": Odd()}
    await asyncio.sleep(0)
    app.complete_async_task(app.task)
    return "stopped"
"""
    with agentcore(handler) as worker:
        worker.ready()
        assert worker.ping() == {"busy": False}
        assert worker.run("start").output == "started"
        assert worker.ping() == {"busy": True}
        assert worker.run("stop").output == "stopped"
        assert worker.ping() == {"busy": False}
        assert worker.run("model").output.startswith("{'odd': <"), "the SDK's own last resort is str()"


@pytest.mark.parametrize("word", ["", "async "])
def test_agentcore_generators(word: str) -> None:
    handler = f"{word}def invoke(payload):\n    for n in range(3):\n        print('item', n)\n        yield {{'n': n}}"
    with agentcore(handler) as worker:
        worker.ready()
        outcome = worker.run({}, stream=True)
        assert outcome.chunks == outcome.output == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_agentcore_response_and_no_entrypoint() -> None:
    handler = """
def invoke(payload):
    from starlette.responses import JSONResponse
    return JSONResponse({"why": "bad"}, status_code=422)
"""
    with agentcore(handler) as worker:
        worker.ready()
        assert 'answered 422: {"why":"bad"}' in worker.run({}).body["message"]
    source = "from bedrock_agentcore import BedrockAgentCoreApp\napp = BedrockAgentCoreApp()\napp.run()"
    with Worker({"a.py": source}, "a.py", site_dirs=packages()) as worker:
        assert "@app.entrypoint" in worker.failed()["message"]


FASTAPI = """
import asyncio, os, sys, time
from contextlib import asynccontextmanager
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import PlainTextResponse, StreamingResponse, Response
@asynccontextmanager
async def lifespan(app):
    print("starting up")
    if os.environ.get("FAIL"): raise RuntimeError("no database")
    yield {"pool": "pool-1"}
    open("stopped", "w").write("yes")
app = FastAPI(lifespan=lifespan)
@app.post("/run")
async def run(request: Request):
    body = await request.json()
    if body == "boom": raise ValueError("inside")
    if body == "denied": raise HTTPException(403, "not you")
    return {"body": body, "pool": request.state.pool, "query": dict(request.query_params),
            "session": request.headers.get("x-amzn-bedrock-agentcore-runtime-session-id"),
            "extra": request.headers.get("x-extra")}
@app.post("/sync")
def sync(): time.sleep(0.2); print("in a thread"); return "slept"
@app.get("/text")
async def text(): return PlainTextResponse("just text")
@app.get("/binary")
async def binary(): return Response(bytes(range(256)), media_type="application/pdf")
@app.post("/events")
async def events():
    async def go():
        for n in range(3):
            yield f'event: tick\\r\\ndata: {{"n": {n}}}\\r\\n\\r\\n'
        yield "data: plain\\n"
        yield "data: two lines\\n\\ndata: last"
    return StreamingResponse(go(), media_type="text/event-stream")
@app.post("/words")
async def words():
    async def go():
        for word in ("a", "b", "é"):
            yield word
            await asyncio.sleep(0)
    return StreamingResponse(go(), media_type="text/plain")
"""


def test_fastapi(tmp_path: Path) -> None:
    with Worker(FASTAPI, "agent:app", site_dirs=packages(), concurrency=20) as worker:
        assert worker.ready()["entrypoint_kind"] == "asgi"
        http = {"query": {"q": "1"}, "headers": {"X-Extra": "e"}}
        outcome = worker.run({"a": 1}, session_id="s", metadata={"http": http})
        assert outcome.output == {"body": {"a": 1}, "pool": "pool-1", "query": {"q": "1"}, "session": "s", "extra": "e"}
        boom = worker.run("boom").body
        assert boom["exception_type"] == "ValueError" and "in run" in boom["traceback"]
        assert "POST /run answered 403" in worker.run("denied").body["message"]

        def at(path: str, method: str = "POST", stream: bool = False) -> object:
            return worker.run(stream=stream, metadata={"http": {"path": path, "method": method}})

        assert at("/text", "GET").output == "just text"  # type: ignore[attr-defined]
        assert at("/nowhere").body["code"] == "HANDLER_RAISED"  # type: ignore[attr-defined]
        assert at("/binary", "GET").body["code"] == "OUTPUT_NOT_SERIALIZABLE"  # type: ignore[attr-defined]
        want = [{"n": 0}, {"n": 1}, {"n": 2}, "plain\ntwo lines", "last"]
        for stream in (False, True):
            events = at("/events", stream=stream)
            assert events.output == want and events.chunks == (want if stream else [])  # type: ignore[attr-defined]
            words = at("/words", stream=stream)
            assert words.output == "abé" and words.chunks == (["a", "b", "é"] if stream else [])  # type: ignore[attr-defined]
        ids = [worker.call(metadata={"http": {"path": "/sync"}}) for _ in range(10)]
        assert all(worker.wait(id_).messages == ["in a thread"] for id_ in ids)
        worker.wait_line(0, "starting up")
        worker.socket.close()
        assert worker.process.wait(5) == 0
        assert (Path(worker.folder.name) / "tmp" / "stopped").read_text() == "yes"


def test_a_lifespan_that_fails() -> None:
    with Worker(FASTAPI, "agent:app", site_dirs=packages(), environment={"FAIL": "1"}) as worker:
        error = worker.failed()
        assert error["phase"] == "init" and "no database" in error["message"]


def test_uvicorn_run_is_what_a_file_serves() -> None:
    for run in ("uvicorn.run(app, port=1)", "uvicorn.run('agent:app')", "uvicorn.Server(uvicorn.Config(app)).run()"):
        source = FASTAPI + f"\nimport uvicorn\nif __name__ == '__main__':\n    {run}\n    print('after')\n"
        with Worker(source, "agent.py", site_dirs=packages()) as worker:
            assert worker.ready()["entrypoint_kind"] == "asgi"
            assert worker.run(1).output["body"] == 1


def test_a_bare_asgi_function() -> None:
    source = """
async def app(scope, receive, send):
    assert scope["type"] == "http", "no lifespan here"
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})
"""
    with Worker(source, "app") as worker:
        assert worker.ready()["entrypoint_kind"] == "asgi"
        assert worker.run({"x": [1]}).output == {"x": [1]}


def test_an_application_without_a_clear_route() -> None:
    source = """
from fastapi import FastAPI
app = FastAPI()
@app.post("/a")
def a(): return 1
@app.post("/b")
def b(): return 2
"""
    with Worker(source, "agent.py", site_dirs=packages()) as worker:
        worker.ready()
        assert "it has /a, /b" in worker.run().body["message"]
        assert worker.run(metadata={"http": {"path": "/b"}}).output == 2


def test_cancel_of_a_request() -> None:
    source = """
import asyncio
from fastapi import FastAPI
app = FastAPI()
@app.post("/invoke")
async def invoke(): await asyncio.sleep(30)
"""
    with Worker(source, "agent:app", site_dirs=packages()) as worker:
        worker.ready()
        id_ = worker.call()
        worker.ping()
        worker.cancel(id_)
        assert worker.wait(id_).body["code"] == "CANCELLED"
