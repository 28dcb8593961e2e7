//! Which lives there are: the incarnations that may append.

use std::collections::BTreeSet;

use zookeeper_client::{Error, MultiReadResult, MultiWriteError};

use super::{Inner, truncate, unavailable};
use crate::{Incarnation, Life, LogError};

/// See [`crate::OrderedLog::resign`].
pub(super) async fn resign(inner: &Inner) -> Result<(), LogError> {
    let client = inner.control.client().await;
    let mut writer = client.new_multi_writer();
    writer
        .add_check_version(&inner.incarnation_path, 0)
        .and_then(|()| writer.add_delete(&inner.incarnation_path, None))
        .map_err(unavailable)?;
    match writer.commit().await {
        Ok(_) => Ok(()),
        Err(error) => Err(truncate::write_error(inner, &client, error).await),
    }
}

/// See [`crate::OrderedLog::retire`]. The node's name is never given again: what is deleted is this life or nothing.
pub(super) async fn retire(inner: &Inner, (replica, incarnation): Life) -> Result<(), LogError> {
    let client = inner.control.client().await;
    let folder = inner.layout.incarnations(replica);
    let names = match client.list_children(&folder).await {
        Err(Error::NoNode) => return Ok(()),
        names => names.map_err(unavailable)?,
    };
    for name in names {
        let path = format!("{folder}/{name}");
        let stat = client.check_stat(&path).await.map_err(unavailable)?;
        if stat.is_none_or(|stat| stat.czxid != incarnation.0) {
            continue;
        }
        let mut writer = client.new_multi_writer();
        writer
            .add_check_version(&inner.incarnation_path, 0)
            .and_then(|()| writer.add_delete(&path, None))
            .map_err(unavailable)?;
        match writer.commit().await {
            Ok(_) | Err(MultiWriteError::OperationFailed { index: 1, source: Error::NoNode }) => {}
            Err(error) => return Err(truncate::write_error(inner, &client, error).await),
        }
    }
    Ok(())
}

/// See [`crate::OrderedLog::living`]. The write before the reads makes them see whatever was committed before the call:
/// a session reads nothing that is older than its own writes, and a write, unlike a `sync`, needs a quorum.
pub(super) async fn living(inner: &Inner) -> Result<BTreeSet<Life>, LogError> {
    let client = inner.control.client().await;
    let pulse = inner.layout.pulse(inner.config.replica);
    let mut writer = client.new_multi_writer();
    writer
        .add_check_version(&inner.incarnation_path, 0)
        .and_then(|()| writer.add_set_data(&pulse, &[], None))
        .map_err(unavailable)?;
    if let Err(error) = writer.commit().await {
        return Err(truncate::write_error(inner, &client, error).await);
    }
    let all = inner.layout.all_incarnations();
    let replicas = client.list_children(&all).await.map_err(unavailable)?;
    let mut lives = BTreeSet::new();
    for name in replicas {
        let Ok(replica) = name.parse::<u32>() else { continue };
        let folder = inner.layout.incarnations(replica);
        let names = client.list_children(&folder).await.map_err(unavailable)?;
        if names.is_empty() {
            continue;
        }
        let mut reader = client.new_multi_reader();
        for name in names {
            reader.add_get_data(&format!("{folder}/{name}")).map_err(unavailable)?;
        }
        for result in reader.commit().await.map_err(unavailable)? {
            match result {
                MultiReadResult::Data { stat, .. } => lives.insert((replica, Incarnation(stat.czxid))),
                // It ended while we looked: the one that replaced it is not among those that were listed.
                _ => return Err(LogError::Unavailable { reason: format!("replica {replica} begins a new life") }),
            };
        }
    }
    Ok(lives)
}
