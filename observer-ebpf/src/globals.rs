//! The values that the daemon sets when it loads the programs: the verifier treats them as constants.

use core::{arch::asm, mem::zeroed, ptr::read_volatile};

pub use observer_common::settings::{WITH_ADDRESS, WITH_NONBLOCK};
use observer_common::{
    layout::{Field, NOWHERE},
    settings::Settings,
};

/// The daemon replaces these values.
// SAFETY: all fields are integers.
#[unsafe(no_mangle)]
static SETTINGS: Settings = unsafe { zeroed() };

/// The address of the settings. In assembler: the compiler would keep it in a register for later fields, and the
/// verifier would follow more instructions.
#[inline(always)]
fn settings() -> *const Settings {
    let settings;
    // SAFETY: one instruction, on a register.
    unsafe {
        asm!("{to} = {from} ll", to = out(reg) settings, from = sym SETTINGS, options(nomem, nostack));
    }
    settings
}

/// Accessors of the fields with the same names. Volatile: the compiler must not use the values in the object file.
macro_rules! settings {
    ($(fn $field:ident() -> $type:ty = $of:expr;)*) => {
        $(#[inline(always)]
        pub fn $field() -> $type {
            // SAFETY: a field of a global of this program.
            $of(unsafe { read_volatile(&raw const (*settings()).$field) })
        })*
    };
}

settings! {
    fn receive_parameters() -> u32 = u32::from;
    fn rings() -> u32 = u32::from;
    fn wake_at() -> u64 = u64::from;
    fn tick_ns() -> u32 = u32::from;
    fn max_connections() -> u32 = u32::from;
    fn counted_only() -> bool = is_yes;
    fn filter_ports() -> bool = is_yes;
    fn filter_processes() -> bool = is_yes;
    fn filter_uids() -> bool = is_yes;
    fn filter_cgroups() -> bool = is_yes;
    fn follow_children() -> bool = is_yes;
    fn tls() -> bool = is_yes;
    fn grpc() -> bool = is_yes;
    fn thrift() -> bool = is_yes;
    fn thrift_ports() -> bool = is_yes;
    fn web() -> bool = is_yes;
}

#[inline(always)]
const fn is_yes(answer: u32) -> bool {
    answer != 0
}

/// Positions in `Settings::iterator_kinds`. Kernels before 6.0 do not have `ITER_UBUF`.
pub const ITER_IOVEC: usize = 0;
pub const ITER_UBUF: usize = 1;

/// The kernel's number for a kind of `struct iov_iter`.
#[inline(always)]
pub fn iterator_kind(position: usize) -> u32 {
    // SAFETY: the callers' positions are in the array.
    unsafe { read_volatile((&raw const SETTINGS.iterator_kinds).cast::<u32>().add(position)) }
}

/// Offset of a field in its struct, in bytes.
#[inline(always)]
pub fn offset(field: Field) -> usize {
    let offsets = (&raw const SETTINGS.offsets).cast::<u32>();
    // SAFETY: the field is a position in the array.
    unsafe { read_volatile(offsets.add(field as usize)) as usize }
}

/// Whether this kernel has the field.
#[inline(always)]
pub fn has(field: Field) -> bool {
    offset(field) != NOWHERE as usize
}
