//! The ends of the log, and giving up its beginning.
//!
//! The first position is moved before anything is deleted, so that a reader who misses an entry learns why. Every step
//! can be repeated, by anybody: a truncation that stopped in the middle is finished by the next one (I10).

use bytes::Bytes;
use replicateddb_faults::{Fault, pass};
use zookeeper_client::{Client, Error, MultiReadResult, MultiWriteError, Stat};

use super::layout::{LogHeader, SegmentState, segment_of, sequence_of};
use super::plan::{SegmentView, created_below};
use super::{Inner, open, unavailable};
use crate::framing::{self, Framed};
use crate::{Beginning, LogError, Position};

/// Nodes deleted in one transaction.
const DELETE_BATCH: usize = 200;
/// Entries looked into at once, for the bodies they name.
const LOOK_BATCH: usize = 16;

pub(super) async fn read_header(inner: &Inner, client: &Client) -> Result<(LogHeader, Stat), LogError> {
    let (data, stat) = match client.get_data(&inner.layout.requests()).await {
        Ok(found) => found,
        Err(Error::NoNode) => return Err(LogError::Lost),
        Err(error) => return Err(unavailable(error)),
    };
    let header = LogHeader::parse(&data).map_err(|detail| LogError::Corrupt { detail })?;
    if header.id == inner.log_id { Ok((header, stat)) } else { Err(LogError::Lost) }
}

/// What a segment's node shows of it.
pub(super) fn segment_view(data: &[u8], stat: &Stat) -> Result<SegmentView, String> {
    let state = SegmentState::parse(data).ok_or("its segment is neither open nor sealed")?;
    let created = created_below(stat.cversion, stat.num_children).ok_or("its segment's counters make no sense")?;
    Ok(SegmentView { state, created })
}

async fn read_segment(inner: &Inner, client: &Client, segment: u32) -> Result<Option<SegmentView>, LogError> {
    match client.get_data(&inner.layout.segment(segment)).await {
        Ok((data, stat)) => match segment_view(&data, &stat) {
            Ok(view) => Ok(Some(view)),
            Err(detail) => Err(LogError::Corrupt { detail }),
        },
        Err(Error::NoNode) => Ok(None),
        Err(error) => Err(unavailable(error)),
    }
}

/// The first position that is not committed, as this session sees it.
pub(super) async fn end(inner: &Inner, client: &Client) -> Result<Position, LogError> {
    let mut segment = inner.segment();
    loop {
        match read_segment(inner, client, segment).await? {
            Some(SegmentView { state: SegmentState::Open, created }) => {
                inner.saw_segment(segment);
                return Ok(Position::new(segment, created));
            }
            Some(SegmentView { state: SegmentState::Sealed, .. }) => segment = segment.saturating_add(1),
            None => {
                let newest = open::newest_segment(client, &inner.layout).await.map_err(unavailable)?;
                segment = newest
                    .filter(|newest| *newest > segment)
                    .ok_or_else(|| LogError::Corrupt { detail: format!("segment {segment} is missing") })?;
            }
        }
    }
}

/// See [`crate::OrderedLog::truncate`].
pub(super) async fn truncate(inner: &Inner, below: Beginning) -> Result<(), LogError> {
    if inner.is_fenced() {
        return Err(LogError::Fenced);
    }
    let client = inner.synced_client().await?;
    check_range(inner, &client, below.position).await?;
    let first = move_first(inner, &client, below).await?;
    pass(Fault::TruncationMoved);
    let requests = inner.layout.requests();
    for name in client.list_children(&requests).await.map_err(unavailable)? {
        match segment_of(&name) {
            Some(segment) if segment < first.segment => drop_segment(inner, &client, segment).await?,
            Some(segment) if segment == first.segment => drop_entries(inner, &client, first).await?,
            _ => {}
        }
    }
    for name in children(&client, &inner.layout.bodies()).await? {
        if let Some(segment) = segment_of(&name).filter(|segment| *segment < first.segment) {
            drop_bodies(inner, &client, segment).await?;
        }
    }
    Ok(())
}

async fn check_range(inner: &Inner, client: &Client, below: Position) -> Result<(), LogError> {
    let end = end(inner, client).await?;
    let segment = if below <= end { read_segment(inner, client, below.segment).await? } else { None };
    match segment {
        Some(view) if view.created < below.sequence => Err(LogError::OutOfRange { position: below, end }),
        None if below > end => Err(LogError::OutOfRange { position: below, end }),
        _ => Ok(()),
    }
}

/// Moves the first position up to `below`, durably; returns where it is then.
async fn move_first(inner: &Inner, client: &Client, below: Beginning) -> Result<Position, LogError> {
    loop {
        let (header, stat) = read_header(inner, client).await?;
        if header.first >= below.position {
            return Ok(header.first);
        }
        let mut writer = client.new_multi_writer();
        let data = header.moved(below).data();
        writer.add_check_version(&inner.incarnation_path, 0).map_err(unavailable)?;
        writer.add_set_data(&inner.layout.requests(), &data, Some(stat.version)).map_err(unavailable)?;
        match writer.commit().await {
            // Somebody else has moved it; look where to.
            Ok(_) | Err(MultiWriteError::OperationFailed { index: 1, source: Error::BadVersion }) => {}
            Err(error) => return Err(write_error(inner, client, error).await),
        }
    }
}

