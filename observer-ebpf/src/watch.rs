//! From a call that moved bytes to the connection, if it is one that is watched.

use core::{
    arch::asm,
    ptr::{self, NonNull},
};

use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_probe_read_user_buf};
use observer_common::{
    counter::{Counter, Protocol},
    frame::{FrameHeader, HEADER_LENGTH, kind},
    record::{direction, role},
    scanner::{
        Scanner,
        opening::{self, Opening},
    },
    step::Step,
};

#[cfg(feature = "kernel-log")]
use crate::log;
use crate::{
    buffers::Shape,
    connection::{self, Connection, Direction, state},
    count::{count, count_more, count_protocol},
    filter, globals,
    kernel::Address,
    maps::{CONNECTIONS, IGNORED, Ignored, Tries},
    probes::lifecycle,
    scratch::{self, Scratch},
    share::{self, Of},
    socket::{self, Listens, Socket, counted},
    walk::{self, Outcome, Walk},
};

/// A call that moved bytes through a socket.
#[derive(Clone, Copy)]
pub struct Call {
    pub socket: Socket,
    pub shape: Shape,
    /// What the call returned: bytes, or messages for [`Shape::Messages`]. More than 0.
    pub returned: u64,
    /// Bytes that went by.
    pub total: u64,
    pub pid: u32,
    /// One of `record::direction`.
    pub sent: u8,
    /// The kernel discarded the bytes instead of copying them out.
    pub discarded: bool,
}

/// Watches a call: finds its connection and walks over its bytes.
#[inline(always)]
pub fn watch(call: &Call) -> Option<()> {
    let known = known(&call.socket);
    if known.is_none() && !may_be_ours(&call.socket, call.sent) {
        return None;
    }
    watch_known(call, known, |_| Some(()))
}

/// Likewise, where [`known`] and [`may_be_ours`] have been asked. `complete` says what of the call is not
/// known yet; `None` if the call is not to be watched.
#[inline(always)]
pub fn watch_known(
    call: &Call,
    known: Option<NonNull<Connection>>,
    complete: impl FnOnce(&mut Call) -> Option<()>,
) -> Option<()> {
    let known = opaque(known.map_or(ptr::null_mut(), NonNull::as_ptr));
    with_scratch(call, NonNull::new(known), complete)
}

/// Whether what a call returned may tell the process that the other end of its socket is gone.
#[inline(always)]
pub const fn may_be_left(returned: i32) -> bool {
    const EPIPE: i32 = 32;
    const ECONNRESET: i32 = 104;
    returned == 0 || returned == -EPIPE || returned == -ECONNRESET
}

/// A call has returned that. TCP's states tell who was first to end a connection, other sockets have none.
/// A function of its own: inlined, its values would be kept on the stack to the caller's end.
#[inline(never)]
pub fn leave(sock: Address, returned: i32) {
    let Some(connection) = CONNECTIONS.get_ptr_mut(sock) else { return };
    // SAFETY: a map value, valid for the run.
    let connection = unsafe { &mut *connection };
    // Its memory may be another socket's by now.
    if !(Socket { sock, inode: connection.inode }).is_open() {
        return;
    }
    // Who asks for no bytes gets none.
    let is_left = returned != 0 || socket::is_shut(sock, false);
    if is_left && !connection.is_tcp() && connection.ended_by == direction::UNKNOWN {
        connection.ended_by = direction::RECEIVED;
    }
}

/// The socket's connection, if it is watched.
#[inline(always)]
pub fn known(socket: &Socket) -> Option<NonNull<Connection>> {
    let sock = socket.sock;
    let connection = NonNull::new(CONNECTIONS.get_ptr_mut(sock)?)?;
    // SAFETY: a map value, valid for the run.
    if unsafe { connection.as_ref() }.inode == socket.inode {
        return Some(connection);
    }
    // The socket was closed without our seeing it, and its memory used for this one.
    lifecycle::close_later(sock, connection.as_ptr());
    None
}

/// Whether the socket is one to look at, which is not watched so far.
#[inline(always)]
pub fn may_be_ours(socket: &Socket, sent: u8) -> bool {
    let sock = socket.sock;
    // SAFETY: the value is not kept.
    if let Some(ignored) = unsafe { IGNORED.get(sock) }
        && ignored.inode == socket.inode
    {
        return ignored.admits(sent);
    }
    let selected = is_selected(socket);
    if !selected {
        ignore(socket, Ignored::FOR_GOOD);
    }
    selected
}

