//! One control plane for all tests of this process, and what each test needs of it.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::{
        core::v1::Namespace,
        rbac::v1::{ClusterRole, ClusterRoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams, PostParams},
    config::AuthInfo,
};
use replicateddb_operator::{
    crd::{self, Images, ReplicatedDB, ReplicatedDBSpec},
    events::Announcer,
    metrics::Metrics,
    probe::{Ports, Prober},
    process::Settings,
    reconcile::Context,
    validate::Defaults,
};

/// Longest wait for anything in these tests; a loaded machine is slow.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// Ports of the invented admin interfaces.
pub const PORTS: Ports = Ports { zookeeper: 18_080, replica: 19_470 };

const BINARIES: [&str; 3] = ["etcd", "kube-apiserver", "kube-controller-manager"];
/// Users that stand for the operator's service account: with the right to delete volumes, and as it is by default.
const OPERATOR: &str = "operator";
const PLAIN_OPERATOR: &str = "plain-operator";
const TOKEN: &str = "a-token-for-tests";

/// The processes of the control plane. They end with this process: each hangs on a pipe from it, and the first removes
/// their folder.
pub struct Cluster {
    url: String,
    _children: Vec<Child>,
}

/// Runs a command for as long as its standard input is open.
const TIED: &str = r#""$@" & child=$!; trap 'kill -9 $child' EXIT; cat >/dev/null"#;
/// The same, and removes the working folder afterwards.
const TIED_TO_FOLDER: &str = r#""$@" & child=$!; trap 'kill -9 $child; wait; rm -rf "$PWD"' EXIT; cat >/dev/null"#;

fn spawn(binaries: &Path, name: &str, directory: &Path, arguments: &[String]) -> Child {
    let log = std::fs::File::create(directory.join(format!("{name}.log"))).unwrap();
    Command::new("sh")
        .args(["-c", if name == "etcd" { TIED_TO_FOLDER } else { TIED }, "sh"])
        .arg(binaries.join(name))
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// At each panic, so also of a test that failed, copies the control plane's logs to where all failed tests' logs are.
fn keep_logs_of_failures(directory: PathBuf) {
    let cache = std::env::var_os("REPLICATEDDB_CACHE").filter(|cache| !cache.is_empty()).map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/tmp".into())).join(".cache/replicateddb");
    let kept = cache.unwrap_or_else(home).join("failures/operator");
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        let copied = std::fs::create_dir_all(&kept).and_then(|()| {
            BINARIES
                .iter()
                .map(|name| format!("{name}.log"))
                .filter(|log| directory.join(log).exists())
                .try_for_each(|log| std::fs::copy(directory.join(&log), kept.join(&log)).map(drop))
        });
        match copied {
            Ok(()) => eprintln!("the control plane's logs: {}\nagain: make test-operator", kept.display()),
            Err(error) => eprintln!("the control plane's logs could not be kept in {}: {error}", kept.display()),
        }
    }));
}

/// The folder of the binaries: what `RDB_KUBE_BIN` names, else what the project's own script builds and prints.
fn binaries() -> PathBuf {
    let folder = std::env::var_os("RDB_KUBE_BIN").map(PathBuf::from).unwrap_or_else(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster/binaries");
        let built = Command::new(&script).args(BINARIES).stderr(Stdio::inherit()).output().unwrap();
        assert!(built.status.success(), "{} failed; or let RDB_KUBE_BIN name a folder", script.display());
        PathBuf::from(String::from_utf8(built.stdout).unwrap().trim())
    });
    for name in BINARIES {
        assert!(folder.join(name).is_file(), "no {name} in {}", folder.display());
    }
    folder
}

