//! The process's own log, on standard error.

use tracing_subscriber::{EnvFilter, fmt};

use crate::args::LogFormat;

/// Starts logging: `info` and above unless `RUST_LOG` says otherwise.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,zookeeper_client=warn"));
    let log = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).init(),
    }
}
