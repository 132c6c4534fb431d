//! Methods of many names, some of them long or made to harm whoever shows them; all calls of them
//! fail.

use anyhow::Result;

use crate::daemon::Daemon;
use crate::raw::{Address, Call, Talk};

/// Names that would be markup.
const HOSTILE: [&str; 4] = [
    "<script>window.harmed=1</script>",
    "\"onfocus=\"window.harmed=1\"><img>'",
    "&lt;b&gt;&amp;${window.harmed=1}`",
    "--></script><style>*{display:none}",
];

/// Letters of the long one.
pub const LONG: usize = 300;

/// How their calls end.
const INTERNAL: i32 = 13;

/// Calls that were made, one of each name.
pub struct Names<'a> {
    /// Its connection is open.
    pub talk: Talk<'a>,
    /// The methods that were called.
    pub names: Vec<String>,
}

/// A daemon that has room for all of them.
pub fn daemon() -> Result<Daemon> {
    Daemon::start(&["--max-methods", "1000", "--comm", "raw-peer"])
}

/// Calls of so many methods.
pub fn called(daemon: &Daemon, methods: usize) -> Result<Names<'_>> {
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
        // Errors only, without any message.
        talk.server(|frames| {
            streams().fold(frames, |frames, (_, stream)| frames.trailers_only(stream, INTERNAL))
        })?;
        for name in names {
            talk.expect(Call::new(name, INTERNAL).requests(&[1]))?;
        }
    }
    talk.compare()?;
    Ok(Names { talk, names })
}
