//! The extra configuration: settings for cassandra.yaml that people may give. Pure.
//!
//! A list of what is allowed, not of what is forbidden: the same record must do and answer the same on every replica,
//! also while one has other settings than the next, and a setting nobody has thought about must not slip past that.

/// A top-level setting with the lines that belong to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub key: String,
    /// As it is written.
    pub text: String,
}

impl Setting {
    /// A setting with a value that fits its line.
    pub fn new(key: &str, value: &str) -> Self {
        Self { key: key.to_owned(), text: format!("{key}: {value}") }
    }
}

/// What a setting's value must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// A whole number.
    Count,
    /// A number with a fraction.
    Ratio,
    /// A number of bytes with a unit.
    Size,
    /// A number of bytes in a second, with a unit.
    Rate,
    /// A time with a unit.
    Time,
    /// A time that is not below the agent's own: a shorter one would turn waits into outcomes that nobody knows.
    AtLeastOurs,
    /// `true` or `false`.
    Switch,
}

/// Every setting that may be given: sizes, concurrency, speeds, waits and warnings. None decides what a statement does
/// or whether it is refused.
const ALLOWED: [(&str, Shape); 37] = [
    // Memory.
    ("memtable_heap_space", Shape::Size),
    ("memtable_offheap_space", Shape::Size),
    ("memtable_cleanup_threshold", Shape::Ratio),
    ("key_cache_size", Shape::Size),
    ("key_cache_save_period", Shape::Time),
    ("file_cache_size", Shape::Size),
    ("networking_cache_size", Shape::Size),
    ("index_summary_capacity", Shape::Size),
    ("column_index_size", Shape::Size),
    ("column_index_cache_size", Shape::Size),
    ("compressed_read_ahead_buffer_size", Shape::Size),
    // Concurrency.
    ("concurrent_reads", Shape::Count),
    ("concurrent_writes", Shape::Count),
    ("concurrent_counter_writes", Shape::Count),
    ("concurrent_materialized_view_writes", Shape::Count),
    ("concurrent_materialized_view_builders", Shape::Count),
    ("concurrent_index_builders", Shape::Count),
    ("concurrent_compactors", Shape::Count),
    ("memtable_flush_writers", Shape::Count),
    ("native_transport_max_threads", Shape::Count),
    // Disk.
    ("commitlog_total_space", Shape::Size),
    ("compaction_throughput", Shape::Rate),
    ("sstable_preemptive_open_interval", Shape::Size),
    ("min_free_space_per_drive", Shape::Size),
    ("trickle_fsync", Shape::Switch),
    ("trickle_fsync_interval", Shape::Size),
    // Waits.
    ("request_timeout", Shape::AtLeastOurs),
    ("read_request_timeout", Shape::AtLeastOurs),
    ("range_request_timeout", Shape::AtLeastOurs),
    ("write_request_timeout", Shape::AtLeastOurs),
    ("counter_write_request_timeout", Shape::AtLeastOurs),
    ("cas_contention_timeout", Shape::AtLeastOurs),
    ("truncate_request_timeout", Shape::AtLeastOurs),
    // Warnings, in the log and to clients: no results.
    ("slow_query_log_timeout", Shape::Time),
    ("gc_log_threshold", Shape::Time),
    ("gc_warn_threshold", Shape::Time),
    ("tombstone_warn_threshold", Shape::Count),
];

/// Reads an extra configuration: one `setting: value` a line. `ours` gives the agent's own value of a setting.
///
/// # Errors
/// If a line is none, or its setting or value is not allowed; the text says which line and why.
pub fn parse<'a>(text: &str, ours: impl Fn(&str) -> Option<&'a str>) -> Result<Vec<Setting>, String> {
    let mut settings: Vec<Setting> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        let line = without_comment(line).trim_end();
        if line.trim().is_empty() || line == "---" {
            continue;
        }
        let (key, value) = line
            .split_once(':')
            .map(|(key, value)| (key, value.trim()))
            .filter(|(key, value)| is_key(key) && !value.is_empty())
            .ok_or_else(|| format!("line {number}: expected `setting: value`"))?;
        let Some((_, shape)) = ALLOWED.iter().find(|(allowed, _)| *allowed == key) else {
            let why = "only memory, concurrency, throughput, longer time-outs and warnings may be set: any other setting \
                       could make a statement do or answer something else here than on the other replicas";
            return Err(format!("line {number}: {key} can't be set: {why}"));
        };
        check(*shape, value, ours(key)).map_err(|why| format!("line {number}: {key}: {value:?} {why}"))?;
        if settings.iter().any(|setting| setting.key == key) {
            return Err(format!("line {number}: {key} is set twice"));
        }
        settings.push(Setting::new(key, value));
    }
    Ok(settings)
}

/// A comment starts a line or follows a blank.
fn without_comment(line: &str) -> &str {
    let comment = line.char_indices().find(|(at, c)| *c == '#' && (*at == 0 || line[..*at].ends_with([' ', '\t'])));
    comment.map_or(line, |(at, _)| &line[..at])
}

