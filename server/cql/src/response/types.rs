//! The types of columns.

use crate::error::{ProtocolError, TYPE_NESTING};
use crate::version::Version;
use crate::wire::{self, Reader};
use bytes::{BufMut, BytesMut};
use std::fmt;

/// How deep types may nest; deeper is refused so that no input exhausts the stack.
pub const MAX_TYPE_DEPTH: usize = 64;

/// The type of a column or of a bind marker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// A Java class, such as a vector's.
    Custom(String),
    /// `ascii`
    Ascii,
    /// `bigint`
    Bigint,
    /// `blob`
    Blob,
    /// `boolean`
    Boolean,
    /// `counter`
    Counter,
    /// `decimal`
    Decimal,
    /// `double`
    Double,
    /// `float`
    Float,
    /// `int`
    Int,
    /// `timestamp`
    Timestamp,
    /// `uuid`
    Uuid,
    /// `text`, also called `varchar`
    Text,
    /// `varint`
    Varint,
    /// `timeuuid`
    Timeuuid,
    /// `inet`
    Inet,
    /// `date`
    Date,
    /// `time`
    Time,
    /// `smallint`
    Smallint,
    /// `tinyint`
    Tinyint,
    /// `duration`
    Duration,
    /// `list<..>`
    List(Box<ColumnType>),
    /// `map<.., ..>`
    Map(Box<ColumnType>, Box<ColumnType>),
    /// `set<..>`
    Set(Box<ColumnType>),
    /// A user-defined type.
    Udt {
        /// Its keyspace.
        keyspace: String,
        /// Its name.
        name: String,
        /// Its fields in order.
        fields: Vec<(String, ColumnType)>,
    },
    /// `tuple<..>`
    Tuple(Vec<ColumnType>),
}

const SIMPLE: [(u16, ColumnType, &str); 20] = [
    (0x01, ColumnType::Ascii, "ascii"),
    (0x02, ColumnType::Bigint, "bigint"),
    (0x03, ColumnType::Blob, "blob"),
    (0x04, ColumnType::Boolean, "boolean"),
    (0x05, ColumnType::Counter, "counter"),
    (0x06, ColumnType::Decimal, "decimal"),
    (0x07, ColumnType::Double, "double"),
    (0x08, ColumnType::Float, "float"),
    (0x09, ColumnType::Int, "int"),
    (0x0B, ColumnType::Timestamp, "timestamp"),
    (0x0C, ColumnType::Uuid, "uuid"),
    (0x0D, ColumnType::Text, "text"),
    (0x0E, ColumnType::Varint, "varint"),
    (0x0F, ColumnType::Timeuuid, "timeuuid"),
    (0x10, ColumnType::Inet, "inet"),
    (0x11, ColumnType::Date, "date"),
    (0x12, ColumnType::Time, "time"),
    (0x13, ColumnType::Smallint, "smallint"),
    (0x14, ColumnType::Tinyint, "tinyint"),
    (0x15, ColumnType::Duration, "duration"),
];
/// Types that came after version 3, and their classes.
const LATER: [(Version, ColumnType, &str); 5] = [
    (Version::V4, ColumnType::Date, "SimpleDateType"),
    (Version::V4, ColumnType::Time, "TimeType"),
    (Version::V4, ColumnType::Smallint, "ShortType"),
    (Version::V4, ColumnType::Tinyint, "ByteType"),
    (Version::V5, ColumnType::Duration, "DurationType"),
];
/// What the names of Cassandra's classes of types begin with.
const MARSHAL: &str = "org.apache.cassandra.db.marshal.";

fn is_marshal(class: &str, name: &str) -> bool {
    class.strip_prefix(MARSHAL) == Some(name)
}

const CUSTOM: u16 = 0x00;
const LIST: u16 = 0x20;
const MAP: u16 = 0x21;
const SET: u16 = 0x22;
const UDT: u16 = 0x30;
const TUPLE: u16 = 0x31;

/// Whether CQL has a simple type of this name, in lower case.
pub(crate) fn is_simple_type(name: &str) -> bool {
    name == "varchar" || SIMPLE.iter().any(|(_, _, simple)| *simple == name)
}

/// Reads types, at most [`MAX_TYPE_DEPTH`] deep.
pub struct TypeReader;

impl TypeReader {
    /// Reads a type.
    ///
    /// # Errors
    /// Truncated, unknown or nested too deep.
    pub fn read(reader: &mut Reader) -> Result<ColumnType, ProtocolError> {
        read_type(reader, 0)
    }
}

