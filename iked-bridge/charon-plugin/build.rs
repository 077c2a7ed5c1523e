//! Marks the plugin as one that stays mapped: charon closes its plugins before it ends, while this one's threads may
//! still be on their way out.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
