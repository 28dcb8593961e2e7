//! Bodies too large for an entry: stored in chunks before the entry that names them is proposed.
//!
//! A body lies with the segment that its entry goes to, and every write of it checks that the segment is open. So when
//! a sealed segment is given up, all its bodies can go, those included that no entry came to name. Most of these go at once:
//! see [`Attempt`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tracing::debug;
use zookeeper_client::{Client, CreateMode, Error, MultiWriteError};

use super::layout::{Layout, SegmentState};
use super::{Inner, truncate};
use crate::framing::SideBody;

/// Chunks read at once.
const READ_AHEAD: usize = 8;
/// Chunks stored at once.
const STORE_AHEAD: usize = 8;

/// Why a body was not stored. Its entry was not proposed.
#[derive(Debug)]
pub(super) enum BodyError {
    /// The segment is sealed or gone: store it with the next one.
    SegmentClosed,
    Fenced,
    Failed(String),
}

/// Why a body was not read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// It is not there, or not what the entry says.
    Damaged(String),
    /// The connection failed; try again.
    Trouble(Error),
}

/// A body of an entry that may yet fail. Once dropped it is deleted in the background, as far as it came to be stored, unless an
/// entry may name it: the session that stores it does what it is told in order.
pub(super) struct Attempt {
    inner: Arc<Inner>,
    client: Client,
    segment: u32,
    name: String,
    named: bool,
}

impl Attempt {
    pub(super) fn new(inner: &Arc<Inner>, client: &Client, segment: u32) -> Self {
        let number = inner.body_counter.fetch_add(1, Ordering::Relaxed);
        let name = format!("{:x}-{number:x}", inner.incarnation.0);
        Self { inner: inner.clone(), client: client.clone(), segment, name, named: false }
    }

    /// Stores `entry`, to be named by an entry of the segment.
    pub(super) async fn store(&self, entry: &Bytes) -> Result<SideBody, BodyError> {
        store(&self.inner, &self.client, self.segment, self.name.clone(), entry).await
    }

    /// Whether an entry names it, or might.
    pub(super) fn set_named(&mut self, named: bool) {
        self.named = named;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let (false, Ok(runtime)) = (self.named, Handle::try_current()) else { return };
        let (inner, client, segment) = (self.inner.clone(), self.client.clone(), self.segment);
        let path = inner.layout.body(segment, &self.name);
        runtime.spawn(async move {
            // What can't be deleted now goes with its segment.
            match timeout(inner.config.append_timeout, truncate::drop_body(&inner, &client, path)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(segment, %error, "a body that no entry names was not deleted"),
                Err(_) => debug!(segment, "a body that no entry names was not deleted in time"),
            }
        });
    }
}

async fn store(
    inner: &Inner,
    client: &Client,
    segment: u32,
    name: String,
    entry: &Bytes,
) -> Result<SideBody, BodyError> {
    let size = inner.config.max_entry_bytes;
    let body = SideBody {
        name,
        chunks: u16::try_from(entry.len().div_ceil(size))
            .map_err(|_| BodyError::Failed("it has too many chunks".into()))?,
        bytes: u32::try_from(entry.len()).map_err(|_| BodyError::Failed("it is too long".into()))?,
        crc: crc32fast::hash(entry),
    };
    let path = inner.layout.body(segment, &body.name);
    let chunk = |number: u16| {
        let begin = usize::from(number) * size;
        entry.slice(begin..entry.len().min(begin + size))
    };
    let first = [(path.clone(), Bytes::new()), (Layout::chunk(&path, 0), chunk(0))];
    match create(inner, client, segment, &first).await {
        // It is the first body in this segment, or another one makes the folder now.
        Err(CreateError::NoFolder) => {
            let folder = [(inner.layout.segment_bodies(segment), Bytes::new())];
            match create(inner, client, segment, &folder).await {
                Ok(()) | Err(CreateError::Exists) => create(inner, client, segment, &first).await?,
                Err(error) => return Err(error.into()),
            }
        }
        created => created?,
    }
    let rest: Vec<_> = (1..body.chunks)
        .map(|number| store_chunk(inner, client, segment, Layout::chunk(&path, number), chunk(number)))
        .collect();
    let mut stored = stream::iter(rest).buffer_unordered(STORE_AHEAD);
    while let Some(()) = stored.try_next().await? {}
    Ok(body)
}

