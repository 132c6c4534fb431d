//! What was found in files, by build: a copy of a file is not parsed again. Each container may have its own.
//!
//! The opener does not parse. It takes a file for a copy if it has the same size, the same build id at the same place, and
//! the same instructions where the first one is probed. Somebody can make a file that only looks like a copy; its probes
//! reach only the processes that run it.

#![forbid(unsafe_code)]

use std::{collections::VecDeque, sync::Arc};

use super::messages::{Bytes, Found};

/// The most builds that are remembered.
const MAX_BUILDS: usize = 1024;

/// The builds that are known, the oldest first, with the sizes of their files.
#[derive(Default)]
pub(super) struct Builds(VecDeque<(u64, Arc<Found>)>);

impl Builds {
    /// Remembers what was found in a file of this size, if it has a build id. The oldest is forgotten if there are too many.
    pub(super) fn add(&mut self, size: u64, found: &Arc<Found>) {
        if found.build_id.is_none() {
            return;
        }
        if self.0.len() >= MAX_BUILDS {
            self.0.pop_front();
        }
        self.0.push_back((size, Arc::clone(found)));
    }

    /// What was found in a copy of a file. `has` says whether the file has these bytes.
    pub(super) fn find(&self, size: u64, has: impl Fn(&Bytes) -> bool) -> Option<Arc<Found>> {
        let is_copy = |found: &&Arc<Found>| {
            found.build_id.as_ref().is_some_and(&has) && found.has_instructions(&has)
        };
        let of_size = self.0.iter().rev().filter(|(known, _)| *known == size);
        of_size.map(|(_, found)| found).find(is_copy).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::messages::PlaceToProbe, *};

    fn bytes(offset: u64, bytes: &[u8]) -> Bytes {
        Bytes { offset, bytes: bytes.to_vec() }
    }

    fn found(build_id: Option<Bytes>) -> Arc<Found> {
        let places = vec![PlaceToProbe { instruction: bytes(4, &[0x55]), cookie: 7 }];
        Arc::new(Found { places, build_id, ..Found::default() })
    }

    fn has(file: &'static [u8]) -> impl Fn(&Bytes) -> bool {
        move |bytes| file[bytes.offset as usize..].starts_with(&bytes.bytes)
    }

    #[test]
    fn a_copy_has_the_size_the_build_id_and_the_instructions() {
        let mut builds = Builds::default();
        let known = found(Some(bytes(0, b"id")));
        builds.add(5, &known);
        assert_eq!(builds.find(5, has(b"id..\x55")), Some(known));
        assert_eq!(builds.find(6, has(b"id..\x55.")), None, "another size");
        assert_eq!(builds.find(5, has(b"ID..\x55")), None, "another build");
        assert_eq!(builds.find(5, has(b"id..\x90")), None, "other instructions");
    }

    #[test]
    fn files_without_a_build_id_are_not_remembered() {
        let mut builds = Builds::default();
        builds.add(5, &found(None));
        assert_eq!(builds.find(5, |_| true), None);
    }

    #[test]
    fn the_oldest_builds_are_forgotten() {
        let mut builds = Builds::default();
        for size in 0..=MAX_BUILDS as u64 {
            builds.add(size, &found(Some(bytes(0, b"id"))));
        }
        assert_eq!(builds.0.len(), MAX_BUILDS);
        assert_eq!(builds.find(0, |_| true), None);
        assert!(builds.find(1, |_| true).is_some());
    }
}
