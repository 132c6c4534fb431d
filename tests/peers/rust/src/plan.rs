//! The plan of a client: stages, each with steps.

use std::time::Duration;

use serde::Deserialize;
use tonic::codegen::http::uri::PathAndQuery;

use crate::pb::Request;

/// The four methods of the service.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
pub(crate) enum Rpc {
    Unary,
    ServerStream,
    ClientStream,
    Bidi,
}

/// A step; `tests/peers/python/client.py` has the same fields and defaults.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "the names are those of the plans")]
pub(crate) struct Step {
    pub(crate) rpc: Rpc,
    pub(crate) count: usize,
    pub(crate) concurrency: usize,
    pub(crate) connections: usize,
    payload: usize,
    pub(crate) requests: u32,
    response_size: u32,
    pub(crate) responses: u32,
    code: u32,
    detail: String,
    raises: bool,
    sleep_ms: u32,
    sleep_between_ms: u32,
    pub(crate) lockstep: bool,
    deadline_ms: Option<u64>,
    cancel_after_ms: Option<u64>,
    /// Cancels each call at another time within this many milliseconds.
    cancel_within_ms: Option<u64>,
    pub(crate) cancel_after_messages: Option<u64>,
    pub(crate) holds: bool,
    pub(crate) gzip: bool,
    unknown_method: bool,
}

impl Default for Step {
    fn default() -> Self {
        Self {
            rpc: Rpc::Unary,
            count: 1,
            concurrency: 1,
            connections: 1,
            payload: 0,
            requests: 1,
            response_size: 0,
            responses: 1,
            code: 0,
            detail: String::new(),
            raises: false,
            sleep_ms: 0,
            sleep_between_ms: 0,
            lockstep: false,
            deadline_ms: None,
            cancel_after_ms: None,
            cancel_within_ms: None,
            cancel_after_messages: None,
            holds: false,
            gzip: false,
            unknown_method: false,
        }
    }
}

impl Step {
    pub(crate) fn request(&self) -> Request {
        Request {
            payload: vec![0xab; self.payload],
            requests: self.requests,
            response_size: self.response_size,
            responses: self.responses,
            code: self.code,
            detail: self.detail.clone(),
            raises: self.raises,
            sleep_ms: self.sleep_ms,
            sleep_between_ms: self.sleep_between_ms,
        }
    }

    pub(crate) fn path(&self) -> PathAndQuery {
        PathAndQuery::from_static(match (self.unknown_method, self.rpc) {
            (true, _) => "/observer.test.v1.Echo/Missing",
            (false, Rpc::Unary) => "/observer.test.v1.Echo/Unary",
            (false, Rpc::ServerStream) => "/observer.test.v1.Echo/ServerStream",
            (false, Rpc::ClientStream) => "/observer.test.v1.Echo/ClientStream",
            (false, Rpc::Bidi) => "/observer.test.v1.Echo/Bidi",
        })
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.deadline_ms.map(Duration::from_millis)
    }

    /// The time at which to cancel the call with this number: the golden ratio spreads them evenly.
    pub(crate) fn cancel_after(&self, turn: usize) -> Option<Duration> {
        const GOLDEN_RATIO: f64 = 0.618_033_988_749_895;
        let within = self
            .cancel_within_ms
            .map(|ms| Duration::from_millis(ms).mul_f64(turn as f64 * GOLDEN_RATIO % 1.0));
        within.or(self.cancel_after_ms.map(Duration::from_millis))
    }
}