impl Cluster {
    /// The control plane, started at the first call.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| {
            // In a thread of its own, for it blocks on a runtime of its own.
            std::thread::spawn(Self::start).join().unwrap()
        })
    }

    fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let binaries = binaries();
        let directory = tempfile::tempdir().unwrap().keep();
        keep_logs_of_failures(directory.clone());
        let [etcd, peer, secure] = replicateddb_ports::reserve();
        let url = format!("https://127.0.0.1:{secure}");
        write_credentials(&directory, &url);
        let format = |texts: &[&str]| {
            let fill = |text: &&str| {
                text.replace("{etcd}", &etcd.to_string())
                    .replace("{peer}", &peer.to_string())
                    .replace("{secure}", &secure.to_string())
            };
            texts.iter().map(fill).collect::<Vec<_>>()
        };
        let etcd = format(&[
            "--data-dir=etcd",
            "--unsafe-no-fsync",
            "--listen-client-urls=http://127.0.0.1:{etcd}",
            "--advertise-client-urls=http://127.0.0.1:{etcd}",
            "--listen-peer-urls=http://127.0.0.1:{peer}",
        ]);
        let api = format(&[
            "--etcd-servers=http://127.0.0.1:{etcd}",
            "--cert-dir=certs",
            "--bind-address=127.0.0.1",
            "--secure-port={secure}",
            "--service-account-issuer=https://tests",
            "--service-account-key-file=sa.pub",
            "--service-account-signing-key-file=sa.key",
            "--token-auth-file=tokens.csv",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--disable-admission-plugins=ServiceAccount",
            // the strictest about who may name owners
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
        ]);
        let manager = format(&[
            "--kubeconfig=kubeconfig",
            "--controllers=statefulset-controller,garbage-collector-controller",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=500",
            "--kube-api-burst=500",
            "--concurrent-statefulset-syncs=10",
        ]);
        let mut children =
            vec![spawn(&binaries, "etcd", &directory, &etcd), spawn(&binaries, "kube-apiserver", &directory, &api)];
        let cluster = Self { url, _children: Vec::new() };
        tokio::runtime::Runtime::new().unwrap().block_on(cluster.install(&directory));
        children.push(spawn(&binaries, "kube-controller-manager", &directory, &manager));
        Self { _children: children, ..cluster }
    }

    /// Waits for the API server and installs the definition.
    async fn install(&self, directory: &Path) {
        let client = self.client();
        let begun = Instant::now();
        while client.apiserver_version().await.is_err() {
            assert!(begun.elapsed() < PATIENCE, "no API server in {}", directory.display());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.grant().await;
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        let definition = crd::definition().unwrap();
        let name = definition.metadata.name.clone().unwrap();
        let params = PatchParams::apply("tests").force();
        eventually("the definition to be taken", || async {
            definitions.patch(&name, &params, &Patch::Apply(&definition)).await.is_ok()
        })
        .await;
        eventually("the resource to be served", || async {
            Api::<ReplicatedDB>::all(client.clone()).list(&Default::default()).await.is_ok()
        })
        .await;
    }

    /// The configuration of a client that may do everything.
    pub fn config(&self) -> Config {
        let mut config = Config::new(self.url.parse().unwrap());
        config.accept_invalid_certs = true;
        config.auth_info = AuthInfo { token: Some(TOKEN.to_owned().into()), ..Default::default() };
        config
    }

    /// The configuration of the operator: what the chart's roles allow, `rbac.ownVolumes` included, and no more.
    pub fn operator_config(&self) -> Config {
        self.as_user(OPERATOR)
    }

    /// A client of the operator.
    pub fn operator(&self) -> Client {
        Client::try_from(self.operator_config()).unwrap()
    }

    /// The configuration of the operator as the chart installs it by default.
    pub fn plain_operator_config(&self) -> Config {
        self.as_user(PLAIN_OPERATOR)
    }

    fn as_user(&self, user: &str) -> Config {
        let mut config = self.config();
        config.auth_info.impersonate = Some(user.to_owned());
        config
    }

    /// Binds the roles of the chart to the users that stand for its service account.
    async fn grant(&self) {
        let chart = rules("operator.rules") + &rules("operator.storageRules");
        let lease = "- apiGroups: [coordination.k8s.io]\n  resources: [leases]\n  verbs: [create, get, update]\n";
        let own = rules("operator.ownVolumesRules");
        for (user, rules) in [(PLAIN_OPERATOR, format!("{chart}{lease}")), (OPERATOR, format!("{chart}{own}{lease}"))] {
            let rules: serde_json::Value = serde_saphyr::from_str(&rules).unwrap();
            let role = serde_json::json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": user},
                "rules": rules,
            });
            let binding = serde_json::json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": user},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
            });
            let roles: Api<ClusterRole> = Api::all(self.client());
            roles.create(&PostParams::default(), &serde_json::from_value(role).unwrap()).await.unwrap();
            let bindings: Api<ClusterRoleBinding> = Api::all(self.client());
            bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
        }
    }

    /// A client of its own for a test's own runtime.
    pub fn client(&self) -> Client {
        Client::try_from(self.config()).unwrap()
    }

    /// A namespace of a test's own.
    pub async fn namespace(&self, prefix: &str) -> String {
        let namespaces: Api<Namespace> = Api::all(self.client());
        let mut namespace = Namespace::default();
        namespace.metadata.generate_name = Some(format!("{prefix}-"));
        namespaces.create(&PostParams::default(), &namespace).await.unwrap().metadata.name.unwrap()
    }
}

