//! Manifests of checkpoints, as files and as others send them.

use std::path::Path;

use replicateddb_replica::checkpoint::folder::parse_manifest;
use replicateddb_replica::state::State;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::seeds::join;
use crate::source::Source;

pub fn run(input: &[u8]) {
    let mut source = Source(input);
    match source.flag() {
        true => read(source.rest()),
        false => {
            if let Ok(manifest) = serde_json::from_slice(source.rest()) {
                read(&sealed(manifest));
            }
        }
    }
}

/// With a checksum that is right.
fn sealed(manifest: serde_json::Value) -> Vec<u8> {
    let digest = Sha256::digest(manifest.to_string());
    let sha256: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    serde_json::to_vec(&serde_json::json!({ "manifest": manifest, "sha256": sha256 })).expect("JSON")
}

fn read(bytes: &[u8]) {
    let Ok(manifest) = parse_manifest(Path::new("manifest.json"), bytes) else { return };
    let folder = Path::new("/folder");
    for document in &manifest.documents {
        assert_eq!(folder.join(&document.file).parent(), Some(folder), "{:?} leaves its folder", document.file);
    }
    let again = sealed(serde_json::to_value(&manifest).expect("plain fields serialise"));
    assert_eq!(parse_manifest(Path::new("manifest.json"), &again).ok().as_ref(), Some(&manifest));
    let _ = State::of_mark(manifest.point.mark, Uuid::nil());
}

pub fn seeds() -> Vec<Vec<u8>> {
    let manifest = serde_json::json!({
        "format": 1,
        "point": {
            "id": "checkpoint-9", "sequence": 3, "index": 9, "replica_state": { "format": 2, "index": 9 },
            "cassandra_now_ms": 5, "created_ms": 6, "files": { "count": 1, "bytes": 2, "digest": "ab" }, "footprint": null,
        },
        "timestamp_us": 77,
        "schema": ["CREATE TABLE t (k int PRIMARY KEY)"],
        "documents": [{ "table": "t", "file": "t.jsonl.gz", "lines": 1, "bytes": 2, "sha256": "cd" }],
    });
    let text = serde_json::to_vec(&manifest).expect("JSON");
    vec![join(&[&[0], &text[..]]), join(&[&[1], &sealed(manifest)[..]])]
}
