//! The connections of each process by what they carry, and why some are not measured: `observer connections`,
//! `observer top`, `/connections` and `/api/v1/connections`.
//!
//! `advice` says what to do about connections that are not measured, `table` formats all for a terminal.

#![forbid(unsafe_code)]

mod advice;
mod table;

use std::collections::BTreeMap;

use observer_common::counter::{CountsOfProcess, Protocol};
use observer_core::{
    pipeline::{Counted, OfProcess},
    record::Tie,
};
use serde::{Deserialize, Serialize};

pub use self::table::{lines, table};

/// The connections of all processes of this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Whether TLS connections are followed.
    pub tls: Following,
    /// The processes with connections, by name and pid.
    pub processes: Vec<Process>,
}

/// Whether TLS connections are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Following {
    /// With `--tls auto`.
    Auto,
    /// Not with `--tls off`.
    #[default]
    Off,
    /// With `--tls auto`, but the kernel or the daemon's privileges do not allow it.
    Unavailable,
}

/// A process with connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// The name of its main thread.
    pub name: String,
    /// Its connections, one entry for each kind.
    pub connections: Vec<Connections>,
    /// The TLS libraries in its files, and files that could not be searched. Empty without `--tls auto`.
    pub libraries: Vec<Library>,
}

impl Process {
    /// The TLS libraries that are probed.
    pub(crate) fn probed(&self) -> impl Iterator<Item = &Library> {
        self.libraries.iter().filter(|library| library.result == "attached")
    }
}

/// The connections of a process of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// The kind.
    pub kind: Kind,
    /// Number of connections since the daemon started.
    pub seen: u64,
    /// How many of them are open; `None` if that is not known.
    pub open: Option<u64>,
    /// How many of the open ones joined late.
    pub joined_late: u64,
    /// How many of the open ones have gaps.
    pub with_gaps: u64,
    /// Why they are not measured, or not fully, and what to do; `None` if they are.
    pub advice: Option<String>,
    /// Those over TLS by what ties the library's objects to the sockets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tied: BTreeMap<Tie, u64>,
}

impl Connections {
    /// What ties those over TLS, for people; `None` if there are none.
    pub fn ties(&self) -> Option<String> {
        let of = |(tie, connections): (&Tie, &u64)| {
            let by = match tie {
                Tie::ClientRandom => "the client's random",
                Tie::Descriptor => "the file descriptor",
                Tie::Call => "system calls of the library",
                Tie::Creation => "the handshake",
                Tie::Lengths => "lengths of records",
            };
            format!("{by} ({connections})")
        };
        let all: Vec<String> = self.tied.iter().map(of).collect();
        (!all.is_empty()).then(|| format!("tied to sockets by {}", all.join(", ")))
    }
}

/// What connections carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// HTTP/2 without TLS.
    Http2,
    /// HTTP/2 in TLS that is followed.
    TlsFollowed,
    /// HTTP/1.1 that is followed, without TLS.
    Http1Followed,
    /// Thrift.
    Thrift,
    /// HTTP/2, without gRPC in `--protocol`.
    Http2NotWatched,
    /// TLS that is not followed.
    TlsNotFollowed,
    /// HTTP/1.
    Http1,
    /// yamux.
    Yamux,
    /// Another protocol.
    Other,
}

impl Kind {
    /// The name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http2 => "HTTP/2",
            Self::TlsFollowed => "HTTP/2 over TLS",
            Self::Http1Followed => "HTTP/1, followed",
            Self::Thrift => "Thrift",
            Self::Http2NotWatched => "HTTP/2, not watched",
            Self::TlsNotFollowed => "TLS, not followed",
            Self::Http1 => "HTTP/1",
            Self::Yamux => "yamux",
            Self::Other => "other",
        }
    }
}

