//! Statements about roles, users and permissions, by the grammar of Cassandra 5.0.

use super::cursor::Cursor;
use super::{Action, Ident};
use crate::lex::{Span, Token, TokenKind};

/// Every permission that there is.
const PERMISSIONS: [&str; 10] =
    ["CREATE", "ALTER", "DROP", "SELECT", "MODIFY", "AUTHORIZE", "DESCRIBE", "EXECUTE", "UNMASK", "SELECT_MASKED"];

/// What a statement does to roles or permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleChange {
    /// `CREATE`, `ALTER`, `DROP` of a `ROLE` or `USER`.
    Role {
        /// What happens to it.
        action: Action,
        /// Its name as stored.
        role: String,
        /// What it is given.
        options: RoleOptions,
    },
    /// `GRANT role TO grantee`, `REVOKE role FROM grantee`
    Membership {
        /// The role that is granted.
        role: String,
        /// The role that gets or loses it.
        grantee: String,
    },
    /// `GRANT permissions ON resource TO grantee`, `REVOKE permissions ON resource FROM grantee`
    Permissions {
        /// In upper case; none for `ALL`.
        permissions: Vec<String>,
        /// On what.
        resource: ResourceName,
        /// The role that gets or loses them.
        grantee: String,
    },
    /// `ADD IDENTITY`, `DROP IDENTITY`: who holds a certificate is a role.
    Identity,
}

impl RoleChange {
    /// The roles that it names.
    pub fn roles(&self) -> Vec<&str> {
        match self {
            Self::Role { role, .. } => vec![role],
            Self::Membership { role, grantee } => vec![role, grantee],
            Self::Permissions { resource: ResourceName::Role(role), grantee, .. } => vec![role, grantee],
            Self::Permissions { grantee, .. } => vec![grantee],
            Self::Identity => Vec::new(),
        }
    }
}

/// What `CREATE` and `ALTER` give a role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoleOptions {
    /// `SUPERUSER`
    pub superuser: Option<bool>,
    /// A clear password.
    pub password: Option<Password>,
    /// A hashed password.
    pub hash: Option<String>,
    /// Something that a role may not change about itself: all but a password.
    pub others: Vec<&'static str>,
}

/// A password in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Password {
    /// Where `PASSWORD` begins.
    pub keyword: usize,
    /// The string.
    pub literal: Span,
    /// What it says.
    pub clear: String,
}

/// On what permissions are granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResourceName {
    /// `ALL KEYSPACES`
    AllKeyspaces,
    /// `KEYSPACE k`
    Keyspace(Ident),
    /// `ALL TABLES IN KEYSPACE k`
    AllTables(Ident),
    /// `TABLE [k.]t`, `[k.]t`
    Table(Option<Ident>, Ident),
    /// `ALL ROLES`
    AllRoles,
    /// `ROLE r`
    Role(String),
    /// `ALL FUNCTIONS`
    AllFunctions,
    /// `ALL FUNCTIONS IN KEYSPACE k`
    FunctionsIn(Ident),
    /// `FUNCTION [k.]f(..)`
    Function(Option<Ident>, Ident, Vec<String>),
    /// `ALL MBEANS`
    AllMBeans,
    /// `MBEANS '..'`, `MBEAN '..'`
    MBeans,
}

/// `CREATE`, `ALTER` or `DROP` of a role, read up to `ROLE` or `USER`; the keyword tells which (`is_user`). None: it is not
/// understood.
pub(super) fn role(action: Action, is_user: bool, mut cursor: Cursor<'_>) -> Option<RoleChange> {
    let _exists = cursor.eat_words(&["IF", "NOT", "EXISTS"]) || cursor.eat_words(&["IF", "EXISTS"]);
    let role = name(&mut cursor, is_user)?;
    let mut options = RoleOptions::default();
    let with = cursor.eat_word("WITH");
    if is_user {
        if with {
            password(&mut options, &mut cursor, false)?;
        }
        for (word, superuser) in [("SUPERUSER", true), ("NOSUPERUSER", false)] {
            if cursor.eat_word(word) {
                options.superuser = Some(superuser);
                options.others.push("SUPERUSER");
            }
        }
    } else if with {
        loop {
            option(&mut options, &mut cursor)?;
            if !cursor.eat_word("AND") {
                break;
            }
        }
    }
    cursor.tokens.is_empty().then_some(RoleChange::Role { action, role, options })
}

