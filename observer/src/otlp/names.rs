//! Names of OpenTelemetry's semantic conventions, one constant each: they are not stable yet, and some will change.
//!
//! Source: semantic conventions 1.44 (docs/rpc/grpc.md, docs/resource); the old ones, of 1.37 and before, in
//! docs/non-normative/rpc-migration.md.

/// The version that the names are of.
pub(super) const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.44.0";

pub(super) const SYSTEM: &str = "rpc.system.name";
pub(super) const METHOD: &str = "rpc.method";
/// The method as the peer sent it, if it is not known to be one of the server's.
pub(super) const METHOD_ORIGINAL: &str = "rpc.method_original";
/// To be renamed to `rpc.status_code` by the version after 1.44.
pub(super) const STATUS_CODE: &str = "rpc.response.status_code";
pub(super) const ERROR_TYPE: &str = "error.type";
pub(super) const SERVER_ADDRESS: &str = "server.address";
pub(super) const SERVER_PORT: &str = "server.port";
pub(super) const PEER_ADDRESS: &str = "network.peer.address";
pub(super) const PEER_PORT: &str = "network.peer.port";

pub(super) const GRPC: &str = "grpc";
/// The method, or type of an error, that has no name of its own.
pub(super) const OTHER: &str = "_OTHER";

/// Names of 1.37 and before, which `OTEL_SEMCONV_STABILITY_OPT_IN=rpc/dup` adds.
pub(super) mod old {
    pub(in super::super) const SYSTEM: &str = "rpc.system";
    pub(in super::super) const SERVICE: &str = "rpc.service";
    pub(in super::super) const STATUS_CODE: &str = "rpc.grpc.status_code";
}

/// Names that no convention has.
pub(super) mod own {
    /// `not_seen`, or a code that the wire cannot tell from another.
    pub(in super::super) const STATUS_CODE: &str = "observer.status_code";
    pub(in super::super) const METHOD: &str = "observer.method";
    pub(in super::super) const CONNECTION: &str = "observer.connection";
    pub(in super::super) const REQUEST_MESSAGES: &str = "observer.request.messages";
    pub(in super::super) const RESPONSE_MESSAGES: &str = "observer.response.messages";
    pub(in super::super) const REQUEST_BYTES: &str = "observer.request.bytes";
    pub(in super::super) const RESPONSE_BYTES: &str = "observer.response.bytes";
    pub(in super::super) const SYSTEMD_UNIT: &str = "observer.systemd.unit";
}

/// Attributes of resources.
pub(super) mod resource {
    pub(in super::super) const SERVICE_NAME: &str = "service.name";
    pub(in super::super) const SERVICE_NAMESPACE: &str = "service.namespace";
    pub(in super::super) const SERVICE_INSTANCE: &str = "service.instance.id";
    pub(in super::super) const HOST: &str = "host.name";
    pub(in super::super) const PID: &str = "process.pid";
    pub(in super::super) const EXECUTABLE: &str = "process.executable.name";
    pub(in super::super) const EXECUTABLE_PATH: &str = "process.executable.path";
    pub(in super::super) const CONTAINER: &str = "container.id";
    pub(in super::super) const CONTAINER_RUNTIME: &str = "container.runtime.name";
    pub(in super::super) const POD_UID: &str = "k8s.pod.uid";
    pub(in super::super) const POD_NAME: &str = "k8s.pod.name";
    pub(in super::super) const POD_NAMESPACE: &str = "k8s.namespace.name";
    pub(in super::super) const DISTRO: &str = "telemetry.distro.name";
    pub(in super::super) const DISTRO_VERSION: &str = "telemetry.distro.version";
}
