//! Answers of HTTP servers, read with a bound: what another process sends must not fill this one's memory (I7).

use reqwest::Response;
use serde::de::DeserializeOwned;

/// Bytes of an answer that is read as a whole, at most: a list of the files of a restore point has some hundred for each.
pub const MAX_ANSWER: usize = 64 << 20;
/// Bytes of a text for people, at most; what is longer is cut off.
pub const MAX_TEXT: usize = 64 << 10;

/// Why an answer could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// The connection broke, or was too slow.
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    /// There is more of it than there may be.
    #[error("the answer has more than {limit} bytes")]
    TooLong {
        /// As many as there may be.
        limit: usize,
    },
    /// It is not what was asked for.
    #[error("the answer can't be understood: {0}")]
    Foreign(#[from] serde_json::Error),
}

/// The body of an answer of at most [`MAX_ANSWER`] bytes.
///
/// # Errors
/// See [`Unread`].
pub async fn body(response: Response) -> Result<Vec<u8>, Unread> {
    up_to(response, MAX_ANSWER).await
}

/// The same, read as JSON.
///
/// # Errors
/// See [`Unread`].
pub async fn json<T: DeserializeOwned>(response: Response) -> Result<T, Unread> {
    Ok(serde_json::from_slice(&body(response).await?)?)
}

/// What an answer says for people: as much of it as arrives, at most [`MAX_TEXT`] bytes.
pub async fn text(mut response: Response) -> String {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = MAX_TEXT - bytes.len();
        bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if bytes.len() == MAX_TEXT {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

async fn up_to(mut response: Response, limit: usize) -> Result<Vec<u8>, Unread> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if chunk.len() > limit - bytes.len() {
            return Err(Unread::TooLong { limit });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, routing::get};
    use futures::stream;

    use super::*;

    /// An answer without a length, in chunks of 10 000 bytes.
    async fn answer(chunks: usize) -> Response {
        let chunk = || Ok::<_, std::io::Error>(vec![b'7'; 10_000]);
        let many = move || async move { Body::from_stream(stream::iter((0..chunks).map(move |_| chunk()))) };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/", get(many))).await });
        reqwest::get(format!("http://{address}/")).await.unwrap()
    }

    #[tokio::test]
    async fn i7_an_answer_is_no_longer_than_it_may_be() {
        assert_eq!(up_to(answer(3).await, 30_000).await.unwrap().len(), 30_000);
        assert!(matches!(up_to(answer(3).await, 29_999).await, Err(Unread::TooLong { limit: 29_999 })));
        assert_eq!(text(answer(2).await).await.len(), 20_000);
        assert_eq!(text(answer(100).await).await.len(), MAX_TEXT);
        assert!(matches!(json::<Vec<u8>>(answer(1).await).await, Err(Unread::Foreign(_))));
    }
}
