//! Calls of gRPC-Web over HTTP/2.

use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::transport::{Channel, Error};
use tonic_web::{GrpcWebCall, GrpcWebClientService};

/// A channel for the bodies that the client of gRPC-Web makes.
#[derive(Clone)]
pub(crate) struct Bodies(Channel);

/// Turns calls on the channel into calls of gRPC-Web.
pub(crate) fn over_web(channel: Channel) -> GrpcWebClientService<Bodies> {
    GrpcWebClientService::new(Bodies(channel))
}

impl Service<http::Request<GrpcWebCall<Body>>> for Bodies {
    type Response = http::Response<Body>;
    type Error = Error;
    type Future = <Channel as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<GrpcWebCall<Body>>) -> Self::Future {
        self.0.call(request.map(Body::new))
    }
}
