use super::super::{Kind, classify};
use super::*;
use crate::rewrite::with_hashed_passwords;

fn of(text: &str) -> Option<RoleChange> {
    let said = classify(text);
    assert!(matches!(said.kind, Kind::Role | Kind::Other), "{text}");
    said.role.map(|role| *role)
}

fn role_of(text: &str) -> (Action, String, RoleOptions) {
    match of(text) {
        Some(RoleChange::Role { action, role, options }) => (action, role, options),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn roles_and_users() {
    for (text, action, name) in [
        ("CREATE ROLE Bob", Action::Create, "bob"),
        ("create role if not exists \"Bob\" with login = true", Action::Create, "Bob"),
        ("CREATE ROLE 'B''ob';", Action::Create, "B'ob"),
        ("ALTER ROLE $$b$$ WITH PASSWORD = 'x'", Action::Alter, "b"),
        ("DROP ROLE IF EXISTS bob", Action::Drop, "bob"),
        ("CREATE USER Bob WITH PASSWORD 'x' NOSUPERUSER", Action::Create, "Bob"),
        ("DROP USER Bob", Action::Drop, "Bob"),
    ] {
        let (found, role, _) = role_of(text);
        assert_eq!((found, role.as_str()), (action, name), "{text}");
    }
    let (_, _, options) = role_of(
        "CREATE ROLE r WITH OPTIONS = {'a': {'b': 1}} AND SUPERUSER = true AND LOGIN = false \
         AND ACCESS TO DATACENTERS {'a', 'b'} AND ACCESS FROM ALL CIDRS AND HASHED PASSWORD = 'h' AND PASSWORD = 'it''s'",
    );
    assert_eq!(options.superuser, Some(true));
    assert_eq!(options.others, ["OPTIONS", "SUPERUSER", "LOGIN", "ACCESS", "ACCESS"]);
    assert_eq!(
        (options.password.map(|password| password.clear), options.hash),
        (Some("it's".into()), Some("h".into()))
    );
}

#[test]
fn what_is_not_understood_is_nothing() {
    for text in [
        "CREATE ROLE",
        "CREATE ROLE r WITH",
        "CREATE ROLE r WITH PASSWORD 'x'",
        "CREATE ROLE r WITH PASSWORD = 'x' extra",
        "CREATE ROLE r WITH PASSWORD = ?",
        "CREATE ROLE r WITH PASSWORD = 'a' AND PASSWORD = 'b'",
        "CREATE USER \"Bob\"",
        "CREATE ROLE r WITH OPTIONS = {'a': 1",
        "GRANT SELECT ON TO bob",
        "GRANT a TO",
        "GRANT FLY ON t TO bob",
        "GRANT SELECT ON t FROM bob",
        "REVOKE a TO b",
    ] {
        assert_eq!(of(text), None, "{text}");
    }
}

#[test]
fn grants() {
    let member = |role: &str, grantee: &str| RoleChange::Membership { role: role.into(), grantee: grantee.into() };
    assert_eq!(of("GRANT a TO 'B'"), Some(member("a", "B")));
    assert_eq!(of("REVOKE \"A\" FROM b"), Some(member("A", "b")));
    let ident = |name: &str| Ident::new(name);
    for (text, permissions, resource) in [
        ("GRANT ALL ON ALL KEYSPACES TO b", &[][..], ResourceName::AllKeyspaces),
        ("GRANT ALL PERMISSIONS ON KEYSPACE K TO b", &[], ResourceName::Keyspace(ident("k"))),
        ("GRANT select ON t TO b", &["SELECT"], ResourceName::Table(None, ident("t"))),
        (
            "GRANT SELECT, MODIFY PERMISSION ON k.t TO b",
            &["SELECT", "MODIFY"],
            ResourceName::Table(Some(ident("k")), ident("t")),
        ),
        (
            "REVOKE DROP PERMISSION ON TABLE \"K\".t FROM b",
            &["DROP"],
            ResourceName::Table(Some(ident("K")), ident("t")),
        ),
        ("GRANT CREATE ON ALL TABLES IN KEYSPACE k TO b", &["CREATE"], ResourceName::AllTables(ident("k"))),
        ("GRANT AUTHORIZE ON ALL ROLES TO b", &["AUTHORIZE"], ResourceName::AllRoles),
        ("GRANT ALTER ON ROLE x TO b", &["ALTER"], ResourceName::Role("x".into())),
        ("GRANT EXECUTE ON ALL FUNCTIONS TO b", &["EXECUTE"], ResourceName::AllFunctions),
        ("GRANT EXECUTE ON ALL FUNCTIONS IN KEYSPACE k TO b", &["EXECUTE"], ResourceName::FunctionsIn(ident("k"))),
        (
            "GRANT EXECUTE ON FUNCTION k.f(int, frozen<list<text>>) TO b",
            &["EXECUTE"],
            ResourceName::Function(Some(ident("k")), ident("f"), vec!["int".into(), "frozen<list<text>>".into()]),
        ),
        ("GRANT SELECT ON ALL MBEANS TO b", &["SELECT"], ResourceName::AllMBeans),
        ("GRANT SELECT ON MBEAN 'x' TO b", &["SELECT"], ResourceName::MBeans),
    ] {
        let permissions = permissions.iter().map(|name| (*name).to_owned()).collect();
        let expected = RoleChange::Permissions { permissions, resource, grantee: "b".into() };
        assert_eq!(of(text), Some(expected), "{text}");
    }
    assert_eq!(of("ADD IDENTITY 'x' TO ROLE b"), Some(RoleChange::Identity));
    assert_eq!(of("DROP IDENTITY 'x'"), Some(RoleChange::Identity));
}

#[test]
fn clear_passwords_become_hashes() {
    for (text, expected) in [
        (
            "CREATE ROLE r WITH PASSWORD = 'it''s' AND LOGIN = true",
            "CREATE ROLE r WITH HASHED PASSWORD = '<it''s>' AND LOGIN = true",
        ),
        ("CREATE USER r WITH password $$x$$ SUPERUSER", "CREATE USER r WITH HASHED password '<x>' SUPERUSER"),
        ("ALTER ROLE r WITH HASHED PASSWORD = 'h'", "ALTER ROLE r WITH HASHED PASSWORD = 'h'"),
        ("DROP ROLE r", "DROP ROLE r"),
    ] {
        let hashed = with_hashed_passwords(text, &classify(text), |clear| Ok::<_, ()>(format!("<{clear}>")));
        assert_eq!(hashed.as_deref(), Ok(expected));
    }
    let text = "ALTER ROLE r WITH PASSWORD = 'a'";
    assert_eq!(with_hashed_passwords(text, &classify(text), |_| Err("no")), Err("no"));
}
