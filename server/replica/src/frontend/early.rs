//! Reads at a linearizable level that are under way to Cassandra while their barrier is.

use std::sync::Arc;

use replicateddb_cql::{Consistency, frame::Envelope};
use tokio::sync::oneshot;

use super::{
    answer,
    core::Core,
    metrics::Ticket,
    relay::{Expect, Relay},
    service::Service,
    session::End,
    shares::Share,
    socket::Out,
};
use crate::reads::Early;

/// An answer that is not passed on yet, with its share of all clients' bound and the ticket of its request.
#[derive(Debug)]
pub struct Answered {
    /// From Cassandra.
    pub envelope: Envelope,
    /// Given back once it is written.
    pub share: Share,
    /// Of the request.
    pub ticket: Ticket,
}

/// Sees a read through that was relayed as [`Expect::Early`]: it is made again if there was something to wait for.
pub async fn read_early<C: Core>(
    service: Arc<Service<C>>,
    relay: Arc<Relay>,
    out: Out,
    envelope: Envelope,
    consistency: Consistency,
    early: Early,
    answered: oneshot::Receiver<Answered>,
) -> Result<(), End> {
    let (passed, answered) = tokio::join!(service.core.barrier(), answered);
    let Answered { envelope: answer, share, ticket } = answered.map_err(|_| End::Closed)?;
    let answer = match passed {
        Ok(barrier) if early.covers(barrier) => match service.placed(None, consistency).shown(answer) {
            Ok(answer) => answer,
            Err(later) => later.await,
        },
        Ok(_) => {
            drop(share);
            return Ok(relay.send(envelope, Expect::Placed(service.placed(None, consistency)), ticket).await?);
        }
        Err(error) => answer::error_body(envelope.stream, answer::read_error(&error, consistency)),
    };
    let sent = out.send_counted(answer, share).await.map_err(|_| End::Closed);
    drop(ticket);
    sent
}
