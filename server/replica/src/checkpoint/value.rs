//! A value of CQL as JSON, exactly: what [`decode`] makes of [`encode`]'s JSON is the same bytes. Pure.
//!
//! | type | JSON |
//! |---|---|
//! | `tinyint` to `bigint`, `counter`, `float`, `double`, `boolean` | number, `true`, `false`; `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | `text`, `ascii`, `uuid`, `timeuuid`, `inet`, `date`, `time`, `timestamp` | string, as Cassandra reads them (ISO 8601) |
//! | `varint`; `decimal` | string of digits; digits, `E`, and the exponent, so that its scale is kept: `"1050E-2"` |
//! | `blob` | string, `0x` and hex |
//! | `duration` | object with `months`, `days`, `nanoseconds` |
//! | `list`, `set`, `tuple`, `vector<float, n>` | array; `null` for an element that is none |
//! | `map` | object if its keys are strings here; otherwise array of pairs |
//! | user-defined type | object by fields; a field that the value is too short for is left out |
//!
//! Whatever these forms do not give back byte by byte (an empty `int`, a `NaN` with a payload, a number over 128 bits,
//! another class) is `{"$hex": "..."}`: its raw bytes.

use std::net::IpAddr;

use bytes::{BufMut, Bytes, BytesMut};
use replicateddb_cql::response::{ColumnType, cell};
use serde_json::{Map, Value as Json, json};
use uuid::Uuid;

use super::binary::{self, Cursor};

/// The key of a value that has no form of its own.
const HEX: &str = "$hex";
/// What a vector of floats is in the protocol.
const FLOAT_VECTOR: &str = "org.apache.cassandra.db.marshal.VectorType(org.apache.cassandra.db.marshal.FloatType";
/// A `date` counts days from here to 1970-01-01 and on.
const EPOCH_DAY: i64 = 1 << 31;

/// The JSON of a value.
pub fn encode(kind: &ColumnType, bytes: &[u8]) -> Json {
    let exact = |json: &Json| decode(kind, json).is_ok_and(|back| back == bytes);
    readable(kind, bytes).filter(exact).unwrap_or_else(|| json!({ HEX: binary::hex(bytes) }))
}

/// The value of a JSON.
///
/// # Errors
/// It is none of that type; for people.
pub fn decode(kind: &ColumnType, json: &Json) -> Result<Bytes, String> {
    if let Some(Json::String(hex)) = json.as_object().filter(|object| object.len() == 1).and_then(|one| one.get(HEX)) {
        return binary::unhex(hex).ok_or_else(|| format!("{hex:?} is no hex"));
    }
    scalar(kind, json).or_else(|| composed(kind, json)).ok_or_else(|| format!("{json} is no value of the type {kind}"))
}

fn optional(kind: &ColumnType, element: Option<&[u8]>) -> Json {
    element.map_or(Json::Null, |bytes| encode(kind, bytes))
}

