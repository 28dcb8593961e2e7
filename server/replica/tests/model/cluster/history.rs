//! Histories: clients and troubles of a replica set, by chance and by a seed, and what must hold afterwards.

use super::*;

pub fn request(random: &mut StdRng, value: &str) -> Request {
    let table = format!("t{}", random.random_range(0..3u32));
    let key = random.random_range(0..4u32);
    let (kind, flags, text) = match random.random_range(0..40u32) {
        0 => (RequestKind::Ddl, 0, format!("CREATE {table}")),
        1 => (RequestKind::Truncate, 0, format!("TRUNCATE {table}")),
        2 => (RequestKind::Dml, 0, "nonsense".to_owned()),
        3..15 => {
            // In place of a counter: a second copy of an increment shows as that of an append does.
            let counter = if key == 0 { flags::COUNTERS } else { 0 };
            (RequestKind::Dml, flags::NOT_REPEATABLE | counter, format!("APPEND l{key} {value}"))
        }
        _ => (RequestKind::Dml, 0, format!("PUT {table} {key} {value}")),
    };
    Request { kind, keyspace: None, statements: vec![StatementText { text, values: Values::none() }], flags }
}

/// A record that all stores fail to execute, or each for a time, or most of the time.
fn failing(random: &mut StdRng, value: &mut String) -> Request {
    let how = ["poison", "sick", "flaky"][random.random_range(0..3)];
    *value = format!("{how}-{value}");
    let (flags, text) = match random.random_range(0..4u32) {
        // Each attempt at it costs a rewind: flaky ones would take too long.
        0 if how != "flaky" => (flags::NOT_REPEATABLE, format!("APPEND l0 {value}")),
        table => (0, format!("PUT t{} 0 {value}", table % 3)),
    };
    let statements = vec![StatementText { text, values: Values::none() }];
    Request { kind: RequestKind::Dml, keyspace: None, statements, flags }
}

async fn client(cluster: Arc<Cluster>, name: u32, seed: u64, fails: bool) {
    let mut random = StdRng::seed_from_u64(seed);
    for n in 0..OPERATIONS {
        let mut value = format!("{name}-{n}");
        let request = match fails && random.random_range(0..FAILING.0) == 0 {
            true => failing(&mut random, &mut value),
            false => request(&mut random, &value),
        };
        // Some clients give up and go elsewhere.
        let patience = Duration::from_millis(if random.random_range(0..20u32) == 0 { 5 } else { 1_000_000 });
        let replica = random.random_range(0..REPLICAS);
        if random.random_range(0..10u32) == 0 {
            let table = format!("t{}", random.random_range(0..3u32));
            cluster.read_zombie(replica, &table).await;
            cluster.read(random.random_range(0..REPLICAS), &table).await;
            continue;
        }
        let _ = tokio::time::timeout(patience, cluster.ask(replica, request, &value)).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..120))).await;
    }
}

/// Whether what a handle did with its replica before it went away is still in flight doesn't matter: kills are kills.
async fn trouble(cluster: Arc<Cluster>, seed: u64, worst: u32) {
    let mut random = StdRng::seed_from_u64(seed);
    loop {
        tokio::time::sleep(Duration::from_millis(random.random_range(20..1500))).await;
        let replica = random.random_range(0..REPLICAS);
        // Every rewind heals what went wrong before it: some runs go without, or without stops.
        match random.random_range(worst..18u32) {
            // Always of the same replica: what no volume holds any more can't come back.
            0 if replica == seed as u32 % REPLICAS => {
                cluster.handles[replica as usize].lock().unwrap().take();
                cluster.stores[replica as usize].lose_volume();
                cluster.start(replica);
            }
            0..2 => cluster.stores[replica as usize].kill_jvm(),
            2..4 => {
                // The process dies; a new one starts.
                cluster.handles[replica as usize].lock().unwrap().take();
                tokio::time::sleep(Duration::from_millis(random.random_range(0..3000))).await;
                cluster.start(replica);
            }
            // A zombie lingers while its successor starts (I6).
            4 => {
                let zombie = cluster.handles[replica as usize].lock().unwrap().take();
                *cluster.zombies[replica as usize].lock().unwrap() = zombie;
                let log = cluster.open(replica);
                // Its successor comes late to the store.
                tokio::time::sleep(Duration::from_millis(random.random_range(0..4000))).await;
                cluster.begin(replica, log);
                tokio::time::sleep(Duration::from_millis(random.random_range(0..2000))).await;
                cluster.zombies[replica as usize].lock().unwrap().take();
            }
            // To its end, whenever the trouble ends.
            5 => {
                let store = cluster.stores[replica as usize].clone();
                let _ = tokio::spawn(async move { store.restart_agent().await }).await;
            }
            6..8 => {
                let handle = cluster.handles[replica as usize].lock().unwrap().take();
                if let Some(handle) = handle {
                    handle.stop().await;
                }
                cluster.start(replica);
            }
            // The log is there for a new life alone, and all that lived before, its zombie with them, for each other.
            9 => {
                let lives = cluster.lives.iter().filter_map(|life| *life.lock().unwrap());
                cluster.log.cut_off(lives.collect());
                *cluster.zombies[replica as usize].lock().unwrap() = cluster.handle(replica);
                cluster.start(replica);
                tokio::time::sleep(Duration::from_millis(random.random_range(100..6000))).await;
                cluster.log.cut_off(BTreeSet::new());
                cluster.zombies[replica as usize].lock().unwrap().take();
            }
            8 => {
                cluster.log.set_available(false);
                tokio::time::sleep(Duration::from_millis(random.random_range(100..8000))).await;
                cluster.log.set_available(true);
            }
            _ => {
                for _ in 0..random.random_range(1..6u32) {
                    cluster.log.inject(match random.random_range(0..5u32) {
                        0 => Fault::UnknownCommitted,
                        1 => Fault::UnknownLost,
                        2..4 => Fault::UnknownLate(random.random_range(1..12)),
                        _ => Fault::Unavailable,
                    });
                }
            }
        }
    }
}

