//! Many clients at once: a thousand that work, ten thousand that are there, and one too many.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::stream::{self, StreamExt, TryStreamExt};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use replicateddb_local::Member;
use scylla::statement::Consistency;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Local, REPLICAS, REQUEST_LIMIT, number};
use crate::scenario::Scenario;

/// Clients of one replica that write and read.
const WORKING: usize = 1_000;
/// Memory that the replica may have then, bytes.
const MEMORY: u64 = 150 << 20;
/// Clients of all replicas.
const IDLE: usize = 10_000;
/// Clients that each replica of the suite's stacks takes: a share of those, and drivers.
pub const MAX_CLIENTS: usize = 3_400;
/// Connections being made at once.
const AT_ONCE: usize = 64;
/// Every so many of the idle ones are asked whether they are still served.
const SAMPLE: usize = 50;
/// How long replicas may take to see that clients are gone.
const GONE_LIMIT: Duration = Duration::from_secs(30);
/// Pause between two looks.
const AGAIN: Duration = Duration::from_millis(250);
/// Longest answer that is read, bytes.
const MAX_ANSWER: usize = 64 * 1024;

const STARTUP: u8 = 0x01;
const READY: u8 = 0x02;
const OPTIONS: u8 = 0x05;
const SUPPORTED: u8 = 0x06;
const QUERY: u8 = 0x07;
const RESULT: u8 = 0x08;
const ERROR: u8 = 0x00;
/// `OVERLOADED`, as the body of an error begins.
const OVERLOADED: [u8; 4] = 0x1001_u32.to_be_bytes();
/// Level `ONE`, and no flags.
const AT_ONE: [u8; 3] = [0, 1, 0];

pub fn scenarios() -> Vec<Scenario<Local>> {
    vec![Scenario {
        name: "clients",
        proves: "a thousand clients of one replica work in 150 MiB, ten thousand are held, drivers beside them are served, one too many is told so",
        run: clients,
    }]
}

fn clients(local: &mut Local) -> Result<()> {
    enough_files()?;
    local.runtime.block_on(async {
        let session = local.session(0, Consistency::Quorum).await?;
        local.make_keyspace(&session, "many").await?;
        session.query_unpaged("CREATE TABLE many.t (id int PRIMARY KEY, v int)", ()).await?;
        let mut held = working(local).await?;
        let memory = local.stack.status(Member::Replica(0)).await.memory_bytes;
        println!("    {WORKING} clients: the replica has {} MiB", memory >> 20);
        ensure!(
            memory <= MEMORY,
            "{WORKING} clients, and the replica has {memory} bytes of memory, more than {MEMORY}"
        );
        held.extend(idle(local, WORKING).await?);
        beside(local).await?;
        for client in held.iter_mut().step_by(SAMPLE) {
            client.ask(OPTIONS, &[], SUPPORTED).await.context("an idle client")?;
        }
        one_too_many(local).await?;
        drop(held);
        gone(local).await
    })?;
    local.verify()
}

/// Each client is an open file of this process.
fn enough_files() -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = u64::try_from(IDLE + MAX_CLIENTS)?;
    ensure!(
        hard >= wanted,
        "{hard} open files at most, {wanted} are needed: raise the hard limit (ulimit -Hn {wanted})"
    );
    Ok(setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted), hard)?)
}

/// A thousand clients of replica 0, each of which has written a row and read it.
async fn working(local: &Local) -> Result<Vec<Client>> {
    let address = local.stack.cql(0);
    let work = |id: usize| async move {
        let mut client = Client::connect(address).await?;
        client.query(&format!("INSERT INTO many.t (id, v) VALUES ({id}, {id})")).await?;
        let rows = client.query(&format!("SELECT v FROM many.t WHERE id = {id}")).await?;
        let value = u32::try_from(id)?.to_be_bytes();
        ensure!(rows.ends_with(&[&4_u32.to_be_bytes()[..], &value].concat()), "client {id} reads {rows:?}");
        Ok(client)
    };
    stream::iter((0..WORKING).map(work)).buffer_unordered(AT_ONCE).try_collect().await
}

/// So many that all replicas together have ten thousand; replica 0 has some already.
async fn idle(local: &Local, there: usize) -> Result<Vec<Client>> {
    let begin = Instant::now();
    let share = IDLE.div_ceil(REPLICAS.into());
    let wanted = |replica: u8| share.saturating_sub(if replica == 0 { there } else { 0 });
    let all = (0..REPLICAS).flat_map(|replica| std::iter::repeat_n(local.stack.cql(replica), wanted(replica)));
    let clients: Vec<_> = stream::iter(all.map(Client::connect)).buffer_unordered(AT_ONCE).try_collect().await?;
    println!("    {} more clients are there after {:.1} s", clients.len(), begin.elapsed().as_secs_f64());
    for replica in 0..REPLICAS {
        let memory = local.stack.status(Member::Replica(replica)).await.memory_bytes;
        println!("    replica-{replica} holds {share} in {} MiB", memory >> 20);
    }
    Ok(clients)
}

