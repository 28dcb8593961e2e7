"""What the operator may do, and what stays when it goes."""

import yaml

from chart import NAME, NAMESPACE, ROOT, Rendered, granted

CLUSTER_NAME = f"{NAMESPACE}:{NAME}"

# Everything the operator may do to objects of the namespaces it looks after. A right that is added shows up here.
RIGHTS = {
    "replicateddbs": "get list watch",
    "replicateddbs/status": "patch",
    "replicateddbs/finalizers": "update",
    "configmaps": "create delete get list patch watch",
    "services": "create delete get list patch watch",
    "serviceaccounts": "create delete get list patch watch",
    "statefulsets": "create delete get list patch watch",
    "poddisruptionbudgets": "create delete get list patch watch",
    "networkpolicies": "create delete get list patch watch",
    "secrets": "create get patch",
    "pods": "delete get list watch",
    "persistentvolumeclaims": "get list patch",
    "events": "create list patch",
}


def rights(role):
    found = {}
    for _, resource, verb in granted(role):
        found.setdefault(resource, set()).add(verb)
    return {resource: " ".join(sorted(verbs)) for resource, verbs in found.items()}


def check_binding(chart, kind, name, role_kind):
    binding = chart.one(kind, name)
    assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) == (role_kind, name)
    account = chart.pod()["spec"]["serviceAccountName"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]


def test_rights_in_the_whole_cluster():
    chart = Rendered()
    assert rights(chart.one("ClusterRole", CLUSTER_NAME)) == RIGHTS | {"storageclasses": "get"}
    check_binding(chart, "ClusterRoleBinding", CLUSTER_NAME, "ClusterRole")
    assert "OPERATOR_NAMESPACE" not in chart.environment()


def test_rights_in_one_namespace_only():
    for values, watched in (({}, NAMESPACE), ({"watchNamespace": "shop"}, "shop")):
        chart = Rendered({"scope": "Namespace", **values})
        role = chart.one("Role", NAME)
        assert role["metadata"]["namespace"] == watched and rights(role) == RIGHTS
        assert chart.one("RoleBinding", NAME)["metadata"]["namespace"] == watched
        check_binding(chart, "RoleBinding", NAME, "Role")
        assert rights(chart.one("ClusterRole", CLUSTER_NAME)) == {"storageclasses": "get"}
        assert chart.environment()["OPERATOR_NAMESPACE"] == watched
        assert chart.one("Role", f"{NAME}-test", tests=True)["metadata"]["namespace"] == watched


def test_volumes_may_be_deleted_only_if_so_wished():
    wished = RIGHTS | {"persistentvolumeclaims": "delete get list patch", "secrets": "create delete get patch"}
    chart = Rendered({"rbac": {"ownVolumes": True}})
    assert rights(chart.one("ClusterRole", CLUSTER_NAME)) == wished | {"storageclasses": "get"}
    assert rights(Rendered({"scope": "Namespace", "rbac": {"ownVolumes": True}}).one("Role", NAME)) == wished


def test_nothing_of_the_cluster_if_so_wished():
    chart = Rendered({"scope": "Namespace", "rbac": {"storageClasses": False, "aggregate": False}})
    assert not chart.all("ClusterRole") and not chart.all("ClusterRoleBinding")


def test_the_lease_is_the_only_one_within_reach():
    chart = Rendered()
    role = chart.one("Role", f"{NAME}-lease")
    assert role["metadata"]["namespace"] == NAMESPACE
    verbs = {rule["verbs"][0]: rule for rule in role["rules"]}
    # Creating can't be bound to a name.
    assert "resourceNames" not in verbs["create"] and verbs["create"]["verbs"] == ["create"]
    assert verbs["get"]["resourceNames"] == [chart.environment()["OPERATOR_LEASE_NAME"]]
    assert chart.environment()["OPERATOR_LEASE_NAMESPACE"] == NAMESPACE
    check_binding(chart, "RoleBinding", f"{NAME}-lease", "Role")


def test_no_role_has_a_wildcard():
    for values in ({}, {"scope": "Namespace"}):
        chart = Rendered(values)
        for role in chart.all("Role") + chart.all("ClusterRole") + chart.all("Role", tests=True):
            assert not [grant for grant in granted(role) if "*" in grant], role["metadata"]["name"]


def test_roles_of_people():
    chart = Rendered()
    view, edit = (chart.one("ClusterRole", f"{CLUSTER_NAME}:{name}") for name in ("view", "edit"))
    to = "rbac.authorization.k8s.io/aggregate-to-"
    assert {label for label in view["metadata"]["labels"] if label.startswith(to)} == {to + r for r in ("view", "edit", "admin")}
    assert {label for label in edit["metadata"]["labels"] if label.startswith(to)} == {to + r for r in ("edit", "admin")}
    assert {verb for _, _, verb in granted(view)} == {"get", "list", "watch"}
    assert {group for group, _, _ in granted(edit)} == {"replicateddb.dev"}


def test_own_roles_and_accounts_can_be_used():
    chart = Rendered({"rbac": {"create": False}, "serviceAccount": {"create": False, "name": "mine"}})
    assert not chart.all("Role") and not chart.all("ClusterRole") and not chart.all("ServiceAccount")
    assert chart.pod()["spec"]["serviceAccountName"] == "mine"
    named = Rendered({"serviceAccount": {"name": "mine", "annotations": {"a": "b"}}})
    account = named.one("ServiceAccount")["metadata"]
    assert (account["name"], account["annotations"]) == ("mine", {"a": "b"})


def test_tokens_are_mounted_where_needed_only():
    chart = Rendered()
    for account in chart.all("ServiceAccount") + chart.all("ServiceAccount", tests=True):
        assert account["automountServiceAccountToken"] is False


def test_the_definition_is_the_generated_one_and_stays():
    chart = Rendered()
    crd = chart.one("CustomResourceDefinition")
    assert crd["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    generated = yaml.safe_load((ROOT / "crds" / f"{crd['metadata']['name']}.yaml").read_text())
    assert crd == generated
    assert not Rendered({"crds": {"install": False}}).all("CustomResourceDefinition")


def test_nothing_else_stays():
    for item in Rendered().objects:
        kept = (item["metadata"].get("annotations") or {}).get("helm.sh/resource-policy")
        assert (kept == "keep") == (item["kind"] == "CustomResourceDefinition"), item["metadata"]["name"]


def test_helm_test_may_only_try_and_look():
    chart = Rendered()
    found = set().union(*(granted(role) for role in chart.all("Role", tests=True)))
    assert found == {("replicateddb.dev", "replicateddbs", "create"), ("coordination.k8s.io", "leases", "get")}
    assert not chart.all("ClusterRole", tests=True)
    script = chart.one("ConfigMap", tests=True)["data"]["installed.py"]
    compile(script, "installed.py", "exec")
    assert "dryRun=All" in script
