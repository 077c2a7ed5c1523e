//! The end of the suite: adds up what was searched for the secrets of the tests, searches what is named besides, and
//! fails if one was found or nothing was searched.
//!
//!   canary REPORTS [FILE OR FOLDER...]

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use culvert_netlab::canary::{Report, needles};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut paths = env::args_os().skip(1).map(PathBuf::from);
    let folder = paths.next().ok_or("canary REPORTS [FILE OR FOLDER...]")?;
    let (mut sum, mut reports) = (Report::default(), 0);
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        let report =
            Report::parse(&text).ok_or_else(|| format!("{} is no report", path.display()))?;
        sum.add(&report);
        reports += 1;
    }
    let mut rest = Report::default();
    for path in paths {
        rest.search(&path, &|_| false)?;
    }
    let of_laboratories = sum.files;
    sum.add(&rest);
    let kinds: Vec<String> = sum
        .kinds
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    println!(
        "secrets of the tests: {} spellings looked for in {} files with {} bytes, of {reports} laboratories ({})",
        needles().len(),
        sum.files,
        sum.bytes,
        kinds.join(", ")
    );
    for hit in &sum.hits {
        println!("FOUND: {hit}");
    }
    if !sum.hits.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    // A search of nothing finds nothing.
    for kind in ["log", "db"] {
        if !sum.kinds.contains_key(kind) {
            println!("no file that ends in .{kind} was searched: this proves nothing");
            return Ok(ExitCode::FAILURE);
        }
    }
    if of_laboratories == 0 || rest.files == 0 {
        println!("no laboratory, or nothing besides, was searched: this proves nothing");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