/// A driver that comes to each replica then writes and reads.
async fn beside(local: &Local) -> Result<()> {
    for replica in 0..REPLICAS {
        let session = local.session(replica, Consistency::Quorum).await?;
        let id = -1 - i32::from(replica);
        session.query_unpaged("INSERT INTO many.t (id, v) VALUES (?, 1)", (id,)).await?;
        let found = number(&session, &format!("SELECT count(*) FROM many.t WHERE id = {id}")).await?;
        ensure!(found == 1, "replica-{replica} does not show the row {id}");
    }
    Ok(())
}

/// Further clients of replica 2, until it is full.
async fn one_too_many(local: &Local) -> Result<()> {
    let mut more = Vec::new();
    while more.len() <= MAX_CLIENTS {
        let mut client = Client::open(local.stack.cql(2)).await?;
        match client.answer(STARTUP, &startup()).await? {
            (READY, _) => more.push(client),
            (ERROR, body) => {
                let said = String::from_utf8_lossy(&body).into_owned();
                ensure!(body.starts_with(&OVERLOADED) && said.contains("at once"), "it says {said:?}");
                return Ok(());
            }
            (other, _) => bail!("opcode {other} in answer to STARTUP"),
        }
    }
    bail!("{} clients more than {MAX_CLIENTS} are taken", more.len())
}

/// Waits until replicas have let go of clients that have left.
async fn gone(local: &Local) -> Result<()> {
    let begin = Instant::now();
    for replica in 0..REPLICAS {
        loop {
            let url = format!("http://{}/metrics", local.stack.admin(replica));
            let text = local.http.get(url).send().await?.text().await?;
            let clients = text.lines().find_map(|line| line.strip_prefix("replicateddb_clients "));
            let clients: usize = clients.context("no metric of the clients")?.parse()?;
            if clients < AT_ONCE {
                break;
            }
            ensure!(begin.elapsed() < GONE_LIMIT, "replica-{replica} still has {clients} clients");
            tokio::time::sleep(AGAIN).await;
        }
    }
    Ok(())
}

/// A connection with one request at a time, version 4 of the protocol.
struct Client(TcpStream);

impl Client {
    async fn open(address: SocketAddr) -> Result<Self> {
        let socket = timeout(REQUEST_LIMIT, TcpStream::connect(address)).await;
        Ok(Self(socket.context("no connection in time")?.with_context(|| format!("connecting to {address}"))?))
    }

    async fn connect(address: SocketAddr) -> Result<Self> {
        let mut client = Self::open(address).await?;
        client.ask(STARTUP, &startup(), READY).await?;
        Ok(client)
    }

    /// The body of the result.
    async fn query(&mut self, text: &str) -> Result<Vec<u8>> {
        let length = u32::try_from(text.len())?.to_be_bytes();
        self.ask(QUERY, &[&length[..], text.as_bytes(), &AT_ONE].concat(), RESULT).await
    }

    /// The body of the answer, which has to have that opcode.
    async fn ask(&mut self, opcode: u8, body: &[u8], wanted: u8) -> Result<Vec<u8>> {
        let (got, answer) = self.answer(opcode, body).await?;
        ensure!(got == wanted, "opcode {got} in answer to {opcode}: {}", String::from_utf8_lossy(&answer));
        Ok(answer)
    }

    async fn answer(&mut self, opcode: u8, body: &[u8]) -> Result<(u8, Vec<u8>)> {
        let exchange = async {
            let mut frame = vec![4, 0, 0, 0, opcode];
            frame.extend(u32::try_from(body.len())?.to_be_bytes());
            frame.extend_from_slice(body);
            self.0.write_all(&frame).await?;
            let mut header = [0; 9];
            self.0.read_exact(&mut header).await?;
            let [_, _, _, _, opcode, length @ ..] = header;
            let length = usize::try_from(u32::from_be_bytes(length))?;
            ensure!(length <= MAX_ANSWER, "an answer of {length} bytes");
            let mut body = vec![0; length];
            self.0.read_exact(&mut body).await?;
            Ok((opcode, body))
        };
        timeout(REQUEST_LIMIT, exchange).await.context("no answer in time")?
    }
}

/// One option: the version of CQL.
fn startup() -> Vec<u8> {
    let text =
        |text: &str| [&u16::try_from(text.len()).unwrap_or_default().to_be_bytes()[..], text.as_bytes()].concat();
    [vec![0, 1], text("CQL_VERSION"), text("3.0.0")].concat()
}