#[inline(always)]
fn is_selected(socket: &Socket) -> bool {
    let sock = socket.sock;
    let Some(family) = socket::stream_family(sock) else {
        #[cfg(feature = "kernel-log")]
        log::not_stream(socket.inode);
        return false;
    };
    if globals::counted_only() && socket::counts_of(sock) != counted::TCP {
        #[cfg(feature = "kernel-log")]
        log::not_counted(socket.inode);
        return false;
    }
    let selected = match socket::ports(sock, family) {
        _ if !globals::filter_ports() => true,
        Some(ports) => filter::selects_ports(ports, socket::listens(socket)),
        None => false,
    };
    #[cfg(feature = "kernel-log")]
    if !selected {
        log::port_not_selected(socket.inode);
    }
    selected
}

/// Whether a socket is still selected, now that it is known which end it is: where nothing else says which
/// end listens, it is the server. A function of its own: inlined, its values would be kept on the stack to the
/// caller's end.
#[inline(never)]
pub fn selects_role(sock: Address, inode: u64, role: u8) -> bool {
    if !globals::filter_ports() {
        return true;
    }
    let listens = match (socket::listens(&Socket { sock, inode }), role) {
        (Listens::Unknown, role::SERVER) => Listens::Here,
        (Listens::Unknown, role::CLIENT) => Listens::There,
        (known, _) => known,
    };
    // Asked for before: the socket has ports.
    socket::ports(sock, socket::AF_INET).is_some_and(|ports| filter::selects_ports(ports, listens))
}

/// Remembers a socket that is none of ours.
#[inline(always)]
fn ignore(socket: &Socket, until: u32) {
    remember(socket, until, Tries::default());
}

#[inline(always)]
fn remember(socket: &Socket, until: u32, tries: Tries) {
    let ignored = Ignored { inode: socket.inode, until, _reserved: 0, tries };
    #[cfg(feature = "kernel-log")]
    log::ignored(socket, &ignored);
    // If it cannot be remembered it is looked at again.
    let _ = IGNORED.insert(socket.sock, ignored, 0);
}

#[inline(always)]
fn with_scratch(
    call: &Call,
    connection: Option<NonNull<Connection>>,
    complete: impl FnOnce(&mut Call) -> Option<()>,
) -> Option<()> {
    let Some(scratch) = scratch::claim() else {
        busy(call, connection);
        return None;
    };
    scratch.call = *call;
    if complete(&mut scratch.call).is_none() {
        scratch::release(scratch);
        return None;
    }
    // What is read back from the map the verifier knows nothing of, so it follows what comes next
    // once, not once for each kind of call.
    let call = opaque(&raw mut scratch.call);
    // SAFETY: written just now, and nobody writes it again in this run.
    let call = unsafe { &*call };
    scratch.buffers.begin(call.shape, call.returned);
    let walked = try_walk(call, connection, scratch);
    scratch::release(scratch);
    walked
}

/// The same pointer, of which the compiler does not know where it comes from: so it neither knows what was
/// written there, nor makes a copy of what comes next for each of the ways here.
#[inline(always)]
fn opaque<T>(mut pointer: *mut T) -> *mut T {
    // SAFETY: one instruction, on a register.
    unsafe { asm!("{pointer} += 0", pointer = inout(reg) pointer) };
    pointer
}

/// Nobody looks at the bytes, which are counted and, at the next call, a gap.
#[inline(always)]
fn busy(call: &Call, connection: Option<NonNull<Connection>>) {
    let mut bytes = 0;
    if let Some(mut connection) = connection {
        // SAFETY: a map value, valid for the run.
        let connection = unsafe { connection.as_mut() };
        // So that the socket's counter does not show them once more.
        add_missed(call, connection);
        bytes = call.total;
        connection.direction(call.sent).unread += bytes;
    }
    count(Counter::ScratchBusy, bytes);
}

