//! A Kubernetes quantity as a user may write it: `500m`, `1`, `10Gi`.

use std::{borrow::Cow, cmp::Ordering, fmt};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};

/// Longest text of a quantity.
pub const AMOUNT_LENGTH_MAX: usize = 24;

/// Digits with a unit; what the schema enforces.
const PATTERN: &str = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei)?$";

/// A quantity: CPU (`500m` is half a core) or bytes (`1Gi`). A bare number may be written without quotes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Amount(String);

/// Why a text is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no quantity; write a number with an optional unit, for example 500m, 2 or 10Gi")]
pub struct AmountError {
    /// The text as given, cut to a readable length.
    text: String,
}

impl Amount {
    /// For constants of this program.
    ///
    /// # Panics
    /// Never in a build whose tests pass: every call has a constant that the tests evaluate.
    pub(crate) fn fixed(text: &str) -> Self {
        parse_milli(text).map(|_| Self(text.to_owned())).expect("a constant of this program")
    }

    /// Thousandths of the unit (of a core, of a byte).
    pub fn milli(&self) -> Result<u128, AmountError> {
        parse_milli(&self.0)
    }

    /// As the API type.
    pub fn quantity(&self) -> Quantity {
        Quantity(self.0.clone())
    }

    /// Compares a quantity of the API with this one; `None` where one of them is not understood.
    pub fn compare(&self, other: &Quantity) -> Option<Ordering> {
        compare(&Quantity(self.0.clone()), other)
    }
}

/// Order of two quantities; `None` where one of them is not understood.
pub fn compare(left: &Quantity, right: &Quantity) -> Option<Ordering> {
    Some(parse_milli(&left.0).ok()?.cmp(&parse_milli(&right.0).ok()?))
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The value in thousandths. Understands every form that the API server prints for the amounts used here, the exponent
/// form excepted, which nobody writes for them.
fn parse_milli(text: &str) -> Result<u128, AmountError> {
    let error = || AmountError { text: text.chars().take(AMOUNT_LENGTH_MAX).collect() };
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u128 = match unit {
        "m" => 1,
        "" => 1_000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "P" => 1_000_000_000_000_000_000,
        "E" => 1_000_000_000_000_000_000_000,
        "Ki" => 1_000 << 10,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        "Ti" => 1_000 << 40,
        "Pi" => 1_000 << 50,
        "Ei" => 1_000 << 60,
        _ => return Err(error()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (fraction.is_empty() && number.contains('.')) || text.len() > AMOUNT_LENGTH_MAX {
        return Err(error());
    }
    let scale = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| error())?);
    let whole: u128 = whole.parse().map_err(|_| error())?;
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| error())? };
    let total = whole.checked_mul(scale).and_then(|w| w.checked_add(fraction)).and_then(|n| n.checked_mul(factor));
    Ok(total.ok_or_else(error)? / scale)
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        };
        parse_milli(&text).map_err(de::Error::custom)?;
        Ok(Self(text))
    }
}

impl JsonSchema for Amount {
    fn schema_name() -> Cow<'static, str> {
        "Amount".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": true,
            "maxLength": AMOUNT_LENGTH_MAX,
            "pattern": PATTERN,
        })
    }

    fn inline_schema() -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_as_kubernetes_reads_them() {
        for (text, milli) in [("1", 1_000), ("500m", 500), ("1.5", 1_500), ("1Ki", 1_024_000), ("2M", 2_000_000_000)] {
            assert_eq!(Amount::fixed(text).milli(), Ok(milli), "{text}");
        }
        let equal = |a: &str, b: &str| compare(&Quantity(a.into()), &Quantity(b.into())) == Some(Ordering::Equal);
        assert!(equal("1024Mi", "1Gi") && equal("0.5", "500m") && equal("1.5Gi", "1536Mi") && !equal("1G", "1Gi"));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "Gi", "1.", ".5", "-1", "1gi", "1 Gi", "1e3", "1.2.3", "99999999999999999999E"] {
            assert!(parse_milli(text).is_err(), "{text:?}");
        }
        assert!(serde_json::from_str::<Amount>("3").is_ok_and(|a| a == Amount::fixed("3")));
        assert!(serde_json::from_str::<Amount>("-3").is_err() && serde_json::from_str::<Amount>("true").is_err());
    }

    proptest! {
        /// No text makes it panic, however long or odd.
        #[test]
        fn total(text in "\\PC{0,60}") {
            let _ = parse_milli(&text);
        }
    }
}
