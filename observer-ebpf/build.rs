//! Sets how the BPF programs are linked.

fn main() {
    // Otherwise bpf-linker has LLVM set and copy memory byte by byte in a loop, instead of with a store or two. The
    // verifier follows each iteration of each loop.
    println!("cargo:rustc-link-arg=--disable-expand-memcpy-in-order");
    println!("cargo:rerun-if-changed=build.rs");
}