#[inline(always)]
fn try_walk(call: &Call, known: Option<NonNull<Connection>>, scratch: &mut Scratch) -> Option<()> {
    let readable = scratch.buffers.is_readable();
    let pointer = if let Some(pointer) = known {
        pointer.as_ptr()
    } else {
        open(call, scratch)?;
        insert(call, &mut scratch.connection)?
    };
    // SAFETY: a map value, valid for the run.
    let connection = unsafe { &mut *opaque(pointer) };
    // What is not in the process's memory a thread of the kernel may move, which is not whose the
    // connection is.
    let of_kernel = !readable && connection.announced != 0;
    let pid = if of_kernel { connection.pid } else { call.pid };
    add_missed(call, connection);
    // SAFETY: a helper without arguments.
    scratch.time_ns = unsafe { bpf_ktime_get_ns() };
    let direction = connection.direction(call.sent);
    let mut walk = Walk {
        scratch: &raw mut *scratch,
        connection: pointer,
        direction: &raw mut *direction,
        sock: call.socket.sock,
        pid,
        sent: call.sent,
        _reserved: [0; 3],
    };
    if call.discarded || !readable {
        scratch.buffers.clear();
    }
    direction.walking = 1;
    let outcome = walk::walk(&mut walk, scratch, call);
    direction.walking = 0;
    #[cfg(feature = "kernel-log")]
    log::walked(connection, call, &outcome);
    if let Outcome::Walked = outcome {
        return Some(());
    }
    leave_alone(call, pointer, outcome);
    Some(())
}

/// A connection turned out to be none of ours, or not to be known as one yet.
/// A function of its own: inlined, its values would be kept on the stack to the caller's end.
#[inline(never)]
fn leave_alone(call: &Call, pointer: *mut Connection, outcome: Outcome) {
    // SAFETY: a map value, valid for the run.
    let connection = unsafe { &mut *pointer };
    let (mut tries, tcp) = (connection.tries, connection.is_tcp());
    let moved = connection.received().position + connection.sent().position;
    let counted = connection.state == state::UPGRADED;
    let protocol = match protocol_of(&connection.direction(call.sent).scanner.buffer) {
        Protocol::Other if connection.is_only_http1() => Protocol::Http1,
        protocol => protocol,
    };
    if let Outcome::NotPreface = outcome {
        connection.state = state::UPGRADED;
    }
    lifecycle::close(call.socket.sock, pointer, connection.unseen());
    match outcome {
        Outcome::NotFrames => try_again(call, tries),
        Outcome::NotSelected => ignore(&call.socket, Ignored::FOR_GOOD),
        // What looked like a server's SETTINGS may have been those of a connection already open; or it is
        // another protocol's, as the zeros by which threads wake each other.
        _ if !tcp && !counted && matches!(protocol, Protocol::Other) => {
            tries.add(moved);
            try_again(call, tries);
        }
        _ => {
            ignore(&call.socket, Ignored::FOR_GOOD);
            if !counted {
                count_protocol(protocol);
            }
        }
    }
}

/// Counts the bytes that went by since the last call that was seen, by what counts them, and has them passed
/// over.
#[inline(always)]
fn add_missed(call: &Call, connection: &mut Connection) {
    let missed = u64::from(missed(call, connection));
    if missed != 0 {
        count(Counter::Unseen, missed);
        connection.direction(call.sent).unread += missed;
    }
}

/// How many there are.
#[inline(always)]
fn missed(call: &Call, connection: &mut Connection) -> u32 {
    let sent = call.sent == direction::SENT;
    let (counts, tcp) = (connection.counts, connection.is_tcp());
    if counts == counted::BY_PEER {
        return if sent { 0 } else { missed_of_peer(call, connection) };
    }
    let direction = connection.direction(call.sent);
    let Some(sequence) = socket::sequence(call.socket.sock, counts, sent) else { return 0 };
    let before = sequence.wrapping_sub(call.total as u32);
    let mut missed = before.wrapping_sub(direction.sequence);
    let counted = direction.counted != 0;
    direction.sequence = sequence;
    direction.counted = 1;
    // A FIN that was read along with the last bytes counts as one, and so does one that another
    // thread has sent since.
    if missed == 1 && tcp && socket::is_shut(call.socket.sock, sent) {
        missed = 0;
    }
    // Behind what was seen already: two threads that share a direction without a lock.
    if !counted || missed > i32::MAX as u32 { 0 } else { missed }
}

