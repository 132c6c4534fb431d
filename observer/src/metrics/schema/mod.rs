//! Names and labels of what is told about calls. A schema is a rendering of the same statistics.

pub mod go;
