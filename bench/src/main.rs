//! Compares three replicas with a cluster of three plain Cassandra nodes: the table of docs/benchmarks.md.

fn main() {
    println!("not yet");
}