/// Likewise, of what was received through a Unix socket: what its peer has sent, without what waits to be
/// received. As a write may return after its bytes have been read, that may be less than was seen.
/// A function of its own: inlined, its values would be kept on the stack to the caller's end.
#[inline(never)]
fn missed_of_peer(call: &Call, connection: &mut Connection) -> u32 {
    let sock = call.socket.sock;
    let (peer, watched) = (connection.peer, connection.state == state::WATCHED);
    let direction = connection.direction(direction::RECEIVED);
    direction.sequence = direction.sequence.wrapping_add(call.total as u32);
    // What only looks like HTTP/2 the two ends may take for it from different bytes on.
    if !watched {
        return 0;
    }
    // In this order: what is sent in between waits, and is not taken for received.
    let Some(sent) = sent_by(peer, sock) else { return 0 };
    let Some(waiting) = socket::waiting_in_unix(sock) else { return 0 };
    let missed = sent.wrapping_sub(waiting).wrapping_sub(direction.sequence) as i32;
    if missed <= 0 {
        return 0;
    }
    direction.sequence = direction.sequence.wrapping_add(missed as u32);
    missed as u32
}

/// How many bytes the peer of a Unix socket has sent, if that is known to be watched from its beginning too.
#[inline(always)]
pub fn sent_by(peer: Address, sock: Address) -> Option<u32> {
    let connection = CONNECTIONS.get_ptr(peer)?;
    // SAFETY: a map value, valid for the run.
    let connection = unsafe { &*connection };
    // An earlier socket's, at the peer's address, had another peer.
    let is_peer = connection.peer == sock && connection.closed_ns == 0;
    (is_peer && connection.state == state::WATCHED).then(|| connection.total_sent())
}

/// Looks at the first bytes of a socket that was not seen before, and puts a connection together if they
/// may be those of HTTP/2.
#[inline(never)]
fn open(call: &Call, scratch: &mut Scratch) -> Option<()> {
    let mut first = [0_u8; 16];
    scratch.connection.tries = tries_of(&call.socket);
    let known = scratch.connection.tries.has(Tries::HTTP2);
    let Some(n) = peek(scratch, &mut first) else {
        if known {
            count_more(Counter::ConnectionsFull, call.total);
        }
        return None;
    };
    // `None` if the socket does not tell.
    let late = socket::moved_before(call.socket.sock, call.sent == direction::SENT, call.total)
        .map(|bytes| bytes != 0);
    let begun = match late {
        _ if known => Err(Protocol::Other),
        // Whatever the socket says: another thread may have written since.
        Some(true) if !begins(&first, n, opening::PREFACE) => Err(protocol_of(&first)),
        _ => first_bytes(&first, n, call.sent),
    };
    let new = match begun {
        Ok((_, role)) if !selects_role(call.socket.sock, call.socket.inode, role) => {
            ignore(&call.socket, Ignored::FOR_GOOD);
            return None;
        }
        Ok(([received, sent], role)) => {
            let state = if begins_upgrade(&first) { state::UPGRADED } else { state::CANDIDATE };
            let steps = [Step::default(); 2];
            // In case there is no room.
            if begins_http2(&first, n) {
                scratch.connection.tries.flags |= Tries::HTTP2;
            }
            New { received, sent, steps, role, state }
        }
        Err(Protocol::Other) if known || late != Some(false) => {
            join(call, &mut scratch.connection.tries, &first, n)?
        }
        Err(protocol) => {
            not_ours(call, protocol);
            return None;
        }
    };
    let connection = &mut scratch.connection;
    connection.id = connection::identifier(call.socket.inode);
    connection.inode = call.socket.inode;
    connection.closed_ns = 0;
    connection.reset_ns = 0;
    connection.reset_sequences = [0; 2];
    connection.pid = 0;
    connection.state = new.state;
    connection.role = new.role;
    connection.announced = 0;
    connection.counts = socket::counts_of(call.socket.sock);
    connection.peer = 0;
    connection.peer_ended = 0;
    connection.ended_by = direction::UNKNOWN;
    connection.shown = 0;
    connection.owner = call.pid;
    connection.joined = u8::from(new.state == state::JOINING);
    let [received, sent] = new.steps;
    connection.directions = [
        Direction::new(new.received.scanner(), received),
        Direction::new(new.sent.scanner(), sent),
    ];
    if connection.is_tcp() {
        begin_counting(call, connection);
    } else {
        // Where not all bytes that went by unseen show in a counter, frames that cannot be show them.
        for direction in &mut connection.directions {
            direction.scanner.prove();
        }
        begin_at_0(call, connection);
    }
    Some(())
}

