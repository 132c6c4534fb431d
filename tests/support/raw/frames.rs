//! Builds the bytes that one end of a connection writes, frame by frame.

use super::hpack::Encoder;

/// The frame types and flags that raw peers write (RFC 9113 §6).
pub mod frame {
    #![expect(missing_docs, reason = "the names are those of the RFC")]

    pub const DATA: u8 = 0x0;
    pub const HEADERS: u8 = 0x1;
    pub const PRIORITY: u8 = 0x2;
    pub const RST_STREAM: u8 = 0x3;
    pub const SETTINGS: u8 = 0x4;
    pub const PING: u8 = 0x6;
    pub const GOAWAY: u8 = 0x7;
    pub const WINDOW_UPDATE: u8 = 0x8;
    pub const CONTINUATION: u8 = 0x9;

    pub const ACK: u8 = 0x1;
    pub const END_STREAM: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const WITH_PRIORITY: u8 = 0x20;
}

/// The length of a frame header.
const FRAME_HEADER: usize = 9;

/// The client connection preface (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The places of empty DATA frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EmptyData {
    /// Nowhere.
    #[default]
    None,
    /// One after the last message, with END_STREAM.
    End,
    /// One before and after each DATA frame that is not empty.
    Everywhere,
}

/// The layout of frames where HTTP/2 leaves a choice.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The padding of HEADERS.
    pub header_padding: Option<u8>,
    /// Whether HEADERS have the deprecated priority fields.
    pub priority: bool,
    /// The number of frames of a field block: HEADERS and CONTINUATION.
    pub fragments: usize,
    /// The padding of DATA.
    pub data_padding: Option<u8>,
    /// The most message bytes in a DATA frame.
    pub max_data: usize,
    /// The places of empty DATA frames.
    pub empty_data: EmptyData,
    /// The compressed flag of messages.
    pub compressed: bool,
}

impl Default for Shape {
    /// The layout of most libraries.
    fn default() -> Self {
        Self {
            header_padding: None,
            priority: false,
            fragments: 1,
            data_padding: None,
            max_data: 16_384,
            empty_data: EmptyData::None,
            compressed: false,
        }
    }
}

/// The bytes that one end writes; each method appends to them.
#[derive(Debug, Default)]
pub struct Frames {
    /// The service in the paths of requests.
    pub service: String,
    /// The layout of the frames that follow.
    pub shape: Shape,
    encoder: Encoder,
    bytes: Vec<u8>,
    /// The positions in `bytes` at which frames begin.
    starts: Vec<usize>,
}

impl Frames {
    /// No bytes yet, for requests to this service.
    pub fn of(service: &str, shape: Shape) -> Self {
        Self { service: service.to_owned(), shape, ..Self::default() }
    }

    /// Takes the bytes, and the positions at which frames begin.
    pub fn take(&mut self) -> (Vec<u8>, Vec<usize>) {
        (std::mem::take(&mut self.bytes), std::mem::take(&mut self.starts))
    }

    /// Any bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// A frame.
    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> &mut Self {
        self.starts.push(self.bytes.len());
        let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
        self.bytes.extend_from_slice(&length);
        self.bytes.extend_from_slice(&[kind, flags]);
        self.bytes.extend_from_slice(&stream.to_be_bytes());
        self.bytes(payload)
    }

    /// SETTINGS: identifiers and values.
    pub fn settings(&mut self, settings: &[(u16, u32)]) -> &mut Self {
        let setting =
            |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
        let payload: Vec<u8> = settings.iter().flat_map(setting).collect();
        self.frame(frame::SETTINGS, 0, 0, &payload)
    }

    /// A dynamic table size update at the start of the next field block (RFC 7541 §6.3).
    pub fn resize_table(&mut self, limit: usize) -> &mut Self {
        self.encoder.resize(limit);
        self
    }

    /// A field block in HEADERS and as many CONTINUATION frames as the shape says.
    pub fn headers(&mut self, stream: u32, end: bool, fields: &[(&str, &str)]) -> &mut Self {
        let block = self.encoder.block(fields);
        let Shape { header_padding, priority, fragments, .. } = self.shape;
        let length = block.len().div_ceil(fragments.max(1)).max(1);
        let mut fragments: Vec<&[u8]> = block.chunks(length).collect();
        fragments.resize(self.shape.fragments.max(1), &[]);
        let last = fragments.len() - 1;
        for (index, fragment) in fragments.into_iter().enumerate() {
            let mut flags = if index == last { frame::END_HEADERS } else { 0 };
            if index > 0 {
                self.frame(frame::CONTINUATION, flags, stream, fragment);
                continue;
            }
            flags |= if end { frame::END_STREAM } else { 0 };
            let mut payload = Vec::new();
            if priority {
                flags |= frame::WITH_PRIORITY;
                payload.extend_from_slice(&[0, 0, 0, 0, 15]);
            }
            payload.extend_from_slice(fragment);
            self.padded(frame::HEADERS, flags, stream, header_padding, payload);
        }
        self
    }

    /// A DATA frame of these bytes.
    pub fn data(&mut self, stream: u32, end: bool, payload: &[u8]) -> &mut Self {
        let flags = if end { frame::END_STREAM } else { 0 };
        self.padded(frame::DATA, flags, stream, self.shape.data_padding, payload.to_vec())
    }

    fn padded(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        padding: Option<u8>,
        mut payload: Vec<u8>,
    ) -> &mut Self {
        let Some(padding) = padding else { return self.frame(kind, flags, stream, &payload) };
        payload.insert(0, padding);
        payload.resize(payload.len() + usize::from(padding), 0);
        self.frame(kind, flags | frame::PADDED, stream, &payload)
    }

