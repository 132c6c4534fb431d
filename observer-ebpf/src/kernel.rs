//! Reads from the kernel's structs.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    bindings::{pt_regs, task_struct},
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_task_btf, bpf_jiffies64, bpf_ktime_get_ns,
        bpf_probe_read_kernel, bpf_probe_read_kernel_buf,
        generated::{bpf_copy_from_user, bpf_probe_read_kernel_str, bpf_task_pt_regs},
    },
};
use observer_common::layout::Field;

use crate::globals::{has, offset};

/// A kernel address of a struct with [`Field`]s.
pub type Address = u64;

/// The monotonic clock, in nanoseconds.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// The lower half of the kernel's clock in ticks (`jiffies`), which TCP keeps.
#[inline(always)]
pub fn ticks() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_jiffies64() as u32 }
}

/// Reads a field of the struct at `base`; `None` if the page is not present.
#[inline(always)]
pub fn read<T>(base: Address, field: Field) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel((base as usize + offset(field)) as *const T) }.ok()
}

/// Reads memory of the current process, and waits until it is there: for programs that may sleep.
#[inline(always)]
pub fn copy_user<T>(address: u64) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes all of the value, or fails; it checks the address.
    unsafe {
        let to = value.as_mut_ptr().cast::<c_void>();
        let read = bpf_copy_from_user(to, size_of::<T>() as u32, address as *const c_void);
        (read == 0).then(|| value.assume_init())
    }
}

/// The goroutine that the current thread is running, if its program is Go's: it keeps the address in a register.
#[inline(always)]
pub fn goroutine() -> Option<u64> {
    // SAFETY: every task has registers; the verifier knows the pointer's type.
    let goroutine = unsafe {
        let registers = bpf_task_pt_regs(current_task().cast_mut()) as *const pt_regs;
        #[cfg(bpf_target_arch = "x86_64")]
        let goroutine = (*registers).r14;
        #[cfg(bpf_target_arch = "aarch64")]
        let goroutine = (*registers).regs[28];
        goroutine
    };
    (goroutine != 0).then_some(goroutine)
}

/// The current thread group.
#[inline(always)]
pub fn current_pid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// The current task, as a pointer whose type the verifier knows: its fields may be loaded without a helper.
#[inline(always)]
pub fn current_task() -> *const task_struct {
    // SAFETY: always valid for the duration of the program.
    unsafe { bpf_get_current_task_btf() }
}

/// Loads a field without a helper. Only for pointers whose type the verifier knows.
#[inline(always)]
pub fn load<T: Copy>(base: *const u8, field: Field) -> T {
    // SAFETY: the verifier checks type and offset; a fault reads as 0 (PROBE_MEM).
    unsafe { *base.add(offset(field)).cast::<T>() }
}

/// The time for which the current thread has run since it was last given a CPU, in nanoseconds. The kernel adds it up
/// at its ticks, so the real time may be up to a tick more.
#[inline(always)]
pub fn ran_for() -> u64 {
    // For the verifier: it refuses a load if there is no such field.
    if !has(Field::TaskRan) || !has(Field::TaskRanBefore) {
        return u64::MAX;
    }
    let task = current_task().cast();
    let before: u64 = load(task, Field::TaskRanBefore);
    load::<u64>(task, Field::TaskRan).wrapping_sub(before)
}

/// Reads a field into `to`; zeros if the page is not present.
#[inline(always)]
pub fn read_into<const N: usize>(base: Address, field: Field, to: &mut [u8; N]) {
    let from = (base as usize + offset(field)) as *const u8;
    // SAFETY: the helper checks the address, and writes zeros when it fails.
    let _ = unsafe { bpf_probe_read_kernel_buf(from, to) };
}

/// The string at this address, cut to `N - 1` bytes and padded with zero bytes.
#[inline(always)]
pub fn name_at<const N: usize>(address: Address) -> [u8; N] {
    let mut name = [0; N];
    // SAFETY: the helper writes at most `N` bytes, the last one zero, and checks the address.
    unsafe {
        bpf_probe_read_kernel_str(name.as_mut_ptr().cast(), N as u32, address as *const _);
    }
    name
}

/// Name of the process's main thread, padded with zero bytes.
#[inline(always)]
pub fn own_name() -> [u8; 16] {
    let leader: *const u8 = load(current_task().cast(), Field::TaskGroupLeader);
    name_at(leader as Address + offset(Field::TaskComm) as u64)
}

/// Reads the name of the process's main thread into `name`, padded with zero bytes: for callers without room on the
/// stack.
#[inline(always)]
pub fn process_name(name: &mut [u8; 16]) {
    let leader: *const u8 = load(current_task().cast(), Field::TaskGroupLeader);
    read_into(leader as Address, Field::TaskComm, name);
}
