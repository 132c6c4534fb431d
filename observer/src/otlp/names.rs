//! Names of OpenTelemetry's semantic conventions, one constant each: they are not stable yet, and some will change.
//!
//! Source: semantic conventions 1.44 (docs/rpc/grpc.md, docs/resource); the old ones, of 1.37 and before, in
//! docs/non-normative/rpc-migration.md.

use observer_core::call::CallProtocol;

/// The version that the names are of.
pub(crate) const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.44.0";

pub(crate) const SYSTEM: &str = "rpc.system.name";
pub(crate) const METHOD: &str = "rpc.method";
/// The method as the peer sent it, if it is not known to be one of the server's.
pub(crate) const METHOD_ORIGINAL: &str = "rpc.method_original";
/// To be renamed to `rpc.status_code` by the version after 1.44.
pub(crate) const STATUS_CODE: &str = "rpc.response.status_code";
pub(crate) const ERROR_TYPE: &str = "error.type";
pub(crate) const SERVER_ADDRESS: &str = "server.address";
pub(crate) const SERVER_PORT: &str = "server.port";
pub(crate) const PEER_ADDRESS: &str = "network.peer.address";
pub(crate) const PEER_PORT: &str = "network.peer.port";

pub(crate) const GRPC: &str = "grpc";

/// The conventions have no name for Thrift, and allow others.
const THRIFT: &str = "thrift";

/// The value of [`SYSTEM`] for calls of this protocol.
pub(crate) fn system(protocol: CallProtocol) -> &'static str {
    match protocol.family() {
        CallProtocol::Thrift => THRIFT,
        _ => GRPC,
    }
}

/// The protocol of calls that have gRPC's codes but are not gRPC: not a name of the conventions.
pub(crate) const GRPC_PROTOCOL: &str = "grpc.protocol";
/// The method, or type of an error, that has no name of its own.
pub(crate) const OTHER: &str = "_OTHER";

/// Names of 1.37 and before, which `OTEL_SEMCONV_STABILITY_OPT_IN=rpc/dup` adds.
pub(crate) mod old {
    pub(crate) const SYSTEM: &str = "rpc.system";
    pub(crate) const SERVICE: &str = "rpc.service";
    pub(crate) const STATUS_CODE: &str = "rpc.grpc.status_code";
}

/// Names that no convention has.
pub(crate) mod own {
    /// `not_seen`, or a code that the wire cannot tell from another.
    pub(crate) const STATUS_CODE: &str = "observer.status_code";
    pub(crate) const METHOD: &str = "observer.method";
    pub(crate) const CONNECTION: &str = "observer.connection";
    pub(crate) const REQUEST_MESSAGES: &str = "observer.request.messages";
    pub(crate) const RESPONSE_MESSAGES: &str = "observer.response.messages";
    pub(crate) const REQUEST_BYTES: &str = "observer.request.bytes";
    pub(crate) const RESPONSE_BYTES: &str = "observer.response.bytes";
    pub(crate) const SYSTEMD_UNIT: &str = "observer.systemd.unit";
}

/// Attributes of resources.
pub(crate) mod resource {
    pub(crate) const SERVICE_NAME: &str = "service.name";
    pub(crate) const SERVICE_NAMESPACE: &str = "service.namespace";
    pub(crate) const SERVICE_INSTANCE: &str = "service.instance.id";
    pub(crate) const HOST: &str = "host.name";
    pub(crate) const PID: &str = "process.pid";
    pub(crate) const EXECUTABLE: &str = "process.executable.name";
    pub(crate) const EXECUTABLE_PATH: &str = "process.executable.path";
    pub(crate) const CONTAINER: &str = "container.id";
    pub(crate) const CONTAINER_RUNTIME: &str = "container.runtime.name";
    pub(crate) const POD_UID: &str = "k8s.pod.uid";
    pub(crate) const POD_NAME: &str = "k8s.pod.name";
    pub(crate) const POD_NAMESPACE: &str = "k8s.namespace.name";
    pub(crate) const DISTRO: &str = "telemetry.distro.name";
    pub(crate) const DISTRO_VERSION: &str = "telemetry.distro.version";
}
