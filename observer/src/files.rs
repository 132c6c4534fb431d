//! Files whose length others choose are read so far and no further.

#![forbid(unsafe_code)]

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _},
    path::Path,
};

/// The file's first bytes, so many at most.
pub(crate) fn first_of(path: &Path, at_most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(at_most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// All of the file; an error if it is longer.
pub(crate) fn all_of(path: &Path, at_most: usize) -> io::Result<Vec<u8>> {
    let bytes = first_of(path, at_most.saturating_add(1))?;
    if bytes.len() > at_most {
        let error = format!("the file is longer than {} MiB", at_most >> 20);
        return Err(io::Error::new(ErrorKind::FileTooLarge, error));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{all_of, first_of};

    #[test]
    fn no_more_is_read_than_was_asked_for() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"12345").unwrap();
        assert_eq!(first_of(file.path(), 3).unwrap(), b"123");
        assert_eq!(first_of(file.path(), 9).unwrap(), b"12345");
        assert_eq!(all_of(file.path(), 5).unwrap(), b"12345");
        assert!(all_of(file.path(), 4).unwrap_err().to_string().contains("longer"));
        assert_eq!(first_of("/dev/zero".as_ref(), 4096).unwrap().len(), 4096);
    }
}