/// Of the direction that this call is not of: if nothing went through it so far, then whatever goes
/// through it from now on shows, also before the first call that is seen. So does what went through it
/// already, where the connection is seen from its beginning.
#[inline(always)]
fn begin_counting(call: &Call, connection: &mut Connection) {
    let (sock, sent) = (call.socket.sock, call.sent != direction::SENT);
    // In this order: what another processor moves meanwhile is taken for seen, or leaves it at that.
    let Some(moved) = socket::moved_before(sock, sent, 0) else { return };
    let Some(sequence) = socket::sequence(sock, counted::TCP, sent) else { return };
    let unseen = match moved {
        0 => 0,
        // The SYN is acknowledged to who has connected. At the other end one byte too few is taken for
        // unseen: one too many would be a gap where there is none.
        _ if connection.state == state::CANDIDATE => moved as u32 - u32::from(sent),
        _ => return,
    };
    let other = connection.direction(call.sent ^ 1);
    other.sequence = sequence.wrapping_sub(unseen);
    other.counted = 1;
}

/// A connection of MPTCP or of a Unix socket that is seen from its beginning. Of others what was
/// received before is not known, and a Unix socket's peer cannot say.
#[inline(always)]
fn begin_at_0(call: &Call, connection: &mut Connection) {
    if connection.state != state::CANDIDATE {
        if connection.counts == counted::BY_PEER {
            connection.counts = counted::NOTHING;
        }
        return;
    }
    connection.direction(direction::RECEIVED).counted = 1;
    if connection.counts == counted::BY_PEER {
        connection.peer = socket::peer_of_unix(call.socket.sock);
    }
}

/// Begins to watch, unless another processor has begun to just now: a socket's first write and its
/// first read may return at the same time, and what the one has found is not the other's to replace.
/// By reference: a copy would be on the stack, which has no room for it. A function of its own: inlined, its values
/// would be kept on the stack to the caller's end.
#[inline(never)]
fn insert(call: &Call, connection: &mut Connection) -> Option<*mut Connection> {
    const BPF_NOEXIST: u64 = 1;
    let (socket, owner) = (&call.socket, connection.owner);
    if !share::take(owner, Of::Connections, globals::max_connections()) {
        replace(socket, connection);
    } else if add(socket, connection, BPF_NOEXIST).is_err() {
        share::give(owner, Of::Connections);
        replace(socket, connection);
    }
    let pointer = CONNECTIONS.get_ptr_mut(socket.sock);
    if pointer.is_some() {
        #[cfg(feature = "kernel-log")]
        log::watched(connection);
        let _ = IGNORED.remove(socket.sock);
    } else {
        refuse(call, connection.tries);
    }
    pointer
}

/// By reference, as in [`insert`].
#[inline(always)]
fn add(socket: &Socket, connection: &Connection, flags: u64) -> Result<(), i32> {
    CONNECTIONS.insert(socket.sock, connection, flags)
}

/// An earlier socket's connection, of whose end the ring had no room to tell, makes way, and leaves its share.
#[inline(always)]
fn replace(socket: &Socket, connection: &mut Connection) {
    const BPF_EXIST: u64 = 2;
    if let Some(there) = CONNECTIONS.get_ptr_mut(socket.sock) {
        // SAFETY: a map value, valid for the run.
        let there = unsafe { &*there };
        if there.inode != socket.inode {
            connection.owner = there.owner;
            let _ = add(socket, connection, BPF_EXIST);
        }
    }
}

/// There is no room for the connection, or its process has its share: its next call tries again.
#[inline(always)]
fn refuse(call: &Call, mut tries: Tries) {
    let counted = tries.has(Tries::REFUSED);
    tries.flags |= Tries::REFUSED;
    let mut bytes = call.total;
    if !tries.has(Tries::HTTP2) {
        // Counted once it turns out to be HTTP/2.
        tries.add(bytes);
        bytes = 0;
    }
    if counted {
        count_more(Counter::ConnectionsFull, bytes);
    } else {
        count(Counter::ConnectionsFull, bytes);
    }
    remember(&call.socket, Ignored::TRIED, tries);
}

