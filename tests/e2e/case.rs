//! What a case is, and how it becomes one of the test binary's.

use std::time::Instant;

use anyhow::{Context as _, Result};
use libtest_mimic::{Failed, Trial};
use support::report::{self, Also};
use support::stack::Stack;

/// What a case does, given its name.
pub(crate) type Run = Box<dyn FnOnce(&str) -> Result<()> + Send>;

/// One line of output.
pub(crate) struct Case {
    pub(crate) name: String,
    /// What else is to confirm it.
    pub(crate) also: Also,
    /// Not possible here: shown as ignored.
    pub(crate) ignored: bool,
    pub(crate) run: Run,
}

impl Case {
    /// One that nothing else is to confirm.
    pub(crate) fn new(
        name: impl Into<String>,
        run: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Self {
        let run = Box::new(move |_: &str| run());
        Self { name: name.into(), also: Also::Nothing, ignored: false, run }
    }

    /// Shown as ignored where it is not possible.
    pub(crate) fn only_if(self, possible: bool) -> Self {
        Self { ignored: !possible, ..self }
    }

    /// Of a client's stack and a server's, whose names are joined so.
    pub(crate) fn is_of_pair(&self) -> bool {
        self.name.contains(" -> ")
    }

    /// What its name begins with.
    pub(crate) fn plan(&self) -> &str {
        self.name.split(':').next().unwrap_or_default()
    }

    pub(crate) fn trial(self) -> Trial {
        let Self { name, also, ignored, run } = self;
        Trial::test(name.clone(), move || {
            let begin = Instant::now();
            let result = run(&name);
            report::took(&name, begin.elapsed());
            let result = result.and(report::check(also));
            let written = report::ended(&name, result.is_ok());
            result.and(written).map_err(|error| Failed::from(format!("{error:#}")))
        })
        .with_ignored_flag(ignored)
    }
}

/// Cases as they are added.
#[derive(Default)]
pub(crate) struct Cases(pub(crate) Vec<Case>);

impl Cases {
    pub(crate) fn add(
        &mut self,
        name: &str,
        also: Also,
        run: impl FnOnce() -> Result<()> + Send + 'static,
    ) {
        self.of(name, also, [], |[]| run());
    }

    /// A case of stacks that may not be there: shown as ignored then.
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
        let case = Case::new(name, move || run(there.context("a stack is not there")?));
        self.0.push(Case { also, ..case.only_if(possible) });
    }
}
