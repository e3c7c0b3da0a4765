//! Writes the fixture run of the tests to a folder, with its report and model card, to look at:
//! `cargo run -p darwin-report --example demo -- /tmp/demo`. Nothing in it was measured.

#[path = "../tests/fixture/mod.rs"]
mod fixture;

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("give a folder to write to")?);
    std::fs::create_dir_all(&folder)?;
    fixture::write(&folder, &fixture::Names::default())?;
    darwin_report::write_html(&folder)?;
    darwin_report::write_model_card(&folder)?;
    Ok(())
}
