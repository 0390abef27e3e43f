"""What tests/compose/run does to a cluster that is up: deploys, executes, kills every role, the bus and the database,
and sees it heal.

In: the environment of tests/compose/run. Every wait is for a level, with a deadline, and tells the last thing seen.
Standard library only.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ["docker", "compose", "-f", str(ROOT / "deploy/compose.yaml"), "-f", str(ROOT / "tests/compose/local.yaml")]
SECRETS = Path(os.environ["PHALANX_SECRETS"])
URL = f"http://127.0.0.1:{os.environ['PHALANX_PORT']}"
OFFLINE = os.environ.get("PHALANX_TEST_OFFLINE") == "1"
REPLICAS = {"proxy": 1, "gateway": 2, "deployer": 2, "executor": 3, "monitor": 2, "nats": 1, "postgres": 1}
ROLES = ("gateway", "deployer", "executor", "monitor")
HEALS_WITHIN = 90.0

Json = Any

# Reaches for what only Phalanx may have; answers what it got.
NOSY = """
import os, socket, urllib.request

def tried(what):
    try:
        return str(what())[:80]
    except BaseException as e:
        return "refused: " + type(e).__name__

def through_proxy(url):
    return urllib.request.urlopen(url, timeout=5).status

def handler(input):
    return {
        "nats": tried(lambda: socket.create_connection(("nats", 4222), 3)),
        "postgres": tried(lambda: socket.create_connection(("postgres", 5432), 3)),
        "own address": tried(lambda: socket.create_connection((input["address"], 7070), 3)),
        "nats through the proxy": tried(lambda: through_proxy("http://nats:8222/varz")),
        "gateway through the proxy": tried(lambda: through_proxy("http://gateway:8080/healthz")),
        "an address through the proxy": tried(lambda: through_proxy("http://" + input["address"] + ":9090/metrics")),
        "master key": tried(lambda: open("/run/secrets/master_key").read()),
        "environments": tried(lambda: os.listdir("/var/lib/phalanx")),
    }
"""
SLOW = """
import time

def handler(input):
    time.sleep(input["seconds"])
    return input["number"]
