//! A ZooKeeper ensemble of a real stack, started, broken and ended. Needs the fetched jars and a Java 17.

use std::time::{Duration, Instant};

use replicateddb_local::{Ended, Member, Running, Stack, Target};

const LIMIT: Duration = Duration::from_secs(120);

const ENSEMBLE: [Member; 3] = [Member::Zookeeper(0), Member::Zookeeper(1), Member::Zookeeper(2)];

fn stack(dir: &std::path::Path) -> Stack {
    let builder = Stack::builder().dir(dir.join("stack")).replicas(1).zookeepers(3);
    builder.free_loopback().kill_on_drop().create().expect("a new folder")
}

async fn wait(stack: &Stack, members: &[Member]) {
    let now = Instant::now();
    let ready = stack.wait_ready(members, now + LIMIT, now, &mut |time, line| println!("{time:?} {line}")).await;
    ready.expect("ready in time");
}

async fn leader(stack: &Stack) -> Member {
    for member in ENSEMBLE {
        let status = stack.status(member).await;
        if status.answer.ready && status.answer.detail == "leader" {
            return member;
        }
    }
    panic!("no leader");
}

#[tokio::test]
async fn an_ensemble_survives_its_leader_and_ends_without_a_trace() {
    let dir = tempfile::tempdir().unwrap();
    let stack = stack(dir.path());
    for member in ENSEMBLE {
        assert!(stack.start(member).await.unwrap());
    }
    wait(&stack, &ENSEMBLE).await;
    assert!(!stack.start(ENSEMBLE[0]).await.unwrap(), "started twice");

    let old = leader(&stack).await;
    stack.kill(old, Target::Whole).await.unwrap();
    assert_eq!(stack.status(old).await.running, Running::No);
    let others: Vec<Member> = ENSEMBLE.into_iter().filter(|member| *member != old).collect();
    wait(&stack, &others).await;
    let error = stack.kill(old, Target::Whole).await.unwrap_err().to_string();
    assert!(error.contains("not running"), "{error}");

    stack.wipe(old).await.unwrap();
    assert!(stack.start(old).await.unwrap());
    wait(&stack, &ENSEMBLE).await;

    let pids: Vec<i32> = ENSEMBLE.iter().map(|member| stack.pid(*member).unwrap()).collect();
    stack.down(&mut |time, line| println!("{time:?} {line}")).await.unwrap();
    for pid in pids {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{pid} is left");
    }
    let dir = stack.dir().to_owned();
    stack.delete().await.unwrap();
    assert!(!dir.exists());
}

#[tokio::test]
async fn a_frozen_server_is_seen_thawed_and_stopped_while_frozen() {
    let dir = tempfile::tempdir().unwrap();
    let stack = stack(dir.path());
    for member in ENSEMBLE {
        stack.start(member).await.unwrap();
    }
    wait(&stack, &ENSEMBLE).await;
    let one = ENSEMBLE[1];
    let error = stack.wipe(one).await.unwrap_err().to_string();
    assert!(error.contains("stop zookeeper-1"), "{error}");
    stack.freeze(one, Target::Whole).await.unwrap();
    let status = stack.status(one).await;
    assert_eq!((status.running, status.answer.ready), (Running::Frozen, false));
    stack.thaw(one, Target::Whole).await.unwrap();
    wait(&stack, &[one]).await;
    assert!(stack.status(one).await.memory_bytes < 300 << 20);

    stack.freeze(one, Target::Whole).await.unwrap();
    assert_eq!(stack.stop(one).await.unwrap(), Ended::Gracefully);
    assert_eq!(stack.stop(one).await.unwrap(), Ended::WasNotRunning);
}

#[tokio::test]
async fn a_member_whose_pid_file_is_lost_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let stack = stack(dir.path());
    let one = ENSEMBLE[0];
    stack.start(one).await.unwrap();
    let pid = stack.pid(one).unwrap();
    std::fs::remove_file(stack.dir().join("zookeeper-0/pid.json")).unwrap();
    assert_eq!(stack.pid(one), Some(pid));
    assert!(!stack.start(one).await.unwrap(), "a second server was started");
    drop(stack);
    let deadline = Instant::now() + Duration::from_secs(10);
    let stat = format!("/proc/{pid}/stat");
    while std::fs::read_to_string(&stat).is_ok_and(|text| !text.contains(") Z ")) {
        assert!(Instant::now() < deadline, "dropping the stack left process {pid}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_server_that_dies_ends_the_wait_with_its_last_words() {
    let dir = tempfile::tempdir().unwrap();
    let stack = stack(dir.path());
    let one = ENSEMBLE[0];
    stack.start(one).await.unwrap();
    let pid = stack.pid(one).unwrap();
    std::process::Command::new("kill").arg("-9").arg(pid.to_string()).status().unwrap();
    let now = Instant::now();
    let error = stack.wait_ready(&[one], now + LIMIT, now, &mut |_, _| {}).await.unwrap_err().to_string();
    assert!(error.contains("zookeeper-0 ended") && error.contains("zookeeper-0.log"), "{error}");
    assert_eq!(stack.status(one).await.running, Running::Died);
}
