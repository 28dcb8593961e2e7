"""Whether the operator is there and does its work; run by `helm test`. Changes nothing in the cluster."""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request

# How long a fresh installation may take to get ready, in all.
LIMIT_SECONDS = 120
ANSWER_SECONDS = 10
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
NAMESPACE = os.environ["WATCHED_NAMESPACE"]
DATABASES = f"/apis/replicateddb.dev/v1alpha1/namespaces/{NAMESPACE}/replicateddbs?dryRun=All"


def fetch(url, body=None, headers=None, context=None):
    """Status and text of an answer; status 0 when there is none."""
    request = urllib.request.Request(url, data=body, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS, context=context) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def api(path, body=None):
    """Status and text of the API server's answer."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    host = f"[{host}]" if ":" in host else host
    with open(f"{ACCOUNT}/token", encoding="utf-8") as file:
        headers = {"Authorization": "Bearer " + file.read().strip(), "Content-Type": "application/json"}
    context = ssl.create_default_context(cafile=f"{ACCOUNT}/ca.crt")
    return fetch(f"https://{host}:{port}{path}", body and json.dumps(body).encode(), headers, context)


def database(replicas):
    return {
        "apiVersion": "replicateddb.dev/v1alpha1",
        "kind": "ReplicatedDB",
        "metadata": {"generateName": "test-"},
        "spec": {"replicas": replicas},
    }


def definition_is_served():
    status, text = api(DATABASES, database(1))
    return status == 201, f"a dry run of a database answers {status}: {text[:500]}"


def rules_are_enforced():
    status, text = api(DATABASES, database(-1))
    return status == 422, f"a database of -1 replicas answers {status}, not 422: {text[:500]}"


def operator_is_ready():
    status, text = fetch(os.environ["OPERATOR_URL"] + "/readyz")
    return status == 200, f"/readyz answers {status}: {text[:500]}"


def metrics_are_served():
    status, text = fetch(os.environ["OPERATOR_URL"] + "/metrics")
    return status == 200 and "# EOF" in text, f"/metrics answers {status}: {text[:500]}"


def one_copy_leads():
    status, text = api(os.environ["LEASE"])
    holder = json.loads(text).get("spec", {}).get("holderIdentity") if status == 200 else None
    return bool(holder), f"the lease has no holder (answer {status}): {text[:500]}"


def main():
    deadline = time.monotonic() + LIMIT_SECONDS
    for check in (definition_is_served, rules_are_enforced, operator_is_ready, metrics_are_served, one_copy_leads):
        while True:
            passed, why = check()
            if passed or time.monotonic() > deadline:
                break
            time.sleep(1)
        name = check.__name__.replace("_", " ")
        print(f"passed: {name}" if passed else f"FAILED: {name}: {why}", flush=True)
        if not passed:
            return 1
    return 0


sys.exit(main())
