//! The front end's own questions to the local Cassandra: columns of a table, the rows of the system's tables.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use replicateddb_cql::{
    Consistency, ProtocolError,
    frame::{Envelope, FrameError, Opcode},
    request::{self, Params, Values},
    response::{self, ErrorCode, ResultBody, Rows},
};
use tokio::{sync::Mutex, time::timeout};

use super::limits::CONTROL_TIMEOUT;
use crate::backend::{self, Endpoint};

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The local Cassandra can't be reached, or is another generation than the one served.
    #[error("the local Cassandra can't be asked: {0}")]
    Backend(#[from] backend::BackendError),
    /// The connection broke.
    #[error("the local Cassandra did not answer: {0}")]
    Frame(#[from] FrameError),
    /// The connection ended.
    #[error("the local Cassandra closed the connection")]
    Closed,
    /// No answer in time.
    #[error("the local Cassandra did not answer within {CONTROL_TIMEOUT:?}")]
    Timeout,
    /// The answer can't be read.
    #[error("the local Cassandra's answer can't be read: {0}")]
    Protocol(#[from] ProtocolError),
    /// The answer is an error, or is not rows.
    #[error("the local Cassandra answered: {0}")]
    Answer(String),
}

impl ControlError {
    /// The code for a client whose request could not go on without the answer. Nothing of it was done, so what another
    /// replica can do is told in the terms on which drivers ask another one.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Backend(_) | Self::Frame(_) | Self::Closed => ErrorCode::Bootstrapping,
            Self::Timeout => ErrorCode::Overloaded,
            Self::Protocol(_) | Self::Answer(_) => ErrorCode::Server,
        }
    }

    /// The body of the ERROR for that client.
    pub fn body(&self) -> Bytes {
        response::error_text(self.code(), &self.to_string())
    }
}

/// One connection to the served generation of the local Cassandra, opened when first needed. One question at a time.
#[derive(Debug)]
pub struct Control {
    at: Endpoint,
    generation: u64,
    connection: Mutex<Option<backend::Framed>>,
}

impl Control {
    /// For one generation of the backend at `address`.
    pub fn new(at: Endpoint, generation: u64) -> Self {
        Self { at, generation, connection: Mutex::new(None) }
    }

    /// Asks; the answer must be rows and fit one page.
    ///
    /// # Errors
    /// See [`ControlError`]; the connection is given up after any of them, the next question opens another.
    pub async fn query(&self, text: &str, values: Values) -> Result<Rows, ControlError> {
        let body = request::query(text, &Params::new(Consistency::One, values))?;
        let answer = self.answer(Opcode::Query, body).await?;
        let message = answer.message()?;
        match answer.opcode {
            Opcode::Result => match response::parse_result(&message)? {
                ResultBody::Rows(rows) => Ok(rows),
                other => Err(ControlError::Answer(format!("not rows, but {other:?}"))),
            },
            Opcode::Error => Err(ControlError::Answer(response::parse_error(&message)?.message)),
            other => Err(ControlError::Answer(format!("an unexpected {other:?}"))),
        }
    }

    /// The body of the ERROR that says where the text breaks the grammar, if it does. It is prepared, and not executed.
    ///
    /// # Errors
    /// See [`ControlError`], and [`Control::query`].
    pub async fn syntax_error(&self, text: &str) -> Result<Option<Bytes>, ControlError> {
        let answer = self.answer(Opcode::Prepare, request::prepare(text)?).await?;
        let message = answer.message()?;
        let is_syntax = || Ok(response::parse_error(&message)?.kind() == Some(ErrorCode::Syntax));
        let wrong = answer.opcode == Opcode::Error && is_syntax().map_err(ControlError::Protocol)?;
        Ok(wrong.then_some(message))
    }

    async fn answer(&self, opcode: Opcode, body: Bytes) -> Result<Envelope, ControlError> {
        let mut slot = timeout(CONTROL_TIMEOUT, self.connection.lock()).await.map_err(|_| ControlError::Timeout)?;
        // Taken while it is in use: a question that is given up half-way leaves no connection with a stray answer.
        let taken = slot.take();
        let asked = timeout(CONTROL_TIMEOUT, self.ask(taken, opcode, body)).await;
        let (connection, answer) = asked.map_err(|_| ControlError::Timeout)??;
        *slot = Some(connection);
        Ok(answer)
    }

    async fn ask(
        &self,
        connection: Option<backend::Framed>,
        opcode: Opcode,
        body: Bytes,
    ) -> Result<(backend::Framed, Envelope), ControlError> {
        let mut connection = match connection {
            Some(connection) => connection,
            None => backend::connect(&self.at, Some(self.generation)).await?,
        };
        connection.send(Envelope::request(0, opcode, body)).await?;
        let answer = connection.next().await.ok_or(ControlError::Closed)??;
        Ok((connection, answer))
    }
}
