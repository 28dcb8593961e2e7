//! What a statement needs permissions for, by the rules of Cassandra 5.0. Pure.

use replicateddb_cql::statement::{Action, Ident, Kind, Object, Statement};

use super::resource::Resource;

/// A permission on something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Its name, in upper case.
    pub permission: String,
    /// On what.
    pub resource: Resource,
}

impl Need {
    /// A permission on something.
    pub fn new(permission: &str, resource: Resource) -> Self {
        Self { permission: permission.to_owned(), resource }
    }
}

/// What the schema says of the objects that a statement names.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The materialized views of its table.
    pub views: Vec<String>,
    /// The table of the index or the materialized view that it names.
    pub table: Option<String>,
    /// The types of the arguments of the functions and aggregates that have the name that it names.
    pub overloads: Vec<Vec<String>>,
    /// How many have the names of those that an aggregate is made of.
    pub made_of: Vec<usize>,
}

/// The permissions for a statement that is no batch and not about roles, in a session that uses `keyspace`. What names no keyspace,
/// or something that is not there, needs none: Cassandra will say what is wrong.
pub fn needs(statement: &Statement, keyspace: Option<&str>, facts: &Facts) -> Vec<Need> {
    let Some(keyspace) = statement.keyspace.as_ref().map(Ident::as_str).or(keyspace).map(str::to_owned) else {
        return Vec::new();
    };
    let table = statement.table.as_ref().map(|table| Resource::Table(keyspace.clone(), table.to_string()));
    let one = |permission: &str, resource: Option<Resource>| {
        resource.map(|resource| Need::new(permission, resource)).into_iter().collect()
    };
    match statement.kind {
        Kind::Insert | Kind::Update | Kind::Delete => rows(statement, &keyspace, table, facts),
        Kind::Truncate => one("MODIFY", table),
        Kind::Ddl(action, object) => ddl(statement, action, object, &keyspace, facts),
        _ => Vec::new(),
    }
}

fn rows(statement: &Statement, keyspace: &str, table: Option<Resource>, facts: &Facts) -> Vec<Need> {
    let Some(table) = table else { return Vec::new() };
    let mut needs = vec![Need::new("MODIFY", table.clone())];
    // A condition tells what is there; a view's rows are made of the table's.
    if statement.conditional.is_some() || !facts.views.is_empty() {
        needs.push(Need::new("SELECT", table));
    }
    let view = |view: &String| Need::new("MODIFY", Resource::Table(keyspace.to_owned(), view.clone()));
    needs.extend(facts.views.iter().map(view));
    needs
}

fn ddl(statement: &Statement, action: Action, object: Object, keyspace: &str, facts: &Facts) -> Vec<Need> {
    let within = keyspace.to_owned();
    let table = |name: Option<String>| name.map(|name| Resource::Table(within.clone(), name));
    let (permission, resource) = match (object, action) {
        (Object::Keyspace, Action::Create) => ("CREATE", Some(Resource::AllKeyspaces)),
        (Object::Keyspace, Action::Alter) => ("ALTER", Some(Resource::Keyspace(within))),
        (Object::Keyspace, Action::Drop) => ("DROP", Some(Resource::Keyspace(within))),
        (Object::Table, Action::Create) => ("CREATE", Some(Resource::AllTables(within))),
        (Object::Table, Action::Alter) => ("ALTER", table(statement.table.as_ref().map(Ident::to_string))),
        (Object::Table, Action::Drop) => ("DROP", table(statement.table.as_ref().map(Ident::to_string))),
        (Object::Index | Object::MaterializedView | Object::Trigger, Action::Create) => {
            ("ALTER", table(statement.table.as_ref().map(Ident::to_string)))
        }
        (Object::Index | Object::MaterializedView | Object::Trigger, _) => ("ALTER", table(facts.table.clone())),
        (Object::Type, Action::Create) => ("CREATE", Some(Resource::AllTables(within))),
        (Object::Type, Action::Alter) => ("ALTER", Some(Resource::AllTables(within))),
        (Object::Type, Action::Drop) => ("DROP", Some(Resource::AllTables(within))),
        (Object::Function | Object::Aggregate, action) => return functions(statement, action, keyspace, facts),
    };
    resource.map(|resource| Need::new(permission, resource)).into_iter().collect()
}

