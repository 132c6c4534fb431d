//! Makes cargo track the kernel programs as a dependency of the daemon.
#![no_std]
