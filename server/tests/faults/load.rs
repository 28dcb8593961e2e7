//! Clients, one for each kind of statement, who keep what they were told.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use scylla::{
    client::session::Session,
    errors::{DbError, ExecutionError, RequestAttemptError},
    response::query_result::QueryResult,
    statement::{
        batch::{Batch, BatchType},
        prepared::PreparedStatement,
    },
    value::{CqlValue, Row},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    bed::{session, until},
    kinds::{Kind, Maker},
    model::Model,
};

/// Pause of a client between two requests, once the load is [slower](Load::slow_down): the machine has time for something
/// else, and there are requests on their way all the same.
const PAUSE: Duration = Duration::from_millis(100);

/// What a client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// It has taken effect; of a conditional write, whether it was applied.
    Done(Option<bool>),
    /// It has not, and never will.
    Refused,
    /// Nothing.
    Nothing,
}

/// What one client asked for, in this order, and what it was told.
type Story = Vec<(String, Told)>;

/// Clients at work.
pub struct Load {
    model: Model,
    clients: Vec<JoinHandle<Story>>,
    /// What was acknowledged to each.
    done: Vec<Arc<AtomicUsize>>,
    slow: Arc<AtomicBool>,
    stop: CancellationToken,
}

impl Load {
    /// Begins with clients of these kinds at each of the servers. A client ends when it is told to or is not answered.
    pub async fn start(model: &Model, ids: &Arc<AtomicI64>, servers: &[(SocketAddr, &[Kind])]) -> Self {
        let (mut clients, mut done) = (Vec::new(), Vec::new());
        let (slow, stop) = (Arc::<AtomicBool>::default(), CancellationToken::new());
        for (server, kinds) in servers {
            let session = Arc::new(session(*server).await);
            for kind in *kinds {
                let client = Client {
                    session: session.clone(),
                    model: model.clone(),
                    maker: Maker::new(*kind),
                    prepared: HashMap::new(),
                    slow: slow.clone(),
                };
                let count = Arc::new(AtomicUsize::new(0));
                clients.push(tokio::spawn(client.run(ids.clone(), count.clone(), stop.clone())));
                done.push(count);
            }
        }
        Self { model: model.clone(), clients, done, slow, stop }
    }

    /// Waits until so many requests were acknowledged, to each client at least one.
    pub async fn acknowledged(&self, requests: usize) {
        until("acknowledged requests", async || {
            let done: Vec<_> = self.done.iter().map(|done| done.load(Ordering::Relaxed)).collect();
            (done.iter().sum::<usize>() >= requests && !done.contains(&0)).then_some(())
        })
        .await;
    }

    /// From now on each client rests after each request. For what takes its time: what is written meanwhile is executed
    /// again by who was crashed, and compared.
    pub fn slow_down(&self) {
        self.slow.store(true, Ordering::Relaxed);
    }

    /// Ends all clients; gives what they were told.
    pub async fn end(self) -> Stories {
        self.stop.cancel();
        let mut stories = Vec::new();
        for client in self.clients {
            stories.push(client.await.expect("a client's task ends"));
        }
        Stories { model: self.model, stories }
    }
}

/// What clients were told, to be compared with the log.
pub struct Stories {
    model: Model,
    stories: Vec<Story>,
}

impl Stories {
    /// Everything acknowledged is in the log, in the order in which each client heard of it, and nothing refused is.
    /// The model has to have caught up. Gives how many requests were acknowledged, and how many are in the log although
    /// nobody was told.
    pub fn check(&self) -> (usize, usize) {
        let (mut acknowledged, mut untold) = (0, 0);
        for story in &self.stories {
            let mut last = 0;
            for (name, told) in story {
                let ordered = self.model.ordered(name);
                match told {
                    Told::Done(applied) => {
                        let ordered = ordered.unwrap_or_else(|| panic!("I2: acknowledged and not in the log: {name}"));
                        assert_eq!(ordered.applied, *applied, "the answer to {name}");
                        assert!(ordered.index > last, "I4: {name} is before what was acknowledged before it was asked");
                        last = ordered.index;
                        acknowledged += 1;
                    }
                    Told::Refused => assert_eq!(ordered, None, "I3: refused and in the log: {name}"),
                    Told::Nothing => untold += usize::from(ordered.is_some()),
                }
            }
        }
        (acknowledged, untold)
    }
}

struct Client {
    session: Arc<Session>,
    model: Model,
    maker: Maker,
    prepared: HashMap<String, PreparedStatement>,
    slow: Arc<AtomicBool>,
}

impl Client {
    async fn run(mut self, ids: Arc<AtomicI64>, done: Arc<AtomicUsize>, stop: CancellationToken) -> Story {
        let mut story = Vec::new();
        while !stop.is_cancelled() {
            let op = self.maker.next(ids.fetch_add(1, Ordering::Relaxed));
            let (name, statements) = (op.name(), op.statements);
            self.model.expect(name.clone(), op.effect);
            let told = self.ask(&name, statements).await;
            story.push((name, told));
            if !matches!(told, Told::Done(_)) {
                break;
            }
            done.fetch_add(1, Ordering::Relaxed);
            if self.slow.load(Ordering::Relaxed) {
                stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
            }
        }
        story
    }

    async fn ask(&mut self, name: &str, statements: Vec<(String, Vec<crate::kinds::Arg>)>) -> Told {
        let mut ready = Vec::new();
        for (text, args) in statements {
            if !args.is_empty() && !self.prepared.contains_key(&text) {
                // It was not sent yet.
                let Ok(prepared) = self.session.prepare(text.as_str()).await else { return Told::Refused };
                self.prepared.insert(text.clone(), prepared);
            }
            ready.push((text, args.into_iter().map(crate::kinds::Arg::cql).collect::<Vec<CqlValue>>()));
        }
        let answer = match ready.as_slice() {
            [(text, values)] if values.is_empty() => self.session.query_unpaged(text.as_str(), ()).await,
            [(text, values)] => self.session.execute_unpaged(&self.prepared[text], values).await,
            several => {
                let mut batch = Batch::new(BatchType::Unlogged);
                several.iter().for_each(|(text, _)| batch.append_statement(self.prepared[text].clone()));
                let values: Vec<_> = several.iter().map(|(_, values)| values.clone()).collect();
                self.session.batch(&batch, values).await
            }
        };
        match answer {
            Ok(result) => Told::Done(self.applied(result)),
            Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(code, message))) => match code {
                DbError::Unavailable { .. } | DbError::Overloaded | DbError::IsBootstrapping => Told::Refused,
                DbError::WriteTimeout { .. } => Told::Nothing,
                other => panic!("{name}: {other:?}: {message}"),
            },
            Err(ExecutionError::BadQuery(error)) => panic!("{name}: {error}"),
            Err(_) => Told::Nothing,
        }
    }

    /// The answer to a conditional write; the next compare-and-set expects what it shows.
    fn applied(&mut self, result: QueryResult) -> Option<bool> {
        let rows = result.into_rows_result().ok()?;
        let row = rows.first_row::<Row>().expect("a conditional write is answered by a row");
        let Some(CqlValue::Boolean(applied)) = row.columns.first()?.clone() else { panic!("{row:?}") };
        if self.maker.kind == Kind::CompareAndSet {
            match row.columns.get(1) {
                Some(Some(CqlValue::BigInt(now))) => self.maker.expected = *now,
                _ => self.maker.expected = self.maker.asked,
            }
        }
        Some(applied)
    }
}
