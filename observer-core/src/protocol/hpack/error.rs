/// The reason why a field block cannot be decoded.
///
/// Each of them is a connection error for the peer (`COMPRESSION_ERROR`, RFC 9113 section 4.3), or shows that the block
/// is not the one that the peer received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The block ends inside a field.
    Truncated,
    /// An integer has more than 32 bits, or more octets than those need (RFC 7541 section 5.1).
    IntegerOverflow,
    /// A Huffman-coded string contains EOS, or its padding is longer than 7 bits or not all ones (RFC 7541
    /// section 5.2).
    Huffman,
    /// An index is 0 (RFC 7541 section 6.1).
    IndexZero,
    /// An index is beyond all entries that the table can have (RFC 7541 section 2.3.3).
    IndexOutOfRange,
    /// A table size update is beyond [`MAX_TABLE_SIZE`](super::MAX_TABLE_SIZE).
    TableSizeTooLarge,
    /// A table size update comes after a field (RFC 7541 section 4.2).
    TableSizeMisplaced,
}
