//! Puts records together, as `emit` of observer-ebpf does.

use observer_common::{
    frame::{FrameHeader, flag},
    record::{DataItem, ItemHeader, OpenItem, RecordHeader, item_kind},
};

/// Length of a record's header.
pub const HEADER_SIZE: usize = size_of::<RecordHeader>();

/// The record that is being put together.
#[derive(Debug)]
pub struct Scratch {
    pub record: Vec<u8>,
    /// Its length without items.
    pub empty: usize,
    /// Offset of the item that bytes are being copied into.
    pub item: Option<usize>,
    pub data: DataItem,
    pub data_stream: u32,
    pub data_flags: u8,
}

impl Scratch {
    pub fn begin(announced: bool) -> Self {
        Self {
            record: vec![0; empty_length(announced)],
            empty: empty_length(announced),
            item: None,
            data: DataItem::default(),
            data_stream: 0,
            data_flags: 0,
        }
    }

    pub fn begin_frame(&mut self, frame: FrameHeader, kind: u8) {
        self.item = Some(self.record.len());
        let FrameHeader { length, stream, kind: frame_kind, flags, .. } = frame;
        let item = ItemHeader { kind, frame_kind, flags, stream, length, ..ItemHeader::default() };
        self.put_item(item);
    }

    pub fn end_frame(&mut self) {
        let Some(at) = self.item.take() else { return };
        let captured = self.record.len() - at - size_of::<ItemHeader>();
        self.record[at + 12..at + 16].copy_from_slice(&(captured as u32).to_ne_bytes());
        self.record.resize(self.record.len().next_multiple_of(8), 0);
    }

    /// The first byte of the header block that ends the record so far.
    pub fn first_of_block(&self, frame: FrameHeader) -> Option<u8> {
        let before = if frame.has(flag::PRIORITY) { 5 } else { 0 };
        let begin = self.item? + size_of::<ItemHeader>();
        let whole = self.record.len() == begin + frame.length as usize;
        if whole && !frame.has(flag::PADDED) {
            self.record.get(begin + before).copied()
        } else {
            None
        }
    }

    pub fn flush_data(&mut self) {
        if self.data.messages == 0 && self.data_flags == 0 {
            return;
        }
        let flags = std::mem::take(&mut self.data_flags);
        self.put_item(ItemHeader {
            kind: item_kind::DATA,
            flags,
            stream: self.data_stream,
            captured: size_of::<DataItem>() as u32,
            ..ItemHeader::default()
        });
        let DataItem { message_bytes, messages } = std::mem::take(&mut self.data);
        self.record.extend(message_bytes.to_ne_bytes());
        self.record.extend(messages.to_ne_bytes());
    }

    pub fn put_item(&mut self, item: ItemHeader) {
        let ItemHeader { kind, frame_kind, flags, _reserved: padding, stream, length, captured } =
            item;
        self.record.extend([kind, frame_kind, flags, padding]);
        for field in [stream, length, captured] {
            self.record.extend(field.to_ne_bytes());
        }
    }
}

/// Length of a record without items.
pub fn empty_length(announced: bool) -> usize {
    let open = size_of::<ItemHeader>() + size_of::<OpenItem>();
    if announced { HEADER_SIZE } else { HEADER_SIZE + open }
}

/// A header as its bytes.
pub fn bytes_of(header: RecordHeader) -> Vec<u8> {
    let RecordHeader { connection, time_ns, position, length, pid, kind, direction, role, flags } =
        header;
    let mut bytes = Vec::with_capacity(HEADER_SIZE);
    for field in [connection, time_ns, position, length] {
        bytes.extend(field.to_ne_bytes());
    }
    bytes.extend(pid.to_ne_bytes());
    bytes.extend([kind, direction, role, flags]);
    bytes
}

/// What a connection is, as an item.
pub fn open_item(comm: [u8; 16], joined: bool) -> Vec<u8> {
    let mut item = Scratch { record: Vec::new(), ..Scratch::begin(true) };
    let captured = size_of::<OpenItem>() as u32;
    item.put_item(ItemHeader { kind: item_kind::OPEN, captured, ..ItemHeader::default() });
    item.record.extend([0; 38]);
    item.record.extend(u16::from(joined).to_ne_bytes());
    item.record.extend(comm);
    item.record
}