/// Deletes a sealed segment, nobody reads it any more.
async fn drop_segment(inner: &Inner, client: &Client, segment: u32) -> Result<(), LogError> {
    let path = inner.layout.segment(segment);
    let entries = children(client, &path).await?;
    let mut doomed: Vec<_> = entries.into_iter().map(|name| format!("{path}/{name}")).collect();
    doomed.sort_unstable();
    doomed.push(path);
    delete(inner, client, &doomed).await
}

/// Deletes the entries below `first` in its segment, each with its body.
async fn drop_entries(inner: &Inner, client: &Client, first: Position) -> Result<(), LogError> {
    let names = children(client, &inner.layout.segment(first.segment)).await?;
    let mut below: Vec<_> =
        names.iter().filter_map(|name| sequence_of(name)).filter(|number| *number < first.sequence).collect();
    below.sort_unstable();
    let entry = |number: &u32| inner.layout.entry(Position::new(first.segment, *number));
    let entries: Vec<_> = below.iter().map(entry).collect();
    if children(client, &inner.layout.segment_bodies(first.segment)).await?.is_empty() {
        return delete(inner, client, &entries).await;
    }
    for entries in entries.chunks(LOOK_BATCH) {
        // Bodies first: without their entries nobody would find them again. Whoever misses one learns that the log begins later.
        let mut doomed = Vec::new();
        for body in named_bodies(client, entries).await? {
            doomed.extend(body_nodes(client, inner.layout.body(first.segment, &body)).await?);
        }
        doomed.extend_from_slice(entries);
        delete(inner, client, &doomed).await?;
    }
    Ok(())
}

/// Names of the bodies that entries name. What can't be read names none; its body goes with the segment.
async fn named_bodies(client: &Client, entries: &[String]) -> Result<Vec<String>, LogError> {
    let mut reader = client.new_multi_reader();
    for entry in entries {
        reader.add_get_data(entry).map_err(unavailable)?;
    }
    let results = reader.commit().await.map_err(unavailable)?;
    let named = |result| match result {
        MultiReadResult::Data { data, .. } => match framing::decode(&Bytes::from(data)) {
            Ok(Framed::Side(body)) => Some(body.name),
            _ => None,
        },
        _ => None,
    };
    Ok(results.into_iter().filter_map(named).collect())
}

/// A body's chunks, then the body.
async fn body_nodes(client: &Client, body: String) -> Result<Vec<String>, LogError> {
    let chunks = children(client, &body).await?;
    Ok(chunks.iter().map(|chunk| format!("{body}/{chunk}")).chain([body.clone()]).collect())
}

/// Deletes a body, whole or in part.
pub(super) async fn drop_body(inner: &Inner, client: &Client, body: String) -> Result<(), LogError> {
    delete(inner, client, &body_nodes(client, body).await?).await
}

async fn drop_bodies(inner: &Inner, client: &Client, segment: u32) -> Result<(), LogError> {
    let folder = inner.layout.segment_bodies(segment);
    for body in children(client, &folder).await? {
        drop_body(inner, client, format!("{folder}/{body}")).await?;
    }
    delete(inner, client, &[folder]).await
}

/// Names of the children; none if the node itself is not there.
async fn children(client: &Client, path: &str) -> Result<Vec<String>, LogError> {
    match client.list_children(path).await {
        Ok(names) => Ok(names),
        Err(Error::NoNode) => Ok(Vec::new()),
        Err(error) => Err(unavailable(error)),
    }
}

/// Deletes nodes in order. Those that are gone already, by another truncation, are fine.
async fn delete(inner: &Inner, client: &Client, paths: &[String]) -> Result<(), LogError> {
    for batch in paths.chunks(DELETE_BATCH) {
        match delete_together(inner, client, batch).await {
            Err(MultiWriteError::OperationFailed { index: 1.., source: Error::NoNode }) => {
                for path in batch {
                    match delete_together(inner, client, std::slice::from_ref(path)).await {
                        Ok(()) | Err(MultiWriteError::OperationFailed { index: 1.., source: Error::NoNode }) => {}
                        Err(error) => return Err(write_error(inner, client, error).await),
                    }
                }
            }
            Err(error) => return Err(write_error(inner, client, error).await),
            Ok(()) => {}
        }
        pass(Fault::TruncationDeleted);
    }
    Ok(())
}

async fn delete_together(inner: &Inner, client: &Client, paths: &[String]) -> Result<(), MultiWriteError> {
    let mut writer = client.new_multi_writer();
    writer.add_check_version(&inner.incarnation_path, 0)?;
    for path in paths {
        writer.add_delete(path, None)?;
    }
    writer.commit().await.map(drop)
}

/// An error of a transaction whose first operation checks the incarnation.
pub(super) async fn write_error(inner: &Inner, client: &Client, error: MultiWriteError) -> LogError {
    match error {
        MultiWriteError::OperationFailed { index: 0, source: Error::NoNode } => over(inner, client).await,
        error => unavailable(error.into()),
    }
}

/// What it means that ZooKeeper did not know this handle's incarnation: it was replaced, unless everything was gone. The log is
/// looked for before the incarnation: should it come back meanwhile, so has that.
pub(super) async fn over(inner: &Inner, client: &Client) -> LogError {
    if let Err(error @ (LogError::Lost | LogError::Unavailable { .. })) = read_header(inner, client).await {
        return error;
    }
    match client.check_stat(&inner.incarnation_path).await {
        Ok(None) => {
            inner.set_fenced();
            LogError::Fenced
        }
        Ok(Some(_)) => LogError::Unavailable { reason: "the log was away, and is back".into() },
        Err(error) => unavailable(error),
    }
}
