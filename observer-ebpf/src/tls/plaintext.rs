//! Plaintext that a TLS library returns or takes.

use observer_common::{
    driver::{
        Walk,
        connection::{DirectionState, Tries, counted},
        opening::{Beginning, Detected, First, begins_http2},
        tls::{Before, Secured, state},
        walk::{self, Outcome},
    },
    record::{direction, tie},
    tls::cookie::Cookie,
};

use super::{
    calls::{self, NONE, Plaintext, SEVERAL, Tie},
    secured,
};
use crate::{
    connections::{
        close,
        open::{identifier, insert, peek},
    },
    filter, globals,
    kernel::{Address, copy_user, current_pid, now_ns},
    maps::{CONNECTIONS, Values as _},
    ring,
    scratch::{self, Slot, opaque},
    socket::Socket,
    thrift,
    transfer::Transfer,
};

/// Memory of an invocation that may sleep.
pub type Own = Slot<true>;

/// Walks over the plaintext in a slot, and releases that.
#[inline(always)]
pub fn watch(slot: &mut Own) {
    let _ = watch_in(slot);
    scratch::release(slot);
}

#[inline(always)]
fn watch_in(slot: &mut Own) -> Option<()> {
    // Read back from the map: the verifier does not know what it holds, so it follows the code after this once, not
    // once for each kind of plaintext.
    // SAFETY: it was written, and is not written again in this invocation.
    let plaintext = unsafe { &*opaque(slot.plaintext.as_mut_ptr()) };
    let pid = current_pid();
    let found = find(plaintext, pid);
    let key = key_of(found);
    let secured = secured::at(key)?;
    if secured.state == state::GIVEN_UP || secured.pid != pid {
        return None;
    }
    if secured.id == 0 {
        secured.tie = tie_of(found);
    }
    let sent = plaintext.sent;
    if !secured.knows_cipher(sent, plaintext.length) {
        return None;
    }
    slot.scratch.host.transfer = Transfer {
        socket: Socket { sock: secured.sock, inode: secured.inode },
        shape: plaintext.shape,
        returned: plaintext.length,
        total: plaintext.length,
        pid,
        sent,
        discarded: false,
    };
    // So that the connection is not removed meanwhile.
    secured.direction(sent).set_reading(true);
    let outcome = try_walk(plaintext, key, secured, slot);
    secured.direction(sent).set_reading(false);
    match outcome {
        Outcome::Walked => {}
        Outcome::NotFrames if secured.tries_again() => forget(key),
        _ => close::give_up(key, secured),
    }
    Some(())
}

/// The key of an object's connection, and above it, what shows that: one of `record::tie`.
type Found = u64;

#[inline(always)]
const fn found(key: Address, tie: u8) -> Found {
    key | (tie as u64) << 32
}

#[inline(always)]
const fn key_of(found: Found) -> Address {
    found & secured::MAX_KEY
}

#[inline(always)]
const fn tie_of(found: Found) -> u8 {
    (found >> 32) as u8
}

/// The object's connection; 0 if it is not known. Not inlined: the verifier would follow what comes next for each way to
/// find it.
#[inline(never)]
fn find(plaintext: &Plaintext, pid: u32) -> Found {
    try_find(plaintext, pid).unwrap_or(0)
}

#[inline(always)]
fn try_find(plaintext: &Plaintext, pid: u32) -> Option<Found> {
    let Plaintext { handle, socket, cookie, .. } = *plaintext;
    if let Some(half) = random(handle, cookie)
        && half != [0; 2]
        && let Some(key) = secured::of_random(half, pid)
    {
        return Some(found(key, tie::RANDOM));
    }
    if let Some(key) = of_descriptor(handle, cookie) {
        return Some(found(key, tie::DESCRIPTOR));
    }
    if socket != NONE
        && socket != SEVERAL
        && let Some(secured) = secured::known(&socket)
    {
        calls::tie(handle, pid, socket, tie::CALL);
        return Some(found(secured.key, tie::CALL));
    }
    if let Some(Tie { socket, by }) = calls::tied(handle, pid)
        && let Some(secured) = secured::known(&socket)
        && secured.pid == pid
    {
        return Some(found(secured.key, by as u8));
    }
    let (key, by) = if cookie.is_go() {
        (of_go(handle), tie::DESCRIPTOR)
    } else {
        (of_last_read(plaintext, pid), tie::LENGTHS)
    };
    Some(found(key?, by))
}