/// What was found in a file of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Library {
    /// The library: `openssl`; `none` if the file was not searched.
    pub library: String,
    /// Its version; empty if it is not known.
    pub version: String,
    /// The path of the file, or the end of it.
    pub path: String,
    /// `attached`, or why it is not probed, as in `observer_tls_files_total`.
    pub result: String,
}

impl Library {
    /// The library's name with its version.
    pub(crate) fn name(&self) -> String {
        let name = match &*self.library {
            "openssl" => "OpenSSL",
            "boringssl" => "BoringSSL",
            "go" => "Go's crypto/tls",
            name => name,
        };
        // Go writes it as `go1.26.8`.
        let version = self.version.strip_prefix("go").unwrap_or(&self.version);
        let space = if version.is_empty() { "" } else { " " };
        format!("{name}{space}{version}")
    }
}

/// What is known about the connections of a process.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Those with HTTP/2.
    pub watched: OfProcess,
    /// Number of the others.
    pub others: CountsOfProcess,
    /// What was found in its files.
    pub libraries: Vec<Library>,
}

impl Model {
    /// Makes a model of what is known about processes, by pid. `name` returns the name of a process, or `None` if it has
    /// exited.
    pub fn new(
        tls: Following,
        known: BTreeMap<u32, Known>,
        name: impl Fn(u32) -> Option<String>,
    ) -> Self {
        let process = |(pid, known): (u32, Known)| {
            let connections = connections(tls, &known);
            if connections.is_empty() {
                return None;
            }
            Some(Process { pid, name: name(pid)?, connections, libraries: known.libraries })
        };
        let mut processes: Vec<Process> = known.into_iter().filter_map(process).collect();
        processes.sort_by(|a, b| (&a.name, a.pid).cmp(&(&b.name, b.pid)));
        Self { tls, processes }
    }
}

fn connections(tls: Following, known: &Known) -> Vec<Connections> {
    let Known { watched: OfProcess { cleartext, http1, thrift, tls: followed }, others, libraries } =
        known;
    let watched = |kind, counted: &Counted| {
        let open = counted.open.sum();
        let with_gaps = counted.open.gaps + counted.open.undecodable;
        let joined_late = counted.open.joined_late;
        let advice = advice::incomplete(joined_late, with_gaps);
        let seen = open + counted.ended;
        let tied = counted.tied.clone();
        Connections { kind, seen, open: Some(open), joined_late, with_gaps, advice, tied }
    };
    let other = |kind, protocol: Protocol, advice: String| {
        let seen = others.get(protocol as usize).copied().unwrap_or(0);
        let advice = Some(advice);
        let tied = BTreeMap::new();
        Connections { kind, seen, open: None, joined_late: 0, with_gaps: 0, advice, tied }
    };
    let mut all = vec![
        watched(Kind::Http2, cleartext),
        watched(Kind::TlsFollowed, followed),
        watched(Kind::Http1Followed, http1),
        watched(Kind::Thrift, thrift),
        other(Kind::Http2NotWatched, Protocol::Http2, advice::HTTP2.into()),
        other(Kind::TlsNotFollowed, Protocol::Tls, advice::not_followed(tls, libraries)),
        other(Kind::Http1, Protocol::Http1, advice::HTTP1.into()),
        other(Kind::Yamux, Protocol::Yamux, advice::YAMUX.into()),
        other(Kind::Other, Protocol::Other, advice::OTHER.into()),
    ];
    all.retain(|connections| connections.seen > 0);
    all
}

#[cfg(test)]
mod tests {
    use observer_core::pipeline;

    use super::*;

    fn known(protocol: Protocol, libraries: &[(&str, &str)]) -> Known {
        let mut known = Known::default();
        known.others[protocol as usize] = 3;
        known.libraries = libraries
            .iter()
            .map(|(library, result)| Library {
                library: (*library).into(),
                version: "3.0.19".into(),
                path: "/usr/lib/lib.so".into(),
                result: (*result).into(),
            })
            .collect();
        known
    }