fn is_key(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn check(shape: Shape, value: &str, ours: Option<&str>) -> Result<(), String> {
    let fits = |fits: bool, expected: &str| if fits { Ok(()) } else { Err(format!("is not {expected}")) };
    match shape {
        Shape::Count => fits(value.parse::<u32>().is_ok(), "a whole number"),
        Shape::Ratio => {
            fits(value.parse::<f32>().is_ok_and(|ratio| ratio > 0.0 && ratio < 1.0), "a number between 0 and 1")
        }
        Shape::Size => fits(has_unit(value, &["B", "KiB", "MiB", "GiB"]), "a size such as 64MiB"),
        Shape::Rate => fits(has_unit(value, &["B/s", "KiB/s", "MiB/s"]), "a rate such as 16MiB/s"),
        Shape::Time => fits(milliseconds(value).is_some(), "a time such as 500ms"),
        Shape::Switch => fits(matches!(value, "true" | "false"), "true or false"),
        Shape::AtLeastOurs => {
            let given = milliseconds(value).ok_or("is not a time such as 30s")?;
            match ours.and_then(milliseconds) {
                Some(least) if given < least => {
                    Err(format!("is below {}: a request would more often end with its outcome unknown", value_of(ours)))
                }
                _ => Ok(()),
            }
        }
    }
}

fn value_of(ours: Option<&str>) -> &str {
    ours.unwrap_or_default()
}

fn number_and_unit(value: &str) -> Option<(u64, &str)> {
    let digits = value.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = value.split_at(digits);
    Some((number.parse().ok()?, unit))
}

fn has_unit(value: &str, units: &[&str]) -> bool {
    number_and_unit(value).is_some_and(|(_, unit)| units.contains(&unit))
}

fn milliseconds(value: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(value)?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(key: &str) -> Option<&'static str> {
        (key == "read_request_timeout").then_some("20s")
    }

    #[test]
    fn what_is_not_on_the_list_is_refused_by_line_and_reason() {
        for key in [
            // What replay rests on.
            "counter_cache_size",
            "auto_snapshot",
            "data_file_directories",
            "commitlog_sync",
            // What decides whether a statement is refused.
            "batch_size_fail_threshold",
            "max_mutation_size",
            "commitlog_segment_size",
            "prepared_statements_cache_size",
            "native_transport_max_frame_size",
            "native_transport_max_message_size",
            "tombstone_failure_threshold",
            "tables_fail_threshold",
            "materialized_views_enabled",
            "user_defined_functions_enabled",
            "sai_options",
            "table_properties_ignored",
            "memtable",
            "row_cache_size",
            // What the replica's batches stay below: one that is warned of is executed twice.
            "batch_size_warn_threshold",
            "unlogged_batch_across_partitions_warn_threshold",
            // Unknown to anybody.
            "x",
        ] {
            let error = parse(&format!("# sizes\nconcurrent_reads: 4\n{key}: 1\n"), ours).unwrap_err();
            assert!(error.starts_with(&format!("line 3: {key} can't be set")) && error.contains("replicas"), "{error}");
        }
    }

    #[test]
    fn values_have_their_shape() {
        for (line, fits) in [
            ("concurrent_reads: 4", true),
            ("concurrent_reads: 4 # cores", true),
            ("concurrent_reads: -4", false),
            ("concurrent_reads: [4]", false),
            ("memtable_cleanup_threshold: 0.5", true),
            ("memtable_cleanup_threshold: NaN", false),
            ("memtable_heap_space: 64MiB", true),
            ("memtable_heap_space: 64", false),
            ("memtable_heap_space: 64 MiB", false),
            ("compaction_throughput: 16MiB/s", true),
            ("compaction_throughput: fast", false),
            ("trickle_fsync: true", true),
            ("trickle_fsync: yes", false),
            ("read_request_timeout: 20s", true),
            ("read_request_timeout: 1m", true),
            ("read_request_timeout: 19999ms", false),
            ("read_request_timeout: 20000", false),
            ("read_request_timeout: 99999999999999999999s", false),
            ("read_request_timeout:", false),
        ] {
            assert_eq!(parse(line, ours).is_ok(), fits, "{line}");
        }
        let error = parse("\nread_request_timeout: 5s", ours).unwrap_err();
        assert!(error.contains("line 2") && error.contains("below 20s"), "{error}");
    }

    #[test]
    fn no_line_can_hide_a_setting() {
        for bad in [
            "  concurrent_reads: 4",
            "no colon",
            "UPPER: 1",
            "{concurrent_reads: 4}",
            "'auto_snapshot': true",
            "\"auto_snapshot\": 1",
            "concurrent_reads: 4\n  auto_snapshot: true",
            "concurrent_reads: 4\n- auto_snapshot",
            "concurrent_reads: &a 4",
            "concurrent_reads: 4\nconcurrent_reads: 5",
            "concurrent_reads : 4",
            "... ",
        ] {
            assert!(parse(bad, ours).is_err(), "{bad}");
        }
        assert_eq!(parse("---\n\n# nothing\n", ours), Ok(Vec::new()));
    }

    #[test]
    fn the_list_names_each_setting_once() {
        let names: std::collections::BTreeSet<_> = ALLOWED.iter().map(|(key, _)| key).collect();
        assert_eq!(names.len(), ALLOWED.len());
    }
}
