use super::*;
use std::net::IpAddr;

fn table() -> Rows {
    let column =
        |name: &str, kind| Column { keyspace: "system".into(), table: "peers_v2".into(), name: name.into(), kind };
    let columns = vec![
        column("peer", ColumnType::Inet),
        column("peer_port", ColumnType::Int),
        column("host_id", ColumnType::Uuid),
        column("rack", ColumnType::Text),
    ];
    let row = |last: u8| -> Row {
        vec![
            Some(cell::inet(IpAddr::from([127, 0, 0, last]))),
            Some(cell::int(7000)),
            Some(cell::uuid(Uuid::from_u128(u128::from(last)))),
            (last != 3).then(|| cell::text("r1")),
        ]
    };
    Rows { columns, paging_state: None, rows: vec![row(2), row(3)] }
}

fn ask(text: &str, values: &Values) -> Result<(Vec<String>, Vec<Row>), String> {
    let rows = Select::parse(text, Table::PeersV2)?.evaluate(table(), values)?;
    Ok((rows.columns.into_iter().map(|column| column.name).collect(), rows.rows))
}

fn plain(text: &str) -> (Vec<String>, Vec<Row>) {
    ask(text, &Values::none()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn what_drivers_send() {
    let all = plain("SELECT * FROM system.peers_v2");
    assert_eq!(all.0, ["peer", "peer_port", "host_id", "rack"]);
    assert_eq!(all.1.len(), 2);
    let listed = plain("SELECT host_id, peer FROM system.peers_v2;");
    assert_eq!(listed.0, ["host_id", "peer"]);
    assert_eq!(listed.1[1][1], Some(cell::inet([127, 0, 0, 3].into())));
    assert_eq!(plain("select rack as \"Place\" from peers_v2 limit 1").0, ["Place"]);
    assert_eq!(plain("select rack from \"system\".\"peers_v2\" limit 1").1.len(), 1);
}

#[test]
fn counts() {
    assert_eq!(plain("SELECT count(*) FROM system.peers_v2").1, [vec![Some(cell::bigint(2))]]);
    assert_eq!(plain("SELECT COUNT(1) AS n FROM system.peers_v2").0, ["n"]);
    assert_eq!(plain("SELECT count(*) FROM system.peers_v2 WHERE rack = 'x'").1, [vec![Some(cell::bigint(0))]]);
}

#[test]
fn conditions() {
    assert_eq!(plain("SELECT * FROM system.peers_v2 WHERE peer = '127.0.0.3' AND peer_port = 7000").1.len(), 1);
    assert_eq!(plain("SELECT * FROM system.peers_v2 WHERE peer IN ('127.0.0.3', '127.0.0.2')").1.len(), 2);
    assert_eq!(plain("SELECT * FROM system.peers_v2 WHERE rack = 'r1' ALLOW FILTERING").1.len(), 1);
    let text = "SELECT * FROM system.peers_v2 WHERE host_id = 00000000-0000-0000-0000-000000000002";
    assert_eq!(plain(text).1.len(), 1);
}

#[test]
fn bound_values_by_position_and_by_name() {
    let peer = Value::Bytes(cell::inet([127, 0, 0, 2].into()));
    let port = Value::Bytes(cell::int(7000));
    let text = "SELECT * FROM system.peers_v2 WHERE peer = :address AND peer_port = :port";
    let named = Values::by_name(&[("port", port.clone()), ("address", peer.clone())]).expect("short");
    assert_eq!(ask(text, &named).expect("rows").1.len(), 1);
    let positional = Values::positional(&[peer.clone(), port]).expect("short");
    assert_eq!(ask(text, &positional).expect("rows").1.len(), 1);
    let text = "SELECT * FROM system.peers_v2 WHERE peer = ?";
    assert!(ask(text, &Values::none()).is_err(), "a missing value");
    assert!(ask(text, &Values::positional(&[Value::Null]).expect("short")).is_err(), "null");
    assert_eq!(ask(text, &Values::positional(&[peer]).expect("short")).expect("rows").1.len(), 1);
}

#[test]
fn of_several_values_of_one_name_the_first_counts() {
    let port = |port| ("port", Value::Bytes(cell::int(port)));
    let values = Values::by_name(&[port(7000), port(1)]).expect("short");
    assert_eq!(ask("SELECT * FROM system.peers_v2 WHERE peer_port = :port", &values).expect("rows").1.len(), 2);
    assert!(ask("SELECT * FROM system.peers_v2 WHERE peer_port = :other", &values).is_err());
}

#[test]
fn i7_there_is_no_more_in_a_question_than_a_table_has() {
    let columns = |times: usize| format!("SELECT {}peer FROM system.peers_v2", "peer, ".repeat(times));
    let markers = |times: usize| format!("SELECT * FROM system.peers_v2 WHERE peer IN ({}?)", "?, ".repeat(times));
    for text in [columns(500), markers(500)] {
        assert!(Select::parse(&text, Table::PeersV2).is_ok());
    }
    for text in [columns(MAX_PARTS), markers(MAX_PARTS)] {
        assert!(Select::parse(&text, Table::PeersV2).is_err());
    }
}

#[test]
fn what_is_not_known_is_refused() {
    for text in [
        "SELECT JSON * FROM system.peers_v2",
        "SELECT DISTINCT peer FROM system.peers_v2",
        "SELECT token(peer) FROM system.peers_v2",
        "SELECT peer FROM system.peers_v2 WHERE peer > '127.0.0.1'",
        "SELECT peer, FROM system.peers_v2",
        "SELECT peer FROM system.peers_v2 GROUP BY peer",
        "SELECT nothing FROM system.peers_v2",
        "SELECT peer FROM system.peers_v2 WHERE nothing = 1",
        "SELECT peer FROM system.peers_v2 WHERE peer_port = 'x'",
        "SELECT peer FROM system.peers_v2 LIMIT 0",
        "SELECT peer FROM system.peers_v2 WHERE",
        "SELECT",
        "",
    ] {
        assert!(ask(text, &Values::none()).is_err(), "{text}");
    }
}
