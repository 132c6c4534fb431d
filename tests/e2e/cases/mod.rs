//! The functions of the cases, a file for each subject.
//!
//! Most files are tables of [`raw`] cases, for behaviour that gRPC libraries do not have on demand. Both ends of each
//! connection are raw peers ([`support::raw`]), and every number of both processes is compared. One daemon without
//! flags watches all cases that do not need their own; their processes and services distinguish them.

mod at_once;
pub(crate) mod backends;
mod bounds;
mod codes;
pub(crate) mod collected;
pub(crate) mod connections;
pub(crate) mod declared;
pub(crate) mod documented;
pub(crate) mod edges;
mod ends;
pub(crate) mod etcd;
mod exposition;
mod frames;
mod gaps;
pub(crate) mod gzip;
mod hostile;
mod late;
pub(crate) mod latency;
pub(crate) mod libraries;
mod lines;
mod names;
pub(crate) mod native;
mod openings;
pub(crate) mod otlp;
pub(crate) mod page;
pub(crate) mod payload;
mod ports;
mod privileges;
mod processes;
pub(crate) mod protected;
pub(crate) mod proxied;
mod races;
pub(crate) mod refusals;
pub(crate) mod refused;
mod reports;
pub(crate) mod restart;
pub(crate) mod scraped;
pub(crate) mod selection;
pub(crate) mod servers;
pub(crate) mod services;
mod staying_up;
mod table;
pub(crate) mod thrift;
pub(crate) mod tls;
mod tls_files;
mod tls_raw;
pub(crate) mod top;
pub(crate) mod translated;
mod transports;
pub(crate) mod tunnel;
mod visitors;
pub(crate) mod web;

use self::table::Table;
use crate::case::Case;

/// The cases of all tables. Their traffic is recorded, except for kinds with [`Table::not_for_tshark`] and cases that
/// [`Table::unrecorded`] adds.
pub(crate) fn raw() -> Vec<Case> {
    let mut table = Table::default();
    for (kind, add) in KINDS {
        table.begin(kind);
        add(&mut table);
        table.compare_recording();
    }
    table.cases
}

/// The name of a kind of cases, and the function that adds them.
type Kind = (&'static str, fn(&mut Table));

const KINDS: [Kind; 17] = [
    ("codes", codes::add),
    ("ends", ends::add),
    ("frames", frames::add),
    ("transports", transports::add),
    ("processes", processes::add),
    ("races", races::add),
    ("late", late::add),
    ("gaps", gaps::add),
    ("gaps at once", at_once::add),
    ("lines", lines::add),
    ("connections", connections::add),
    ("privileges", privileges::add),
    ("tls files", tls_files::add),
    ("tls", tls_raw::add),
    ("hostile", hostile::add),
    ("exposition", exposition::add),
    ("staying up", staying_up::add),
];

/// The note on kinds of cases that are recorded.
const SAME_TO_TSHARK: &str = "tshark sees the same calls in the traffic of these, no more and no \
    fewer, and the same codes where there is a `grpc-status`; but for those of which it says why not.";

/// Why cases over Unix sockets are not compared with tshark.
const UNIX: &str = "Unix sockets pass no network interface";

// The gRPC status codes that the cases name.

pub(crate) const OK: i32 = 0;
pub(crate) const CANCELED: i32 = 1;
/// Undecided between `Canceled` and `DeadlineExceeded`; not a code of the wire.
pub(crate) const EITHER: i32 = 17;
pub(crate) const UNKNOWN: i32 = 2;
pub(crate) const INVALID_ARGUMENT: i32 = 3;
pub(crate) const DEADLINE_EXCEEDED: i32 = 4;
pub(crate) const NOT_FOUND: i32 = 5;
pub(crate) const PERMISSION_DENIED: i32 = 7;
pub(crate) const RESOURCE_EXHAUSTED: i32 = 8;
pub(crate) const UNIMPLEMENTED: i32 = 12;
pub(crate) const INTERNAL: i32 = 13;
pub(crate) const UNAVAILABLE: i32 = 14;
pub(crate) const UNAUTHENTICATED: i32 = 16;
