//! The static table (RFC 7541 appendix A).

use super::{ContentType, Field, RequestMethod, field::Name, table::Entry};
use crate::names::PathId;

/// The first index of the dynamic table.
pub(super) const FIRST_DYNAMIC: usize = 1 + ENTRIES.len();

/// The entry at an index below [`FIRST_DYNAMIC`]; `None` at 0.
#[inline]
pub(super) fn get(index: usize) -> Option<&'static Entry> {
    ENTRIES.get(index.wrapping_sub(1))
}

/// The entries, from index 1 on.
static ENTRIES: [Entry; 61] = [
    entry(":authority", Name::Authority, Field::Authority(PathId::NOT_SEEN)),
    entry(":method", Name::Method, Field::Method(RequestMethod::Get)),
    entry(":method", Name::Method, Field::Method(RequestMethod::Post)),
    entry(":path", Name::Path, Field::Path(PathId::ROOT)),
    entry(":path", Name::Path, Field::Path(PathId::INDEX_HTML)),
    entry(":scheme", Name::Other, Field::Other),
    entry(":scheme", Name::Other, Field::Other),
    entry(":status", Name::Status, Field::Status(200)),
    entry(":status", Name::Status, Field::Status(204)),
    entry(":status", Name::Status, Field::Status(206)),
    entry(":status", Name::Status, Field::Status(304)),
    entry(":status", Name::Status, Field::Status(400)),
    entry(":status", Name::Status, Field::Status(404)),
    entry(":status", Name::Status, Field::Status(500)),
    other("accept-charset"),
    other("accept-encoding"),
    other("accept-language"),
    other("accept-ranges"),
    other("accept"),
    other("access-control-allow-origin"),
    other("age"),
    other("allow"),
    other("authorization"),
    other("cache-control"),
    other("content-disposition"),
    other("content-encoding"),
    other("content-language"),
    other("content-length"),
    other("content-location"),
    other("content-range"),
    entry("content-type", Name::ContentType, Field::ContentType(ContentType::Other)),
    other("cookie"),
    other("date"),
    other("etag"),
    other("expect"),
    other("expires"),
    other("from"),
    other("host"),
    other("if-match"),
    other("if-modified-since"),
    other("if-none-match"),
    other("if-range"),
    other("if-unmodified-since"),
    other("last-modified"),
    other("link"),
    other("location"),
    other("max-forwards"),
    other("proxy-authenticate"),
    other("proxy-authorization"),
    other("range"),
    other("referer"),
    other("refresh"),
    other("retry-after"),
    other("server"),
    other("set-cookie"),
    other("strict-transport-security"),
    other("transfer-encoding"),
    other("user-agent"),
    other("vary"),
    other("via"),
    other("www-authenticate"),
];

const fn other(name: &str) -> Entry {
    entry(name, Name::Other, Field::Other)
}

/// An entry. Entries of the static table have no size.
const fn entry(text: &str, name: Name, field: Field) -> Entry {
    Entry { field, name, name_len: text.len() as u32, size: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{names::Interner, protocol::hpack::string::StringLiteral};

    /// The table is the same as that of another crate's decoder.
    #[test]
    fn is_that_of_appendix_a() {
        let mut oracle = loona_hpack::Decoder::new();
        let mut interner = Interner::new(0);
        for index in 1..=61_u8 {
            let fields = oracle.decode(&[0x80 | index]).expect("in the static table");
            let (name, value) = fields.first().expect("one field");
            let entry = get(usize::from(index)).expect("an entry");
            assert_eq!(entry.name, Name::of(StringLiteral { octets: name, huffman: false }));
            assert_eq!(entry.name_len as usize, name.len(), "index {index}");
            assert_eq!(entry.field, entry.name.with_value(value, &mut interner), "index {index}");
        }
        assert!(oracle.decode(&[0xbe]).is_err(), "62 is the first dynamic one");
        assert_eq!(FIRST_DYNAMIC, 62);
        assert_eq!((get(0), get(62)), (None, None));
    }
}
