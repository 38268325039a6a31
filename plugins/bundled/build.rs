//! Embeds what `cargo xtask plugins` has built.

#![allow(clippy::print_stdout, reason = "cargo reads what a build script prints")]

use std::error::Error;
use std::path::Path;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let here = env::var("CARGO_MANIFEST_DIR")?;
    let folder = Path::new(&here).join("../../target/bundled");
    // A folder that is there can be watched for files to come. Where it cannot be made, there is
    // nothing to watch.
    let _ = fs::create_dir_all(&folder);
    println!("cargo::rerun-if-changed={}", folder.display());
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=names.txt");

    let mut table = "[\n".to_owned();
    for name in fs::read_to_string(Path::new(&here).join("names.txt"))?.lines() {
        let file = folder.join(name).with_extension("wasm");
        if file.is_file() {
            let file = file.canonicalize()?;
            table += &format!("({name:?}, Some(include_bytes!({file:?}).as_slice())),\n");
        } else {
            table += &format!("({name:?}, None),\n");
        }
    }
    table += "]\n";
    fs::write(Path::new(&env::var("OUT_DIR")?).join("table.rs"), table)?;
    Ok(())
}
