//! What the daemon has set before loading: to the verifier these are constants.

use core::{arch::asm, ptr::read_volatile};

pub use observer_common::settings::{WITH_ADDRESS, WITH_NONBLOCK};
use observer_common::{
    layout::{Field, NOWHERE},
    settings::Settings,
};

/// The daemon puts its own in the place of these.
#[unsafe(no_mangle)]
static SETTINGS: Settings = Settings {
    offsets: [0; Field::COUNT],
    iterator_kinds: [0; 2],
    receive_parameters: 0,
    rings: 1,
    wake_at: 0,
    tick_ns: 0,
    max_connections: 0,
    counted_only: 0,
    filter_ports: 0,
    filter_processes: 0,
    filter_uids: 0,
    filter_cgroups: 0,
    follow_children: 0,
};

/// Where they are. In assembler, as the compiler would keep the address for later ones, at the cost of a register: the
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

/// Accessors of the fields of their names: the compiler must not take what the object has for what they are.
macro_rules! settings {
    ($(fn $field:ident() -> $type:ty = $of:expr;)*) => {
        $(#[inline(always)]
        pub fn $field() -> $type {
            // SAFETY: of a global of this program.
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
}

#[inline(always)]
const fn is_yes(answer: u32) -> bool {
    answer != 0
}

#[inline(always)]
fn iterator_kind(position: usize) -> u32 {
    // SAFETY: the callers' positions are in the array.
    unsafe { read_volatile((&raw const SETTINGS.iterator_kinds).cast::<u32>().add(position)) }
}

/// `ITER_IOVEC`
#[inline(always)]
pub fn iterator_iovec() -> u8 {
    iterator_kind(0) as u8
}

/// `ITER_UBUF`, which kernels before 6.0 do not have.
#[inline(always)]
pub fn iterator_ubuf() -> Option<u8> {
    u8::try_from(iterator_kind(1)).ok()
}

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