"""


class Failed(Exception):
    """Not as it should be: at the end of a wait, or where nothing is waited for."""


class Hopeless(Exception):
    """Waiting does not help."""


def say(text: str) -> None:
    print(f"-- {text}", flush=True)


def check(holds: bool, what: str) -> None:
    if not holds:
        raise Failed(what)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command[:6])} … failed: {done.stderr.strip()[-600:]}")
    return done.stdout


def compose(*arguments: str) -> str:
    return run(*COMPOSE, *arguments)


def until(what: str, level: Callable[[], Any], within: float = HEALS_WITHIN) -> Any:
    """Asks until the answer is true; `Failed` and a broken connection count as not yet."""
    end = time.monotonic() + within
    seen: object = None
    while time.monotonic() < end:
        try:
            seen = level()
            if seen:
                return seen
        except (Failed, OSError) as e:
            seen = e
        time.sleep(0.2)
    raise Failed(f"{what}: not within {within:.0f} s; last seen: {seen}")


class Answer(Failed):
    """An answer that is not 200."""


def call(method: str, path: str, body: Json = None, timeout: float = 60) -> Json:
    headers = {"Authorization": f"Bearer {(SECRETS / 'admin_key').read_text()}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data=data, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as e:
        raise Answer(f"{method} {path}: {e.code} {e.read().decode(errors='replace')[:400]}") from None


def deploy(agent: str, source: str, entrypoint: str = "handler", changes: Json = None, within: float = 120) -> None:
    body: dict[str, Json] = {
        "agent_metadata": {"agent_id": agent, "name": agent, "version": "1.0.0"},
        "agent_code": {"source_code": base64.b64encode(source.encode()).decode(), "entrypoint": entrypoint},
        "deployment_config": {"environment": "dev"},
    }
    for section, values in (changes or {}).items():
        body.setdefault(section, {}).update(values)
    deployment = call("POST", "/api/v1/agents/deploy", body)["deployment_id"]

    def ended() -> bool:
        said = call("GET", f"/api/v1/agents/{agent}/deployments/{deployment}")
        if said["status"] in ("failed", "rolled_back"):
            raise Hopeless(f"{agent} could not be deployed: {json.dumps(said)[:1500]}")
        check(said["status"] == "deployed", f"{agent} is {said['status']}")
        return True

    until(f"{agent} is deployed", ended, within)


def execute(agent: str, parameters: Json, options: Json = None, timeout: float = 60) -> Json:
    body: dict[str, Json] = {"input_data": {"parameters": parameters}}
    if options:
        body["execution_options"] = options
    return call("POST", f"/api/v1/agents/{agent}/execute", body, timeout)


def works() -> bool:
    said = execute("echo", {"name": "you"}, timeout=20)
    return bool(said["status"] == "completed" and said["result"]["output"]["echo"] == {"name": "you"})


def containers(service: str) -> list[Json]:
    ids = compose("ps", "--all", "--quiet", service).split()
    return list(json.loads(run("docker", "inspect", *ids))) if ids else []


def healthy(service: str) -> bool:
    states = [(c["State"]["Status"], c["State"].get("Health", {}).get("Status")) for c in containers(service)]
    check(states == [("running", "healthy")] * REPLICAS[service], f"{service}: {states}")
    return True


def address(container: Json, network: str) -> str:
    return str(container["NetworkSettings"]["Networks"][f"phalanx-test_{network}"]["IPAddress"])


class Load:
    """Executes one after another while something is broken, and counts what callers saw."""

    def __init__(self) -> None:
        self.good = 0
        self.bad: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                check(works(), "a wrong answer")
                self.good += 1
            except (Failed, OSError) as e:
                self.bad.append(str(e)[:160])
            self._stop.wait(0.05)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)


def crash(service: str, agent: str = "echo") -> list[Json]:
    """SIGKILL to the containers' own processes, from outside: as a crash, which the restart policy answers.

    Of executors the one that hosts the agent, of the others the first.
    """
    victims = [hosting(agent)] if service == "executor" else containers(service)[:1]
    return slay(victims)


def slay(victims: list[Json]) -> list[Json]:
    for container in victims:
        os.kill(container["State"]["Pid"], signal.SIGKILL)
    return victims


def hosting(agent: str) -> Json:
    nodes = {i["node_id"] for i in call("GET", f"/api/v1/agents/{agent}/instances")["instances"]}
    for container in containers("executor"):
        if run("docker", "exec", container["Id"], "cat", "/var/lib/phalanx/node.id").strip() in nodes:
            return container
    raise Failed(f"no executor hosts {agent}, which is on {nodes}")


def came_back(service: str, before: list[Json]) -> bool:
    for victim in before:
        now = json.loads(run("docker", "inspect", victim["Id"]))[0]
        restarted = now["RestartCount"] > victim["RestartCount"] and now["State"]["Running"]
        check(restarted, f"{service} is {now['State']['Status']}")
    return healthy(service)


def is_shut() -> None:
    """One port, no secret where everybody can read, no more rights than written."""
    for service in REPLICAS:
        for container in containers(service):
            bound = {b["HostIp"] for ports in container["NetworkSettings"]["Ports"].values() for b in ports or []}
            check(bound == ({"127.0.0.1"} if service == "proxy" else set()), f"{service} is bound to {bound}")
            host = container["HostConfig"]
            check(
                host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and not host["Privileged"],
                f"{service} has too many rights",
            )
            check("no-new-privileges:true" in host["SecurityOpt"], f"{service} may gain rights")
            check(host["Memory"] > 0 and host["NanoCpus"] > 0 and host["PidsLimit"] > 0, f"{service} has no limits")
            if service in ROLES:
                check(container["Config"]["User"] == "10001:10001", f"{service} runs as {container['Config']['User']}")
            told = json.dumps(container["Config"])
            for secret in SECRETS.iterdir():
                for word in secret.read_text().split('"'):
                    check(
                        len(word) < 24 or word not in told, f"{service} tells {secret.name} to whoever may inspect it"
                    )
    for path in ("/metrics", "/metrics/", "/%6detrics", "/METRICS"):
        try:
            call("GET", path)
        except Answer as e:
            check(": 404 " in str(e), f"the proxy answers {path}: {e}")
        else:
            raise Failed(f"the proxy passes {path} on")


def is_confined() -> None:
    nodes = until(
        "all executors are in system health",
        lambda: (n := call("GET", "/api/v1/system/health")["nodes"]) and len(n) == 3 and n,
    )
    for node in nodes:
        check(
            node["isolation"].startswith("confined (user pid mount net ipc uts cgroup; own /proc"),
            f"an executor is {node['isolation']}",
        )
    say(f"executors: {nodes[0]['isolation']}")


def are_kept_in() -> None:
    deploy("nosy", NOSY)
    for container in containers("executor"):
        said = execute("nosy", {"address": address(container, "core")})["result"]["output"]
        reached = {what: got for what, got in said.items() if not got.startswith("refused: ")}
        check(not reached, f"an agent reached {reached}")
    say("an agent reaches no bus, database, gateway, neighbour, secret or folder of ours")


def work_survives(service: str) -> None:
    """Async executions that were accepted before a crash end once, whatever crashed."""
    wanted = {execute("slow", {"seconds": 2, "number": n}, {"async": True})["execution_id"]: n for n in range(12)}
    before = crash(service, "slow")

    def ended() -> bool:
        for execution, number in wanted.items():
            said = call("GET", f"/api/v1/agents/slow/executions/{execution}")
            if said["status"] in ("failed", "cancelled", "timeout"):
                raise Hopeless(f"{execution}: {json.dumps(said)[:600]}")
            check(said["status"] == "completed", f"{execution} is {said['status']}")
            check(said["result"]["output"] == number, f"{execution} has another's answer")
        return True

    until(f"{len(wanted)} async executions end though {service} crashed", ended)
    until(f"{service} comes back", lambda: came_back(service, before))


def heals(service: str) -> None:
    with Load() as load:
        until("the load is under way", lambda: load.good > 3)
        before = crash(service)
        start = time.monotonic()
        until(f"{service} comes back", lambda: came_back(service, before))
        until("executions work again", works)
        # A stretch without a fault, not one lucky call.
        calm = (load.good, len(load.bad))
        until("30 good executions in a row", lambda: load.good - calm[0] >= 30)
        took = time.monotonic() - start
    check(len(load.bad) - calm[1] <= 1, f"after {service} was back, executions failed: {load.bad[calm[1] :][:3]}")
    failed = f"{len(load.bad)} failed {sorted(set(load.bad))[:2] or ''}"
    say(f"{service}: back after {took:.1f} s; {load.good} executions good, {failed}")


def deployment_goes_on(service: str, agent: str) -> None:
    """All of a service crash in the middle of a deployment."""
    before: list[Json] = []
    victims = containers(service)
    killer = threading.Timer(0.3, lambda: before.extend(slay(victims)))
    killer.start()
    deploy(agent, SLOW)
    killer.join()
    check(len(before) == REPLICAS[service], f"{service} was not killed")
    until(f"{service} heals", lambda: came_back(service, before))
    until(f"{agent} answers", lambda: execute(agent, {"seconds": 0, "number": 7})["result"]["output"] == 7)


def prometheus(path: str, **parameters: str) -> Json:
    where = address(containers("prometheus")[0], "core")
    url = f"http://{where}:9090/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.loads(answer.read())["data"]
    except urllib.error.HTTPError as e:
        raise Failed(f"Prometheus, asked for {parameters}: {e.read().decode(errors='replace')[:300]}") from None


def is_watched() -> None:
    def targets() -> bool:
        found = prometheus("targets", state="active")["activeTargets"]
        up = sorted(t["labels"]["job"] for t in found if t["health"] == "up")
        check(up == sorted(role for role in ROLES for _ in range(REPLICAS[role])), f"up: {up}")
        return True

    until("Prometheus scrapes every replica of every role", targets)
    rules = prometheus("rules")["groups"]
    check(sum(len(group["rules"]) for group in rules) > 0, "Prometheus has no alerts")
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/phalanx.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    for query in asked:
        prometheus("query", query=query.replace("$__rate_interval", "1m"))
    check(len(asked) > 0, "the dashboard asks nothing")

    def counted() -> bool:
        sums = prometheus("query", query='sum(phalanx_executions_total{status="completed"})')["result"]
        return bool(sums and float(sums[0]["value"][1]) > 0)

    until("Prometheus has the executions", counted)


def leaves_orderly() -> None:
    start = time.monotonic()
    compose("stop")
    for service in REPLICAS:
        for container in containers(service):
            code = container["State"]["ExitCode"]
            check(code == 0 or (service == "proxy" and code in (0, 130, 143)), f"{service} left with {code}")
    say(f"all left in order within {time.monotonic() - start:.0f} s")


def logs_are_clean() -> None:
    bus = compose("logs", "--no-color", "nats")
    refused = [line for line in bus.splitlines() if "Violation" in line or "authentication error" in line]
    check(not refused, f"the bus refused what a role needs: {refused[:5]}")
    everything = compose("logs", "--no-color")
    for secret in SECRETS.iterdir():
        for word in secret.read_text().replace("@", '"').replace(":", '"').split('"'):
            check(len(word) < 24 or word not in everything, f"{secret.name} is in the logs")


def main() -> None:
    begun = time.monotonic()
    is_shut()
    is_confined()
    deploy(
        "echo",
        (ROOT / "examples/echo.py").read_text(),
        changes={"deployment_config": {"auto_scaling": {"min_instances": 2, "max_instances": 4}}},
    )
    check(works(), "echo does not answer")
    deploy("slow", SLOW)
    are_kept_in()
    if OFFLINE:
        say("PHALANX_TEST_OFFLINE=1: the Agno example is left out")
    else:
        deploy(
            "agno",
            (ROOT / "examples/agno_agent.py").read_text(),
            "agent",
            {"agent_code": {"dependencies": {"python": ["agno"]}}},
            within=300,
        )
        said = execute("agno", {"message": "What is a phalanx?"})
        check(said["status"] == "completed" and said["result"]["output"], f"the Agno agent says {said}")
        say("the Agno example was installed and answers")
    is_watched()
    for service in REPLICAS:
        heals(service)
    for service in ("executor", "gateway", "nats", "postgres"):
        work_survives(service)
        say(f"{service}: every accepted async execution ended once")
    for number, service in enumerate(("deployer", "nats", "postgres")):
        deployment_goes_on(service, f"late-{number}")
        say(f"{service}: a deployment went on over its crash")
    is_watched()
    logs_are_clean()
    leaves_orderly()
    say(f"all good in {time.monotonic() - begun:.0f} s")


try:
    main()
except (Failed, Hopeless) as failure:
    print(f"FAILED: {failure}", file=sys.stderr)
    sys.exit(1)
