"""The operator's pods: images, security, copies, placement, probes."""

import re

from chart import NAME, NAMESPACE, ROOT, Rendered, render_notes

DIGEST = "sha256:" + "a" * 64


def test_images_follow_registry_tag_and_digest():
    plain = Rendered()
    assert plain.container()["image"] == "localhost/replicateddb/operator:dev"
    assert plain.environment()["OPERATOR_IMAGE_SERVER"] == "localhost/replicateddb/server:dev"

    common = Rendered({"image": {"registry": "registry.example.com/team", "tag": "1.2"}})
    assert common.container()["image"] == "registry.example.com/team/replicateddb/operator:1.2"
    for image in ("zookeeper", "cassandra", "server"):
        expected = f"registry.example.com/team/replicateddb/{image}:1.2"
        assert common.environment()[f"OPERATOR_IMAGE_{image.upper()}"] == expected

    own = Rendered(
        {
            "image": {"registry": "a.example", "tag": "1"},
            "images": {
                "operator": {"registry": "b.example", "repository": "op", "tag": "2"},
                "cassandra": {"digest": DIGEST, "tag": "3"},
                "client": {"tag": "4"},
            },
        }
    )
    assert own.container()["image"] == "b.example/op:2"
    assert own.environment()["OPERATOR_IMAGE_CASSANDRA"] == f"a.example/replicateddb/cassandra@{DIGEST}"
    assert own.environment()["OPERATOR_IMAGE_ZOOKEEPER"] == "a.example/replicateddb/zookeeper:1"
    assert own.one("Pod", tests=True)["spec"]["containers"][0]["image"] == "a.example/replicateddb/client:4"


