//! The calls that a case made, as it describes them.

use super::talk::Role::{self, Client, Server};
use crate::truth::{CUT, Row, Sums};

/// A call, or several that are alike.
#[derive(Clone, Debug)]
pub struct Call {
    method: String,
    /// gRPC's number for its code, at each end.
    client_code: i32,
    server_code: i32,
    /// The lengths of its messages.
    requests: Vec<u64>,
    responses: Vec<u64>,
    times: u64,
    /// Whether a `grpc-status` was sent.
    has_status: bool,
    /// The number of requests that the server read; without it, all.
    requests_read: Option<usize>,
    /// The number of responses that the client read; without it, all.
    responses_read: Option<usize>,
}

impl Call {
    /// A call without messages, whose server sent this code.
    pub fn new(method: impl Into<String>, code: i32) -> Self {
        Self {
            method: method.into(),
            client_code: code,
            server_code: code,
            requests: Vec::new(),
            responses: Vec::new(),
            times: 1,
            has_status: true,
            requests_read: None,
            responses_read: None,
        }
    }

    /// A call that ended with its connection: `Canceled` if the client closed it, else `Unavailable`.
    pub fn cut(by: Role, method: impl Into<String>) -> Self {
        Self::new(method, if by == Client { 1 } else { 14 }).without_status()
    }

    /// Sets that no `grpc-status` was sent, or not in time: the code follows from how the call ended.
    #[must_use]
    pub fn without_status(self) -> Self {
        Self { has_status: false, ..self }
    }

    /// Sets another code at the server's end.
    #[must_use]
    pub fn server_code(self, server_code: i32) -> Self {
        Self { server_code, ..self }
    }

    /// Sets one request message and one response message of these lengths.
    #[must_use]
    pub fn unary(self, request: u64, response: u64) -> Self {
        self.requests(&[request]).responses(&[response])
    }

    /// Sets the lengths of the request messages.
    #[must_use]
    pub fn requests(self, lengths: &[u64]) -> Self {
        Self { requests: lengths.to_vec(), ..self }
    }

    /// Sets the lengths of the response messages.
    #[must_use]
    pub fn responses(self, lengths: &[u64]) -> Self {
        Self { responses: lengths.to_vec(), ..self }
    }

    /// Sets the number of calls like this one.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self { times, ..self }
    }

    /// Sets the number of requests that the server read.
    #[must_use]
    pub fn requests_read(self, messages: usize) -> Self {
        Self { requests_read: Some(messages), ..self }
    }

    /// Sets the number of responses that the client read.
    #[must_use]
    pub fn responses_read(self, messages: usize) -> Self {
        Self { responses_read: Some(messages), ..self }
    }

    /// The call as it is on the wire, seen in both directions.
    pub(super) fn on_the_wire(&self, service: &str) -> Row {
        let row = self.row(service, Server);
        Row { code: if self.has_status { row.code } else { CUT }, ..row }
    }

    /// The call as one of its ends knows it, in a client's terms.
    pub(super) fn row(&self, service: &str, role: Role) -> Row {
        let sum = |lengths: &[u64], most: Option<usize>| {
            let lengths = lengths.iter().take(most.unwrap_or(usize::MAX));
            (lengths.len() as u64, lengths.sum::<u64>())
        };
        let (requests, responses) = match role {
            Client => (None, self.responses_read),
            Server => (self.requests_read, None),
        };
        let (sent, sent_bytes) = sum(&self.requests, requests);
        let (received, received_bytes) = sum(&self.responses, responses);
        // One end suffices to show that a method streams. A call that ends with OK and without one
        // message in each direction is not unary.
        let most = |lengths: &[u64]| match lengths {
            [] if self.client_code == 0 => 2,
            lengths => lengths.len() as u64,
        };
        let sums = Sums {
            calls: self.times,
            sent: self.times * sent,
            received: self.times * received,
            sent_bytes: self.times * sent_bytes,
            received_bytes: self.times * received_bytes,
            most_sent: most(&self.requests),
            most_received: most(&self.responses),
            any_sent: self.times * sent.min(1),
            any_received: self.times * received.min(1),
        };
        let code = if role == Client { self.client_code } else { self.server_code };
        Row::new(format!("/{service}/{}", self.method), code, sums)
    }
}