/// One history and its end; the same for the same seed. Panics where an invariant does not hold.
pub fn simulate(seed: u64) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(history(seed))
}

async fn history(seed: u64) -> Report {
    let cluster = Arc::new(Cluster::of_small_log(seed));
    let mut random = StdRng::seed_from_u64(seed);
    let worst = [8, 6, 0][(seed % 3) as usize];
    for n in 0..REPLICAS {
        cluster.start(n);
        cluster.stores[n as usize].set_trouble(random.random_range(0..12));
    }
    let fails = seed % FAILING.1 == 1;
    let clients = (0..CLIENTS).map(|name| tokio::spawn(client(cluster.clone(), name, random.random(), fails)));
    let clients: Vec<_> = clients.collect();
    let trouble = tokio::spawn(trouble(cluster.clone(), random.random(), worst));
    for client in clients {
        client.await.expect("a client's task ends");
    }
    trouble.abort();
    let _ = trouble.await;
    cluster.zombies.iter().for_each(|zombie| drop(zombie.lock().unwrap().take()));
    cluster.log.set_available(true);
    cluster.log.cut_off(BTreeSet::new());
    cluster.log.clear_faults();
    for n in 0..REPLICAS {
        cluster.stores[n as usize].set_trouble(0);
        // Some were being replaced when the trouble ended.
        if cluster.handle(n).is_none() || (n == 0 && worst == 0) {
            cluster.start(n);
        }
    }
    cluster.settle().await;
    check(&cluster, seed).await;
    there_is_room(&cluster, seed).await;
    cluster.report()
}

async fn check(cluster: &Cluster, seed: u64) {
    // What was abandoned by its client may wait for room in the log still.
    tokio::time::sleep(ROOM).await;
    // I4: after a barrier on each, everything is applied everywhere; what an abandoned request left comes later.
    for _ in 0..LATE {
        for n in 0..REPLICAS {
            cluster.pass_barrier(n).await;
        }
    }
    let digest = cluster.handle(0).unwrap().digest().await.unwrap();
    for n in 0..REPLICAS {
        let handle = cluster.handle(n).unwrap();
        cluster.pass_barrier(n).await;
        assert_eq!(handle.digest_at(digest.index), Some(digest.clone()), "I1: replica {n}, seed {seed}");
        assert_eq!(cluster.stores[n as usize].data(), cluster.stores[0].data(), "I1: replica {n}, seed {seed}");
        let schema = *cluster.handle(0).unwrap().schema().borrow();
        assert_eq!(*handle.schema().borrow(), schema, "I1: schema version, seed {seed}");
    }
    let data = cluster.stores[0].data();
    let mut found: BTreeMap<&str, u32> = BTreeMap::new();
    for value in values(&data) {
        *found.entry(value).or_default() += 1;
    }
    for (value, times) in &found {
        assert_eq!(*times, 1, "I3: {value} is there {times} times, seed {seed}");
    }
    shows(&data, &cluster.acknowledged(), &format!("I2: acknowledged, seed {seed}"));
    let told = cluster.told.lock().unwrap();
    assert!(told.times.values().is_sorted(), "I4: times do not follow the order, seed {seed}");
    for value in &told.refused {
        assert!(!found.contains_key(value.as_str()), "{value} was refused and is there, seed {seed}");
    }
    let verdict_on = |value: &String| found.contains_key(value.as_str()) || value.starts_with("sick");
    let wrong: Vec<_> = told.skipped.iter().filter(|value| verdict_on(value)).collect();
    assert!(wrong.is_empty(), "{wrong:?} were skipped, and are there or need not have been, seed {seed}");
    let poison: Vec<_> = found.keys().filter(|value| value.starts_with("poison")).collect();
    assert!(poison.is_empty(), "{poison:?} are there, seed {seed}");
    let stops = !seed.is_multiple_of(3);
    assert!(stops || told.stuck == 0, "{} requests were ordered and never applied, seed {seed}", told.stuck);
}

/// I7: a full log takes writes again, by itself, whatever state the trouble has left everybody in.
async fn there_is_room(cluster: &Cluster, seed: u64) {
    for n in 0..REPLICAS {
        let written = async {
            let statements = vec![StatementText { text: format!("PUT t0 0 last-{n}"), values: Values::none() }];
            let last = Request { kind: RequestKind::Dml, keyspace: None, statements, flags: 0 };
            while let Err(error) = cluster.handle(n).unwrap().propose(last.clone()).await {
                // A schema change that nobody waits for any more may come late, and have a store rewound.
                let passes = matches!(error, ProposeError::LogFull { .. } | ProposeError::NotServing { .. });
                assert!(passes, "replica {n}, seed {seed}: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let written = tokio::time::timeout(PATIENCE, written).await;
        assert!(written.is_ok(), "I7: replica {n} refuses writes for good, seed {seed}");
    }
}
