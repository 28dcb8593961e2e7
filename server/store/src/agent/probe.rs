//! As much CQL (native protocol, version 4) as it takes to see whether Cassandra answers, which generation it is, and
//! what its clock says.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::generation;
use crate::internal::{Internal, Stream};
use crate::login::Login;

/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Largest body of an answer that is read, in bytes: some ten thousand tables.
const MAX_BODY: usize = 16 << 20;
const REQUEST: u8 = 0x04;
const RESPONSE: u8 = 0x84;
const STARTUP: u8 = 0x01;
const READY: u8 = 0x02;
const AUTHENTICATE: u8 = 0x03;
const OPTIONS: u8 = 0x05;
const SUPPORTED: u8 = 0x06;
const QUERY: u8 = 0x07;
const RESULT: u8 = 0x08;
const AUTH_RESPONSE: u8 = 0x0f;
const AUTH_SUCCESS: u8 = 0x10;
/// Kind of a result that has rows.
const ROWS: u32 = 2;
/// Ticks of 100 ns between the epoch of time UUIDs (1582) and the Unix epoch.
const UUID_EPOCH: u64 = 0x01b2_1dd2_1381_4000;

/// Whether Cassandra answers CQL.
///
/// # Errors
/// If it does not, or not in time.
pub async fn options(cql: SocketAddr, internal: &Internal) -> Result<()> {
    bounded(async {
        let mut stream = internal.connect(&cql.to_string()).await?;
        match exchange(&mut stream, OPTIONS, &[]).await? {
            (SUPPORTED, _) => Ok(()),
            (opcode, _) => bail!("unexpected answer {opcode:#04x}"),
        }
    })
    .await
}

/// A Cassandra, and how to log in there if it asks.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Its CQL port.
    pub cql: SocketAddr,
    /// Who asks.
    pub login: Option<Login>,
    /// With TLS or without.
    pub internal: Internal,
}

impl Probe {
    /// The generation that answers on the port.
    ///
    /// # Errors
    /// If nothing answers in time, or no Cassandra of an agent's.
    pub async fn generation(&self) -> Result<u64> {
        let cell = bounded(self.first(generation::QUERY)).await?;
        generation::parse(&cell).context("the Cassandra on this port was not started by an agent")
    }

    /// Cassandra's `now()`, ms since the epoch, rounded down.
    ///
    /// # Errors
    /// If nothing answers in time.
    pub async fn now_ms(&self) -> Result<i64> {
        let cell = bounded(self.first("SELECT now() FROM system.local")).await?;
        time_uuid_ms(&cell).context("now() is no time UUID")
    }

    /// The cells of a result of one column, one a row.
    ///
    /// # Errors
    /// If nothing answers in time, or otherwise.
    pub async fn rows(&self, text: &str) -> Result<Vec<Vec<u8>>> {
        let body = bounded(self.query(text)).await?;
        cells(&body).context("unexpected result")
    }

    /// Has a statement executed that gives no rows.
    ///
    /// # Errors
    /// If it is refused, or nothing answers in time.
    pub async fn execute(&self, text: &str) -> Result<()> {
        bounded(self.query(text)).await.map(drop)
    }

    async fn first(&self, text: &str) -> Result<Vec<u8>> {
        let body = self.query(text).await?;
        cells(&body).context("unexpected result")?.into_iter().next().context("no row in the result")
    }

    /// The body of the result.
    async fn query(&self, text: &str) -> Result<Vec<u8>> {
        let mut stream = self.internal.connect(&self.cql.to_string()).await?;
        self.log_in(&mut stream).await?;
        let length = u32::try_from(text.len()).context("query too long")?;
        // Consistency ONE, no flags.
        let body = [&length.to_be_bytes()[..], text.as_bytes(), &[0, 1, 0]].concat();
        match exchange(&mut stream, QUERY, &body).await? {
            (RESULT, body) => Ok(body),
            (opcode, _) => bail!("unexpected answer {opcode:#04x} to QUERY"),
        }
    }

    async fn log_in(&self, stream: &mut Stream) -> Result<()> {
        let startup = [&[0, 1][..], &string("CQL_VERSION"), &string("3.0.0")].concat();
        match (exchange(stream, STARTUP, &startup).await?.0, &self.login) {
            (READY, _) => Ok(()),
            (AUTHENTICATE, Some(login)) => {
                let token = login.plain();
                let length = u32::try_from(token.len()).context("token too long")?;
                match exchange(stream, AUTH_RESPONSE, &[&length.to_be_bytes()[..], &token].concat()).await? {
                    (AUTH_SUCCESS, _) => Ok(()),
                    (opcode, _) => bail!("the role {} can't log in (answer {opcode:#04x})", login.user),
                }
            }
            (opcode, _) => bail!("unexpected answer {opcode:#04x} to STARTUP"),
        }
    }
}