/// `GRANT` or `REVOKE`, from that word on. None: it is not understood.
pub(super) fn grant(mut cursor: Cursor<'_>) -> Option<RoleChange> {
    let preposition = if cursor.eat_word("GRANT") { "TO" } else { "FROM" };
    if preposition == "FROM" && !cursor.eat_word("REVOKE") {
        return None;
    }
    let Some(on) = cursor.find_word("ON") else {
        let role = name(&mut cursor, false)?;
        cursor.eat_word(preposition).then_some(())?;
        let grantee = name(&mut cursor, false)?;
        return cursor.tokens.is_empty().then_some(RoleChange::Membership { role, grantee });
    };
    let permissions = permissions(cursor.part(0, on))?;
    let mut cursor = cursor.part(on + 1, cursor.tokens.len());
    let resource = resource(&mut cursor)?;
    cursor.eat_word(preposition).then_some(())?;
    let grantee = name(&mut cursor, false)?;
    cursor.tokens.is_empty().then_some(RoleChange::Permissions { permissions, resource, grantee })
}

fn permissions(mut cursor: Cursor<'_>) -> Option<Vec<String>> {
    if cursor.eat_word("ALL") {
        cursor.eat_word("PERMISSIONS");
        return cursor.tokens.is_empty().then(Vec::new);
    }
    let one = |mut part: Cursor<'_>| {
        let word = part.first_word()?;
        part.next();
        part.eat_word("PERMISSION");
        (part.tokens.is_empty() && PERMISSIONS.contains(&word.as_str())).then_some(word)
    };
    let all: Option<Vec<String>> = cursor.split_commas().into_iter().map(one).collect();
    all.filter(|all| !all.is_empty())
}

fn resource(cursor: &mut Cursor<'_>) -> Option<ResourceName> {
    use ResourceName as Name;
    for (words, resource) in [
        (&["ALL", "KEYSPACES"][..], Name::AllKeyspaces),
        (&["ALL", "ROLES"], Name::AllRoles),
        (&["ALL", "MBEANS"], Name::AllMBeans),
    ] {
        if cursor.eat_words(words) {
            return Some(resource);
        }
    }
    if cursor.eat_words(&["ALL", "TABLES", "IN", "KEYSPACE"]) {
        return cursor.ident().map(Name::AllTables);
    }
    if cursor.eat_words(&["ALL", "FUNCTIONS"]) {
        return match cursor.eat_words(&["IN", "KEYSPACE"]) {
            true => cursor.ident().map(Name::FunctionsIn),
            false => Some(Name::AllFunctions),
        };
    }
    if cursor.eat_word("KEYSPACE") {
        return cursor.ident().map(Name::Keyspace);
    }
    if cursor.eat_word("ROLE") {
        return name(cursor, false).map(Name::Role);
    }
    if cursor.eat_word("FUNCTION") {
        let (keyspace, function) = cursor.qualified();
        let arguments =
            super::ddl::parenthesized(*cursor).map(|arguments| super::ddl::types(arguments, 0)).unwrap_or_default();
        while cursor
            .tokens
            .first()
            .is_some_and(|token| !token.is_word(cursor.text, "TO") && !token.is_word(cursor.text, "FROM"))
        {
            cursor.next();
        }
        return function.map(|function| Name::Function(keyspace, function, arguments));
    }
    if cursor.eat_word("MBEAN") || cursor.eat_word("MBEANS") {
        return cursor.next().map(|_| Name::MBeans);
    }
    let _table = cursor.eat_word("TABLE") || cursor.eat_word("COLUMNFAMILY");
    let (keyspace, table) = cursor.qualified();
    table.map(|table| Name::Table(keyspace, table))
}

