//! The command line, the environment and the configuration file.
#![no_main]

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;

use libfuzzer_sys::fuzz_target;
use observer::cli;
use observer_fuzz::input::Input;
use tempfile::NamedTempFile;

thread_local! {
    static FILE: NamedTempFile = NamedTempFile::new().expect("a file");
}

/// Variables of the environment. They also have all names that end with theirs.
struct Variables<'a>(Vec<(&'a [u8], &'a [u8])>);

impl cli::Environment for Variables<'_> {
    fn get(&self, name: &str) -> Option<OsString> {
        let found = self.0.iter().find(|(variable, _)| name.as_bytes().ends_with(variable));
        found.map(|(_, value)| OsString::from_vec(value.to_vec()))
    }

    fn names(&self) -> Vec<String> {
        let name = |variable| Some(format!("OBSERVER_{}", str::from_utf8(variable).ok()?));
        self.0.iter().filter_map(|(variable, _)| name(*variable)).collect()
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let file = input.bytes();
    let variables = (0..input.byte() % 4).map(|_| (input.bytes(), input.bytes())).collect();
    let mut arguments = vec![OsString::from("observer")];
    FILE.with(|place| {
        if !file.is_empty() {
            fs::write(place.path(), file).expect("written");
            arguments.extend(["--config".into(), place.path().as_os_str().to_owned()]);
        }
    });
    while !input.is_empty() {
        arguments.push(OsString::from_vec(input.bytes().to_vec()));
    }
    match cli::parse_from(&arguments, &Variables(variables)) {
        Ok(invocation) => {
            let config = invocation.config;
            let _ = config.filter.to_string();
            assert!(config.filter.ports.iter().count() <= 65_535);
        }
        // Help and version go to standard output, and are long.
        Err(error) if error.use_stderr() => {
            let text = error.to_string();
            assert_eq!(text.trim_end().lines().count(), 1, "{text}");
            assert_eq!(error.exit_code(), 2);
        }
        Err(_) => {}
    }
});