async fn bounded<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(TIMEOUT, work).await.with_context(|| format!("no answer within {TIMEOUT:?}"))?
}

fn string(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], text.as_bytes()].concat()
}

async fn exchange(stream: &mut Stream, opcode: u8, body: &[u8]) -> Result<(u8, Vec<u8>)> {
    let length = u32::try_from(body.len()).context("request too long")?;
    let frame = [&[REQUEST, 0, 0, 0, opcode][..], &length.to_be_bytes(), body].concat();
    stream.write_all(&frame).await?;
    let mut header = [0; 9];
    stream.read_exact(&mut header).await?;
    let [version, flags, _, _, opcode, length @ ..] = header;
    let length = u32::from_be_bytes(length) as usize;
    if version != RESPONSE || flags != 0 || length > MAX_BODY {
        bail!("unexpected answer: version {version:#04x}, flags {flags:#04x}, {length} bytes");
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok((opcode, body))
}

/// Takes bytes from the front of a slice.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    fn int(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn short(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.short()?;
        self.take(length.into())
    }
}

/// The cells of a result of one column of a simple type; `None` if it is not that, or a cell is null.
fn cells(body: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut cursor = Cursor(body);
    let (kind, flags, columns) = (cursor.int()?, cursor.int()?, cursor.int()?);
    if kind != ROWS || columns != 1 || flags & !1 != 0 {
        return None;
    }
    for _keyspace_table_and_name in 0..3 {
        cursor.string()?;
    }
    let simple = 1..0x20;
    if !simple.contains(&cursor.short()?) {
        return None;
    }
    let rows = cursor.int()?;
    let mut cells = Vec::new();
    for _ in 0..rows {
        let length = usize::try_from(i32::from_be_bytes(cursor.take(4)?.try_into().ok()?)).ok()?;
        cells.push(cursor.take(length)?.to_vec());
    }
    Some(cells)
}

fn time_uuid_ms(cell: &[u8]) -> Option<i64> {
    let bytes: [u8; 16] = cell.try_into().ok()?;
    let [a, b, c, d, e, f, g, h, ..] = bytes;
    if g >> 4 != 1 {
        return None;
    }
    let ticks = u64::from_be_bytes([g & 0x0f, h, e, f, a, b, c, d]);
    i64::try_from(ticks.checked_sub(UUID_EPOCH)? / 10_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(cells: &[Option<&[u8]>]) -> Vec<u8> {
        let mut body = [0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1].to_vec();
        for name in ["system_views", "system_properties", "value"] {
            body.extend(string(name));
        }
        body.extend([0, 0x0d]);
        body.extend(u32::try_from(cells.len()).unwrap().to_be_bytes());
        for cell in cells {
            match cell {
                Some(cell) => {
                    body.extend(u32::try_from(cell.len()).unwrap().to_be_bytes());
                    body.extend(*cell);
                }
                None => body.extend((-1i32).to_be_bytes()),
            }
        }
        body
    }

    #[test]
    fn reads_the_cells_and_survives_every_cut() {
        let body = result(&[Some(b"42"), Some(b"")]);
        assert_eq!(cells(&body), Some(vec![b"42".to_vec(), Vec::new()]));
        for length in 0..body.len() {
            assert_eq!(cells(&body[..length]), None, "{length}");
        }
        assert_eq!(cells(&result(&[])), Some(Vec::new()));
        assert_eq!(cells(&result(&[None])), None);
    }

    #[test]
    fn reads_time_uuids() {
        // 2026-01-01T00:00:00Z is 1767225600000 ms.
        let ticks = UUID_EPOCH + 1_767_225_600_000 * 10_000 + 9_999;
        let [g, h, e, f, a, b, c, d] = (ticks | 1 << 60).to_be_bytes();
        let mut uuid = [0; 16];
        uuid[..8].copy_from_slice(&[a, b, c, d, e, f, g, h]);
        assert_eq!(time_uuid_ms(&uuid), Some(1_767_225_600_000));
        uuid[6] = 0x41;
        assert_eq!(time_uuid_ms(&uuid), None);
        assert_eq!(time_uuid_ms(&[0; 3]), None);
    }
}
