//! Who lives is known to all, through lost sessions and replaced processes.

mod common;

use std::net::Ipv4Addr;
use std::time::Duration;

use common::{config, new_root, server};
use replicateddb_ordering::fixture::Proxy;
use replicateddb_ordering::members::{Member, Members};
use replicateddb_ordering::znode_log::{Config, ZnodeLog};
use replicateddb_ordering::{LogHealth, OrderedLog};
use tokio::time::timeout;
use zookeeper_client::{Acls, Client, CreateMode};

/// Longest wait for something that must come.
const PATIENCE: Duration = Duration::from_secs(60);

fn member(id: u32, cql_port: u16) -> Member {
    Member {
        id,
        host_id: uuid::Uuid::from_u128(u128::from(id) + 1),
        address: Ipv4Addr::LOCALHOST.into(),
        cql_port,
        admin_port: 9470,
        data_center: "datacenter1".into(),
        rack: "rack1".into(),
    }
}

async fn see(members: &Members, expected: &[Member]) {
    let mut all = members.watch();
    let seen = timeout(PATIENCE, all.wait_for(|all| all == expected)).await;
    assert!(seen.is_ok(), "saw {:?}, not {expected:?}", *members.watch().borrow());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn come_and_go() {
    let server = server();
    let root = new_root();
    let (first_log, _) = ZnodeLog::open(config(&server.connect(), &root, 0)).await.unwrap();
    let (second_log, _) = ZnodeLog::open(config(&server.connect(), &root, 1)).await.unwrap();
    let (first, second) = (Members::watching(&first_log), Members::watching(&second_log));
    see(&first, &[]).await;
    second.register(member(1, 9042));
    see(&first, &[member(1, 9042)]).await;
    first.register(member(0, 9042));
    see(&second, &[member(0, 9042), member(1, 9042)]).await;
    second.register(member(1, 9043));
    see(&first, &[member(0, 9042), member(1, 9043)]).await;
    first.leave();
    see(&second, &[member(1, 9043)]).await;
    first.register(member(0, 1));
    see(&second, &[member(0, 1), member(1, 9043)]).await;
    // The end of the process ends the session.
    drop((second, second_log));
    see(&first, &[member(0, 1)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn come_back_after_expiry_and_never_as_an_old_incarnation() {
    let server = server();
    let root = new_root();
    let proxy = Proxy::start(server.address()).await.unwrap();
    let behind = Config { session_timeout: Duration::from_millis(800), ..config(&proxy.connect(), &root, 0) };
    let (log, _) = ZnodeLog::open(behind).await.unwrap();
    let (watcher_log, _) = ZnodeLog::open(config(&server.connect(), &root, 1)).await.unwrap();
    let (members, watcher) = (Members::watching(&log), Members::watching(&watcher_log));
    members.register(member(0, 9042));
    see(&watcher, &[member(0, 9042)]).await;
    proxy.set_cut(true);
    see(&watcher, &[]).await;
    proxy.set_cut(false);
    see(&watcher, &[member(0, 9042)]).await;
    see(&members, &[member(0, 9042)]).await;

    // A successor takes over while the old process still runs; the old one's expiry must not make it come back.
    let (new_log, _) = ZnodeLog::open(config(&server.connect(), &root, 0)).await.unwrap();
    let new_members = Members::watching(&new_log);
    new_members.register(member(0, 9044));
    see(&watcher, &[member(0, 9044)]).await;
    proxy.set_cut(true);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    proxy.set_cut(false);
    let (mut health, mut registered) = (log.health(), members.registered());
    timeout(PATIENCE, health.wait_for(LogHealth::is_connected)).await.expect("the old process connects again").unwrap();
    timeout(PATIENCE, registered.wait_for(|registered| !registered)).await.expect("it gives up its entry").unwrap();
    see(&watcher, &[member(0, 9044)]).await;
}

/// A log that is gone is no newer incarnation: when it is back, so is the replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn come_back_with_the_log() {
    let server = server();
    let root = new_root();
    let client = Client::connect(&server.connect()).await.unwrap();
    let (log, _) = ZnodeLog::open(config(&server.connect(), &root, 0)).await.unwrap();
    let members = Members::watching(&log);
    members.register(member(0, 9042));
    see(&members, &[member(0, 9042)]).await;

    let incarnations = format!("{root}/incarnations/0");
    let name = client.list_children(&incarnations).await.unwrap().remove(0);
    let (requests, incarnation) = (format!("{root}/requests"), format!("{incarnations}/{name}"));
    let segment = format!("{requests}/0000000000");
    let (header, _) = client.get_data(&requests).await.unwrap();
    for path in [&incarnation, &segment, &requests] {
        client.delete(path, None).await.unwrap();
    }
    members.register(member(0, 9043));
    let mut registered = members.registered();
    timeout(PATIENCE, registered.wait_for(|registered| !registered)).await.expect("it is not registered").unwrap();

    let persistent = CreateMode::Persistent.with_acls(Acls::anyone_all());
    // At once, as data come back: a header without the incarnation would say that this life has ended.
    let mut writer = client.new_multi_writer();
    for (path, data) in [(&requests, &header[..]), (&segment, b"open"), (&incarnation, b"")] {
        writer.add_create(path, data, &persistent).unwrap();
    }
    writer.commit().await.unwrap();
    see(&members, &[member(0, 9043)]).await;
    timeout(PATIENCE, registered.wait_for(|registered| *registered)).await.expect("it is registered again").unwrap();
}