/// The socket from which the same thread has read before, if its records are as long as the object's plaintext.
#[inline(always)]
fn of_last_read(plaintext: &Plaintext, pid: u32) -> Option<Address> {
    // What rustls sends is not tied to a socket so.
    if plaintext.sent != direction::RECEIVED || plaintext.cookie.is_rustls() {
        return None;
    }
    let key = calls::last_read()?;
    let secured = secured::at(key)?;
    if secured.pid != pid || !secured.agrees(plaintext.handle, plaintext.length) {
        return None;
    }
    let socket = Socket { sock: secured.sock, inode: secured.inode };
    calls::tie(plaintext.handle, pid, socket, tie::LENGTHS);
    Some(key)
}

/// An object was made for the connection from which the thread has just read.
#[inline(always)]
pub fn made(handle: u64) {
    let pid = current_pid();
    if let Some(key) = calls::last_read()
        && let Some(secured) = secured::at(key)
        && secured.pid == pid
        && secured.state == state::OPENING
    {
        let socket = Socket { sock: secured.sock, inode: secured.inode };
        calls::tie(handle, pid, socket, tie::MADE);
    }
}

/// The first half of the random that the object has.
#[inline(always)]
fn random(handle: u64, cookie: Cookie) -> Option<[u64; 2]> {
    let random = cookie.random()?;
    let base = match random.pointer {
        Some(pointer) => copy_user::<u64>(handle + u64::from(pointer))?,
        None => handle,
    };
    copy_user(base + u64::from(random.offset))
}

/// The socket of the descriptor that the object has, if it is a TLS connection.
#[inline(always)]
fn of_descriptor(handle: u64, cookie: Cookie) -> Option<Address> {
    use observer_common::tls::cookie::Bio;
    let bio = cookie.bio()?;
    let read_bio: u64 = copy_user(handle + u64::from(bio.read_bio))?;
    let method: u64 = copy_user(read_bio + u64::from(bio.method))?;
    if copy_user::<u32>(method)? != Bio::SOCKET {
        return None;
    }
    of_fd(copy_user(read_bio + u64::from(bio.number))?)
}

/// The socket of Go's `tls.Conn`, if its `conn` is a `*net.TCPConn`: `conn.data→fd→pfd.Sysfd`. That is not checked, but
/// the descriptor is that of a TLS connection.
#[inline(always)]
fn of_go(handle: u64) -> Option<Address> {
    const DATA: u64 = 8;
    const SYSFD: u64 = 16;
    let connection: u64 = copy_user(handle + DATA)?;
    let fd: u64 = copy_user(connection)?;
    let fd: u64 = copy_user(fd + SYSFD)?;
    of_fd(u32::try_from(fd).ok()?)
}

#[inline(always)]
fn of_fd(fd: u32) -> Option<Address> {
    let socket = Socket::of_fd(fd)?;
    secured::known(&socket).map(|secured| secured.key)
}

/// Walks over plaintext of a connection.
#[inline(always)]
fn try_walk(plaintext: &Plaintext, key: Address, secured: &mut Secured, slot: &mut Own) -> Outcome {
    let Transfer { total, sent, pid, .. } = slot.scratch.host.transfer;
    let buffers = &mut slot.scratch.host.buffers;
    buffers.begin(plaintext.shape, plaintext.skip + total);
    if buffers.skip(plaintext.skip).is_none() {
        buffers.clear();
    }
    if !secured.direction(sent).is_begun() {
        let outcome = begin(plaintext, secured, slot);
        if !matches!(outcome, Outcome::Walked) {
            return outcome;
        }
    }
    let connection = CONNECTIONS.value(key).filter(|it| it.shared.id == secured.id);
    let Some(connection) = connection else { return Outcome::NotSelected };
    let scratch = &mut slot.scratch;
    scratch.host.window.clear();
    scratch.time_ns = if plaintext.time_ns == 0 { now_ns() } else { plaintext.time_ns };
    scratch.pid = pid;
    scratch.sent = sent;
    let directions = (&raw mut connection.directions).cast::<DirectionState>();
    let own = usize::from(sent & 1);
    // By an index, as in `Connection::direction`.
    // SAFETY: one of the two by the mask, and the other one.
    let (own, other) = unsafe { (&mut *directions.add(own), &mut *directions.add(own ^ 1)) };
    report_doubt(secured, own, &scratch.host.transfer);
    let mut walk = Walk { scratch, shared: &mut connection.shared, own, other };
    let outcome = if globals::thrift() && walk.shared.is_thrift() {
        thrift::walk(&mut walk, key, total)
    } else {
        walk::walk(&mut walk, total)
    };
    secured.saw(sent, total);
    secured::report(secured, false);
    outcome
}