/// How a connection begins for us.
struct New {
    received: Beginning,
    sent: Beginning,
    /// Received, sent.
    steps: [Step; 2],
    role: u8,
    state: u8,
}

/// Where a direction's scanner begins: scanners themselves would take too much of the stack.
#[derive(Clone, Copy)]
enum Beginning {
    Preface,
    Frame,
    UnprovenFrame,
    Opening,
}

impl Beginning {
    #[inline(always)]
    const fn scanner(self) -> Scanner {
        match self {
            Self::Preface => Scanner::at_preface(),
            Self::Frame => Scanner::at_frame(),
            Self::UnprovenFrame => Scanner::at_unproven_frame(),
            Self::Opening => Scanner::at_opening(),
        }
    }
}

/// Most calls of a connection that was open before the daemon that are tried for a frame boundary:
/// one that was selected is worth more patience than one among all of the node.
const TRIES: u16 = 256;
const TRIES_SELECTED: u16 = u16::MAX;

/// A connection that was open before the daemon, if this call may begin with a frame.
#[inline(always)]
fn join(call: &Call, tries: &mut Tries, first: &[u8; 16], n: u32) -> Option<New> {
    if n < HEADER_LENGTH || !begins_frame(first) {
        if tries.has(Tries::HTTP2) {
            count_more(Counter::ConnectionsFull, call.total);
        } else {
            tries.add(call.total);
        }
        try_again(call, *tries);
        return None;
    }
    let refused = |direction| tries.flags >> direction & 1 != 0;
    let steps = [
        Step::joined_late(refused(direction::RECEIVED)),
        Step::joined_late(refused(direction::SENT)),
    ];
    let (role, state) = (role::UNKNOWN, state::JOINING);
    let (received, sent) = (Beginning::UnprovenFrame, Beginning::UnprovenFrame);
    Some(New { received, sent, steps, role, state })
}

/// What of the socket has been tried so far.
#[inline(always)]
fn tries_of(socket: &Socket) -> Tries {
    // SAFETY: the value is not kept.
    unsafe { IGNORED.get(socket.sock) }
        .filter(|ignored| ignored.inode == socket.inode)
        .map_or(Tries::default(), |ignored| ignored.tries)
}

/// A function of its own: inlined, its values would be kept on the stack to the caller's end.
#[inline(never)]
fn begins_frame(first: &[u8; 16]) -> bool {
    let [b0, b1, b2, b3, b4, b5, b6, b7, b8, ..] = *first;
    let frame = FrameHeader::parse([b0, b1, b2, b3, b4, b5, b6, b7, b8]);
    frame.is_plausible() && frame.may_follow(&FrameHeader::default())
}

/// The call was no frames; one of the next ones may begin with one.
#[inline(always)]
fn try_again(call: &Call, mut tries: Tries) {
    let selected = globals::filter_ports() || globals::filter_processes();
    if !tries.has(Tries::HTTP2) && tries.calls >= if selected { TRIES_SELECTED } else { TRIES } {
        ignore(&call.socket, Ignored::FOR_GOOD);
        count_protocol(Protocol::Other);
        return;
    }
    tries.calls = tries.calls.saturating_add(1);
    tries.flags |= 1 << (call.sent & 1);
    remember(&call.socket, Ignored::TRIED, tries);
}

/// Remembers what a socket carries instead of HTTP/2, and counts it, once.
#[inline(always)]
fn not_ours(call: &Call, protocol: Protocol) {
    // SAFETY: the value is not kept.
    let again = unsafe { IGNORED.get(call.socket.sock) }
        .is_some_and(|ignored| ignored.inode == call.socket.inode);
    // The first response may upgrade the connection; later ones are not looked at.
    let may_upgrade = matches!(protocol, Protocol::Http1) && !again;
    let opposite = u32::from(call.sent ^ 1);
    ignore(&call.socket, if may_upgrade { opposite } else { Ignored::FOR_GOOD });
    if !again {
        count_protocol(protocol);
    }
}

