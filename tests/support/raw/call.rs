//! What a case says of the calls that it made.

use super::talk::Role::{self, Client, Server};
use crate::truth::{CUT, Row, Sums};

/// A call, or several of a kind, as the case says that they were.
#[derive(Clone, Debug)]
pub struct Call {
    method: String,
    code: Codes,
    requests: Vec<u64>,
    responses: Vec<u64>,
    times: u64,
    /// A `grpc-status` was sent.
    has_status: bool,
    /// How many of the requests its server read; all, if it is not said.
    requests_read: Option<usize>,
    /// How many of the responses its client read, likewise.
    responses_read: Option<usize>,
}

/// A call's code at its two ends: gRPC's numbers.
#[derive(Clone, Copy, Debug)]
struct Codes {
    client: i32,
    server: i32,
}

impl Call {
    /// One that ended with this code, which its server sent, and had no messages.
    pub fn new(method: impl Into<String>, code: i32) -> Self {
        let code = Codes { client: code, server: code };
        Self {
            method: method.into(),
            code,
            requests: Vec::new(),
            responses: Vec::new(),
            times: 1,
            has_status: true,
            requests_read: None,
            responses_read: None,
        }
    }

    /// One that ended with the connection: `Canceled` if the client closed it, else `Unavailable`.
    pub fn cut(by: Role, method: impl Into<String>) -> Self {
        Self::new(method, if by == Client { 1 } else { 14 }).without_status()
    }

    /// Its code is what its end amounts to: no `grpc-status` was sent, or not in time.
    #[must_use]
    pub fn without_status(self) -> Self {
        Self { has_status: false, ..self }
    }

    /// Its server saw it end with another code.
    #[must_use]
    pub fn server_code(mut self, code: i32) -> Self {
        self.code.server = code;
        self
    }

    /// It had one request message and one response message of these lengths.
    #[must_use]
    pub fn unary(self, request: u64, response: u64) -> Self {
        self.requests(&[request]).responses(&[response])
    }

    /// The lengths of its request messages.
    #[must_use]
    pub fn requests(self, lengths: &[u64]) -> Self {
        Self { requests: lengths.to_vec(), ..self }
    }

    /// The lengths of its response messages.
    #[must_use]
    pub fn responses(self, lengths: &[u64]) -> Self {
        Self { responses: lengths.to_vec(), ..self }
    }

    /// There were so many like it.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self { times, ..self }
    }

    /// Its server read only so many of its requests.
    #[must_use]
    pub fn requests_read(self, messages: usize) -> Self {
        Self { requests_read: Some(messages), ..self }
    }

    /// Its client read only so many of its responses.
    #[must_use]
    pub fn responses_read(self, messages: usize) -> Self {
        Self { responses_read: Some(messages), ..self }
    }

    /// What is on the wire of it, to who sees both directions.
    pub(super) fn on_the_wire(&self, service: &str) -> Row {
        let row = self.row(service, Server);
        Row { code: if self.has_status { row.code } else { CUT }, ..row }
    }

    /// What one of its ends knows, as its client would tell it.
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
        // One end suffices to show that a method streams; and a call that ends well without one
        // message each way is no unary one.
        let most = |lengths: &[u64]| match lengths {
            [] if self.code.client == 0 => 2,
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
        let code = if role == Client { self.code.client } else { self.code.server };
        Row::new(format!("/{service}/{}", self.method), code, sums)
    }
}