fn read_type(reader: &mut Reader, depth: usize) -> Result<ColumnType, ProtocolError> {
    if depth > MAX_TYPE_DEPTH {
        return Err(ProtocolError::TooLarge { what: TYPE_NESTING, length: depth, limit: MAX_TYPE_DEPTH });
    }
    let code = reader.short("column type")?;
    if let Some((_, simple, _)) = SIMPLE.iter().find(|(known, ..)| *known == code) {
        return Ok(simple.clone());
    }
    let inner = |reader: &mut Reader| read_type(reader, depth + 1);
    Ok(match code {
        CUSTOM => ColumnType::Custom(reader.string("custom type")?),
        LIST => ColumnType::List(Box::new(inner(reader)?)),
        MAP => ColumnType::Map(Box::new(inner(reader)?), Box::new(inner(reader)?)),
        SET => ColumnType::Set(Box::new(inner(reader)?)),
        UDT => ColumnType::Udt {
            keyspace: reader.string("type's keyspace")?,
            name: reader.string("type's name")?,
            fields: (0..reader.short("type's fields")?)
                .map(|_| Ok((reader.string("field's name")?, inner(reader)?)))
                .collect::<Result<_, ProtocolError>>()?,
        },
        TUPLE => {
            ColumnType::Tuple((0..reader.short("tuple's types")?).map(|_| inner(reader)).collect::<Result<_, _>>()?)
        }
        code => return Err(ProtocolError::UnknownCode { what: "column type", code: i64::from(code) }),
    })
}

impl ColumnType {
    /// Writes the type.
    ///
    /// # Errors
    /// A user-defined type or tuple of more than 65 535 parts.
    pub fn write(&self, out: &mut BytesMut) -> Result<(), ProtocolError> {
        match self {
            Self::Custom(class) => {
                out.put_u16(CUSTOM);
                wire::put_string(out, class);
            }
            Self::List(element) => {
                out.put_u16(LIST);
                element.write(out)?;
            }
            Self::Map(key, value) => {
                out.put_u16(MAP);
                key.write(out)?;
                value.write(out)?;
            }
            Self::Set(element) => {
                out.put_u16(SET);
                element.write(out)?;
            }
            Self::Udt { keyspace, name, fields } => {
                out.put_u16(UDT);
                wire::put_string(out, keyspace);
                wire::put_string(out, name);
                out.put_u16(wire::short_length(fields.len(), "type's fields")?);
                for (name, field) in fields {
                    wire::put_string(out, name);
                    field.write(out)?;
                }
            }
            Self::Tuple(types) => {
                out.put_u16(TUPLE);
                out.put_u16(wire::short_length(types.len(), "tuple's types")?);
                for part in types {
                    part.write(out)?;
                }
            }
            simple => out.put_u16(simple.simple().map_or(CUSTOM, |(code, _)| code)),
        }
        Ok(())
    }

    /// The type, taken from any version, as this one says it: what it has no code for is named by its class, as Cassandra
    /// does.
    pub fn in_version(self, version: Version) -> Self {
        let inner = |part: Box<Self>| Box::new(part.in_version(version));
        match self {
            Self::List(element) => Self::List(inner(element)),
            Self::Set(element) => Self::Set(inner(element)),
            Self::Map(key, value) => Self::Map(inner(key), inner(value)),
            Self::Tuple(parts) => Self::Tuple(parts.into_iter().map(|part| part.in_version(version)).collect()),
            Self::Udt { keyspace, name, fields } => {
                let fields = fields.into_iter().map(|(name, field)| (name, field.in_version(version))).collect();
                Self::Udt { keyspace, name, fields }
            }
            Self::Custom(class) => {
                let later = LATER.iter().find(|(since, _, name)| version >= *since && is_marshal(&class, name));
                later.map_or(Self::Custom(class), |(_, kind, _)| kind.clone())
            }
            simple => match LATER.iter().find(|(since, kind, _)| version < *since && *kind == simple) {
                Some((_, _, name)) => Self::Custom(format!("{MARSHAL}{name}")),
                None => simple,
            },
        }
    }

    fn simple(&self) -> Option<(u16, &'static str)> {
        SIMPLE.iter().find(|(_, simple, _)| simple == self).map(|(code, _, name)| (*code, *name))
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Custom(class) => write!(formatter, "'{}'", class.replace('\'', "''")),
            Self::List(element) => write!(formatter, "list<{element}>"),
            Self::Map(key, value) => write!(formatter, "map<{key}, {value}>"),
            Self::Set(element) => write!(formatter, "set<{element}>"),
            Self::Udt { keyspace, name, .. } => write!(formatter, "{keyspace}.{name}"),
            Self::Tuple(types) => {
                formatter.write_str("tuple<")?;
                for (index, part) in types.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(formatter, "{comma}{part}")?;
                }
                formatter.write_str(">")
            }
            simple => formatter.write_str(simple.simple().map_or("unknown", |(_, name)| name)),
        }
    }
}
