//! The named bounds of the front end (I7).

use std::time::Duration;

/// Client connections accepted at once, unless configured otherwise. Further ones are told OVERLOADED and closed.
pub const DEFAULT_MAX_CLIENTS: usize = 2048;
/// Requests of one client being executed at once; while so many are, no more are read from its socket.
pub const MAX_IN_FLIGHT_PER_CLIENT: usize = 1024;
/// Bytes of request bodies being read or executed for all clients together; while so many are, nothing more is read.
pub const MAX_IN_FLIGHT_BYTES: usize = 48 * 1024 * 1024;
/// Bytes of answers between the local Cassandra and the clients' sockets, for all clients together ([`super::shares`]);
/// while so many are, no more are read. One larger than that passes alone.
pub const MAX_ANSWER_BYTES: usize = 48 * 1024 * 1024;
/// Largest body of a client's message, bytes (Cassandra's own limit is 16 MiB, too).
pub const MAX_BODY: usize = 16 * 1024 * 1024;
/// Largest body of a client's message before STARTUP is answered.
pub const MAX_HANDSHAKE_BODY: usize = 64 * 1024;
/// Time a client has to send a body whose header it has sent: until then it holds a share of the bound above.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest body of a backend's answer, bytes.
pub const MAX_ANSWER: usize = 256 * 1024 * 1024;
/// Bytes of buffers that an idle connection keeps.
pub const SOCKET_BUFFER_KEPT: usize = 64 * 1024;
/// Messages queued for one socket.
pub const SOCKET_QUEUE: usize = 128;
/// Time a new connection has until its TLS handshake is done, where there is one to do. [`HANDSHAKE_TIMEOUT`] begins after that: with
/// TLS, STARTUP is due 40 seconds after the connection is made, at the latest.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// One of so many processors computes steps of TLS handshakes ([`tls_handshakes`]).
pub const TLS_PROCESSORS_PER_HANDSHAKE: usize = 2;
/// Bytes that a connection under TLS holds encrypted until its socket takes them. With a record that is being read and what was in
/// the one before, TLS has about 50 KiB of memory for each client at most, and those are bounded.
pub const TLS_WRITE_BUFFER: usize = 16 * 1024;
/// Pause between two looks at the files of certificate and key.
pub const TLS_LOOK: Duration = Duration::from_secs(10);
/// Time that the files stay the same before what is new in them is taken: a chain that is cut between two certificates can be used,
/// and is not what is meant.
pub const TLS_SETTLE: Duration = Duration::from_millis(200);
/// Times that files which can't be used at start are read again, as long as they change.
pub const TLS_START_TRIES: usize = 3;
/// Pause before each of them.
pub const TLS_START_PAUSE: Duration = Duration::from_millis(500);
/// Pause between two lines of the log about clients that TLS did not let in; those in between are counted.
pub const TLS_LOG_PAUSE: Duration = Duration::from_secs(10);
/// Time a new connection has until STARTUP, from the end of its TLS handshake, where there is one.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// Passwords of roles that are hashed at once: each takes a twentieth of a second of a processor.
pub const HASHING: usize = 2;
/// Logins of clients that are with the local Cassandra at once: it checks a few at a time, the replica's own among them.
pub const LOGINS: usize = 4;
/// Time a new connection has from then on until it is logged in, where it has to be.
pub const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Time a socket's peer may take to accept what is written; a client that doesn't read is closed.
pub const SOCKET_WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// Time requests in flight have to finish when the server stops.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Time after which a listener that could not be opened is tried again.
pub const LISTEN_RETRY: Duration = Duration::from_millis(500);
/// Prepared statements remembered by the process.
pub const PREPARED_ENTRIES: usize = 20_000;
/// Bytes of prepared statements remembered by the process: their texts, and what is known of them.
pub const PREPARED_BYTES: usize = 16 * 1024 * 1024;
/// Tables whose columns are remembered.
pub const SCHEMA_TABLES: usize = 10_000;
/// Time the local Cassandra has to answer a question of the front end's own.
pub const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer's answer about its state is used again.
pub const PEER_CACHE: Duration = Duration::from_millis(20);
/// Time a peer has to answer about its state.
pub const PEER_TIMEOUT: Duration = Duration::from_secs(1);
/// Members of a refused batch of which Cassandra is asked whether they are well formed.
pub const SYNTAX_LOOKS: usize = 100;
/// Times that the permission for a schema statement is judged, if the schema changes each time before its turn comes.
pub const JUDGEMENTS: u32 = 10;
/// Time that the acknowledgement of a schema change waits for the other live replicas to apply it.
pub const SCHEMA_CHANGE_WAIT: Duration = Duration::from_secs(10);
/// Time between two looks at the other replicas while a schema change waits for them.
pub const SCHEMA_CHANGE_POLL: Duration = Duration::from_millis(25);

/// Steps of TLS handshakes that are computed at once: each takes a thousandth of a second of a processor, of large keys several. The
/// other processors are left to clients that are served. Where there is one alone, a step holds up all others for as long as it
/// takes.
pub fn tls_handshakes() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (processors / TLS_PROCESSORS_PER_HANDSHAKE).max(1)
}
