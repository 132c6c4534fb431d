//! The page of connections by process, and the list that it shares with `/api/v1/connections`.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::Pages;
use super::page::Text;
use crate::connections::{Following, Library, Model, Process};

/// The maximum age of a list. It takes the workers' time, so clients share it.
const MAX_AGE: Duration = Duration::from_secs(1);

/// A list, or the reason why there is none.
type Listed = Result<Arc<Model>, String>;

/// The list of this moment, made at most once a second.
#[derive(Default)]
pub(super) struct List {
    last: Mutex<Option<(Instant, Listed)>>,
}

impl List {
    /// Returns a list that is at most a second older than the request.
    pub(super) async fn latest(&self, pages: &Arc<dyn Pages>) -> Listed {
        let mut last = self.last.lock().await;
        if let Some((made, listed)) = &*last
            && made.elapsed() < MAX_AGE
        {
            return listed.clone();
        }
        let pages = Arc::clone(pages);
        let made = tokio::task::spawn_blocking(move || pages.connections()).await;
        let listed = match made {
            Ok(listed) => listed.map(Arc::new),
            Err(panicked) => Err(panicked.to_string()),
        };
        *last = Some((Instant::now(), listed.clone()));
        listed
    }
}

const BEGIN: &str = include_str!("assets/connections.html");
const END: &str = "</main>\n</body>\n</html>\n";

/// The page. It needs no script.
pub(super) fn page(model: &Model) -> String {
    let mut page = BEGIN.to_owned();
    // Writing to a String does not fail.
    let _ = list(&mut page, model);
    page + END
}

fn list(f: &mut String, model: &Model) -> fmt::Result {
    let tls = match model.tls {
        Following::Auto => "TLS is followed in known libraries (--tls auto).",
        Following::Off => "TLS is not followed (--tls off).",
        Following::Unavailable => "TLS cannot be followed here (--tls auto).",
    };
    writeln!(
        f,
        "<p>{tls} A process that is not listed has moved no bytes on a TCP or Unix stream \
                 socket since the daemon started, or is not selected.</p>"
    )?;
    writeln!(
        f,
        "<div id=\"calls\"><table aria-label=\"Connections by process\">\n<thead><tr>\
         <th scope=\"col\">Process</th><th scope=\"col\">Connections</th>\
         <th scope=\"col\" class=\"number\">Open</th><th scope=\"col\" class=\"number\">Seen</th>\
         <th scope=\"col\">What to do</th></tr></thead>\n<tbody>"
    )?;
    for process in &model.processes {
        rows(f, process)?;
    }
    writeln!(f, "</tbody></table>")?;
    if model.processes.is_empty() {
        writeln!(f, "<p class=\"empty\">No connection of a running process has been seen.</p>")?;
    }
    writeln!(f, "</div>")
}

fn rows(f: &mut String, process: &Process) -> fmt::Result {
    for of in &process.connections {
        let open = of.open.map_or_else(|| "not known".into(), |open| open.to_string());
        let advice = of.advice.as_deref().unwrap_or("nothing: measured");
        // Connections over TLS have ties, and a library that is probed.
        let mut notes: Vec<String> = of.ties().into_iter().collect();
        if !notes.is_empty() {
            notes.extend(process.probed().map(Library::name));
        }
        let notes = notes.join("; ");
        writeln!(
            f,
            "<tr><td class=\"process\"><b>{}</b> <small>{}</small></td>\
             <th scope=\"row\" class=\"method\"><b>{}</b> <small>{}</small></th>\
             <td class=\"number\" data-label=\"Open\">{open}</td>\
             <td class=\"number\" data-label=\"Seen\">{}</td><td class=\"advice\">{}</td></tr>",
            Text(&process.name),
            process.pid,
            of.kind.name(),
            Text(&notes),
            of.seen,
            Text(advice)
        )?;
    }
    Ok(())
}
