//! A value of each type, written and read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    net::IpAddr,
    str::FromStr,
};

use anyhow::{Context, Result};
use scylla::{
    DeserializeValue, SerializeValue,
    client::session::Session,
    deserialize::value::DeserializeValue,
    serialize::value::SerializeValue,
    value::{CqlDate, CqlDecimal, CqlDuration, CqlTime, CqlTimestamp, CqlTimeuuid, CqlVarint},
};
use uuid::Uuid;

use super::expect;

/// The user-defined type of the check.
#[derive(Clone, Debug, PartialEq, SerializeValue, DeserializeValue)]
struct Address {
    street: String,
    number: i32,
    phones: BTreeSet<String>,
}

/// The types; each has a column, which has the name of its place.
const KINDS: [&str; 28] = [
    "ascii",
    "bigint",
    "blob",
    "boolean",
    "date",
    "decimal",
    "double",
    "duration",
    "float",
    "inet",
    "int",
    "smallint",
    "text",
    "time",
    "timestamp",
    "timeuuid",
    "tinyint",
    "uuid",
    "varint",
    "list<int>",
    "set<text>",
    "map<text, bigint>",
    "map<text, frozen<list<frozen<set<int>>>>>",
    "tuple<int, text, double>",
    "vector<float, 3>",
    "vector<text, 2>",
    "address",
    "list<frozen<address>>",
];

struct Types<'a> {
    session: &'a Session,
    done: usize,
}

pub async fn check(session: &Session) -> Result<String> {
    session.query_unpaged("CREATE TYPE address (street text, number int, phones frozen<set<text>>)", ()).await?;
    let columns: Vec<_> = KINDS.iter().enumerate().map(|(place, kind)| format!("c{place} {kind}")).collect();
    session.query_unpaged(format!("CREATE TABLE types (id int PRIMARY KEY, {})", columns.join(", ")), ()).await?;
    let names = |texts: [&str; 2]| texts.map(str::to_owned);
    let home = Address { street: "Elm".into(), number: 7, phones: names(["1", "2"]).into() };
    let ten_to_forty = CqlVarint::from_signed_bytes_be_slice(&[
        0x1d, 0x63, 0x29, 0xf1, 0xc3, 0x5c, 0xa4, 0xbf, 0xab, 0xb9, 0xf5, 0x61, 0, 0, 0, 0, 0,
    ]);
    let mut types = Types { session, done: 0 };
    types.same("plain".to_owned()).await?;
    types.same(i64::MIN).await?;
    types.same(vec![0u8, 255]).await?;
    types.same(true).await?;
    types.same(CqlDate((1 << 31) - 165)).await?;
    types.same(CqlDecimal::from_signed_be_bytes_slice_and_exponent(&[0x85, 1, 2], 7)).await?;
    types.same(1.5e-300).await?;
    types.same(CqlDuration { months: 14, days: 3, nanoseconds: 5_000_000_001 }).await?;
    types.same(0.25f32).await?;
    types.same(IpAddr::from_str("2001:db8::1")?).await?;
    types.same(i32::MIN).await?;
    types.same(i16::MIN).await?;
    types.same("Grüße, 世界 🌍".to_owned()).await?;
    types.same(CqlTime(86_399_999_999_999)).await?;
    types.same(CqlTimestamp(1_772_281_815_123)).await?;
    types.same(CqlTimeuuid::from_str("8e14e760-7fa8-11eb-bc66-000000000001")?).await?;
    types.same(i8::MIN).await?;
    types.same(Uuid::from_str("123e4567-e89b-42d3-a456-426614174000")?).await?;
    types.same(ten_to_forty).await?;
    types.same(vec![3, 1, 3]).await?;
    types.same(BTreeSet::from(names(["a", "b"]))).await?;
    types.same(BTreeMap::from([("x".to_owned(), 1i64), ("y".to_owned(), -1)])).await?;
    let nested = BTreeMap::from([("n".to_owned(), vec![BTreeSet::from([1, 2]), BTreeSet::from([3])])]);
    types.same(nested).await?;
    types.same((1, None::<String>, Some(0.5))).await?;
    types.same(vec![0.5f32, -1.0, 2.0]).await?;
    types.same(Vec::from(names(["one", "two"]))).await?;
    types.same(home.clone()).await?;
    types.same(vec![home.clone(), home]).await?;
    expect("types", KINDS.len(), types.done)?;
    Ok(format!("{} columns of all types written and read, and as nulls", types.done))
}

impl Types<'_> {
    /// Writes the value, and a null, to the column of the next type, and reads both.
    async fn same<T>(&mut self, value: T) -> Result<()>
    where
        T: SerializeValue + for<'frame> DeserializeValue<'frame, 'frame> + PartialEq + Debug,
    {
        let kind = KINDS.get(self.done).context("more values than types")?;
        self.write_and_read(value).await.with_context(|| (*kind).to_owned())?;
        self.done += 1;
        Ok(())
    }

    async fn write_and_read<T>(&self, value: T) -> Result<()>
    where
        T: SerializeValue + for<'frame> DeserializeValue<'frame, 'frame> + PartialEq + Debug,
    {
        let Self { session, done } = self;
        let insert = session.prepare(format!("INSERT INTO types (id, c{done}) VALUES (?, ?)")).await?;
        session.execute_unpaged(&insert, (1, &value)).await?;
        session.execute_unpaged(&insert, (2, None::<T>)).await?;
        let select = session.prepare(format!("SELECT c{done} FROM types WHERE id = ?")).await?;
        for (id, expected) in [(1, Some(value)), (2, None)] {
            let result = session.execute_unpaged(&select, (id,)).await?.into_rows_result()?;
            let (found,) = result.single_row::<(Option<T>,)>()?;
            expect("a value", expected, found)?;
        }
        Ok(())
    }
}
