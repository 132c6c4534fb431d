//! Puts the names of messages together, which may be cut.

use observer_common::thrift::MAX_NAME;

/// A message whose name is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// One of [`observer_common::thrift::kind`], if it is known; 0 until the end shows it.
    pub(super) kind: u8,
    /// The name of the method.
    pub(super) name: Vec<u8>,
    /// The lower half of the name's position in its direction.
    pub(super) position: u32,
    /// The time of the transfer that it began in.
    pub(super) started_ns: u64,
}

/// The message that one direction is in.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    /// A message whose name is not complete, and the length of the name.
    unnamed: Option<(Message, usize)>,
    /// The kind of the message whose end has not come.
    open: Option<u8>,
    /// A message whose end will show its kind.
    unknown: Option<Message>,
}

impl Assembly {
    /// Takes the start of a message. Returns the message if its name is complete, and its kind known.
    pub(super) fn begin(
        &mut self,
        kind: u8,
        length: u32,
        position: u32,
        name: &[u8],
        started_ns: u64,
    ) -> Option<Message> {
        self.clear();
        if length > MAX_NAME || name.len() > length as usize {
            return None;
        }
        let message = Message { kind, name: name.to_owned(), position, started_ns };
        self.check(message, length as usize)
    }

    /// Takes more of the name. Returns the message if its name is complete, and its kind known.
    pub(super) fn part(&mut self, name: &[u8]) -> Option<Message> {
        let (mut message, length) = self.unnamed.take()?;
        if message.name.len() + name.len() > length {
            return None;
        }
        message.name.extend_from_slice(name);
        self.check(message, length)
    }

    fn check(&mut self, message: Message, length: usize) -> Option<Message> {
        if message.name.len() < length {
            self.unnamed = Some((message, length));
            return None;
        }
        if message.kind == 0 {
            self.unknown = Some(message);
            return None;
        }
        self.open = Some(message.kind);
        Some(message)
    }

    /// Takes the end of the message, if its start was seen. Returns its kind, and the message if only the end, with this
    /// kind, shows it.
    pub(super) fn end(&mut self, kind: u8) -> Option<(u8, Option<Message>)> {
        self.unnamed = None;
        if let Some(message) = self.unknown.take() {
            return Some((kind, Some(Message { kind, ..message })));
        }
        self.open.take().map(|kind| (kind, None))
    }

    /// Forgets the message.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The memory that the name has allocated, in bytes.
    pub(super) fn memory(&self) -> usize {
        let unnamed = self.unnamed.as_ref().map(|(message, _)| message);
        unnamed.into_iter().chain(&self.unknown).map(|message| message.name.capacity()).sum()
    }
}
