//! Thrift connections: the places of both directions in their messages.

use core::ffi::c_void;

use aya_ebpf::{bindings::BPF_F_NO_PREALLOC, macros::map, maps::HashMap};
use observer_common::{
    counter::Counter,
    driver::{
        Walk,
        connection::Shared,
        thrift::{self, Scanners},
        walk::Outcome,
    },
    thrift::Scanner,
};

use crate::{
    count::count,
    host::Host,
    kernel::Address,
    maps::{BPF_NOEXIST, CONNECTIONS, Values as _},
};

/// Thrift connections, by the key in `CONNECTIONS`. The daemon sets the size.
#[map]
static THRIFT: HashMap<Address, Scanners> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// A new connection. Not on the stack, which has no room for it.
static NEW: Scanners = Scanners::NEW;

/// The map, for the sweep.
#[inline(always)]
pub const fn table() -> *const HashMap<Address, Scanners> {
    &raw const THRIFT
}

/// Walks over a transfer of the Thrift connection with a key, or over its plaintext.
#[inline(always)]
pub fn walk<const SLEEPS: bool>(
    walk: &mut Walk<'_, Host<SLEEPS>>,
    key: Address,
    total: u64,
) -> Outcome {
    let Some(scanners) = scanners(key, walk.shared) else {
        count(Counter::ConnectionsFull, total);
        walk.own.position += total;
        walk.own.gap |= 1;
        return Outcome::Walked;
    };
    let own = usize::from(walk.scratch.sent & 1);
    let directions = (&raw mut scanners.directions).cast::<Scanner>();
    // By an index, as in `Connection::direction`.
    // SAFETY: one of the two by the mask.
    let scanner = unsafe { &mut *directions.add(own) };
    let Walk { scratch, shared, own, other } = walk;
    let walk = Walk { scratch, shared, own, other };
    thrift::walk(&mut thrift::Walk { walk, scanner }, total)
}

/// The scanners of a connection. Not inlined: its values would stay on the caller's stack.
#[inline(never)]
fn scanners(key: Address, shared: &Shared) -> Option<&'static mut Scanners> {
    if let Some(scanners) = THRIFT.value(key) {
        if scanners.id == shared.id {
            return Some(scanners);
        }
        // An earlier socket had the key, unless another CPU has just inserted them.
        if scanners.id != 0 {
            *scanners = NEW;
        }
    } else {
        let new: &_ = &NEW;
        let _ = THRIFT.insert(key, new, BPF_NOEXIST);
    }
    let scanners = THRIFT.value(key)?;
    if scanners.id == 0 {
        scanners.begin(shared);
    }
    Some(scanners)
}

/// Removes the scanners of a connection that has ended.
#[inline(always)]
pub fn forget(key: Address) {
    let _ = THRIFT.remove(key);
}

/// Removes the scanners of a connection that is closed.
pub extern "C" fn sweep_scanners(
    _: *mut c_void,
    key: *const Address,
    scanners: *mut Scanners,
    _: *mut c_void,
) -> i64 {
    // SAFETY: the helper passes them: key and value of `THRIFT`.
    let (key, id) = unsafe { (*key, (*scanners).id) };
    let owner = CONNECTIONS.value(key);
    if owner.is_none_or(|owner| owner.shared.id != id) {
        forget(key);
    }
    0
}
