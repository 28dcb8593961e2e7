//! Vectors that an index can't hold. Cassandra takes a vector of zeros, or one that holds no number, as a value, and then
//! fails to write it where it is indexed, each time, with an error that does not say so (WriteFailure): such a write is
//! refused here. (`OnHeapGraph.validateIndexable` in Cassandra 5.0: no component may be infinite or no number, and with the
//! similarity function COSINE, the default, not all may be zero.)

use replicateddb_cql::lex;
use replicateddb_cql::request::Values;
use replicateddb_cql::response::{Column, ColumnType, Row, cell};
use replicateddb_cql::statement::{Ident, Statement, ident};
use replicateddb_cql::wire::Value;

/// The answer to such a write.
pub const NOT_INDEXABLE: &str = "a vector of zeros (by cosine similarity), or one that holds NaN or Infinity, can't be \
                                 written where it is indexed";
/// How the type of a vector of floats is written in the protocol, before its dimension.
const PROTOCOL: &str = "org.apache.cassandra.db.marshal.VectorType(org.apache.cassandra.db.marshal.FloatType";
/// How it begins in Cassandra's schema.
const SCHEMA: &str = "vector<float, ";

/// Why an index can't hold a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// All its components are zero.
    Zero,
    /// A component is infinite, or no number.
    NoNumber,
}

/// A vector with a flaw in a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    flaw: Flaw,
    /// The column, where a marker tells.
    column: Option<String>,
    dimension: usize,
}

/// An index on a vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VectorIndex {
    column: String,
    dimension: usize,
    takes_zeros: bool,
}

impl VectorIndex {
    /// Whether it can't hold the vector, if that is for its column.
    pub fn refuses(&self, suspect: &Suspect) -> bool {
        suspect.dimension == self.dimension
            && suspect.column.as_ref().is_none_or(|column| *column == self.column)
            && (suspect.flaw == Flaw::NoNumber || !self.takes_zeros)
    }
}

fn flaw_of(components: impl Iterator<Item = f32>) -> (Option<Flaw>, usize) {
    let (mut all_zero, mut finite, mut dimension) = (true, true, 0);
    for component in components {
        dimension += 1;
        all_zero &= component == 0.0;
        finite &= component.is_finite();
    }
    let flaw = match (finite, all_zero && dimension > 0) {
        (false, _) => Some(Flaw::NoNumber),
        (true, true) => Some(Flaw::Zero),
        (true, false) => None,
    };
    (flaw, dimension)
}

/// The vectors with a flaw among a write's values; `bind` are its markers.
pub fn in_values(values: &Values, bind: &[Column]) -> Vec<Suspect> {
    let mut found = Vec::new();
    for (bound, column) in values.iter().zip(bind) {
        let Value::Bytes(bytes) = &bound.value else { continue };
        match &column.kind {
            ColumnType::Custom(class) if class.starts_with(PROTOCOL) => {
                let components = bytes.as_chunks().0.iter().map(|component| f32::from_be_bytes(*component));
                if let (Some(flaw), dimension) = flaw_of(components) {
                    found.push(Suspect { flaw, column: Some(column.name.clone()), dimension });
                }
            }
            // The document of an INSERT JSON.
            ColumnType::Text => found.extend(cell::as_text(bytes).into_iter().flat_map(in_text)),
            _ => {}
        }
    }
    found
}

/// Those among the literals of a text: flat lists of numbers in brackets, documents in it included.
pub fn in_text(text: &str) -> Vec<Suspect> {
    let parts = text.split('[').skip(1).filter_map(|rest| rest.split(']').next());
    let lists = parts.filter_map(|inside| {
        let components: Option<Vec<f32>> = inside.split(',').map(|part| part.trim().parse().ok()).collect();
        let (flaw, dimension) = flaw_of(components?.into_iter());
        Some(Suspect { flaw: flaw?, column: None, dimension })
    });
    lists.collect()
}

/// The query for the indexes of the table that a write names; none if it names none.
pub fn indexes_query(said: &Statement, keyspace: Option<&str>) -> Option<String> {
    query("options FROM system_schema.indexes", said, keyspace)
}

/// The query for the types of that table's columns.
pub fn columns_query(said: &Statement, keyspace: Option<&str>) -> Option<String> {
    query("column_name, type FROM system_schema.columns", said, keyspace)
}

fn query(what: &str, said: &Statement, keyspace: Option<&str>) -> Option<String> {
    let keyspace = said.keyspace.as_ref().map(Ident::as_str).or(keyspace)?.replace('\'', "''");
    let table = said.table.as_ref()?.as_str().replace('\'', "''");
    Some(format!("SELECT {what} WHERE keyspace_name = '{keyspace}' AND table_name = '{table}'"))
}

