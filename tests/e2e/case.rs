//! Cases, and how they become trials of the test binary.

use std::time::Instant;

use anyhow::{Context as _, Result};
use libtest_mimic::{Failed, Trial};
use support::daemon::{Daemon, Shared};
use support::report::{self, Also};
use support::stack::Stack;

/// The function of a case, which takes its name.
pub(crate) type Run = Box<dyn FnOnce(&str) -> Result<()> + Send>;

/// A case: one line of output.
pub(crate) struct Case {
    pub(crate) name: String,
    /// What else must confirm it.
    pub(crate) also: Also,
    /// Whether it is not possible on this machine, and so shown as ignored.
    pub(crate) ignored: bool,
    /// The name of its [`Cases::together`], if it is one of such cases.
    pub(crate) together: Option<&'static str>,
    pub(crate) run: Run,
}

impl Case {
    /// A case that nothing else confirms.
    pub(crate) fn new(
        name: impl Into<String>,
        run: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Self {
        let run = Box::new(move |_: &str| run());
        Self { name: name.into(), also: Also::Nothing, ignored: false, together: None, run }
    }

    /// Marks it as ignored unless it is possible.
    pub(crate) fn only_if(self, possible: bool) -> Self {
        Self { ignored: !possible, ..self }
    }

    pub(crate) fn trial(self) -> Trial {
        let Self { name, also, ignored, together: _, run } = self;
        Trial::test(name.clone(), move || {
            let begin = Instant::now();
            let result = run(&name);
            let time = begin.elapsed();
            let result = result.and(report::check(also));
            let written = report::ended(&name, result.is_ok(), time);
            result.and(written).map_err(|error| Failed::from(format!("{error:#}")))
        })
        .with_ignored_flag(ignored)
    }
}

/// A list of cases, in the order in which they run.
#[derive(Default)]
pub(crate) struct Cases {
    pub(crate) all: Vec<Case>,
    together: Option<&'static str>,
}

impl Cases {
    /// Adds cases that run at the same time, under this name, because they wait most of the time. So each has its own
    /// daemon, which watches only the case's ports or processes. Or they share one, compare only what their own
    /// processes did, and have the same plan: a method's type follows from the messages of all its processes.
    pub(crate) fn together(&mut self, name: &'static str, add: impl FnOnce(&mut Self)) {
        self.together = Some(name);
        add(self);
        self.together = None;
    }

    /// Adds cases.
    pub(crate) fn extend(&mut self, cases: impl IntoIterator<Item = Case>) {
        for case in cases {
            let together = self.together.or(case.together);
            self.all.push(Case { together, ..case });
        }
    }

    /// Adds a case.
    pub(crate) fn add(
        &mut self,
        name: &str,
        also: Also,
        run: impl FnOnce() -> Result<()> + Send + 'static,
    ) {
        self.of(name, also, [], |[]| run());
    }

    /// Adds a case of a server's stack, whose name is appended to that of the case.
    pub(crate) fn of_server(
        &mut self,
        name: &str,
        server: &'static Stack,
        also: Also,
        run: impl FnOnce(&'static Stack) -> Result<()> + Send + 'static,
    ) {
        self.add(&format!("{name}: {}", server.name), also, move || run(server));
    }

    /// Like [`Self::of_server`], with a daemon that several cases share.
    pub(crate) fn watched(
        &mut self,
        name: &str,
        (server, daemon): (&'static Stack, &Shared),
        also: Also,
        run: impl FnOnce(&Daemon, &'static Stack) -> Result<()> + Send + 'static,
    ) {
        let daemon = daemon.clone();
        let run = move |server| daemon.watch(|daemon| run(daemon, server));
        self.of_server(name, server, also, run);
    }

    /// Adds a case of stacks that may be missing: then it is ignored.
    pub(crate) fn of<const N: usize>(
        &mut self,
        name: &str,
        also: Also,
        stacks: [Option<&'static Stack>; N],
        run: impl FnOnce([&'static Stack; N]) -> Result<()> + Send + 'static,
    ) {
        let there: Vec<&Stack> = stacks.into_iter().flatten().collect();
        let there: Option<[&Stack; N]> = there.try_into().ok();
        let possible = there.is_some();
        let case = Case::new(name, move || run(there.context("a stack is missing")?));
        self.extend([Case { also, ..case.only_if(possible) }]);
    }
}