    /// The advice about the only connections of a process.
    fn advice(tls: Following, known: Known) -> String {
        let model = Model::new(tls, [(7, known)].into(), |_| Some("orders".into()));
        let [process] = &*model.processes else { panic!("{model:?}") };
        let [connections] = &*process.connections else { panic!("{process:?}") };
        assert_eq!((connections.seen, connections.open), (3, None));
        connections.advice.clone().unwrap()
    }

    #[test]
    fn each_reason_has_its_advice() {
        let tls = |tls, libraries: &[(&str, &str)]| advice(tls, known(Protocol::Tls, libraries));
        let auto = |libraries: &[(&str, &str)]| tls(Following::Auto, libraries);
        assert!(tls(Following::Off, &[]).contains("start the daemon with --tls auto"));
        assert!(tls(Following::Unavailable, &[]).contains("observer check --tls auto"));
        assert!(auto(&[]).contains("no TLS library"));
        assert!(auto(&[("none", "denied")]).contains("CAP_SYS_PTRACE"));
        assert!(auto(&[("none", "jvm")]).contains("netty-tcnative"));
        assert!(auto(&[("openssl", "attached"), ("none", "jvm")]).contains("OpenSSL 3.0.19"));
        let refused = auto(&[("rustls", "unsupported")]);
        assert!(refused.contains("rustls 3.0.19") && refused.contains("unsupported"), "{refused}");
        let refused = auto(&[("none", "too_large")]);
        assert!(refused.contains("/usr/lib/lib.so") && refused.contains("too_large"), "{refused}");
        assert!(advice(Following::Auto, known(Protocol::Http1, &[])).contains("HTTP/2"));
        assert!(advice(Following::Auto, known(Protocol::Http2, &[])).contains("--protocol"));
        assert!(advice(Following::Auto, known(Protocol::Yamux, &[])).contains("other end"));
        assert!(advice(Following::Auto, known(Protocol::Other, &[])).contains("not HTTP/2"));
    }

    #[test]
    fn what_is_measured_fully_needs_no_advice() {
        let open = pipeline::Connections { complete: 2, ..Default::default() };
        let late = pipeline::Connections { joined_late: 1, gaps: 1, undecodable: 1, ..open };
        let watched = OfProcess {
            cleartext: Counted { open, ended: 5, ..Counted::default() },
            tls: Counted { open: late, tied: [(Tie::ClientRandom, 4)].into(), ended: 0 },
            ..OfProcess::default()
        };
        let known = Known { watched, ..Known::default() };
        let model = Model::new(Following::Auto, [(7, known)].into(), |_| Some("orders".into()));
        let [cleartext, tls] = &*model.processes[0].connections else { panic!("{model:?}") };
        assert_eq!((cleartext.kind, cleartext.seen, cleartext.open), (Kind::Http2, 7, Some(2)));
        assert_eq!(cleartext.advice, None);
        assert_eq!((tls.kind, tls.seen, tls.open), (Kind::TlsFollowed, 5, Some(5)));
        assert_eq!((tls.joined_late, tls.with_gaps), (1, 2));
        let advice = tls.advice.as_ref().unwrap();
        assert!(advice.contains("1 joined late") && advice.contains("2 with gaps"), "{advice}");
        assert_eq!(cleartext.ties(), None);
        assert_eq!(tls.ties().unwrap(), "tied to sockets by the client's random (4)");
    }

    #[test]
    fn processes_that_have_exited_or_have_no_connections_are_left_out() {
        let all = [
            (1, Known::default()),
            (2, known(Protocol::Http1, &[])),
            (3, known(Protocol::Http1, &[])),
            (4, known(Protocol::Http1, &[])),
        ];
        let name = |pid| (pid != 3).then(|| if pid == 2 { "z" } else { "a" }.to_owned());
        let model = Model::new(Following::Off, all.into(), name);
        let pids: Vec<u32> = model.processes.iter().map(|process| process.pid).collect();
        assert_eq!(pids, [4, 2]);
    }
}
