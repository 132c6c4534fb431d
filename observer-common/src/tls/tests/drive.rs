//! The records over bytes, and the same bytes read straightforwardly.

use observer_common::tls::records::{LAST_AT, OVERRUN, Records, Take, event};

/// The process moves these bytes at once. Answers which events there were: bits of [`event`].
pub fn feed(records: &mut Records, mut bytes: &[u8]) -> u32 {
    records.begin();
    let mut events = 0;
    while !bytes.is_empty() {
        let want = records.want();
        assert!(want.length > 0);
        let n = bytes.len().min(want.length as usize);
        if want.take == Take::Read {
            assert!(n <= OVERRUN && want.at <= LAST_AT, "{want:?}");
            let at = want.at as usize;
            // What the driver reads beyond what is wanted is anything.
            records.buffer[at..at + OVERRUN].fill(0xa5);
            records.buffer[at..at + n].copy_from_slice(&bytes[..n]);
        }
        bytes = &bytes[n..];
        events |= records.took(want, n as u32);
    }
    assert!(records.gap_bytes() <= records.bytes());
    events
}

/// What records show, but for where in the buffer things are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    pub bytes: u64,
    pub gap_bytes: u64,
    pub gaps: u32,
    /// Application data, handshakes, alerts, changes of the cipher.
    pub counts: [u64; 4],
    pub content: u64,
    pub last: u32,
    pub key_updates: u32,
    pub alerts_at_end: u32,
    pub in_sync: bool,
    pub at_boundary: bool,
}

impl Shown {
    pub fn of(records: &Records) -> Self {
        Self {
            bytes: records.bytes(),
            gap_bytes: records.gap_bytes(),
            gaps: records.gaps(),
            counts: [
                records.application(),
                records.handshakes().into(),
                records.alerts().into(),
                records.change_cipher_specs().into(),
            ],
            content: records.content(0),
            last: records.last_application(),
            key_updates: records.key_updates(),
            alerts_at_end: records.alerts_at_end(),
            in_sync: records.is_in_sync(),
            at_boundary: records.is_at_boundary(),
        }
    }
}

/// What the bytes of a direction show from its beginning on, read from all of them at once, and which events there are
/// but for the hello.
pub fn reference(stream: &[u8]) -> (Shown, u32) {
    let mut shown = Shown { in_sync: true, at_boundary: true, ..Shown::default() };
    let mut events = 0;
    shown.bytes = stream.len() as u64;
    let mut rest = stream;
    while let Some(([kind, major, minor, high, low], behind)) = rest.split_first_chunk::<5>() {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let is_first = rest.len() == stream.len();
        let is_legal = if is_first { [21, 22].contains(kind) } else { (20..24).contains(kind) };
        if !is_legal || *major != 3 || *minor > 3 || length == 0 || length > 16_640 {
            shown.gap_bytes = rest.len() as u64;
            shown.in_sync = false;
            shown.at_boundary = false;
            shown.gaps = u32::from(!is_first);
            shown.alerts_at_end = 0;
            events |= if is_first { event::NOT_TLS } else { event::NOT_RECORD };
            return (shown, events);
        }
        if length > behind.len() {
            break;
        }
        rest = &behind[length..];
        events |= event::RECORD;
        let [application, handshakes, alerts, changes] = &mut shown.counts;
        match kind {
            20 => *changes += 1,
            21 => *alerts += 1,
            22 => *handshakes += 1,
            _ => {
                *application += 1;
                shown.content += length as u64;
                shown.last = length as u32;
                shown.key_updates += u32::from(length == 22);
                shown.alerts_at_end = if length == 19 { shown.alerts_at_end + 1 } else { 0 };
            }
        }
    }
    shown.at_boundary = rest.is_empty();
    (shown, events)
}