/// Whether what a statement needs permissions for is one of the objects that are there, whose name may be another's by the time
/// that the statement has its place in the order. What is made anew needs one on what it is made in.
pub fn depends_on_schema(statement: &Statement) -> bool {
    match statement.kind {
        Kind::Ddl(Action::Create, Object::Keyspace | Object::Table | Object::Type) => false,
        Kind::Ddl(Action::Create, Object::Function | Object::Aggregate) => {
            statement.replaces || !statement.made_of.is_empty()
        }
        Kind::Ddl(..) => true,
        _ => false,
    }
}

fn functions(statement: &Statement, action: Action, keyspace: &str, facts: &Facts) -> Vec<Need> {
    let name = statement.object.as_ref().map(Ident::to_string).unwrap_or_default();
    let meant = statement.arguments.as_ref().or(facts.overloads.first()).cloned().unwrap_or_default();
    let these = |permission| {
        Need::new(
            permission,
            Resource::Functions(keyspace.to_owned(), name.clone(), facts.overloads.len(), meant.clone()),
        )
    };
    let create = || Need::new("CREATE", Resource::FunctionsIn(keyspace.to_owned()));
    let first = match action {
        Action::Drop => vec![these("DROP")],
        // The same types may be written in other ways, so that any of the name may be the one that is replaced.
        _ if statement.replaces && !facts.overloads.is_empty() => {
            let replaced = facts.overloads.contains(&meant);
            std::iter::once(these("ALTER")).chain((!replaced).then(create)).collect()
        }
        _ => vec![create()],
    };
    let parts = statement.made_of.iter().zip(&facts.made_of);
    let part = |((name, arguments), overloads): (&(Ident, Vec<String>), &usize)| {
        let part = Resource::Functions(keyspace.to_owned(), name.to_string(), *overloads, arguments.clone());
        Need::new("EXECUTE", part)
    };
    first.into_iter().chain(parts.map(part)).collect()
}

