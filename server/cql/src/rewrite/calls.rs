//! Replaces calls of non-deterministic functions by values.

use crate::error::ProtocolError;
use crate::request::Values;
use crate::statement::{Call, Function, Statement};
use crate::wire::Value;
use bytes::Bytes;
use uuid::Uuid;

/// The last microsecond of the year 9999: later times are taken for it, so that dates keep four digits of year.
const LAST_MICROSECOND: i64 = 253_402_300_799_999_999;
const MICROSECONDS_PER_DAY: i64 = 86_400_000_000;
/// 1582-10-15 to 1970-01-01 in units of 100 ns: where version 1 UUIDs count from.
const GREGORIAN_OFFSET: u64 = 0x01B2_1DD2_1381_4000;

/// Where values come from: the time at which a write is proposed, and randomness.
#[derive(Debug)]
pub struct NondeterministicValues<R> {
    micros: i64,
    random: R,
    timeuuids: u64,
}

/// A function's value, as CQL and as bytes.
struct Evaluated {
    literal: String,
    bytes: Bytes,
}

impl<R: FnMut() -> u128> NondeterministicValues<R> {
    /// Values at `micros` microseconds since 1970 (before 1970 and after 9999 the nearest of these), with 128 fresh
    /// random bits from each call of `random`.
    pub fn new(micros: i64, random: R) -> Self {
        Self { micros: micros.clamp(0, LAST_MICROSECOND), random, timeuuids: 0 }
    }

    fn evaluate(&mut self, function: Function) -> Evaluated {
        match function {
            Function::Timeuuid => uuid_value(self.timeuuid()),
            Function::Uuid => uuid_value(uuid::Builder::from_random_bytes((self.random)().to_be_bytes()).into_uuid()),
            Function::Timestamp => {
                let millis = self.micros / 1000;
                Evaluated { literal: millis.to_string(), bytes: Bytes::copy_from_slice(&millis.to_be_bytes()) }
            }
            Function::Date => {
                let days = self.micros / MICROSECONDS_PER_DAY;
                let (year, month, day) = civil(days);
                let code = (days + (1 << 31)) as u32;
                Evaluated {
                    literal: format!("'{year:04}-{month:02}-{day:02}'"),
                    bytes: Bytes::copy_from_slice(&code.to_be_bytes()),
                }
            }
            Function::Time => {
                let micros = self.micros % MICROSECONDS_PER_DAY;
                let seconds = micros / 1_000_000;
                let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
                Evaluated {
                    literal: format!("'{hour:02}:{minute:02}:{second:02}.{:06}000'", micros % 1_000_000),
                    bytes: Bytes::copy_from_slice(&(micros * 1000).to_be_bytes()),
                }
            }
        }
    }

    /// A version 1 UUID of this time. Node and clock sequence are random each time, so that calls never collide; up to
    /// ten calls also get ascending times.
    fn timeuuid(&mut self) -> Uuid {
        let ticks = GREGORIAN_OFFSET + self.micros as u64 * 10 + self.timeuuids % 10;
        self.timeuuids += 1;
        let random = (self.random)();
        let [.., a, b, c, d, e, f] = random.to_be_bytes();
        // The multicast bit marks a node that is no hardware address.
        let node = [a | 1, b, c, d, e, f];
        let clock_sequence = ((random >> 48) as u16) & 0x3FFF;
        let (high, low) = ((ticks >> 32) as u32, ticks as u32);
        let version_and_time = 0x1000 | (high >> 16) as u16;
        let mut rest = [0; 8];
        rest[..2].copy_from_slice(&(0x8000 | clock_sequence).to_be_bytes());
        rest[2..].copy_from_slice(&node);
        Uuid::from_fields(low, high as u16, version_and_time, &rest)
    }
}

fn uuid_value(uuid: Uuid) -> Evaluated {
    Evaluated { literal: uuid.to_string(), bytes: Bytes::copy_from_slice(uuid.as_bytes()) }
}

/// Year, month and day of a day since 1970-01-01 (proleptic Gregorian; days from 0 on).
fn civil(days: i64) -> (i64, i64, i64) {
    // Years counted from March, in eras of 400 years: leap days come last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

/// A write whose calls have been replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// The text.
    pub text: String,
    /// The values for all of its markers.
    pub values: Values,
}

/// The text with each call replaced by a literal of the call's type, as `(timeuuid)2f5f...`. `statement` is the
/// classification of this same text.
pub fn with_literals<R: FnMut() -> u128>(
    text: &str,
    statement: &Statement,
    source: &mut NondeterministicValues<R>,
) -> String {
    replace(text, &statement.calls, |call| {
        let literal = source.evaluate(call.function).literal;
        format!("({}){literal}", call.function.type_name())
    })
}

/// The text with each call replaced by a typed marker, as `(timeuuid)?`, and the values with the call's value in the
/// marker's place: the same text each time, so that it stays one prepared statement. Literals instead of markers are put
/// into collections, where Cassandra accepts no markers, and everywhere if markers or values are named or don't fit each
/// other (Cassandra will say so). A literal in place of a call that is stored in a `blob` is an error in Cassandra, a marker
/// is not.
///
/// # Errors
/// More than 65 535 markers.
pub fn with_markers<R: FnMut() -> u128>(
    text: &str,
    statement: &Statement,
    values: &Values,
    source: &mut NondeterministicValues<R>,
) -> Result<Rewritten, ProtocolError> {
    if statement.calls.is_empty() {
        return Ok(Rewritten { text: text.to_owned(), values: values.clone() });
    }
    if values.is_named() || statement.has_named_markers() || values.len() != statement.markers.len() {
        return Ok(Rewritten { text: with_literals(text, statement, source), values: values.clone() });
    }
    let mut all: Vec<Value> = Vec::with_capacity(values.len() + statement.calls.len());
    let mut given = values.iter().map(|bound| bound.value);
    let mut taken = 0;
    let text = replace(text, &statement.calls, |call| {
        let Evaluated { literal, bytes } = source.evaluate(call.function);
        let type_name = call.function.type_name();
        if call.in_collection {
            return format!("({type_name}){literal}");
        }
        all.extend(given.by_ref().take(call.markers_before.saturating_sub(taken)));
        taken = call.markers_before;
        all.push(Value::Bytes(bytes));
        format!("({type_name})?")
    });
    all.extend(given);
    Ok(Rewritten { text, values: Values::positional(&all)? })
}

fn replace(text: &str, calls: &[Call], mut by: impl FnMut(&Call) -> String) -> String {
    let mut out = String::with_capacity(text.len() + calls.len() * 48);
    let mut copied = 0;
    for call in calls {
        out.push_str(text.get(copied..call.span.start).unwrap_or_default());
        out.push_str(&by(call));
        copied = call.span.end;
        // What follows must not run together with a literal, as in `now()IF`.
        let follows = text.as_bytes().get(copied);
        if follows.is_some_and(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b',' | b')' | b']' | b'}' | b';'))
        {
            out.push(' ');
        }
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::civil;

    #[test]
    fn days_become_dates() {
        let days = [(0, (1970, 1, 1)), (59, (1970, 3, 1)), (11_016, (2000, 2, 29)), (20_779, (2026, 11, 22))];
        for (day, date) in days {
            assert_eq!(civil(day), date);
        }
        assert_eq!(civil(2_932_896), (9999, 12, 31));
    }
}
