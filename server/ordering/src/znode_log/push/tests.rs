use super::*;

const KEY: &[u8] = b"a key of the log";

fn of(key: &[u8], log: u128, replica: u32) -> Pushes {
    let life = (replica, Incarnation(70 + i64::from(replica)));
    Pushes::new(key.into(), LogId(Uuid::from_u128(log)), life, format!("i-{replica}"))
}

async fn nothing_is_appended(_: Carry) -> Outcome {
    Err(AppendError::Unavailable { reason: "nothing is handed over here".into() })
}

fn committed(sequence: u32, bytes: usize) -> Committed {
    Committed { position: Position::new(3, sequence), commit_time_ms: 77, entry: vec![9; bytes].into() }
}

#[tokio::test]
async fn what_one_commits_the_other_gets() {
    let (sender, receiver) = (of(KEY, 5, 0), Arc::new(of(KEY, 5, 1)));
    receiver.expect([0].into());
    assert!(!receiver.complete(), "nobody is connected");
    let (near, far) = tokio::io::duplex(1 << 16);
    let (got, mut gets) = tokio::sync::mpsc::unbounded_channel();
    let receiving = receiver.clone();
    let task =
        tokio::spawn(async move { receiving.receive(far, Kind::Pushes, |entry| got.send(entry).expect("open")).await });
    let sending = async {
        let mut sent = std::pin::pin!(sender.send(near, Kind::Pushes, nothing_is_appended));
        // Connected with the first sign of life: what is committed before nobody hears.
        while !receiver.complete() {
            assert!(timeout(Duration::from_millis(1), &mut sent).await.is_err());
        }
        sender.committed(0, &committed(1, 10));
        sender.committed(0, &committed(2, MAX_ENTRY_BYTES + 1));
        sender.committed(0, &committed(3, MAX_ENTRY_BYTES));
        while gets.len() < 2 {
            assert!(timeout(Duration::from_millis(1), &mut sent).await.is_err());
        }
    };
    sending.await;
    assert_eq!(gets.recv().await, Some(committed(1, 10)));
    assert_eq!(gets.recv().await, Some(committed(3, MAX_ENTRY_BYTES)), "too large a one is not pushed");
    assert!(matches!(task.await.expect("no panic"), Err(PushError::Lost(_))), "the sender has gone");
    assert!(!receiver.complete());
}

#[tokio::test]
async fn who_is_asked_says_what_it_has_shown_now() {
    let (asked, asking) = (Arc::new(of(KEY, 5, 0)), Arc::new(of(KEY, 5, 1)));
    let (near, far) = tokio::io::duplex(1 << 16);
    let both = [(0, Incarnation(70)), (1, Incarnation(71))].into();
    assert_eq!(asking.ask(&both).await, None, "nobody is connected");
    assert_eq!(asking.ask(&[(1, Incarnation(71))].into()).await, Some(0), "there is nobody to ask");
    let (sender, receiver) = (asked.clone(), asking.clone());
    let sending = tokio::spawn(async move { sender.send(near, Kind::Pushes, nothing_is_appended).await });
    let _receiving = tokio::spawn(async move { receiver.receive(far, Kind::Pushes, |_| {}).await });
    asking.expect([0].into());
    while !asking.complete() {
        tokio::task::yield_now().await;
    }
    assert_eq!(asking.ask(&both).await, None, "it has nothing to say yet");
    let shown = Arc::new(AtomicU64::new(0));
    asked.vouch(shown.clone());
    for index in [0, 2, 700] {
        shown.store(index, Ordering::SeqCst);
        assert_eq!(asking.ask(&both).await, Some(index));
    }
    let another_life = [(0, Incarnation(69)), (1, Incarnation(71))].into();
    assert_eq!(asking.ask(&another_life).await, None, "it answers for itself alone");
    let many = futures::future::join_all((0..QUESTIONS).map(|_| asking.ask(&both))).await;
    assert!(many.iter().all(|answer| *answer == Some(700)), "{many:?}");
    sending.abort();
    let _ = sending.await;
    while asking.complete() {
        tokio::task::yield_now().await;
    }
    assert_eq!(asking.ask(&both).await, None, "it has gone");
}

#[tokio::test]
async fn strangers_are_sent_away() {
    for (key, log) in [(&b"another key"[..], 5), (KEY, 6)] {
        let (sender, receiver) = (of(key, log, 0), of(KEY, 5, 1));
        let (near, far) = tokio::io::duplex(1 << 16);
        let (_, received) = tokio::join!(
            timeout(Duration::from_millis(100), sender.send(near, Kind::Pushes, nothing_is_appended)),
            receiver.receive(far, Kind::Pushes, |_| panic!("taken from a stranger"))
        );
        assert!(matches!(received, Err(PushError::Foreign(_))), "{received:?}");
    }
}

#[tokio::test]
async fn a_line_ends_without_signs_of_life_that_prove_themselves() {
    let leader = Arc::new(of(KEY, 5, 0));
    let line = || {
        let (near, far) = tokio::io::duplex(1 << 16);
        let leader = leader.clone();
        (far, tokio::spawn(async move { leader.send(near, Kind::Line, nothing_is_appended).await }))
    };
    let limit = PATIENCE + Duration::from_secs(5);
    // A stranger that begins as anybody can, and then reads for ever.
    let stranger = async {
        let (far, taken) = line();
        let mut framed = framed(far);
        put(&mut framed, Bytes::from_static(&[7; NONCE_BYTES])).await.expect("sent");
        let reading = async { while framed.next().await.is_some() {} };
        let (ended, ()) = tokio::join!(timeout(limit, taken), reading);
        assert!(matches!(ended.expect("it ends").expect("no panic"), Err(PushError::Silent)));
    };
    // A follower with nothing to say, that stays; until it is there no longer, and its connection is.
    let follower = async {
        let (follower, (far, mut taken)) = (of(KEY, 5, 1), line());
        let mut holding = Box::pin(follower.receive(far, Kind::Line, |_| {}));
        let lasts = timeout(PATIENCE + SILENCE, async {
            tokio::select! {
                ended = &mut holding => panic!("{ended:?}"),
                ended = &mut taken => panic!("{ended:?}"),
            }
        });
        assert!(lasts.await.is_err());
        assert_eq!(leader.own.receiver_count(), 0, "entries are kept for nobody who takes none");
        let ended = timeout(limit, taken).await.expect("it ends").expect("no panic");
        assert!(matches!(ended, Err(PushError::Silent)), "{ended:?}");
    };
    tokio::join!(stranger, follower);
}

#[test]
fn whom_nothing_is_handed_over_to() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let until = |record: &Record| record.avoided_until.map(|until| (until - start).as_secs());
    let mut record = Record::default();
    record.appended(SLOW, start);
    assert_eq!(until(&record), None);
    for pause in [10, 20, 40, 80, 160, 300, 300] {
        record.avoid(start);
        assert_eq!(until(&record), Some(pause));
    }
    record.appended(Duration::from_millis(5), at(400));
    record.avoid(at(500));
    assert_eq!(until(&record), Some(510), "it had appended in between");
    for slow in 1..SLOW_APPENDS {
        record.appended(SLOW * 2, at(600));
        assert_eq!((until(&record), record.slow), (Some(510), slow));
    }
    record.appended(SLOW * 2, at(600));
    assert_eq!(until(&record), Some(620), "many slow ones are as bad as none");
}
