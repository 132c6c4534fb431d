use std::fmt;

/// Why a header block cannot be decoded.
///
/// Any of these is a connection error to the peer (`COMPRESSION_ERROR`, RFC 9113 section 4.3), or
/// it tells that what was given is not the block that the peer got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The block ends inside a field.
    Truncated,
    /// An integer has more than 32 bits, or more octets than those need (RFC 7541 section 5.1).
    IntegerOverflow,
    /// EOS inside a Huffman-coded string, or padding that is longer than 7 bits or not all ones
    /// (RFC 7541 section 5.2).
    Huffman,
    /// Index 0 (RFC 7541 section 6.1).
    IndexZero,
    /// An index beyond all entries that the table can have (RFC 7541 section 2.3.3).
    IndexOutOfRange,
    /// A table size update beyond [`MAX_TABLE_SIZE`](super::MAX_TABLE_SIZE).
    TableSizeTooLarge,
    /// A table size update after a field (RFC 7541 section 4.2).
    TableSizeMisplaced,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "the header block ends inside a field",
            Self::IntegerOverflow => "an integer is too large",
            Self::Huffman => "a Huffman-coded string contains EOS or is badly padded",
            Self::IndexZero => "index 0",
            Self::IndexOutOfRange => "an index beyond the table",
            Self::TableSizeTooLarge => "a table size update beyond the bound",
            Self::TableSizeMisplaced => "a table size update after a field",
        })
    }
}

impl std::error::Error for Error {}
