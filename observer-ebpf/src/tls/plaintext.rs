//! Plaintext that a TLS library returns or takes.

use observer_common::{
    counter::Counter,
    driver::{
        Walk,
        connection::{Connection, DirectionState, counted},
        opening::{Detected, FIRST_MAX, First, begins_http2},
        tls::{Secured, state},
        walk::{self, Outcome},
    },
    record::direction,
    tls::{balance::Order, cookie::Cookie},
};

use super::{
    calls::{self, SEVERAL},
    secured,
};
use crate::{
    buffers::Shape,
    connections::{close, open::identifier, open::insert},
    count::count,
    filter,
    kernel::{Address, copy_user, current_pid, now_ns},
    maps::{CONNECTIONS, Values as _},
    ring,
    scratch::{self, Slot},
    socket::Socket,
    transfer::Transfer,
};

/// Plaintext, and where it is from.
#[derive(Clone, Copy)]
pub struct Plaintext {
    /// The address of the library's object.
    pub handle: u64,
    pub base: u64,
    /// Not 0.
    pub length: u64,
    /// The socket on which the call has moved bytes, as in [`calls::Call`].
    pub sock: Address,
    pub cookie: Cookie,
    pub order: Order,
}

/// Memory of an invocation that may sleep.
type Own = Slot<true>;

/// Walks over plaintext.
#[inline(always)]
pub fn watch(plaintext: &Plaintext) -> Option<()> {
    let pid = current_pid();
    let sock = find(plaintext, pid)?;
    let secured = secured::at(sock)?;
    if secured.state == state::NOT_FOLLOWED || secured.pid != pid {
        return None;
    }
    let Some(slot) = scratch::claim_sleepable() else {
        // The balance shows that its bytes are missing.
        count(Counter::ScratchBusy, 0);
        return None;
    };
    let sent = if plaintext.cookie.is_read() { direction::RECEIVED } else { direction::SENT };
    slot.scratch.host.transfer = Transfer {
        socket: Socket { sock, inode: secured.inode },
        shape: Shape::Flat { base: plaintext.base },
        returned: plaintext.length,
        total: plaintext.length,
        pid,
        sent,
        discarded: false,
    };
    if try_walk(plaintext, secured, slot).is_none() {
        give_up(sock, secured);
    }
    scratch::release(slot);
    Some(())
}

/// The socket of the object.
#[inline(always)]
fn find(plaintext: &Plaintext, pid: u32) -> Option<Address> {
    let Plaintext { handle, sock, cookie, .. } = *plaintext;
    if let Some(half) = random(handle, cookie)
        && half != [0; 2]
        && let Some(sock) = secured::of_random(half, pid)
    {
        return Some(sock);
    }
    if let Some(sock) = of_descriptor(handle, cookie) {
        return Some(sock);
    }
    if sock != 0 && sock != SEVERAL {
        calls::tie(handle, pid, sock);
        return Some(sock);
    }
    if let Some(sock) = calls::tied(handle, pid)
        && secured::at(sock).is_some_and(|secured| secured.pid == pid)
    {
        return Some(sock);
    }
    if cookie.is_go() { of_go(handle) } else { None }
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
    secured::known(&socket).map(|_| socket.sock)
}

/// Walks over plaintext of a connection. `None` if it cannot be followed.
#[inline(always)]
fn try_walk(plaintext: &Plaintext, secured: &mut Secured, slot: &mut Own) -> Option<()> {
    let Transfer { socket, total, sent, pid, .. } = slot.scratch.host.transfer;
    if !secured.direction(sent).is_begun() {
        begin(plaintext, secured, slot)?;
    }
    let connection = CONNECTIONS.value(socket.sock).filter(|it| it.shared.id == secured.id)?;
    let scratch = &mut slot.scratch;
    scratch.host.buffers.begin(Shape::Flat { base: plaintext.base }, total);
    scratch.host.window.clear();
    scratch.time_ns = now_ns();
    scratch.pid = pid;
    scratch.sent = sent;
    let directions = (&raw mut connection.directions).cast::<DirectionState>();
    let own = usize::from(sent & 1);
    // By an index, as in `Connection::direction`.
    // SAFETY: one of the two by the mask, and the other one.
    let (own, other) = unsafe { (&mut *directions.add(own), &mut *directions.add(own ^ 1)) };
    report_doubt(secured, own, &scratch.host.transfer);
    let mut walk = Walk { scratch, shared: &mut connection.shared, own, other };
    let outcome = walk::walk(&mut walk, total);
    secured.direction(sent).saw(total);
    secured::report(secured);
    matches!(outcome, Outcome::Walked).then_some(())
}

/// Begins with a direction, whose first plaintext this is. `None` if that is not how HTTP/2 begins: then plaintext before
/// it was not seen, or it is something else.
#[inline(never)]
fn begin(plaintext: &Plaintext, secured: &mut Secured, slot: &mut Own) -> Option<()> {
    let Transfer { socket, total, sent, pid, .. } = slot.scratch.host.transfer;
    let mut first: First = [0; 16];
    let n = if total < u64::from(FIRST_MAX) { total as u32 } else { FIRST_MAX };
    copy_first(plaintext.base, n, &mut first)?;
    if !begins_http2(&first, n) {
        return None;
    }
    if secured.id == 0 {
        let Detected::New(new) = Detected::of(&first, n, sent, Some(false)) else { return None };
        if !filter::selects_role(socket.sock, socket.inode, new.role) {
            return None;
        }
        let connection = &mut slot.connection;
        connection.begin(new);
        let id = identifier(socket.inode);
        connection.shared.id = id;
        connection.shared.inode = socket.inode;
        connection.shared.counts = counted::TLS;
        connection.shared.owner = pid;
        for direction in &mut connection.directions {
            direction.scanner.prove();
        }
        let inserted = insert(&slot.scratch.host.transfer, &mut slot.connection)?;
        if inserted.shared.counts != counted::TLS {
            return None;
        }
        // Another CPU may have begun with the other direction.
        secured.id = inserted.shared.id;
        secured.state = state::FOLLOWED;
    }
    secured.direction(sent).begin_plaintext(plaintext.order);
    Some(())
}

#[inline(always)]
fn copy_first(base: u64, n: u32, first: &mut First) -> Option<()> {
    if n < FIRST_MAX {
        // `begins_http2` needs nine bytes at most.
        const LEAST: u32 = 9;
        if n < LEAST {
            return None;
        }
        let [start @ .., _, _, _, _, _, _, _] = first;
        *start = copy_user(base)?;
        return Some(());
    }
    let [start @ .., _, _, _, _] = first;
    *start = copy_user(base)?;
    Some(())
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

/// Gives a connection up.
#[inline(never)]
fn give_up(sock: Address, secured: &mut Secured) {
    secured::give_up(secured);
    if let Some(connection) = CONNECTIONS.value(sock)
        && connection.shared.is_tls()
    {
        let connection: &mut Connection = connection;
        let gaps = connection.gap_flags();
        close::close::<false>(sock, connection, gaps);
    }
}
