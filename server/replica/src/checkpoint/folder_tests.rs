use replicateddb_store::api::{Files, Mark};

use super::*;

fn line(n: u64) -> Line {
    serde_json::from_value(serde_json::json!({ "key": { "k": n }, "cells": { "v": { "value": "x", "time": n } } }))
        .expect("a line")
}

fn written(folder: &Path) -> Manifest {
    begin(folder).expect("a new folder");
    let documents = [("events", 60), ("empty", 0)].map(|(table, lines)| {
        let mut writer = DocumentWriter::create(folder, table).expect("a document");
        (0..lines).for_each(|n| writer.line(&line(n)).expect("written"));
        writer.finish().expect("finished")
    });
    let mark = Mark { index: 7, replica_state: serde_json::json!({ "origins": { "0": [1, u64::MAX] } }) };
    let (id, files) = ("id".to_owned(), Files::default());
    let point = api::Manifest { id, sequence: 1, mark, cassandra_now_ms: 0, created_ms: 5, files, footprint: None };
    Manifest {
        format: FORMAT,
        point,
        timestamp_us: i64::MAX,
        schema: vec!["CREATE ...".into()],
        documents: documents.into(),
    }
}

/// Everything that whoever restores reads.
fn read(folder: &Path) -> Result<Option<u64>, CheckpointError> {
    let Some(manifest) = read_manifest(folder)? else { return Ok(None) };
    verify(folder, &manifest)?;
    let mut lines = 0;
    for document in &manifest.documents {
        let mut reader = DocumentReader::open(folder, document)?;
        while let Some(found) = reader.next_line()? {
            assert_eq!(found, line(lines));
            lines += 1;
        }
    }
    Ok(Some(lines))
}

#[test]
fn what_was_written_is_read_and_only_once_it_is_complete() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("one");
    let manifest = written(&folder);
    assert!(read_manifest(&folder).expect("no error").is_none());
    assert!(begin(&folder).is_err(), "there is one of that name");
    complete(&folder, &manifest).expect("complete");
    assert_eq!(read_manifest(&folder).expect("no error"), Some(manifest));
    assert_eq!(read(&folder).expect("whole"), Some(60));
}

/// I7: a line has a bound, whatever unpacks to it, and nothing is written that could not be read again.
#[test]
fn no_line_is_longer_than_may_be() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("one");
    let document = &written(&folder).documents[0];
    let longest = serde_json::to_vec(&line(59)).expect("JSON").len() + 1;
    let read_with = |max_line| {
        let mut reader = DocumentReader { max_line, ..DocumentReader::open(&folder, document).expect("there") };
        let mut lines = 0;
        loop {
            match reader.next_line() {
                Ok(Some(_)) => lines += 1,
                Ok(None) => return Ok(lines),
                Err(error) => return Err((lines, error.to_string())),
            }
        }
    };
    assert_eq!(read_with(longest), Ok(60));
    let (lines, error) = read_with(longest - 1).expect_err("line 11 has two digits");
    assert!(lines == 10 && error.contains("line 11 has more than"), "{lines}: {error}");

    let mut writer = DocumentWriter::create(&folder, "other").expect("a document");
    writer.max_line = longest - 1;
    writer.line(&line(9)).expect("short");
    let error = writer.line(&line(10)).expect_err("long").to_string();
    assert!(error.contains("a row of other takes"), "{error}");
    assert_eq!(writer.finish().expect("finished").lines, 1);
}

/// Each file that is changed in any byte, cut anywhere, or lost, is named.
#[test]
fn damage_is_found_and_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("one");
    let manifest = written(&folder);
    complete(&folder, &manifest).expect("complete");
    for name in [MANIFEST, "events.jsonl.gz", "empty.jsonl.gz"] {
        let path = folder.join(name);
        let whole = fs::read(&path).expect("a file");
        let named = |what: &str| match read(&folder) {
            Err(error @ CheckpointError::Damaged { .. }) => {
                assert!(error.to_string().contains(name), "{what}: {error}")
            }
            // Space between the parts of the manifest says nothing.
            Ok(Some(60)) if name == MANIFEST => {
                assert_eq!(read_manifest(&folder).expect("read"), Some(manifest.clone()))
            }
            other => panic!("{name}, {what}: {other:?}"),
        };
        for at in 0..whole.len() {
            let mut content = whole.clone();
            content[at] ^= 1 << (at % 8);
            fs::write(&path, content).expect("written");
            named(&format!("byte {at} changed"));
        }
        for length in (0..whole.len()).step_by(7) {
            fs::write(&path, &whole[..length]).expect("written");
            named(&format!("cut to {length} bytes"));
        }
        fs::remove_file(&path).expect("removed");
        match (name, read(&folder)) {
            (MANIFEST, found) => assert!(matches!(found, Ok(None)), "{found:?}"),
            (_, Err(error)) => assert!(error.to_string().contains(name), "{error}"),
            (_, found) => panic!("{name} is missing: {found:?}"),
        }
        fs::write(&path, whole).expect("written");
    }
    assert_eq!(read(&folder).expect("whole again"), Some(60));
}

#[test]
fn a_manifest_names_files_of_its_folder_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("one");
    let mut manifest = written(&folder);
    for file in ["../other", "/etc/passwd", "..", ""] {
        manifest.documents[0].file = file.to_owned();
        let sealed = seal(&manifest).expect("sealed");
        assert!(parse_manifest(Path::new("m"), &sealed).is_err(), "{file:?}");
    }
    manifest.documents[0].file = "events.jsonl.gz".to_owned();
    manifest.format = FORMAT + 1;
    let error = parse_manifest(Path::new("m"), &seal(&manifest).expect("sealed")).expect_err("another format");
    assert!(error.to_string().contains("format"), "{error}");
}
