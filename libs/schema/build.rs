//! Migrations are embedded at compile time: a new file has to compile this crate again.

fn main() {
    println!("cargo::rerun-if-changed=../../migrations");
}
