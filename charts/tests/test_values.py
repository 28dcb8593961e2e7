"""Values that can't work are refused before anything is installed, with the value's name in the message."""

import json

import yaml

from chart import CHART, Rejected, Rendered, render_text

WRONG = {
    "replicas": [{"replicas": 0}, {"replicas": 6}, {"replicas": "2"}],
    "scope": [{"scope": "World"}],
    "watchNamespace": [{"watchNamespace": "shop"}, {"scope": "Namespace", "watchNamespace": "Not_a_name"}],
    "pullPolicy": [{"image": {"pullPolicy": "Sometimes"}}],
    "registry": [{"image": {"registry": ""}}, {"image": {"registry": "registry.example.com/"}}, {"images": {"server": {"registry": "-x"}}}],
    "tag": [{"image": {"tag": ""}}, {"images": {"operator": {"tag": "a b"}}}],
    "digest": [{"images": {"operator": {"digest": "sha256:123"}}}],
    "repository": [{"images": {"cassandra": {"repository": "Upper/Case"}}}, {"images": {"client": {"repository": ""}}}],
    "pullSecrets": [{"image": {"pullSecrets": ["A B"]}}],
    "name": [{"serviceAccount": {"create": False}}],
    "format": [{"log": {"format": "xml"}}],
    "podAnnotations": [{"podAnnotations": {"a": 1}}],
    "interval": [{"metrics": {"serviceMonitor": {"interval": "often"}}}],
    "apiServerPorts": [{"networkPolicy": {"apiServerPorts": []}}],
    "terminationGracePeriodSeconds": [{"terminationGracePeriodSeconds": 0}],
    # A misspelt name must not go unnoticed.
    "replica": [{"replica": 3}],
    "regsitry": [{"image": {"regsitry": "x"}}],
    "enabeld": [{"podDisruptionBudget": {"enabeld": False}}],
    "operater": [{"images": {"operater": {"tag": "x"}}}],
}


def test_wrong_values_are_refused_by_name():
    for name, cases in WRONG.items():
        for values in cases:
            try:
                render_text(values)
            except Rejected as error:
                assert "values don't meet" in str(error) and name in str(error), f"{values}: {error}"
            else:
                raise AssertionError(f"accepted: {values}")


def test_every_value_is_in_the_schema_and_has_its_default_there():
    """The defaults pass the schema, and the schema knows no value that the defaults don't show."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert schema["properties"].keys() - values.keys() == {"global"}
    for name, part in schema["properties"].items():
        if part.get("type") == "object" and part.get("additionalProperties") is False and name != "resources":
            assert part["properties"].keys() == values[name].keys(), name


def test_good_values_in_many_combinations():
    for replicas in (1, 5):
        for scope in ("Cluster", "Namespace"):
            for on in (False, True):
                chart = Rendered(
                    {
                        "replicas": replicas,
                        "scope": scope,
                        "crds": {"install": on},
                        "rbac": {"create": on},
                        "networkPolicy": {"enabled": on},
                        "metrics": {"serviceMonitor": {"enabled": on}},
                    }
                )
                names = [(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in chart.objects]
                assert len(names) == len(set(names)), "an object twice"
