//! How the BPF programs are linked.

fn main() {
    // bpf-linker would have LLVM call functions that set and copy memory byte by byte, in a loop: what is a
    // store or two otherwise. The verifier follows each turn of each.
    println!("cargo:rustc-link-arg=--disable-expand-memcpy-in-order");
    println!("cargo:rerun-if-changed=build.rs");
}
