//! Files and texts that others write, or influence, and the daemon reads: the web configuration, descriptor sets, the
//! kernel's types, lists of pods, a process's files in `/proc`.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use observer::kernel::Layout;
use observer::kubernetes::list;
use observer::metrics::Descriptors;
use observer::server::Protection;
use observer_core::process::{Cgroup, Identity, Key, Texts};
use observer_fuzz::input::Input;
use tempfile::NamedTempFile;

thread_local! {
    static FILE: NamedTempFile = NamedTempFile::new().expect("a file");
}

/// An upper bound on the texts that are kept about a process.
const LONG: usize = 256;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let choice = input.byte();
    let bytes = input.0;
    FILE.with(|file| {
        let path = file.path();
        if choice % 5 < 3 {
            fs::write(path, bytes).expect("written");
        }
        match choice % 5 {
            0 => drop(Protection::read(Some(path))),
            1 => drop(Descriptors::read(path)),
            2 => drop(Layout::read(path)),
            3 => {
                for listed in list::parse(bytes).unwrap_or_default() {
                    assert!(listed.uid.len() <= 253 && listed.pod.name.len() <= 253);
                }
            }
            _ => {
                let texts = Texts {
                    exe: Some(input.bytes()),
                    cmdline: Some(input.bytes()),
                    status: Some(input.bytes()),
                    cgroup: Some(input.0),
                };
                let identity = Identity::new(&Key::default(), texts);
                let Cgroup { container_id, pod_uid, unit, .. } = &identity.cgroup;
                assert!(identity.exe.len() <= LONG);
                for text in [container_id, pod_uid, unit, &identity.uid] {
                    assert!(text.len() <= LONG, "{text}");
                }
            }
        }
    });
});
