"""Make crds.json: the schemas of KubeRay's custom resources as its project publishes them, in the form the tests use.

    python tests/data/kuberay/make_schema.py FOLDER_OF_CRDS VERSION > tests/data/kuberay/crds.json

FOLDER_OF_CRDS is ``helm-chart/kuberay-operator/crds`` of https://github.com/ray-project/kuberay at the tag VERSION. Nothing
that a manifest can say is left out; ``status`` (only the operator writes it), texts, defaults and rules in CEL are. What the
published files repeat, a pod above all, is written once and referred to. An API server drops or rejects a field that it does
not know, so objects with named properties allow no others.
"""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

FILES = {"RayCluster": "ray.io_rayclusters.yaml", "RayJob": "ray.io_rayjobs.yaml"}
VERSION = "v1"
# Kubernetes' own notes, and what says nothing about whether a value is valid.
DROPPED = ("description", "default", "format")
SHORTEST_SHARED = 120
# A resource's own metadata is checked by Kubernetes, not by the resource's schema.
LABELS = {"type": "object", "additionalProperties": {"type": "string"}}
METADATA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "namespace": {"type": "string"}, "labels": LABELS, "annotations": LABELS},
    "required": ["name"],
    "additionalProperties": False,
}
Schema = dict[str, Any]


def main(folder: Path, version: str) -> None:
    """Print the schemas."""
    published = {kind: (folder / name).read_bytes() for kind, name in FILES.items()}
    schemas = {kind: resource(text, kind) for kind, text in published.items()}
    seen = Counter(key for schema in schemas.values() for key in keys(schema))
    shared: dict[str, Schema] = {}
    kinds = {kind: refer(schema, seen, shared) for kind, schema in schemas.items()}
    digests = {FILES[kind]: hashlib.sha256(text).hexdigest() for kind, text in published.items()}
    origin = {"repository": "https://github.com/ray-project/kuberay", "tag": version, "licence": "Apache-2.0", "sha256": digests}
    print(json.dumps({"origin": origin, "kinds": kinds, "$defs": shared}, separators=(",", ":"), sort_keys=True))


def resource(text: bytes, kind: str) -> Schema:
    """Return the strict schema of one published resource."""
    # The C loader reads a megabyte in a second; the other one needs ten.
    definition = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    versions = {version["name"]: version for version in definition["spec"]["versions"]}
    schema = strict(versions[VERSION]["schema"]["openAPIV3Schema"])
    del schema["properties"]["status"]
    schema["properties"]["metadata"] = METADATA
    schema["properties"]["apiVersion"] = {"const": f"{definition['spec']['group']}/{VERSION}"}
    schema["properties"]["kind"] = {"const": kind}
    return schema | {"required": ["apiVersion", "kind", "metadata", "spec"]}


def strict(schema: Schema) -> Schema:
    """Return ``schema`` without notes, and closed against fields that it does not name."""
    kept = {key: value for key, value in schema.items() if key not in DROPPED and not key.startswith("x-kubernetes-")}
    for key, value in kept.items():
        if key == "properties":
            kept[key] = {name: strict(inner) for name, inner in value.items()}
        elif key in ("items", "additionalProperties", "not") and isinstance(value, dict):
            kept[key] = strict(value)
        elif key in ("anyOf", "allOf", "oneOf"):
            kept[key] = [strict(inner) for inner in value]
    if "properties" in kept and not schema.get("x-kubernetes-preserve-unknown-fields"):
        kept.setdefault("additionalProperties", False)
    return kept


def keys(node: Any) -> Iterator[str]:
    """Yield a key for each schema in ``node``, itself included."""
    if isinstance(node, dict):
        yield key_of(node)
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from keys(inner)


def refer(node: Any, seen: Counter[str], shared: dict[str, Schema], top: bool = True) -> Any:
    """Return ``node`` with references to ``shared`` in place of what occurs more than once."""
    if isinstance(node, list):
        return [refer(inner, seen, shared, top=False) for inner in node]
    if not isinstance(node, dict):
        return node
    key = key_of(node)
    # A table of properties is no schema, though one of them may be called "type".
    if top or seen[key] < 2 or len(key) < SHORTEST_SHARED or not isinstance(node.get("type"), str):
        return {name: refer(inner, seen, shared, top=False) for name, inner in node.items()}
    name = hashlib.sha256(key.encode()).hexdigest()[:8]
    if name not in shared:
        shared[name] = refer(node, seen, shared)
    return {"$ref": f"#/$defs/{name}"}


def key_of(node: Schema) -> str:
    """Return what two equal schemas have in common."""
    return json.dumps(node, sort_keys=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
