//! How many files this process may have open: each client is one, and the session's connection to Cassandra another.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Open files for a client: its socket, and its session's to the local Cassandra.
const FOR_A_CLIENT: u64 = 2;
/// Open files besides: the log, the other replicas, the agent, the applier's connections, files of checkpoints.
const FOR_THE_REST: u64 = 256;

/// Raises the limit to what the process may have: many systems begin with 1 024 where they allow a multiple. Says so in the log if
/// that is too few for so many clients: those beyond it could not be accepted.
pub fn raise(max_clients: usize) {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(hard)
    });
    match limit {
        Ok(limit) => {
            if let Some(clients) = too_few(limit, max_clients) {
                tracing::warn!(
                    limit,
                    max_clients,
                    "the limit of open files lets {clients} clients in: raise it (ulimit -Hn, LimitNOFILE of systemd, the \
                     container runtime's), or set --max-clients to that"
                );
            }
        }
        Err(error) => tracing::warn!(%error, "the limit of open files is not known, or can't be raised"),
    }
}

/// How many clients there can be with so many open files, if that is fewer than there may be.
fn too_few(limit: u64, max_clients: usize) -> Option<u64> {
    let clients = limit.saturating_sub(FOR_THE_REST) / FOR_A_CLIENT;
    let enough = u64::try_from(max_clients).is_ok_and(|wanted| wanted <= clients);
    (!enough).then_some(clients)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_too_low_where_clients_would_be_kept_out() {
        for (limit, max_clients, clients) in [
            (1_024, 2_048, Some(384)),
            (1_024, 384, None),
            (4_352, 2_048, None),
            (4_351, 2_048, Some(2_047)),
            (0, 1, Some(0)),
        ] {
            assert_eq!(too_few(limit, max_clients), clients, "{limit} files, {max_clients} clients");
        }
    }

    #[test]
    fn the_limit_is_what_the_process_may_have() {
        raise(1);
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(soft, hard);
    }
}
