//! Looks processes up in `/proc`, for the table of [`observer_core::process`].

#![forbid(unsafe_code)]

mod container;
mod lookup;
mod package;
mod source;

pub use self::{
    lookup::{run, settle},
    source::ProcFs,
};
