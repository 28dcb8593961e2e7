//! `checkpoint`: a replica makes one, and it is copied here.

use anyhow::{Context, anyhow};
use replicateddb_replica::checkpoint::exchange::Peer;
use replicateddb_store::{client::StoreError, internal::Internal};

use crate::args::{CheckpointArgs, read_token};

/// Has a replica make a checkpoint, copies it to the folder that is to become it, and says what is in it.
///
/// # Errors
/// The replica can't be reached or makes none, the token is missing or wrong, the folder is there already, or the disk.
pub async fn run(args: CheckpointArgs) -> anyhow::Result<()> {
    let token = args.agent_token_file.as_deref().map(read_token).transpose()?;
    let (source, peer) =
        (format!("http://{}", args.replica), Peer::showing(token).over(Internal::open(&args.internal).await?));
    let point = peer.make(&source).await.map_err(|error| match error {
        StoreError::Unreachable(detail) => anyhow!("no checkpoint was made: {detail}"),
        error => error.into(),
    })?;
    let copied = peer.install(&source, &point.id, args.output.clone(), point.sequence).await;
    let manifest =
        copied.with_context(|| format!("copying the checkpoint {} to {}", point.id, args.output.display()))?;
    for document in &manifest.documents {
        println!("{:>10} lines {:>12} bytes  {}", document.lines, document.bytes, document.file);
    }
    println!("{}: {} tables at index {}", args.output.display(), manifest.documents.len(), manifest.point.mark.index);
    Ok(())
}
