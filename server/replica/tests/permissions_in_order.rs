//! Permissions that are judged before a statement has its place in the order, while somebody else comes first: what the role may
//! not do at that place is not done. Needs the jars of `images/artifacts/fetch.sh`.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

mod site;

use std::sync::{Arc, Mutex};

use replicateddb_cql::frame::Opcode;
use replicateddb_cql::response::{ErrorCode, parse_error};
use replicateddb_ordering::memory::MemoryStorage;
use replicateddb_replica::ReplicaHandle;
use replicateddb_replica::frontend::Core;
use replicateddb_replica::frontend::superuser::{Superuser, keep};
use replicateddb_replica::frontier::Standing;
use replicateddb_replica::lanes::Lanes;
use replicateddb_replica::reads::{Early, Hold};
use replicateddb_replica::replica::{
    Outcome, ProposeError, Request, RequestKind, SchemaEvent, SchemaVersion, Serving, StatementText, Values,
};
use replicateddb_store::login::Login;
use site::{Direct, Site, in_front, until};
use tokio::sync::{broadcast, watch};

const BOSS: &str = "boss";

/// A replica at which somebody else's statement always comes first.
#[derive(Clone)]
struct Late {
    replica: ReplicaHandle,
    first: Arc<Mutex<Vec<String>>>,
}

impl Late {
    /// All that come before the next one.
    async fn let_first(&self) {
        let first: Vec<String> = std::mem::take(&mut self.first.lock().unwrap());
        for text in first {
            let outcome = self.replica.propose(ddl(&text)).await.unwrap();
            assert_eq!(outcome.opcode, Opcode::Result.code(), "{text}: {:?}", parse_error(&outcome.body));
        }
    }

    fn comes_first(&self, texts: &[&str]) {
        *self.first.lock().unwrap() = texts.iter().map(|text| (*text).to_owned()).collect();
    }
}

fn ddl(text: &str) -> Request {
    let statements = vec![StatementText { text: text.to_owned(), values: Values::none() }];
    Request { kind: RequestKind::Ddl, keyspace: None, statements, flags: 0 }
}

impl Core for Late {
    fn serving(&self) -> watch::Receiver<Serving> {
        self.replica.serving()
    }

    async fn propose(&self, request: Request) -> Result<Outcome, ProposeError> {
        self.let_first().await;
        self.replica.propose(request).await
    }

    async fn propose_judged(&self, request: Request, schema: u64) -> Result<Outcome, ProposeError> {
        self.let_first().await;
        self.replica.propose_judged(request, schema).await
    }

    async fn barrier(&self) -> Result<u64, ProposeError> {
        self.replica.barrier().await
    }

    fn early(&self) -> Option<Early> {
        self.replica.early()
    }

    async fn hold(&self, lanes: Lanes) -> Result<Hold, ProposeError> {
        self.replica.hold(lanes).await
    }

    fn standing(&self) -> Standing {
        self.replica.standing()
    }

    async fn prove(&self) -> Result<(), ProposeError> {
        self.replica.prove().await
    }

    fn schema(&self) -> watch::Receiver<SchemaVersion> {
        self.replica.schema()
    }

    fn schema_index(&self) -> u64 {
        self.replica.schema_index()
    }

    fn last_ddl(&self) -> u64 {
        self.replica.last_ddl()
    }

    fn events(&self) -> broadcast::Receiver<SchemaEvent> {
        self.replica.events()
    }
}

async fn unauthorized(session: &mut Direct, text: &str) -> String {
    let (opcode, body) = session.statement(text, &[]).await;
    assert_eq!(opcode, Opcode::Error.code(), "{text} was executed");
    let error = parse_error(&body).unwrap();
    assert_eq!(error.kind(), Some(ErrorCode::Unauthorized), "{text}: {error:?}");
    error.message
}

