//! What replicas make known of their restore points: one small node each.

use zookeeper_client::{Client, CreateMode, MultiReadResult};

use super::truncate::write_error;
use super::{Inner, unavailable};
use crate::LogError;
use crate::truncation::Published;

/// Replicas read at once; a log with more is not truncated.
const MAX_REPLICAS: usize = 256;

/// See [`crate::OrderedLog::publish`].
pub(super) async fn publish(inner: &Inner, published: &Published) -> Result<(), LogError> {
    if inner.is_fenced() {
        return Err(LogError::Fenced);
    }
    let client = inner.synced_client().await?;
    let path = inner.layout.position(published.replica);
    let data = serde_json::to_vec(published).expect("plain fields serialise");
    let options = CreateMode::Persistent.with_acls(inner.access.acls());
    let exists = client.check_stat(&path).await.map_err(unavailable)?.is_some();
    let mut writer = client.new_multi_writer();
    writer.add_check_version(&inner.incarnation_path, 0).map_err(unavailable)?;
    match exists {
        true => writer.add_set_data(&path, &data, None).map_err(unavailable)?,
        false => writer.add_create(&path, &data, &options).map_err(unavailable)?,
    }
    // Should an attempt whose answer was lost have created it meanwhile, the next one changes it.
    match writer.commit().await {
        Ok(_) => Ok(()),
        Err(error) => Err(write_error(inner, &client, error).await),
    }
}

/// See [`crate::OrderedLog::published`].
pub(super) async fn published(inner: &Inner, client: &Client) -> Result<Vec<Published>, LogError> {
    let folder = inner.layout.positions();
    let names = client.list_children(&folder).await.map_err(unavailable)?;
    if names.len() > MAX_REPLICAS {
        return Err(LogError::Corrupt { detail: format!("{folder} has more than {MAX_REPLICAS} replicas") });
    }
    let mut reader = client.new_multi_reader();
    for name in &names {
        reader.add_get_data(&format!("{folder}/{name}")).map_err(unavailable)?;
    }
    let mut all = Vec::new();
    for (name, result) in names.iter().zip(reader.commit().await.map_err(unavailable)?) {
        // What can't be read may be what a replica needs: nothing is decided without it.
        let unreadable = || LogError::Corrupt { detail: format!("{folder}/{name} can't be read") };
        let MultiReadResult::Data { data, .. } = result else { return Err(unreadable()) };
        all.push(serde_json::from_slice(&data).map_err(|_| unreadable())?);
    }
    all.sort_by_key(|one: &Published| one.replica);
    Ok(all)
}