    // gRPC's use of HTTP/2.

    /// A call's request headers.
    pub fn request(&mut self, stream: u32, method: &str) -> &mut Self {
        self.request_with(stream, method, &[])
    }

    /// A call's request headers and further fields.
    pub fn request_with(&mut self, stream: u32, method: &str, more: &[(&str, &str)]) -> &mut Self {
        let path = format!("/{}/{method}", self.service);
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", &*path),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ];
        self.headers(stream, false, &[&fields, more].concat())
    }

    /// Response headers.
    pub fn response(&mut self, stream: u32) -> &mut Self {
        let fields = [(":status", "200"), ("content-type", "application/grpc")];
        self.headers(stream, false, &fields)
    }

    /// Trailers.
    pub fn trailers(&mut self, stream: u32, status: i32) -> &mut Self {
        self.headers(stream, true, &[("grpc-status", &status.to_string())])
    }

    /// A trailers-only response.
    pub fn trailers_only(&mut self, stream: u32, status: i32) -> &mut Self {
        let fields = [
            (":status", "200"),
            ("content-type", "application/grpc"),
            ("grpc-status", &status.to_string()),
        ];
        self.headers(stream, true, &fields)
    }

    /// A message, in as many DATA frames as the shape says.
    pub fn message(&mut self, stream: u32, length: usize) -> &mut Self {
        let message = message(self.shape.compressed, length);
        let Shape { max_data, empty_data, .. } = self.shape;
        for part in message.chunks(max_data) {
            if empty_data == EmptyData::Everywhere {
                self.data(stream, false, &[]);
            }
            self.data(stream, false, part);
        }
        if empty_data == EmptyData::Everywhere {
            self.data(stream, false, &[]);
        }
        self
    }

    /// END_STREAM, on an empty DATA frame.
    pub fn end(&mut self, stream: u32) -> &mut Self {
        self.data(stream, true, &[])
    }

    /// The client's last message: END_STREAM on the DATA frame that ends it, or as the shape says.
    pub fn last_message(&mut self, stream: u32, length: usize) -> &mut Self {
        self.message(stream, length);
        if self.shape.empty_data != EmptyData::None {
            return self.end(stream);
        }
        if let Some(flags) = self.starts.last().and_then(|start| self.bytes.get_mut(start + 4)) {
            *flags |= frame::END_STREAM;
        }
        self
    }

    /// RST_STREAM.
    pub fn reset(&mut self, stream: u32, error: u32) -> &mut Self {
        self.frame(frame::RST_STREAM, 0, stream, &error.to_be_bytes())
    }

    /// GOAWAY.
    pub fn go_away(&mut self, last_stream: u32, error: u32) -> &mut Self {
        let payload = [last_stream.to_be_bytes(), error.to_be_bytes()].concat();
        self.frame(frame::GOAWAY, 0, 0, &payload)
    }

    /// PING, WINDOW_UPDATE and a frame of an unknown type, which do not concern calls.
    pub fn noise(&mut self) -> &mut Self {
        self.frame(frame::PING, 0, 0, b"observer")
            .frame(frame::WINDOW_UPDATE, 0, 0, &65_535_u32.to_be_bytes())
            .frame(0xfa, 0xff, 0, &[0; 300])
    }
}

/// A message with its prefix. Its body looks like frames, to a reader at the wrong place.
pub fn message(compressed: bool, length: usize) -> Vec<u8> {
    const LOOKS_LIKE_HEADERS: [u8; FRAME_HEADER] = [0, 0, 0, frame::HEADERS, 5, 0, 0, 0, 99];
    let mut message = vec![u8::from(compressed)];
    message.extend_from_slice(&(length as u32).to_be_bytes());
    message.extend(LOOKS_LIKE_HEADERS.into_iter().cycle().take(length));
    message
}

#[cfg(test)]
mod tests {
    use super::{Frames, Shape};

    fn built(shape: Shape, build: impl Fn(&mut Frames) -> &mut Frames) -> Vec<u8> {
        let mut frames = Frames { shape, ..Frames::default() };
        build(&mut frames);
        frames.take().0
    }

    #[test]
    fn frames_are_laid_out_as_in_the_rfc() {
        let shape = Shape::default();
        assert_eq!(
            built(shape, |f| f.reset(3, 8)),
            [0, 0, 4, 3, 0, 0, 0, 0, 3, 0, 0, 0, 8],
            "RFC 9113 §6.4"
        );
        let data = [0, 0, 8, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 3, 0, 0, 0];
        assert_eq!(built(shape, |f| f.last_message(1, 3)), data);
        let padded = Shape { data_padding: Some(2), ..shape };
        let data = [0, 0, 8, 0, 9, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(built(padded, |f| f.last_message(1, 0)), data);
    }

    #[test]
    fn blocks_are_cut_into_fragments() {
        let shape =
            Shape { fragments: 3, priority: true, header_padding: Some(1), ..Shape::default() };
        let status = [(":status", "200"), (":status", "404")];
        let headers = [0, 0, 8, 1, 0x29, 0, 0, 0, 5, 1, 0, 0, 0, 0, 15, 0x88, 0];
        let second = [0, 0, 1, 9, 0, 0, 0, 0, 5, 0x8d];
        let third = [0, 0, 0, 9, 4, 0, 0, 0, 5];
        let expected = [&headers[..], &second, &third].concat();
        assert_eq!(built(shape, |f| f.headers(5, true, &status)), expected);
    }
}
