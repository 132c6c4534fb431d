//! Many methods, some with long names or with names that attack a display. All their calls fail.

use anyhow::Result;

use crate::daemon::Daemon;
use crate::raw::{Address, Call, Talk};

/// Names that contain markup or scripts.
const HOSTILE: [&str; 4] = [
    "<script>window.harmed=1</script>",
    "\"onfocus=\"window.harmed=1\"><img>'",
    "&lt;b&gt;&amp;${window.harmed=1}`",
    "--></script><style>*{display:none}",
];

/// The length of the long name.
pub const LONG: usize = 300;

/// The code of the calls.
const INTERNAL: i32 = 13;

/// A daemon that has room for all names.
pub fn daemon() -> Result<Daemon> {
    Daemon::start(&["--max-methods", "1000", "--comm", "raw-peer"])
}

/// Calls this many methods, each once; returns their names and the open connection.
pub fn called(daemon: &Daemon, methods: usize) -> Result<(Vec<String>, Talk<'_>)> {
    let mut names: Vec<String> = HOSTILE.map(str::to_owned).into();
    names.push("x".repeat(LONG));
    names.extend((0..methods - names.len()).map(|number| format!("Method{number:03}")));
    let mut talk = Talk::begin(daemon, "any name", Address::V4(0))?;
    for (names, from) in names.chunks(50).zip((0u32..).step_by(50)) {
        let streams = || names.iter().zip((from..).map(|number| 2 * number + 1));
        talk.client(|frames| {
            streams().fold(frames, |frames, (name, stream)| {
                frames.request(stream, name).last_message(stream, 1)
            })
        })?;
        talk.server(|frames| {
            streams().fold(frames, |frames, (_, stream)| frames.trailers_only(stream, INTERNAL))
        })?;
        for name in names {
            talk.expect(Call::new(name, INTERNAL).requests(&[1]))?;
        }
    }
    talk.compare()?;
    Ok((names, talk))
}