/// The rules that the chart's template defines under a name: plain YAML, nothing in them is templated.
fn rules(name: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/replicateddb-operator/templates/rbac.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let begin = format!("{{{{- define \"{name}\" -}}}}");
    let (_, rest) = text.split_once(&begin).unwrap();
    rest.split_once("{{- end -}}").unwrap().0.to_owned()
}

fn write_credentials(directory: &Path, url: &str) {
    let key = rcgen::KeyPair::generate().unwrap();
    let write = |name: &str, content: String| std::fs::write(directory.join(name), content).unwrap();
    write("sa.key", key.serialize_pem());
    write("sa.pub", key.public_key_pem());
    write("tokens.csv", format!("{TOKEN},tests,tests,\"system:masters\"\n"));
    write(
        "kubeconfig",
        serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": {"server": url, "insecure-skip-tls-verify": true}}],
            "users": [{"name": "tests", "user": {"token": TOKEN}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
        })
        .to_string(),
    );
}

/// Default images of the operator under test.
pub fn images(tag: &str) -> Images {
    Images {
        zookeeper: format!("zookeeper:{tag}"),
        cassandra: format!("cassandra:{tag}"),
        replica: format!("server:{tag}"),
    }
}

/// What reconciles need, with `client` at the front.
pub fn context(client: Client) -> Context {
    Context {
        announcer: Announcer::new(client.clone(), "tests"),
        prober: Prober::new(PORTS).unwrap(),
        defaults: Defaults { images: images("1"), ..Default::default() },
        metrics: Arc::new(Metrics::default()),
        client,
    }
}

/// Settings of a whole operator that looks after one namespace.
pub fn settings(namespace: &str, pod_name: &str) -> Settings {
    Settings {
        namespace: Some(namespace.to_owned()),
        images: images("1"),
        pull: Default::default(),
        lease_namespace: namespace.to_owned(),
        lease_name: "operator".to_owned(),
        pod_name: pod_name.to_owned(),
        admin_ports: PORTS,
        http_listen: None,
    }
}

/// Creates a resource, all defaults but for `change`.
pub async fn create(
    client: &Client,
    namespace: &str,
    name: &str,
    change: impl FnOnce(&mut ReplicatedDBSpec),
) -> ReplicatedDB {
    let mut rdb = ReplicatedDB::new(name, ReplicatedDBSpec::default());
    change(&mut rdb.spec);
    Api::namespaced(client.clone(), namespace).create(&PostParams::default(), &rdb).await.unwrap()
}

/// Waits until `check` holds.
///
/// # Panics
/// When it does not within [`PATIENCE`].
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let begun = Instant::now();
    while !check().await {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
