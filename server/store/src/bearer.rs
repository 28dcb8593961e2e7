//! The token that replicas, agents and their tools share, as an HTTP header.

use axum::http::{HeaderMap, header};

/// Whether a caller has shown the token. How long that takes says nothing about how much of it was right.
pub fn is_shown(headers: &HeaderMap, token: &str) -> bool {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    shown.is_some_and(|shown| same(shown, token.as_bytes()))
}

fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_compared_as_a_whole() {
        for (shown, expected) in [
            (Some("Bearer abc"), true),
            (Some("Bearer abd"), false),
            (Some("Bearer ab"), false),
            (Some("Bearer abcd"), false),
            (Some("Bearer "), false),
            (Some("Basic abc"), false),
            (Some("abc"), false),
            (None, false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(shown) = shown {
                headers.insert(header::AUTHORIZATION, shown.parse().expect("a header"));
            }
            assert_eq!(is_shown(&headers, "abc"), expected, "{shown:?}");
        }
    }
}
