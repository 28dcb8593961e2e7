//! libFuzzer on one target, which the environment names: built and run by `tests/fuzz/run`.

#![no_main]
#![allow(unsafe_code, reason = "the macro gives libFuzzer a function by its name")]
#![allow(missing_docs, reason = "what the macro makes")]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use replicateddb_fuzz::Target;

/// Names the target.
const TARGET: &str = "FUZZ_TARGET";

static CHOSEN: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var(TARGET).unwrap_or_default();
    Target::named(&name).unwrap_or_else(|| panic!("{TARGET} names no target: {name:?}"))
});

fuzz_target!(|input: &[u8]| CHOSEN.execute(input));
