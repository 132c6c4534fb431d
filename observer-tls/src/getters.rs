//! Offsets of fields, from the functions of a library that read them.

use crate::code::{Source, Walk};
use crate::library::Field;

/// The length of a `client_random` (RFC 8446, 4.1.2).
const RANDOM: i32 = 32;

/// Since 3.2 an `SSL` starts with its type, which tells a connection of TLS from one of QUIC.
const AFTER_TYPE: i32 = 8;

/// The 32 bytes of an object that a function copies.
pub(crate) fn copied_field(walk: &Walk) -> Option<Field> {
    let read = walk.touched.iter().filter(|touch| !touch.is_write);
    let mut behind_pointer = Vec::new();
    let mut direct = Vec::new();
    for touch in read {
        let end = touch.pointer.offset.checked_add(i32::from(touch.size))?;
        let part = (touch.pointer.offset, end);
        match touch.pointer.source {
            Source::Field(0, pointer) => behind_pointer.push((pointer, part)),
            Source::Argument(0) if touch.pointer.offset >= AFTER_TYPE => direct.push(part),
            _ => {}
        }
    }
    if let [(pointer, _), ..] = *behind_pointer {
        if behind_pointer.iter().any(|(other, _)| *other != pointer) {
            return None;
        }
        let parts: Vec<_> = behind_pointer.iter().map(|(_, part)| *part).collect();
        return Some(Field { pointer: Some(u32::try_from(pointer).ok()?), offset: first(&parts)? });
    }
    Some(Field { pointer: None, offset: first(&direct)? })
}

/// Where the parts of a random start, if they are parts of one: what is touched fits into its length, and either all of
/// it is, or its address is computed.
fn first(parts: &[(i32, i32)]) -> Option<u32> {
    let start = parts.iter().map(|(start, _)| *start).min()?;
    let end = parts.iter().map(|(_, end)| *end).max()?;
    let length = end.checked_sub(start)?;
    let is_copied = length == RANDOM || parts.contains(&(start, start));
    (length <= RANDOM && is_copied).then_some(u32::try_from(start).ok()?)
}

/// The field of an object that a function returns.
pub(crate) fn returned_field(walk: &Walk) -> Option<u32> {
    let mut fields = walk.returned.iter().filter_map(|pointer| match pointer.source {
        Source::Field(0, field) if pointer.offset == 0 => Some(field),
        _ => None,
    });
    let field = fields.next()?;
    (fields.next().is_none() && walk.is_complete).then_some(u32::try_from(field).ok()?)
}