async fn store_chunk(inner: &Inner, client: &Client, segment: u32, path: String, data: Bytes) -> Result<(), BodyError> {
    Ok(create(inner, client, segment, &[(path, data)]).await?)
}

/// Why nodes of a body were not created.
enum CreateError {
    Exists,
    NoFolder,
    Body(BodyError),
}

impl From<CreateError> for BodyError {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::Exists => Self::Failed("its name is taken".into()),
            CreateError::NoFolder => Self::Failed("there is no folder for it".into()),
            CreateError::Body(error) => error,
        }
    }
}

/// Creates these nodes, all or none.
async fn create(inner: &Inner, client: &Client, segment: u32, nodes: &[(String, Bytes)]) -> Result<(), CreateError> {
    let failed = |error: Error| CreateError::Body(BodyError::Failed(error.to_string()));
    let mut writer = client.new_multi_writer();
    writer.add_check_version(&inner.layout.segment(segment), SegmentState::OPEN_VERSION).map_err(failed)?;
    writer.add_check_version(&inner.incarnation_path, 0).map_err(failed)?;
    let options = CreateMode::Persistent.with_acls(inner.access.acls());
    for (path, data) in nodes {
        writer.add_create(path, data, &options).map_err(failed)?;
    }
    match writer.commit().await {
        Ok(_) => Ok(()),
        Err(MultiWriteError::OperationFailed { index: 0, source: Error::BadVersion | Error::NoNode }) => {
            Err(CreateError::Body(BodyError::SegmentClosed))
        }
        Err(MultiWriteError::OperationFailed { index: 1, source: Error::NoNode }) => {
            Err(CreateError::Body(BodyError::Fenced))
        }
        Err(MultiWriteError::OperationFailed { index: 2, source: Error::NodeExists }) => Err(CreateError::Exists),
        Err(MultiWriteError::OperationFailed { index: 2, source: Error::NoNode }) => Err(CreateError::NoFolder),
        Err(error) => Err(failed(error.into())),
    }
}

/// Reads a body that an entry of `segment` names.
pub(super) async fn read(inner: &Inner, client: &Client, segment: u32, body: &SideBody) -> Result<Bytes, ReadError> {
    let announced = body.bytes as usize;
    // The bound of our own settings may have been another one when the body was stored.
    if announced > super::Config::MAX_BODY_BYTES {
        return Err(ReadError::Damaged(format!("its body is said to have {announced} bytes")));
    }
    let path = inner.layout.body(segment, &body.name);
    let mut chunks = stream::iter(0..body.chunks)
        .map(|chunk| {
            let path = Layout::chunk(&path, chunk);
            async move { client.get_data(&path).await }
        })
        .buffered(READ_AHEAD);
    let mut whole = BytesMut::with_capacity(announced);
    while let Some((chunk, _)) = chunks.try_next().await.map_err(read_error)? {
        if whole.len() + chunk.len() > announced {
            return Err(ReadError::Damaged(format!("its body has more than the {announced} bytes said")));
        }
        whole.extend_from_slice(&chunk);
    }
    let whole = whole.freeze();
    match whole.len() == announced && crc32fast::hash(&whole) == body.crc {
        true => Ok(whole),
        false => Err(ReadError::Damaged("its body is not the one that was stored".into())),
    }
}

fn read_error(error: Error) -> ReadError {
    match error {
        Error::NoNode => ReadError::Damaged("its body is missing".into()),
        other => ReadError::Trouble(other),
    }
}