def test_pull_secrets_and_policy_reach_every_pod():
    for pod in Rendered().pods():
        assert "imagePullSecrets" not in pod
    chart = Rendered({"image": {"pullSecrets": ["one", "two"], "pullPolicy": "Always"}})
    for pod in chart.pods():
        assert pod["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
        assert pod["containers"][0]["imagePullPolicy"] == "Always"


def test_databases_pull_as_they_are_told():
    plain = Rendered().environment()
    assert plain["OPERATOR_IMAGE_PULL_POLICY"] == "IfNotPresent" and "OPERATOR_IMAGE_PULL_SECRETS" not in plain
    told = Rendered({"databases": {"pullPolicy": "Always", "pullSecrets": ["one", "two"]}}).environment()
    assert told["OPERATOR_IMAGE_PULL_POLICY"] == "Always" and told["OPERATOR_IMAGE_PULL_SECRETS"] == "one,two"


def test_every_pod_is_restricted():
    for pod in Rendered().pods():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True and security["runAsUser"] == 10001
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"] is True
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
        for volume in pod["volumes"]:
            assert volume.keys() - {"name"} <= {"emptyDir", "configMap"}


def test_copies_keep_apart_and_one_survives_a_drain():
    two = Rendered()
    assert two.one("Deployment")["spec"]["replicas"] == 2
    term = two.pod()["spec"]["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0]
    labels = two.pod()["metadata"]["labels"]
    wanted = term["podAffinityTerm"]["labelSelector"]["matchLabels"]
    assert wanted.items() <= labels.items()
    budget = two.one("PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1 and budget["selector"]["matchLabels"].items() <= labels.items()
    assert not Rendered({"replicas": 1}).all("PodDisruptionBudget")
    assert not Rendered({"podDisruptionBudget": {"enabled": False}}).all("PodDisruptionBudget")


def test_selectors_match_the_pods_whatever_the_user_labels():
    chart = Rendered({"podLabels": {"app.kubernetes.io/name": "mine", "team": "data"}})
    labels = chart.pod()["metadata"]["labels"]
    assert labels["team"] == "data" and labels["app.kubernetes.io/name"] == NAME
    deployment, service = chart.one("Deployment"), chart.one("Service")
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert service["spec"]["selector"].items() <= labels.items()


def test_the_pod_of_helm_test_is_not_taken_for_the_operator():
    chart = Rendered()
    selector = chart.one("Service")["spec"]["selector"]
    assert not selector.items() <= chart.one("Pod", tests=True)["metadata"]["labels"].items()


def test_probes_ask_what_the_operator_serves():
    container = Rendered().container()
    assert container["args"] == ["run"]
    assert container["ports"] == [{"name": "http", "containerPort": 8080}]
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert container["startupProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}


def test_pod_settings_are_passed_on():
    values = {
        "podAnnotations": {"a": "b"},
        "priorityClassName": "high",
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "k", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [{"maxSkew": 1}],
        "terminationGracePeriodSeconds": 7,
        "resources": {"limits": {"memory": "1Gi"}},
        "log": {"format": "text", "level": "debug"},
    }
    chart = Rendered(values)
    pod = chart.pod()
    assert pod["metadata"]["annotations"]["a"] == "b"
    for key in ("priorityClassName", "nodeSelector", "tolerations", "affinity", "topologySpreadConstraints"):
        assert pod["spec"][key] == values[key], key
    assert pod["spec"]["terminationGracePeriodSeconds"] == 7
    assert chart.container()["resources"]["limits"]["memory"] == "1Gi"
    environment = chart.environment()
    assert (environment["OPERATOR_LOG_FORMAT"], environment["RUST_LOG"]) == ("text", "debug")


def test_every_setting_of_the_environment_exists():
    """The variables of the operator's command line, read from its source."""
    source = (ROOT / "operator" / "src" / "main.rs").read_text()
    known = set(re.findall(r'env = "(OPERATOR_[A-Z_]+)"', source)) | {"RUST_LOG"}
    used = set(Rendered({"scope": "Namespace"}).environment())
    assert len(known) > 5 and used <= known, used - known


def test_metrics_can_be_collected():
    assert not Rendered().all("ServiceMonitor")
    chart = Rendered({"metrics": {"serviceMonitor": {"enabled": True, "interval": "5s", "labels": {"team": "x"}}}})
    monitor, service = chart.one("ServiceMonitor"), chart.one("Service")
    assert monitor["metadata"]["labels"]["team"] == "x"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    endpoint = monitor["spec"]["endpoints"][0]
    assert (endpoint["interval"], endpoint["path"]) == ("5s", "/metrics")
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]


def test_network_policy_lets_out_what_the_operator_needs():
    assert not Rendered().all("NetworkPolicy")
    who = [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]
    chart = Rendered({"networkPolicy": {"enabled": True, "apiServerPorts": [16443], "metricsFrom": who}})
    policy = chart.one("NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["podSelector"]["matchLabels"].items() <= chart.pod()["metadata"]["labels"].items()
    peers = policy["ingress"][0]["from"]
    assert peers[:-1] == who
    labels = chart.one("Pod", tests=True)["metadata"]["labels"]
    assert peers[-1]["podSelector"]["matchLabels"].items() <= labels.items(), "helm test is let in too"
    ports = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    assert {53, 16443, 9470, 8080, 7070} == ports
    # Without `to` a rule means everywhere; only name resolution and the API server may.
    assert [len(rule["ports"]) for rule in policy["egress"] if "to" not in rule] == [2, 1]


def test_everything_lies_in_the_namespace_of_the_release():
    for item in Rendered().objects:
        namespaced = not item["kind"].startswith(("ClusterRole", "CustomResourceDefinition"))
        assert item["metadata"].get("namespace") == (NAMESPACE if namespaced else None), item["metadata"]["name"]


def test_names_follow_the_release():
    assert Rendered().one("Deployment")["metadata"]["name"] == NAME
    assert Rendered(release="other").one("Deployment")["metadata"]["name"] == "other-operator"
    assert Rendered(release="my-replicateddb-operator").one("Deployment")["metadata"]["name"] == "my-replicateddb-operator"
    assert Rendered({"fullnameOverride": "x"}).one("Service")["metadata"]["name"] == "x"
    long = Rendered(release="a" * 53).one("Deployment")["metadata"]["name"]
    assert len(long + "-lease") <= 63


def test_notes_name_the_namespace_and_the_gaps():
    assert "all namespaces" in render_notes()
    notes = render_notes({"scope": "Namespace", "watchNamespace": "shop", "crds": {"install": False}})
    assert "namespace shop" in notes and "crds.install=false" in notes