fn readable(kind: &ColumnType, bytes: &[u8]) -> Option<Json> {
    use ColumnType as T;
    Some(match kind {
        T::Ascii | T::Text => cell::as_text(bytes)?.into(),
        T::Bigint | T::Counter => i64::from_be_bytes(bytes.try_into().ok()?).into(),
        T::Int => i32::from_be_bytes(bytes.try_into().ok()?).into(),
        T::Smallint => i16::from_be_bytes(bytes.try_into().ok()?).into(),
        T::Tinyint => i8::from_be_bytes(bytes.try_into().ok()?).into(),
        T::Boolean => cell::as_boolean(bytes)?.into(),
        T::Blob => format!("0x{}", binary::hex(bytes)).into(),
        T::Float => float(f32::from_be_bytes(bytes.try_into().ok()?).to_string()),
        T::Double => float(f64::from_be_bytes(bytes.try_into().ok()?).to_string()),
        T::Uuid | T::Timeuuid => cell::as_uuid(bytes)?.to_string().into(),
        T::Inet => address(bytes)?.to_string().into(),
        T::Varint => binary::number(bytes)?.to_string().into(),
        T::Decimal => {
            let (scale, unscaled) = bytes.split_first_chunk::<4>()?;
            let exponent = i64::from(i32::from_be_bytes(*scale)).checked_neg()?;
            format!("{}E{exponent}", binary::number(unscaled)?).into()
        }
        T::Timestamp => jiff::Timestamp::from_millisecond(cell::as_bigint(bytes)?).ok()?.to_string().into(),
        T::Date => {
            let day = i64::from(u32::from_be_bytes(bytes.try_into().ok()?)) - EPOCH_DAY;
            let span = jiff::Span::new().try_days(day).ok()?;
            jiff::civil::Date::constant(1970, 1, 1).checked_add(span).ok()?.to_string().into()
        }
        T::Time => {
            let nanos = jiff::Span::new().try_nanoseconds(cell::as_bigint(bytes)?).ok()?;
            jiff::civil::Time::midnight().checked_add(nanos).ok()?.to_string().into()
        }
        T::Duration => {
            let (months, rest) = binary::vint(bytes)?;
            let (days, rest) = binary::vint(rest)?;
            let (nanoseconds, _) = binary::vint(rest)?;
            json!({ "months": months, "days": days, "nanoseconds": nanoseconds })
        }
        T::List(element) | T::Set(element) => {
            let elements = Cursor(bytes).counted()?;
            Json::Array(elements.into_iter().map(|bytes| optional(element, bytes)).collect())
        }
        T::Map(key, value) => pairs(key, value, bytes)?,
        T::Tuple(kinds) => {
            let parts = Cursor(bytes).all_parts()?;
            Json::Array(kinds.iter().zip(parts).map(|(kind, part)| optional(kind, part)).collect())
        }
        T::Udt { fields, .. } => {
            let parts = Cursor(bytes).all_parts()?;
            fields.iter().zip(parts).map(|((name, kind), part)| (name.clone(), optional(kind, part))).collect()
        }
        T::Custom(class) if class.starts_with(FLOAT_VECTOR) => {
            let parts = bytes.chunks(4).map(|part| encode(&T::Float, part));
            Json::Array(parts.collect())
        }
        T::Custom(_) => return None,
    })
}

