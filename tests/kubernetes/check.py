"""Our own rules for rendered manifests: check.py base|whole FILE. What no schema knows: that names meet, and that
rights are as written.

`whole`: everything that is mounted is in the file; `base`: Secrets come from elsewhere. Prints every fault; exits 1
if there is one.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from settings import unknown_settings

ROLES = {"gateway", "deployer", "executor", "monitor"}
# drain_s in phalanx/default.toml, and five seconds before it.
DRAINS = 35
# What executors alone may have, and why is in deploy/README.md.
GRANTED = {("executor", "Localhost"), ("executor", "Unconfined")}

Json = Any


def main() -> int:
    whole, path = sys.argv[1] == "whole", Path(sys.argv[2])
    found = [d for d in yaml.safe_load_all(path.read_text()) if d]
    faults = [f"{path.name}: {fault}" for fault in faults_of(found, whole)]
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{path.name}: {len(found)} objects, {len(faults)} faults")
    return 1 if faults else 0


def faults_of(found: list[Json], whole: bool) -> list[str]:
    faults: list[str] = []
    names = {(d["kind"], d["metadata"]["name"]) for d in found}
    workloads = {d["metadata"]["name"]: d for d in found if d["kind"] in ("Deployment", "StatefulSet")}
    pods = {name: d["spec"]["template"] for name, d in workloads.items()}
    jobs = {d["metadata"]["name"]: d["spec"]["template"] for d in found if d["kind"] == "Job"}
    if not set(pods) >= ROLES:
        faults.append(f"roles are missing: {ROLES - set(pods)}")
    if set(jobs) != {"migrate"}:
        faults.append(f"jobs are {set(jobs)}")
    for name, pod in (pods | jobs).items():
        faults += [f"{name}: {fault}" for fault in pod_faults(name, pod, names, whole)]
    for thing in found:
        kind, name, spec = thing["kind"], thing["metadata"]["name"], thing.get("spec", {})
        if kind not in ("Namespace",) and thing["metadata"].get("namespace") != "phalanx":
            faults.append(f"{kind} {name} is in another namespace")
        if kind in ("Service", "PodDisruptionBudget"):
            wanted = spec["selector"] if kind == "Service" else spec["selector"]["matchLabels"]
            chosen = [n for n, p in pods.items() if wanted.items() <= p["metadata"]["labels"].items()]
            if chosen != [name]:
                faults.append(f"{kind} {name} chooses {chosen}")
            for port in spec.get("ports", []):
                if port["targetPort"] not in port_names(pods.get(name)):
                    faults.append(f"Service {name} names a port that no container has: {port['targetPort']}")
        if kind == "HorizontalPodAutoscaler":
            target = spec["scaleTargetRef"]
            if (target["kind"], target["name"]) not in names:
                faults.append(f"autoscaler {name} scales nothing")
            elif "replicas" in workloads[target["name"]]["spec"]:
                faults.append(f"{name}: replicas are the autoscaler's to say")
        if kind == "NetworkPolicy":
            faults += [f"NetworkPolicy {name}: {fault}" for fault in policy_faults(spec, pods)]
        if kind == "ConfigMap" and name == "settings":
            faults += [f"settings: {fault}" for fault in unknown_settings(thing["data"])]
    faults += [f"{role} has no disruption budget" for role in ROLES if ("PodDisruptionBudget", role) not in names]
    if ("NetworkPolicy", "nothing") not in names:
        faults.append("no policy forbids what is not allowed")
    return faults


def port_names(pod: Json) -> set[str]:
    return {p["name"] for c in (pod or {"spec": {"containers": []}})["spec"]["containers"] for p in c.get("ports", [])}


def pod_faults(name: str, pod: Json, names: set[tuple[str, str]], whole: bool) -> list[str]:
    faults = []
    spec = pod["spec"]
    if spec.get("automountServiceAccountToken") is not False:
        faults.append("a token is mounted")
    if name in ROLES and ("ServiceAccount", spec.get("serviceAccountName", "")) not in names:
        faults.append("has no service account of its own")
    for right in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(right):
            faults.append(f"{right} is set")
    if spec["securityContext"].get("runAsNonRoot") is not True or not spec["securityContext"].get("runAsUser"):
        faults.append("may run as root")
    if name in ROLES and spec["terminationGracePeriodSeconds"] <= DRAINS:
        faults.append("is killed while it drains")
    if name in ROLES and len(spec.get("topologySpreadConstraints", [])) < 2:
        faults.append("is not spread over zones and nodes")
    for container in spec["containers"] + spec.get("initContainers", []):
        faults += container_faults(name, container, spec)
    taken = {
        s["secret"]["name"]
        for volume in spec.get("volumes", [])
        for s in volume.get("projected", {}).get("sources", [])
        if "secret" in s
    }
    if name in ROLES:
        kinds = ("phalanx-store-", "phalanx-bus-")
        foreign = {f"{kind}{role}" for kind in kinds for role in (ROLES | {"owner"}) - {name}}
        # Made by kustomize, a name ends in a digest.
        others = [s for s in taken if any(s == one or s.startswith(f"{one}-") for one in foreign)]
        faults += [f"has another's secret: {one}" for one in sorted(others)]
        if name == "deployer" and any(s.startswith("phalanx-master-key") for s in taken):
            faults.append("neither seals nor opens, and has the master key")
    for volume in spec.get("volumes", []):
        if "hostPath" in volume:
            faults.append("mounts the node's file system")
        if whole:
            secrets = [volume["secret"]["secretName"]] if "secret" in volume else []
            secrets += [s["secret"]["name"] for s in volume.get("projected", {}).get("sources", []) if "secret" in s]
            faults += [f"mounts the Secret {s}, which nobody makes" for s in secrets if ("Secret", s) not in names]
            if "configMap" in volume and ("ConfigMap", volume["configMap"]["name"]) not in names:
                faults.append(f"mounts the ConfigMap {volume['configMap']['name']}, which nobody makes")
    return faults


def container_faults(name: str, container: Json, spec: Json) -> list[str]:
    faults = []
    image = container["image"]
    if "@sha256:" not in image and (":" not in image.rsplit("/", 1)[-1] or image.endswith(":latest")):
        faults.append(f"the image is not pinned: {image}")
    rights = container.get("securityContext", {})
    if rights.get("allowPrivilegeEscalation") is not False or rights.get("privileged"):
        faults.append("may gain rights")
    if rights.get("readOnlyRootFilesystem") is not True:
        faults.append("may write to its root")
    if rights.get("capabilities") != {"drop": ["ALL"]}:
        faults.append("has capabilities")
    profile = rights.get("seccompProfile", spec["securityContext"].get("seccompProfile", {})).get("type")
    if profile != "RuntimeDefault" and (name, profile) not in GRANTED:
        faults.append(f"its seccomp profile is {profile}")
    if name == "executor" and profile == "RuntimeDefault":
        faults.append("cannot confine under RuntimeDefault")
    if rights.get("procMount") == "Unmasked" and (name != "executor" or spec.get("hostUsers") is not False):
        faults.append("procMount Unmasked needs hostUsers: false")
    if "memory" not in container.get("resources", {}).get("limits", {}) or "cpu" not in container["resources"].get(
        "requests", {}
    ):
        faults.append("has no requests and limits")
    probes: tuple[str, ...] = (
        ("startupProbe", "livenessProbe", "readinessProbe") if name in ROLES else ("livenessProbe", "readinessProbe")
    )
    if spec.get("restartPolicy") == "OnFailure":
        # It ends by itself.
        probes = ()
    ports = {p["name"] for p in container.get("ports", [])}
    for probe in probes:
        said = container.get(probe)
        if not said:
            faults.append(f"has no {probe}")
        elif "httpGet" in said and said["httpGet"]["port"] not in ports:
            faults.append(f"{probe} asks a port that is not there")
    mounts = {m["name"] for m in container.get("volumeMounts", [])}
    volumes = {v["name"] for v in spec.get("volumes", [])}
    if name in ROLES and mounts != volumes:
        faults.append(f"mounts and volumes differ: {mounts ^ volumes}")
    return faults


def policy_faults(spec: Json, pods: Json) -> list[str]:
    """Every selector finds a pod, every named port is one of theirs."""
    faults = []
    chosen = [p for p in pods.values() if matches(spec["podSelector"], p)]
    if not chosen:
        faults.append("chooses no pod")
    for rule in spec.get("ingress", []):
        for port in rule.get("ports", []):
            if isinstance(port["port"], str) and not all(port["port"] in port_names(p) for p in chosen):
                faults.append(f"names a port that its pods have not: {port['port']}")
    for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
        for peer in [*rule.get("from", []), *rule.get("to", [])]:
            if (
                "podSelector" in peer
                and "namespaceSelector" not in peer
                and not any(matches(peer["podSelector"], p) for p in pods.values())
            ):
                faults.append(f"lets in or out whom there is not: {peer}")
    return faults


def matches(selector: Json, pod: Json) -> bool:
    labels = pod["metadata"]["labels"]
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    return all(labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", []))


sys.exit(main())