/// Copies up to twelve of the call's first bytes.
#[inline(always)]
fn peek(scratch: &mut Scratch, first: &mut [u8; 16]) -> Option<u32> {
    let mut tries = 0;
    while scratch.buffers.left == 0 && tries < 8 {
        if scratch.buffers.is_empty() {
            return None;
        }
        scratch.buffers.next()?;
        tries += 1;
    }
    let left = scratch.buffers.left;
    let n = if left < 12 { left as u32 } else { 12 } & 15;
    // SAFETY: n ≤ 15 by the mask; the helper checks the address.
    unsafe {
        let to = core::slice::from_raw_parts_mut(first.as_mut_ptr(), n as usize);
        bpf_probe_read_user_buf(scratch.buffers.base as *const u8, to).ok()?;
    }
    Some(n)
}

/// What a connection begins with, by the first `n` ≤ 12 bytes of one of its directions: where the
/// scanners of both begin (received, sent) and the process's role, as far as that can be told; or what it carries
/// instead.
#[inline(always)]
fn first_bytes(first: &[u8; 16], n: u32, sent: u8) -> Result<([Beginning; 2], u8), Protocol> {
    let sent = sent == direction::SENT;
    let from_client = [Beginning::Frame, Beginning::Preface];
    let from_server = [Beginning::Preface, Beginning::Frame];
    let either = [Beginning::Opening; 2];
    if begins(first, n, opening::PREFACE) {
        // Who sends the preface is the client.
        return Ok(if sent { (from_client, role::CLIENT) } else { (from_server, role::SERVER) });
    }
    if begins(first, n, opening::PROXY_LINE)
        || begins(first, n, opening::PROXY_BINARY)
        || begins(first, n, opening::CONNECT)
    {
        return Ok((either, if sent { role::CLIENT } else { role::SERVER }));
    }
    if begins_settings(first, n) {
        // A server may send its SETTINGS first (RFC 9113 §3.4); the preface will tell.
        return Ok(if sent { (from_server, role::SERVER) } else { (from_client, role::CLIENT) });
    }
    if begins_upgrade(first) {
        // Who asked may become the server: the preface will tell.
        return Ok((either, if sent { role::SERVER } else { role::CLIENT }));
    }
    Err(protocol_of(first))
}

/// Whether these can be the first bytes of HTTP/2 only.
#[inline(always)]
fn begins_http2(first: &[u8; 16], n: u32) -> bool {
    n >= 8 && begins(first, n, opening::PREFACE) || n >= HEADER_LENGTH && begins_settings(first, n)
}

/// The server agrees to go on in another protocol.
#[inline(always)]
fn begins_upgrade(first: &[u8; 16]) -> bool {
    let status = u32::from_le_bytes([first[8], first[9], first[10], first[11]]);
    begins(first, 8, opening::RESPONSE) && status == u32::from_le_bytes(*b" 101")
}

#[inline(always)]
fn begins(first: &[u8; 16], n: u32, opening: Opening) -> bool {
    let [b0, b1, b2, b3, b4, b5, b6, b7, ..] = *first;
    opening::may_begin(u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]), n, opening)
}

/// The header of a SETTINGS frame that is not an acknowledgement; bytes not read are 0.
#[inline(always)]
fn begins_settings(first: &[u8; 16], n: u32) -> bool {
    let length = u32::from_be_bytes([0, first[0], first[1], first[2]]);
    let header = first[4] | first[5] | first[6] | first[7] | first[8];
    length <= 6 * 64
        && (n < 3 || length.is_multiple_of(6))
        && (n <= 3 || first[3] == kind::SETTINGS)
        && header == 0
}

#[inline(always)]
fn protocol_of<const N: usize>(first: &[u8; N]) -> Protocol {
    // Content types from change_cipher_spec to application_data (RFC 8446 §5.1).
    const TLS_RECORDS: core::ops::RangeInclusive<u8> = 20..=23;
    const TLS_MAJOR: u8 = 3;
    if TLS_RECORDS.contains(&first[0]) && first[1] == TLS_MAJOR {
        return Protocol::Tls;
    }
    match &[first[0], first[1], first[2], first[3]] {
        b"GET " | b"POST" | b"PUT " | b"HEAD" | b"DELE" | b"OPTI" | b"PATC" | b"CONN" | b"TRAC"
        | b"HTTP" => Protocol::Http1,
        _ => Protocol::Other,
    }
}