/// The number that a text says, in the shortest form that gives it back.
fn float(text: String) -> Json {
    let text = match text.as_str() {
        "inf" => "Infinity".to_owned(),
        "-inf" => "-Infinity".to_owned(),
        _ => text,
    };
    let number = text.parse::<f64>().ok().and_then(serde_json::Number::from_f64);
    number.map_or(Json::String(text), Json::Number)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn pairs(key: &ColumnType, value: &ColumnType, bytes: &[u8]) -> Option<Json> {
    let mut cursor = Cursor(bytes);
    let count = cursor.count()?;
    let mut pairs = Vec::new();
    for _ in 0..count {
        pairs.push((optional(key, cursor.part()?), optional(value, cursor.part()?)));
    }
    // An object has its members in the order of their names, which may be another than Cassandra's.
    let named: Option<Map<String, Json>> =
        pairs.iter().map(|(key, value)| Some((key.as_str()?.to_owned(), value.clone()))).collect();
    let kept = |object: &Map<String, Json>| object.keys().eq(pairs.iter().filter_map(|(key, _)| key.as_str()));
    Some(match named.filter(|object| kept(object) && !object.contains_key(HEX)) {
        Some(object) if !pairs.is_empty() => Json::Object(object),
        _ => pairs.into_iter().map(|(key, value)| Json::Array(vec![key, value])).collect(),
    })
}

fn scalar(kind: &ColumnType, json: &Json) -> Option<Bytes> {
    use ColumnType as T;
    let copy = |bytes: &[u8]| Some(Bytes::copy_from_slice(bytes));
    match kind {
        T::Ascii | T::Text => copy(json.as_str()?.as_bytes()),
        T::Bigint | T::Counter => copy(&json.as_i64()?.to_be_bytes()),
        T::Int => copy(&i32::try_from(json.as_i64()?).ok()?.to_be_bytes()),
        T::Smallint => copy(&i16::try_from(json.as_i64()?).ok()?.to_be_bytes()),
        T::Tinyint => copy(&i8::try_from(json.as_i64()?).ok()?.to_be_bytes()),
        T::Boolean => Some(cell::boolean(json.as_bool()?)),
        T::Blob => binary::unhex(json.as_str()?.strip_prefix("0x")?),
        T::Float => match json {
            Json::String(text) => copy(&text.parse::<f32>().ok()?.to_be_bytes()),
            number => copy(&(number.as_f64()? as f32).to_be_bytes()),
        },
        T::Double => match json {
            Json::String(text) => copy(&text.parse::<f64>().ok()?.to_be_bytes()),
            number => copy(&number.as_f64()?.to_be_bytes()),
        },
        T::Uuid | T::Timeuuid => Some(cell::uuid(Uuid::try_parse(json.as_str()?).ok()?)),
        T::Inet => Some(cell::inet(json.as_str()?.parse().ok()?)),
        T::Varint => copy(&binary::shortest(json.as_str()?.parse().ok()?)),
        T::Decimal => {
            let (unscaled, exponent) = json.as_str()?.split_once('E')?;
            let scale = i32::try_from(exponent.parse::<i64>().ok()?.checked_neg()?).ok()?;
            let mut bytes = scale.to_be_bytes().to_vec();
            bytes.extend(binary::shortest(unscaled.parse().ok()?));
            Some(bytes.into())
        }
        T::Timestamp => copy(&json.as_str()?.parse::<jiff::Timestamp>().ok()?.as_millisecond().to_be_bytes()),
        T::Date => {
            let date: jiff::civil::Date = json.as_str()?.parse().ok()?;
            let days = date.since(jiff::civil::Date::constant(1970, 1, 1)).ok()?.get_days();
            copy(&u32::try_from(i64::from(days) + EPOCH_DAY).ok()?.to_be_bytes())
        }
        T::Time => {
            let time: jiff::civil::Time = json.as_str()?.parse().ok()?;
            let passed = time.duration_since(jiff::civil::Time::midnight());
            copy(&i64::try_from(passed.as_nanos()).ok()?.to_be_bytes())
        }
        T::Duration => {
            let mut bytes = Vec::new();
            for part in ["months", "days", "nanoseconds"] {
                binary::put_vint(&mut bytes, json.get(part)?.as_i64()?);
            }
            Some(bytes.into())
        }
        _ => None,
    }
}

fn composed(kind: &ColumnType, json: &Json) -> Option<Bytes> {
    use ColumnType as T;
    let mut out = BytesMut::new();
    match (kind, json) {
        (T::List(element) | T::Set(element), Json::Array(elements)) => {
            out.put_i32(i32::try_from(elements.len()).ok()?);
            for json in elements {
                put(&mut out, element, json)?;
            }
        }
        (T::Map(key, value), Json::Array(pairs)) => {
            out.put_i32(i32::try_from(pairs.len()).ok()?);
            for pair in pairs {
                let [first, second] = pair.as_array()?.as_slice() else { return None };
                put(&mut out, key, first)?;
                put(&mut out, value, second)?;
            }
        }
        (T::Map(key, value), Json::Object(members)) => {
            out.put_i32(i32::try_from(members.len()).ok()?);
            for (name, member) in members {
                put(&mut out, key, &Json::String(name.clone()))?;
                put(&mut out, value, member)?;
            }
        }
        (T::Tuple(kinds), Json::Array(parts)) if parts.len() <= kinds.len() => {
            for (kind, part) in kinds.iter().zip(parts) {
                put(&mut out, kind, part)?;
            }
        }
        (T::Udt { fields, .. }, Json::Object(members)) => {
            for (name, kind) in fields.iter().take(members.len()) {
                put(&mut out, kind, members.get(name)?)?;
            }
        }
        (T::Custom(class), Json::Array(parts)) if class.starts_with(FLOAT_VECTOR) => {
            for part in parts {
                out.put_slice(&decode(&T::Float, part).ok()?);
            }
        }
        _ => return None,
    }
    Some(out.freeze())
}

/// A part with its length before it.
fn put(out: &mut BytesMut, kind: &ColumnType, json: &Json) -> Option<()> {
    if json.is_null() {
        out.put_i32(-1);
        return Some(());
    }
    let bytes = decode(kind, json).ok()?;
    out.put_i32(i32::try_from(bytes.len()).ok()?);
    out.put_slice(&bytes);
    Some(())
}

#[cfg(test)]
#[path = "value_tests.rs"]
mod tests;