/// The indexes on vectors, from the answers to both queries.
pub fn vector_indexes(indexes: &[Row], columns: &[Row]) -> Vec<VectorIndex> {
    let text = |row: &Row, at: usize| row.get(at)?.as_deref().and_then(cell::as_text).map(str::to_owned);
    let dimension_of = |column: &str| {
        let row = columns.iter().find(|row| text(row, 0).as_deref() == Some(column))?;
        text(row, 1)?.strip_prefix(SCHEMA)?.strip_suffix('>')?.parse::<usize>().ok()
    };
    let on_vectors = indexes.iter().filter_map(|row| {
        let options: Vec<&str> =
            cell::as_elements(row.first()?.as_deref()?).into_iter().filter_map(cell::as_text).collect();
        let option = |name: &str| {
            options.as_chunks().0.iter().find(|[key, _]| key.eq_ignore_ascii_case(name)).map(|[_, value]| *value)
        };
        let target = option("target")?;
        let mut tokens = lex::tokens(target);
        let column = ident(target, tokens.next()?)?.as_str().to_owned();
        let takes_zeros =
            option("similarity_function").is_some_and(|function| !function.trim().eq_ignore_ascii_case("cosine"));
        Some(VectorIndex { dimension: dimension_of(&column)?, column, takes_zeros })
    });
    on_vectors.collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn floats(components: &[f32]) -> Value {
        Value::Bytes(components.iter().flat_map(|component| component.to_be_bytes()).collect())
    }

    #[test]
    fn vectors_with_a_flaw_are_found() {
        let column = Column {
            keyspace: "ks".into(),
            table: "t".into(),
            name: "v".into(),
            kind: ColumnType::Custom(format!("{PROTOCOL},2)")),
        };
        let json = Column { kind: ColumnType::Text, ..column.clone() };
        let in_v = |flaw| vec![Suspect { flaw, column: Some("v".into()), dimension: 2 }];
        let somewhere = |flaw, dimension| vec![Suspect { flaw, column: None, dimension }];
        let bound = "INSERT INTO t (v) VALUES (?)";
        for (text, values, bind, expected) in [
            (bound, vec![floats(&[0.0, -0.0])], &column, in_v(Flaw::Zero)),
            (bound, vec![floats(&[0.0, f32::NAN])], &column, in_v(Flaw::NoNumber)),
            (bound, vec![floats(&[0.0, 1e-9])], &column, vec![]),
            (bound, vec![Value::Null], &column, vec![]),
            ("INSERT INTO t (v) VALUES ([0, 0.0])", vec![], &column, somewhere(Flaw::Zero, 2)),
            ("INSERT INTO t (v) VALUES ([ 1, Infinity,0])", vec![], &column, somewhere(Flaw::NoNumber, 3)),
            ("INSERT INTO t (v) VALUES ([1, 0])", vec![], &column, vec![]),
            ("UPDATE t SET l[0] = 1, m = m + ['a'] WHERE k = 1", vec![], &column, somewhere(Flaw::Zero, 1)),
            (
                "INSERT INTO t JSON ?",
                vec![Value::Bytes(Bytes::from_static(b"{\"v\": [0, 0]}"))],
                &json,
                somewhere(Flaw::Zero, 2),
            ),
        ] {
            let mut found = in_values(&Values::positional(&values).expect("few"), std::slice::from_ref(bind));
            found.extend(in_text(text));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn what_an_index_takes_depends_on_its_similarity() {
        let map = |entries: &[(&str, &str)]| {
            let mut out = (entries.len() as i32).to_be_bytes().to_vec();
            for part in entries.iter().flat_map(|(key, value)| [key, value]) {
                out.extend((part.len() as i32).to_be_bytes());
                out.extend(part.as_bytes());
            }
            vec![Some(Bytes::from(out))]
        };
        let column = |name: &str, kind: &str| vec![Some(cell::text(name)), Some(cell::text(kind))];
        let columns = [column("v", "vector<float, 2>"), column("W", "vector<float, 3>"), column("x", "int")];
        let indexes = [
            map(&[("class_name", "sai"), ("target", "v")]),
            map(&[("similarity_function", "dot_product"), ("target", "\"W\"")]),
            map(&[("target", "x")]),
        ];
        let found = vector_indexes(&indexes, &columns);
        let index =
            |column: &str, dimension, takes_zeros| VectorIndex { column: column.into(), dimension, takes_zeros };
        assert_eq!(found, [index("v", 2, false), index("W", 3, true)]);
        let suspect =
            |flaw, column: Option<&str>, dimension| Suspect { flaw, column: column.map(Into::into), dimension };
        for (suspect, refused) in [
            (suspect(Flaw::Zero, None, 2), true),
            (suspect(Flaw::Zero, Some("v"), 2), true),
            (suspect(Flaw::Zero, Some("other"), 2), false),
            (suspect(Flaw::Zero, Some("W"), 3), false),
            (suspect(Flaw::NoNumber, Some("W"), 3), true),
            (suspect(Flaw::Zero, None, 1), false),
        ] {
            assert_eq!(found.iter().any(|index| index.refuses(&suspect)), refused, "{suspect:?}");
        }
    }
}
