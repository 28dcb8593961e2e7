"""Rendering the chart, and finding one's way in what it renders."""

import functools
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "replicateddb-operator"
RELEASE, NAMESPACE = "replicateddb", "replicateddb-system"
NAME = "replicateddb-operator"
# What `helm template` takes for the cluster's version.
KUBERNETES = "1.34.0"
TIMEOUT_SECONDS = 60
# The definition is long: the parser in C, where there is one, is ten times as fast.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Rejected(Exception):
    """Helm refused the values."""


def render_text(values=None, release=RELEASE, namespace=NAMESPACE):
    """What Helm prints for these values; raises Rejected."""
    return _render(CHART, json.dumps(values or {}, sort_keys=True), release, namespace)


@functools.cache
def _render(chart, values, release, namespace):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(values)
        file.flush()
        command = [os.environ["HELM"], "template", "--kube-version", KUBERNETES, release, str(chart)]
        command += ["--namespace", namespace, "--values", file.name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    if done.returncode != 0:
        raise Rejected(done.stderr)
    return done.stdout


def render_notes(values=None):
    """The notes, which Helm prints only when it installs: rendered in a copy of the chart as part of an object."""
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "chart"
        shutil.copytree(CHART, copy, ignore=shutil.ignore_patterns("crds"))
        (copy / "templates" / "NOTES.txt").rename(copy / "files" / "NOTES.txt")
        (copy / "templates" / "notes.yaml").write_text(
            "kind: Notes\nmetadata: {name: notes}\ntext: |\n  {{ tpl (.Files.Get \"files/NOTES.txt\") . | nindent 2 }}\n"
        )
        text = _render(copy, json.dumps(values or {}), RELEASE, NAMESPACE)
    return next(item["text"] for item in yaml.safe_load_all(text) if item and item["kind"] == "Notes")


class Rendered:
    """The objects that the chart makes for some values."""

    def __init__(self, values=None, **options):
        text = render_text(values, **options)
        self.objects = [item for item in yaml.load_all(text, Loader=LOADER) if item]

    def all(self, kind, tests=False):
        """Objects of a kind; those of `helm test` only if asked for."""
        return [item for item in self.objects if item["kind"] == kind and is_test(item) == tests]

    def one(self, kind, name=None, tests=False):
        found = [item for item in self.all(kind, tests) if name in (None, item["metadata"]["name"])]
        assert len(found) == 1, f"{len(found)} objects {kind} {name or ''}, not one"
        return found[0]

    def pod(self):
        """The template of the operator's pods."""
        return self.one("Deployment")["spec"]["template"]

    def container(self):
        containers = self.pod()["spec"]["containers"]
        assert len(containers) == 1
        return containers[0]

    def environment(self):
        return {item["name"]: item.get("value", item.get("valueFrom")) for item in self.container()["env"]}

    def pods(self):
        """Every pod specification, that of `helm test` included."""
        specs = [item["spec"]["template"]["spec"] for item in self.all("Deployment")]
        return specs + [item["spec"] for item in self.all("Pod", tests=True)]


def is_test(item):
    return "helm.sh/hook" in (item["metadata"].get("annotations") or {})


def granted(role):
    """A role as a set of (group, resource, verb)."""
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