/// Begins with a direction, whose first plaintext this is.
#[inline(never)]
fn begin(plaintext: &Plaintext, secured: &mut Secured, slot: &mut Own) -> Outcome {
    let Transfer { sent, .. } = slot.scratch.host.transfer;
    let mut first: First = [0; 16];
    // What is too short for a look is no beginning.
    let n = peek(&mut slot.scratch.host.buffers, &mut first).unwrap_or(0);
    let is_start = globals::grpc() && begins_http2(&first, n);
    let mut before = Before::Unknown;
    if secured.id == 0 {
        let outcome = open(secured, slot, is_start, &first, n);
        if !matches!(outcome, Outcome::Walked) {
            return outcome;
        }
    } else if !is_start && let Some(connection) = CONNECTIONS.value(secured.key) {
        // If the other direction was seen from its beginning, this one was not.
        if connection.shared.joined != 0 {
            before = Before::SinceOther;
        }
        if connection.shared.joined == 0 || !secured.shows_what_passed(sent) {
            let own = connection.direction(sent);
            own.gap |= 1;
            own.sync.lose();
        }
    }
    // The balance of Thrift starts with what may be the first message, so that a gap behind it shows.
    if is_start || globals::thrift() && !secured.is_late() && is_thrift(secured.key) {
        before = Before::Nothing;
    }
    secured.begin_plaintext(sent, plaintext.order, before);
    Outcome::Walked
}

#[inline(always)]
fn is_thrift(key: Address) -> bool {
    CONNECTIONS.value(key).is_some_and(|connection| connection.shared.is_thrift())
}

/// Makes the connection in a TLS connection. `is_start`: whether this is the first plaintext of HTTP/2; otherwise it was
/// open before its plaintext was seen, which may be frames. The first message of Thrift does not look different from later
/// ones.
#[inline(always)]
fn open(secured: &mut Secured, slot: &mut Own, is_start: bool, first: &First, n: u32) -> Outcome {
    let Transfer { socket, sent, pid, .. } = slot.scratch.host.transfer;
    let connection = &mut slot.connection;
    connection.shared.tries = Tries::default();
    let new = if is_start {
        match Detected::of(first, n, sent, Some(false)) {
            Detected::New(new) => new,
            _ => return Outcome::NotPreface,
        }
    } else {
        match late(first, n, secured.is_late(), &socket) {
            Some(new) => new,
            None => return Outcome::NotFrames,
        }
    };
    if !filter::selects_role(socket.sock, socket.inode, new.role) {
        return Outcome::NotSelected;
    }
    connection.begin(new);
    let id = identifier(socket.inode);
    connection.shared.id = id;
    connection.shared.inode = socket.inode;
    connection.shared.counts = counted::TLS;
    connection.shared.tie = secured.tie;
    connection.shared.owner = pid;
    if is_start {
        for direction in &mut connection.directions {
            direction.scanner.prove();
        }
    }
    let inserted = insert(&slot.scratch.host.transfer, &mut slot.connection);
    let Some(inserted) = inserted.filter(|it| it.shared.counts == counted::TLS) else {
        return Outcome::NotSelected;
    };
    // Another CPU may have begun with the other direction.
    secured.id = inserted.shared.id;
    secured.state = state::FOLLOWED;
    Outcome::Walked
}

/// The start of a connection that was open before its plaintext was seen.
#[inline(always)]
fn late(first: &First, n: u32, is_late: bool, socket: &Socket) -> Option<Beginning> {
    if globals::thrift()
        && let Some(new) =
            Beginning::thrift_in_tls(first, n, is_late, filter::is_thrift_port(socket))
    {
        return Some(new);
    }
    if globals::grpc() { Beginning::late(first, n, Tries::default()) } else { None }
}

/// If plaintext before this may be missing, the direction is out of sync.
#[inline(always)]
fn report_doubt(secured: &mut Secured, own: &mut DirectionState, transfer: &Transfer) {
    let id = secured.id;
    let direction = secured.direction(transfer.sent);
    let Some(mut record) = direction.doubted(id, transfer.sent) else { return };
    own.gap |= 1;
    own.sync.lose();
    record.time_ns = now_ns();
    record.pid = transfer.pid;
    // If there is no room, the next plaintext tries again.
    if ring::output_header(&record) {
        direction.reported_doubt();
    }
}

/// Forgets a connection whose plaintext was not frames: its next plaintext may begin with one.
#[inline(never)]
fn forget(key: Address) {
    if let Some(connection) = CONNECTIONS.value(key) {
        close::forget(key, connection);
    }
}