/// A role's name: in quotes of either kind as it is, else in lower case, but for users'.
fn name(cursor: &mut Cursor<'_>, is_user: bool) -> Option<String> {
    let token = *cursor.tokens.first()?;
    let name = match token.kind {
        TokenKind::String => string(cursor.text, token)?,
        TokenKind::Word if is_user => token.text(cursor.text).to_owned(),
        TokenKind::QuotedName if is_user => return None,
        _ => super::cursor::ident(cursor.text, token)?.as_str().to_owned(),
    };
    cursor.next();
    Some(name)
}

fn option(options: &mut RoleOptions, cursor: &mut Cursor<'_>) -> Option<()> {
    if cursor.eat_word("SUPERUSER") {
        options.superuser = Some(boolean(cursor)?);
        options.others.push("SUPERUSER");
    } else if cursor.eat_word("LOGIN") {
        boolean(cursor)?;
        options.others.push("LOGIN");
    } else if cursor.eat_word("OPTIONS") {
        cursor.eat_symbol(b'=').then_some(())?;
        braces(cursor)?;
        options.others.push("OPTIONS");
    } else if cursor.eat_word("ACCESS") {
        let _to = cursor.eat_words(&["TO", "ALL"]) || cursor.eat_words(&["FROM", "ALL"]);
        let _some = cursor.eat_word("TO") || cursor.eat_word("FROM");
        (cursor.eat_word("DATACENTERS") || cursor.eat_word("CIDRS")).then_some(())?;
        if cursor.tokens.first().is_some_and(|token| token.is_symbol(b'{')) {
            braces(cursor)?;
        }
        options.others.push("ACCESS");
    } else {
        password(options, cursor, true)?;
    }
    Some(())
}

fn password(options: &mut RoleOptions, cursor: &mut Cursor<'_>, equals: bool) -> Option<()> {
    let hashed = cursor.eat_word("HASHED");
    let keyword = cursor.tokens.first()?.span().start;
    cursor.eat_word("PASSWORD").then_some(())?;
    (!equals || cursor.eat_symbol(b'=')).then_some(())?;
    let literal = cursor.next().filter(|token| token.kind == TokenKind::String)?;
    let said = string(cursor.text, literal)?;
    match hashed {
        true if options.hash.is_none() => options.hash = Some(said),
        false if options.password.is_none() => {
            options.password = Some(Password { keyword, literal: literal.span(), clear: said });
        }
        // Cassandra says that it is there twice.
        _ => return None,
    }
    Some(())
}

fn boolean(cursor: &mut Cursor<'_>) -> Option<bool> {
    cursor.eat_symbol(b'=').then_some(())?;
    match cursor.eat_word("TRUE") {
        true => Some(true),
        false => cursor.eat_word("FALSE").then_some(false),
    }
}

/// From an opening brace to the one that closes it.
fn braces(cursor: &mut Cursor<'_>) -> Option<()> {
    let mut depth = 0_usize;
    loop {
        let token = cursor.next()?;
        match token.kind {
            TokenKind::Symbol(b'{') => depth += 1,
            TokenKind::Symbol(b'}') => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return token.is_symbol(b'}').then_some(());
        }
    }
}

/// What a string says.
fn string(text: &str, token: Token) -> Option<String> {
    let source = token.text(text);
    if let Some(inner) = source.strip_prefix("$$").and_then(|source| source.strip_suffix("$$")) {
        return Some(inner.to_owned());
    }
    let inner = source.strip_prefix('\'').and_then(|source| source.strip_suffix('\''))?;
    Some(inner.replace("''", "'"))
}

#[cfg(test)]
#[path = "role_tests.rs"]
mod tests;