fn function(body: &str) -> String {
    format!("FUNCTION ks.f (a int) CALLED ON NULL INPUT RETURNS int LANGUAGE java AS '{body}'")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_role_may_not_do_at_its_place_is_not_done() {
    let (log, site, dir) = (MemoryStorage::default(), Site::with_logins(), tempfile::tempdir().unwrap());
    let handle = site.serve(&log, 0).await;
    let file = dir.path().join("password");
    std::fs::write(&file, BOSS).unwrap();
    tokio::spawn(keep(Superuser::new(BOSS, &file).unwrap(), handle.clone()));
    let late = Late { replica: handle.clone(), first: Arc::default() };
    let address = in_front(late.clone(), Some(BOSS));
    let mut boss = until("the superuser", async || Direct::logged_in(&address, BOSS, BOSS).await).await;
    boss.done("CREATE KEYSPACE ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}").await;
    for text in [
        "CREATE ROLE alice WITH LOGIN = true AND PASSWORD = 'alice'",
        "CREATE ROLE victim",
        "GRANT CREATE ON ALL FUNCTIONS IN KEYSPACE ks TO alice",
        "GRANT CREATE ON ALL TABLES IN KEYSPACE ks TO alice",
        "GRANT DROP ON ALL ROLES TO alice",
    ] {
        boss.done(text).await;
    }
    let mut alice = Direct::logged_in(&address, "alice", "alice").await.unwrap();

    // She may create a function, but not replace another one's.
    late.comes_first(&[&format!("CREATE {}", function("return 1;"))]);
    let replaces = format!("CREATE OR REPLACE {}", function("return 7;"));
    assert_eq!(
        unauthorized(&mut alice, &replaces).await,
        "User alice has no ALTER permission on <function ks.f(int)> or any of its parents"
    );
    let bodies = boss.rows("SELECT body FROM system_schema.functions WHERE keyspace_name = 'ks'").await;
    assert_eq!(bodies[0][0].as_deref(), Some(&b"return 1;"[..]));

    // Her table is dropped, and another one gets its name.
    alice.done("CREATE TABLE ks.t (k int PRIMARY KEY)").await;
    late.comes_first(&["DROP TABLE ks.t", "CREATE TABLE ks.t (k int PRIMARY KEY, v int)"]);
    let message = unauthorized(&mut alice, "DROP TABLE ks.t").await;
    assert!(message.starts_with("User alice has no DROP permission on <table ks.t>"), "{message}");

    // Other changes of the schema keep nobody from what is one's own.
    alice.done("CREATE TABLE ks.own (k int PRIMARY KEY)").await;
    late.comes_first(&["CREATE TABLE ks.other (k int PRIMARY KEY)", "DROP FUNCTION ks.f"]);
    alice.done("ALTER TABLE ks.own ADD v int").await;

    // Roles are judged at their place.
    late.comes_first(&["ALTER ROLE victim WITH SUPERUSER = true"]);
    assert_eq!(
        unauthorized(&mut alice, "DROP ROLE victim").await,
        "Only superusers can drop a role with superuser status"
    );
    late.comes_first(&["CREATE ROLE heir", "GRANT victim TO heir"]);
    assert_eq!(
        unauthorized(&mut alice, "DROP ROLE heir").await,
        "Only superusers can drop a role with superuser status"
    );
    late.comes_first(&["ALTER ROLE victim WITH SUPERUSER = false"]);
    boss.done("DROP ROLE victim").await;

    nothing_is_left_of_what_was_dropped(&site, &mut boss, &mut alice).await;
}

/// As where Cassandra's own revoking fails, which it does beside the statement: it does not find what it would revoke.
async fn nothing_is_left_of_what_was_dropped(site: &Site, boss: &mut Direct, alice: &mut Direct) {
    const CREATE: &str = "CREATE TABLE ks.left (k int PRIMARY KEY)";
    let Login { user, password } = Login::of_token(site::TOKEN);
    let mut direct = Direct::logged_in(&site.cql, &user, &password).await.unwrap();
    boss.done(CREATE).await;
    boss.done("GRANT MODIFY ON ks.left TO alice").await;
    alice.done("INSERT INTO ks.left (k) VALUES (1)").await;
    direct
        .done(
            "DELETE FROM system_auth.resource_role_permissons_index WHERE resource = 'data/ks/left' AND role = 'alice'",
        )
        .await;
    boss.done("DROP TABLE ks.left").await;
    boss.done(CREATE).await;
    unauthorized(alice, "INSERT INTO ks.left (k) VALUES (2)").await;
    let left = "SELECT resource FROM system_auth.role_permissions WHERE role = 'alice' AND resource = 'data/ks/left'";
    assert_eq!(direct.rows(left).await.len(), 0);
}
