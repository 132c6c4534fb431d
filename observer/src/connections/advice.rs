//! Why connections are not measured, and what to do about it: one line for each reason.

use super::{Following, Library};

/// About HTTP/2 that is not watched.
pub(super) const HTTP2: &str =
    "not measured: the daemon runs without grpc in --protocol; add it, as in grpc,thrift";

/// About HTTP/1.
pub(super) const HTTP1: &str = "not measured: gRPC needs HTTP/2. --protocol grpc,grpc-web,connect follows new connections with \
     gRPC-Web and Connect over HTTP/1.1";

/// About yamux.
pub(super) const YAMUX: &str = "not measured: yamux carries several connections in one; gRPC in it is measured only \
                                where it is forwarded without yamux, at the other end";

/// About other protocols.
pub(super) const OTHER: &str = "not measured: it is not HTTP/2, or it began before the daemon and no frame was \
                                recognized; a new connection of the service shows which";

/// About connections of which not everything was seen.
pub(super) fn incomplete(joined_late: u64, with_gaps: u64) -> Option<String> {
    let mut parts = Vec::new();
    if joined_late > 0 {
        parts.push(format!(
            "{joined_late} joined late: some methods are not known (not_seen) until the client \
             connects again"
        ));
    }
    if with_gaps > 0 {
        parts.push(format!("{with_gaps} with gaps: observer_gaps_total has the causes"));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// About TLS that is not followed, in a process with these libraries.
pub(super) fn not_followed(tls: Following, libraries: &[Library]) -> String {
    match tls {
        Following::Off => {
            return "not measured with --tls off: start the daemon with --tls auto".into();
        }
        Following::Unavailable => {
            return "not measured: the daemon cannot use --tls auto here; observer check --tls \
                    auto says why"
                .into();
        }
        Following::Auto => {}
    }
    let with = |result: &str| libraries.iter().find(|library| library.result == result);
    if let Some(library) = with("attached") {
        return format!(
            "not measured: no call was made, no HTTP/2 was negotiated (ALPN), the connection began \
             before {} was probed, or it uses another library; connect again",
            library.name()
        );
    }
    if let Some(Library { library, path, result, .. }) =
        libraries.iter().find(|library| library.library != "none")
    {
        let name = with(result).map_or_else(|| library.clone(), Library::name);
        return format!("not measured: {name} in {path} is not probed: {result}");
    }
    if with("denied").is_some() {
        return "not measured: the daemon cannot open the files of the process: add CAP_SYS_PTRACE, \
                CAP_DAC_READ_SEARCH and CAP_CHECKPOINT_RESTORE"
            .into();
    }
    if with("jvm").is_some() {
        return "not measured: TLS of the Java runtime (JSSE) cannot be followed; with \
                netty-tcnative it can"
            .into();
    }
    if let Some(Library { path, result, .. }) = libraries.first() {
        return format!(
            "not measured: if the TLS library is in {path}, it is not probed: {result}"
        );
    }
    "not measured: no TLS library that observer knows was found in the files of the process".into()
}