/// What the creator of an object is granted everything on, as CQL; of a function with the types of its arguments. Nothing for what
/// permissions are not granted on, and for other statements.
pub fn created(statement: &Statement, keyspace: Option<&str>) -> Vec<String> {
    let Kind::Ddl(Action::Create, object) = statement.kind else { return Vec::new() };
    let keyspace = statement.keyspace.as_ref().map(Ident::to_cql).or_else(|| Some(Ident::new(keyspace?).to_cql()));
    let name = statement.object.as_ref().map(Ident::to_cql);
    let (Some(keyspace), Some(name)) = (keyspace, name) else { return Vec::new() };
    match object {
        Object::Keyspace => vec![format!("KEYSPACE {keyspace}"), format!("ALL FUNCTIONS IN KEYSPACE {keyspace}")],
        Object::Table => vec![format!("TABLE {keyspace}.{name}")],
        Object::Function | Object::Aggregate => {
            let arguments = statement.arguments.as_deref().unwrap_or_default().join(", ");
            vec![format!("FUNCTION {keyspace}.{name}({arguments})")]
        }
        Object::Index | Object::Type | Object::MaterializedView | Object::Trigger => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use replicateddb_cql::statement::classify;

    fn needed(text: &str, facts: &Facts) -> Vec<String> {
        let needs = needs(&classify(text), Some("ks"), facts);
        needs.iter().map(|need| format!("{} on {}", need.permission, need.resource)).collect()
    }

    #[test]
    fn what_statements_need() {
        for (text, expected) in [
            ("INSERT INTO a.t (k) VALUES (1)", &["MODIFY on <table a.t>"][..]),
            ("DELETE FROM t WHERE k = 1 IF EXISTS", &["MODIFY on <table ks.t>", "SELECT on <table ks.t>"]),
            ("TRUNCATE t", &["MODIFY on <table ks.t>"]),
            ("CREATE KEYSPACE a WITH replication = {}", &["CREATE on <all keyspaces>"]),
            ("DROP KEYSPACE a", &["DROP on <keyspace a>"]),
            ("CREATE TABLE t (k int PRIMARY KEY)", &["CREATE on <all tables in ks>"]),
            ("ALTER TABLE a.t ADD v int", &["ALTER on <table a.t>"]),
            ("CREATE INDEX ON t (v)", &["ALTER on <table ks.t>"]),
            ("DROP INDEX i", &["ALTER on <table ks.of_index>"]),
            (
                "CREATE MATERIALIZED VIEW v AS SELECT * FROM t WHERE k IS NOT NULL PRIMARY KEY (k)",
                &["ALTER on <table ks.t>"],
            ),
            ("DROP MATERIALIZED VIEW v", &["ALTER on <table ks.of_index>"]),
            ("ALTER TYPE u ADD f int", &["ALTER on <all tables in ks>"]),
            (
                "CREATE FUNCTION f (a int) CALLED ON NULL INPUT RETURNS int LANGUAGE java AS 'x'",
                &["CREATE on <all functions in ks>"],
            ),
            (
                "CREATE OR REPLACE FUNCTION f (a int) CALLED ON NULL INPUT RETURNS int LANGUAGE java AS 'x'",
                &["ALTER on <function ks.f(int)>"],
            ),
            ("DROP AGGREGATE a.g", &["DROP on <function a.g(int)>"]),
            (
                "CREATE AGGREGATE g (int, text) SFUNC s STYPE map<int, int> FINALFUNC e INITCOND {}",
                &[
                    "CREATE on <all functions in ks>",
                    "EXECUTE on <function ks.s(map<int, int>, int, text)>",
                    "EXECUTE on <function ks.e(map<int, int>)>",
                ],
            ),
            ("SELECT * FROM t", &[]),
        ] {
            let facts = Facts {
                table: Some("of_index".into()),
                overloads: vec![vec!["int".into()]],
                made_of: vec![1, 1],
                ..Facts::default()
            };
            assert_eq!(needed(text, &facts), expected, "{text}");
        }
        let with_views = Facts { views: vec!["v".into()], ..Facts::default() };
        assert_eq!(
            needed("INSERT INTO t (k) VALUES (1)", &with_views),
            ["MODIFY on <table ks.t>", "SELECT on <table ks.t>", "MODIFY on <table ks.v>"]
        );
        assert_eq!(needed("DROP INDEX i", &Facts::default()), [""; 0]);
        assert_eq!(needs(&classify("INSERT INTO t (k) VALUES (1)"), None, &Facts::default()), []);
    }

    #[test]
    fn what_may_be_anothers_by_then() {
        let function = "FUNCTION f (a int) CALLED ON NULL INPUT RETURNS int LANGUAGE java AS 'x'";
        for (text, depends) in [
            (format!("CREATE OR REPLACE {function}"), true),
            (format!("CREATE {function}"), false),
            ("CREATE AGGREGATE g (int) SFUNC s STYPE int".to_owned(), true),
            ("CREATE TABLE t (k int PRIMARY KEY)".to_owned(), false),
            ("CREATE INDEX ON t (v)".to_owned(), true),
            ("DROP TABLE t".to_owned(), true),
            ("ALTER KEYSPACE a WITH durable_writes = false".to_owned(), true),
            ("INSERT INTO t (k) VALUES (1)".to_owned(), false),
            ("DROP ROLE a".to_owned(), false),
        ] {
            assert_eq!(depends_on_schema(&classify(&text)), depends, "{text}");
        }
    }

    #[test]
    fn what_a_creator_is_granted() {
        for (text, expected) in [
            ("CREATE KEYSPACE \"A\" WITH replication = {}", &["KEYSPACE \"A\"", "ALL FUNCTIONS IN KEYSPACE \"A\""][..]),
            ("CREATE TABLE IF NOT EXISTS t (k int PRIMARY KEY)", &["TABLE \"ks\".\"t\""]),
            (
                "CREATE OR REPLACE FUNCTION a.f (x int, y frozen<map<text, int>>) CALLED ON NULL INPUT RETURNS int \
                 LANGUAGE java AS 'x'",
                &["FUNCTION \"a\".\"f\"(int, frozen<map<text, int>>)"],
            ),
            ("CREATE AGGREGATE g (int) SFUNC s STYPE int", &["FUNCTION \"ks\".\"g\"(int)"]),
            (
                "CREATE FUNCTION f () CALLED ON NULL INPUT RETURNS int LANGUAGE java AS 'x'",
                &["FUNCTION \"ks\".\"f\"()"],
            ),
            ("CREATE INDEX i ON t (v)", &[]),
            ("ALTER TABLE t ADD v int", &[]),
        ] {
            assert_eq!(created(&classify(text), Some("ks")), expected, "{text}");
        }
    }
}
