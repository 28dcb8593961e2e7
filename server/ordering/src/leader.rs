//! Which of ZooKeeper's servers leads. What is sent to another one is passed on to that and its answer comes back the same
//! way: a round trip, and six threads' turns, more for each transaction.

use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long the servers have to say who they are.
const PATIENCE: Duration = Duration::from_millis(500);
/// Longest answer that is read, in bytes.
const ANSWER: u64 = 4096;

/// The leader among the servers `host:port,host:port`, or the only one; `None` if none says that it is in half a second. They are
/// asked by the command `srvr`, which ZooKeeper answers unless it was taken from `4lw.commands.whitelist`.
pub(crate) async fn leader(connect: &str) -> Option<&str> {
    let asked = async {
        let mut answers: FuturesUnordered<_> =
            connect.split(',').map(|server| async move { leads(server).await.then_some(server) }).collect();
        while let Some(answer) = answers.next().await {
            if answer.is_some() {
                return answer;
            }
        }
        None
    };
    timeout(PATIENCE, asked).await.ok().flatten()
}

async fn leads(server: &str) -> bool {
    match ask(server).await {
        Ok(answer) => says_so(&answer),
        Err(_) => false,
    }
}

async fn ask(server: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(b"srvr").await?;
    let mut answer = Vec::new();
    stream.take(ANSWER).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn says_so(answer: &str) -> bool {
    answer.lines().any(|line| matches!(line.trim_end(), "Mode: leader" | "Mode: standalone"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leads_says_so() {
        let answer = |mode| format!("Zookeeper version: 3.9.5\nReceived: 4\nMode: {mode}\nNode count: 5\n");
        assert!(says_so(&answer("leader")) && says_so(&answer("standalone")));
        assert!(!says_so(&answer("follower")) && !says_so(&answer("observer")) && !says_so(&answer("leaderless")));
        assert!(!says_so("srvr is not executed because it is not in the whitelist.") && !says_so(""));
    }
}
