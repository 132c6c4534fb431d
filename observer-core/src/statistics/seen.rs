//! Numbers of ended calls, by what was seen of them.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::{
    call::{Coverage, Ended},
    names::PathId,
};

/// Numbers of ended calls, by what was seen of them. They outlive the series that counted the calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallsSeen {
    /// Calls with a method and a code.
    pub complete: u64,
    /// Calls with a code, but without a method.
    pub no_method: u64,
    /// Calls with a method, but without a code.
    pub no_code: u64,
    /// Calls without a method and without a code.
    pub nothing: u64,
}

impl AddAssign for CallsSeen {
    fn add_assign(&mut self, other: Self) {
        let Self { complete, no_method, no_code, nothing } = other;
        self.complete += complete;
        self.no_method += no_method;
        self.no_code += no_code;
        self.nothing += nothing;
    }
}

/// Numbers of ended calls, by how much of their connection was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallsByCoverage([CallsSeen; Coverage::ALL.len()]);

impl CallsByCoverage {
    /// The numbers for connections with this coverage.
    pub fn of(&self, coverage: Coverage) -> CallsSeen {
        self.0.get(coverage as usize).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, ended: &Ended, path: PathId) {
        let Some(calls) = self.0.get_mut(ended.coverage as usize) else { return };
        *match (path, ended.code) {
            (PathId::NOT_SEEN, None) => &mut calls.nothing,
            (PathId::NOT_SEEN, Some(_)) => &mut calls.no_method,
            (_, None) => &mut calls.no_code,
            (_, Some(_)) => &mut calls.complete,
        } += 1;
    }

    /// The numbers for all connections.
    pub fn total(&self) -> CallsSeen {
        let mut total = CallsSeen::default();
        self.0.iter().for_each(|calls| total += *calls);
        total
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(to, from)| *to += from);
    }
}
